"""Start values good enough: fits that start from the data end where fits that start from the truth do."""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.data import spectral_wcs

SHAPE = (30, 40)
MG_II_K = 2796.352
KMS = 1 / 299792.458


def scene(x, parts, background, noise, seed=0):
    """A cube of Gaussians ``(amplitude, center, width)``, each a map, on a background."""
    rng = np.random.default_rng(seed)
    light = np.zeros((*SHAPE, len(x))) + background
    for amplitude, center, width in parts:
        a, c, w = (np.broadcast_to(v, SHAPE)[..., None] for v in (amplitude, center, width))
        light = light + a * np.exp(-0.5 * ((x - c) / w) ** 2)
    data = light + noise * rng.standard_normal(light.shape)
    return NDCube(
        data, wcs=spectral_wcs(SHAPE, x * u.AA), unit=u.DN, uncertainty=StdDevUncertainty(np.full(data.shape, noise))
    )


def uniform(low, high, seed):
    return np.random.default_rng(seed).uniform(low, high, SHAPE)


def share_as_good(cube, model, truth):
    """Of pixels whose chi-squared is within 1 % of what a fit from the truth reaches."""
    found, best = specfit.fit(cube, model), specfit.fit(cube, model, init=truth)
    return np.mean(found.chi2.data <= 1.01 * best.chi2.data), found


def test_absorption_on_a_sloping_continuum():
    x = 6302.5 + 0.0215 * (np.arange(56) - 27.5)
    depth, width = uniform(20, 70, 1), uniform(0.035, 0.08, 2)
    center = 6302.4931 * (1 + uniform(-4, 4, 3) * KMS)
    cube = scene(x, [(-depth, center, width)], 100 + 3 * (x - 6302.5), noise=100 / 30)
    model = specfit.Gaussian(6302.4931 * u.AA, absorption=True) + specfit.Polynomial(1)
    share, found = share_as_good(cube, model, {"amplitude": -depth, "center": center, "width": width, "c0": 100.0})
    assert share > 0.99
    assert np.all(found["amplitude"].data <= 0)
    pull = (found["center"].data - center) / found["center"].uncertainty.array
    assert pull.std() == pytest.approx(1, abs=0.06)


def test_emission_with_a_central_reversal():
    # Mg II k: a broad emission peak with a narrower self-absorption, shifted by flows of its own.
    x = MG_II_K + 0.0255 * (np.arange(64) - 31.5)
    emission = uniform(60, 150, 4), MG_II_K * (1 + uniform(-8, 8, 5) * KMS), uniform(0.18, 0.26, 6)
    reversal = -emission[0] * uniform(0.2, 0.7, 7), MG_II_K * (1 + uniform(-10, 10, 8) * KMS), uniform(0.05, 0.09, 9)
    cube = scene(x, [emission, reversal], 15.0, noise=100 / 30)
    model = (
        specfit.Gaussian(MG_II_K * u.AA, label="emission")
        + specfit.Gaussian(MG_II_K * u.AA, label="reversal", absorption=True)
        + specfit.Polynomial(0)
    )
    truth = {
        f"{label}.{name}": value
        for label, part in (("emission", emission), ("reversal", reversal))
        for name, value in zip(("amplitude", "center", "width"), part, strict=True)
    } | {"c0": 15.0}
    share, found = share_as_good(cube, model, truth)
    assert share > 0.99
    assert np.all(found["reversal.amplitude"].data <= 0)
    for key, value in truth.items():
        assert np.median(found[key].data - value) == pytest.approx(0, abs=np.median(found[key].uncertainty.array)), key


def test_two_components_of_one_line_in_any_order():
    x = 1334.532 + 0.026 * (np.arange(48) - 23.5)
    slow = uniform(60, 150, 4), 1334.532 * (1 + uniform(-15, 15, 5) * KMS), uniform(0.05, 0.08, 6)
    fast = slow[0] * uniform(0.3, 0.8, 7), 1334.532 * (1 + uniform(60, 90, 8) * KMS), uniform(0.04, 0.1, 9)
    cube = scene(x, [slow, fast], 10.0, noise=3.0)
    model = (
        specfit.Gaussian(1334.532 * u.AA, label="a")
        + specfit.Gaussian(1334.532 * u.AA, label="b")
        + specfit.Polynomial(0)
    )
    truth = {
        f"{label}.{name}": value
        for label, part in (("a", slow), ("b", fast))
        for name, value in zip(("amplitude", "center", "width"), part, strict=True)
    } | {"c0": 10.0}
    share, _ = share_as_good(cube, model, truth)
    assert share > 0.99
