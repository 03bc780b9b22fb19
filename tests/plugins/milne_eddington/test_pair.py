"""Two atmospheres in a pixel: their light adds up, and what went in is found again."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.data import milne_eddington_cube

LINES = ["Fe I 6301.5", "Fe I 6302.5"]
OWN = ("field_strength", "inclination", "azimuth", "velocity")
NOISE = 3e-4


@pytest.fixture(scope="module")
def mixture():
    """A strong field that falls beside a weak one that rises: light of another code, added up by hand."""
    shape, rng = (6, 8), np.random.default_rng(3)
    common = {
        "doppler_width": rng.uniform(0.025, 0.04, shape),
        "line_strength": rng.uniform(6, 20, shape),
        "damping": rng.uniform(0.2, 0.6, shape),
        "source_constant": rng.uniform(0.2, 0.3, shape),
        "source_gradient": rng.uniform(0.6, 0.8, shape),
    }
    strong = {
        "field_strength": rng.uniform(1000, 1800, shape),
        "inclination": rng.uniform(15, 50, shape),
        "azimuth": rng.uniform(10, 170, shape),
        "velocity": rng.uniform(1.5, 3.5, shape),
    }
    weak = {
        "field_strength": rng.uniform(50, 300, shape),
        "inclination": rng.uniform(60, 150, shape),
        "azimuth": rng.uniform(10, 170, shape),
        "velocity": rng.uniform(-1.0, 0.0, shape),
    }
    part = rng.uniform(0.25, 0.5, shape)
    cubes = [milne_eddington_cube(shape, noise=0, truth=own | common, dtype=float) for own in (strong, weak)]
    data = part * cubes[0].data + (1 - part) * cubes[1].data
    data = data + NOISE * rng.standard_normal(data.shape)
    sigma = StdDevUncertainty(np.broadcast_to(NOISE, data.shape))
    cube = NDCube(data, wcs=cubes[0].wcs, unit=u.dimensionless_unscaled, uncertainty=sigma)
    return cube, strong | common | {"filling_factor": part}, weak


@pytest.fixture(scope="module")
def result(mixture):
    return specfit.fit(mixture[0], specfit.two_atmospheres(LINES))


def test_the_truth_is_found_again_with_right_errors(mixture, result):
    _, strong, weak = mixture
    good = result.reduced_chi2.data < 1.3
    assert good.mean() > 0.95
    # Which of them is the first nothing says.
    falls_first = result["first.velocity"].data > result["second.velocity"].data
    for name in OWN[:2] + OWN[3:]:
        for truth, first in ((strong, falls_first), (weak, ~falls_first)):
            a, b = result[f"first.{name}"], result[f"second.{name}"]
            value = np.where(first, a.data, b.data)
            sigma = np.where(first, a.uncertainty.array, b.uncertainty.array)
            pull = ((value - truth[name]) / sigma)[good]
            assert np.abs(np.median(pull)) < 0.5, name
            assert np.mean(np.abs(pull) < 1) == pytest.approx(0.68, abs=0.2), name
            assert np.abs(pull).max() < 6, name
    part = np.where(falls_first, result["first.filling_factor"].data, result["second.filling_factor"].data)
    assert np.median(np.abs(part - strong["filling_factor"])[good]) < 0.02
    assert result["first.filling_factor"].data + result["second.filling_factor"].data == pytest.approx(1, abs=1e-6)
    assert (result["first.flux_density"].data / result["first.b_los"].data)[good] == pytest.approx(
        result["first.filling_factor"].data[good], rel=1e-4
    )


def test_one_atmosphere_does_not_do(mixture, result):
    one = specfit.fit(mixture[0], specfit.MilneEddington(LINES))
    assert np.median(one.reduced_chi2.data) > 5
    assert np.median(result.reduced_chi2.data) == pytest.approx(1, abs=0.1)


def test_what_is_shared_is_one_number_and_the_rest_two(mixture, result):
    assert np.array_equal(result["first.damping"].data, result["second.damping"].data)
    assert result.dof.data == pytest.approx(4 * 112 - 14, abs=3)
    cube = mixture[0][:, :, :1, :2]
    loose = specfit.fit(cube, specfit.two_atmospheres(LINES, shared=("source_constant", "source_gradient")))
    assert not np.array_equal(loose["first.damping"].data, loose["second.damping"].data)
    assert loose.dof.data == pytest.approx(4 * 112 - 17, abs=3)
    broad = specfit.two_atmospheres(LINES, macroturbulence=True)
    assert broad.parameters["second.macroturbulence"].tie is not None


def test_results_are_stored_and_read_again(mixture, tmp_path):
    result = specfit.fit(mixture[0][:, :, :1, :2], specfit.two_atmospheres(LINES))
    result.save(tmp_path / "pair.asdf")
    again = specfit.FitResult.load(tmp_path / "pair.asdf")
    np.testing.assert_allclose(again.model().data, result.model().data)


def test_what_nothing_tells_is_refused():
    with pytest.raises(ValueError, match="source_gradient have to be shared"):
        specfit.two_atmospheres(LINES, shared=("damping",))
    with pytest.raises(ValueError, match="filling_factor cannot be shared"):
        specfit.two_atmospheres(LINES, shared=("filling_factor", "source_constant", "source_gradient"))
    with pytest.raises(ValueError, match="crosstalk belongs to the pixel"):
        specfit.two_atmospheres(LINES, crosstalk=True)
    with pytest.raises(ValueError, match="no stray light has room"):
        specfit.two_atmospheres(LINES, stray_light="mean")
    with pytest.raises(ValueError, match="'third'"):
        specfit.MilneEddington(LINES, part="third")
