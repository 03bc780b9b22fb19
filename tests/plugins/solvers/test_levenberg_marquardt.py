"""Levenberg-Marquardt ends where nothing is left to gain, bounds or not."""

import astropy.units as u
import numpy as np
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from scipy.optimize import least_squares

import sunpy_specfit as specfit
from sunpy_specfit.data import spectral_wcs

SHAPE, NOISE = (20, 20), 1.0
X = 201.0 + 0.0223 * np.arange(-8, 12)
NAMES = ("weak.amplitude", "weak.center", "weak.width", "strong.amplitude", "strong.center", "strong.width", "c0")
LOWER = np.array([0, 200.95, 0.019, 0, 201.08, 0.019, -np.inf])
UPPER = np.array([np.inf, 201.03, 0.051, np.inf, 201.16, 0.051, np.inf])


def light(p):
    lines = (p[k] * np.exp(-0.5 * ((X - p[k + 1]) / p[k + 2]) ** 2) for k in (0, 3))
    return sum(lines) + p[6]


def test_scipy_finds_nothing_below_it():
    """A line lost in the noise beside a strong one: most steps meet bounds, and such a step must not end a fit."""
    truth = np.array([1.0, 200.99, 0.03, 12.0, 201.12, 0.034, 2.0])
    data = light(truth) + NOISE * np.random.default_rng(5).standard_normal((*SHAPE, len(X)))
    cube = NDCube(
        data,
        wcs=spectral_wcs(SHAPE, X * u.AA),
        unit=u.DN,
        uncertainty=StdDevUncertainty(np.full(data.shape, NOISE)),
    )
    model = specfit.Gaussian(200.99 * u.AA, label="weak") + specfit.Gaussian(201.12 * u.AA, label="strong")
    model = (model + specfit.Polynomial(0)).bound(
        {name: (LOWER[i], UPPER[i]) * u.AA for i, name in enumerate(NAMES) if name.endswith((".center", ".width"))}
    )
    result = specfit.fit(cube, model, dtype="float64")
    found = np.stack([result[name].data.reshape(-1) for name in NAMES], axis=1)
    chi2 = result.chi2.data.reshape(-1)
    at_bound = np.mean((result.status.data & int(specfit.Status.AT_BOUND)) > 0)
    assert at_bound > 0.3
    lower = []
    for spectrum, start, own in zip(data.reshape(-1, len(X)), found, chi2, strict=True):
        start = np.clip(start, LOWER + 1e-9, UPPER - 1e-9)
        better = least_squares(
            lambda p, y=spectrum: (light(p) - y) / NOISE, start, bounds=(LOWER, UPPER), x_scale="jac", xtol=1e-12
        )
        lower.append(own - 2 * better.cost)
    assert np.quantile(lower, 0.99) < 1e-2
    assert max(lower) < 0.1
