"""Lines that could stand for each other keep the order of their rest wavelengths."""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.data import spectral_wcs

X = 195.119 + 0.0223 * (np.arange(80) - 39.5)


def scene(rests, amplitudes, seed=0, shape=(20, 20)):
    """Lines that all move with one velocity, and that velocity."""
    rng = np.random.default_rng(seed)
    velocity = rng.normal(0, 8, shape)
    data = 30 + rng.normal(size=(*shape, X.size)) * 20
    for rest, amplitude in zip(rests, amplitudes, strict=True):
        center = rest * (1 + velocity / 299792.458)
        data += amplitude * np.exp(-0.5 * ((X - center[..., None]) / 0.035) ** 2)
    sigma = StdDevUncertainty(np.full(data.shape, 20.0))
    return NDCube(data, wcs=spectral_wcs(shape, X * u.AA), uncertainty=sigma, unit="ct"), velocity


def model(rests):
    total = specfit.Polynomial(0)
    for number, rest in enumerate(rests):
        total = total + specfit.Gaussian(rest * u.AA, label=f"line{number}")
    return total


@pytest.mark.parametrize(
    ("rests", "amplitudes"),
    [([194.6, 195.119, 195.25, 195.75], [500, 1000, 400, 300]), ([195.0, 195.119, 195.25], [900, 1000, 400])],
)
def test_every_line_is_the_one_it_is_called(rests, amplitudes):
    cube, velocity = scene(rests, amplitudes)
    result = specfit.fit(cube, model(rests))
    for number in range(len(rests)):
        found = result[f"line{number}.velocity"]
        pull = (found.data - velocity) / found.uncertainty.array
        # Errors move along with the lines: had they stayed behind, weak and strong lines would have each other's.
        assert np.abs(pull).max() < 6
        assert abs(pull.std() - 1) < 0.12


def test_a_start_with_crossed_lines_is_put_in_order():
    rests = [195.0, 195.25]
    cube, velocity = scene(rests, [900, 400], shape=(4, 5))
    crossed = {"line0.center": 195.25 * u.AA, "line1.center": 195.0 * u.AA}
    crossed |= {"line0.amplitude": 400.0, "line1.amplitude": 900.0, "line0.width": 0.035, "line1.width": 0.035}
    result = specfit.fit(cube, model(rests), init=crossed | {"c0": 30.0})
    assert np.abs(result["line0.velocity"].data - velocity).max() < 15
    assert np.median(result["line0.amplitude"].data) == pytest.approx(900, rel=0.05)


def test_lines_with_bounds_of_their_own_keep_them():
    rests = [195.0, 195.25]
    cube, _ = scene(rests, [900, 400], shape=(4, 5))
    held = model(rests).bound({"line0.amplitude": (0, 600)})
    result = specfit.fit(cube, held)
    assert result["line0.amplitude"].data.max() <= 600 * (1 + 1e-6)
