"""Draws at low signal come from the posterior, whatever its shape; held against sums over a grid."""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.data import spectral_wcs

REST, WIDTH, OFFSET = 195.119, 0.03, 1.0
X = REST + np.linspace(-0.3, 0.3, 41)
BOUNDS = (REST - 0.15, REST + 0.15)


@pytest.fixture(scope="module")
def faint():
    rng = np.random.default_rng(5)
    light = 2.0 * np.exp(-0.5 * ((X - REST - 0.01) / WIDTH) ** 2) + OFFSET
    data = light + rng.standard_normal((1, 4, len(X)))
    cube = NDCube(
        data, wcs=spectral_wcs((1, 4), X * u.AA), unit="ct", uncertainty=StdDevUncertainty(np.ones(data.shape))
    )
    model = specfit.Gaussian(REST * u.AA) + specfit.Polynomial(0)
    model = model.fix(width=WIDTH * u.AA, c0=OFFSET * u.ct).bound(center=BOUNDS * u.AA)
    return data, specfit.fit(cube, model)


def summed(data):
    """Mean, spread and quantiles of center and amplitude by brute force, ``(2, 5)``."""
    center, amplitude = np.linspace(*BOUNDS, 601), np.linspace(0, 12, 481)
    shape = np.exp(-0.5 * ((X - center[:, None]) / WIDTH) ** 2)
    residual = data - OFFSET - amplitude[:, None, None] * shape
    density = np.exp(-0.5 * ((residual**2).sum(-1) - (residual**2).sum(-1).min()))
    found = []
    for values, axis in ((center, 0), (amplitude, 1)):
        marginal = density.sum(axis)
        marginal /= marginal.sum()
        mean = (marginal * values).sum()
        quantiles = np.interp([0.025, 0.5, 0.975], marginal.cumsum(), values)
        found.append([mean, np.sqrt((marginal * (values - mean) ** 2).sum()), *quantiles])
    return np.array(found)


def described(draws):
    return np.array([[v.mean(), v.std(), *np.quantile(v, [0.025, 0.5, 0.975])] for v in draws])


def test_draws_are_those_of_the_posterior(faint):
    data, result = faint
    assert np.all(result.status.data & int(specfit.Status.LOW_SIGNAL))
    draws = result.sample(4000, seed=1)
    for pixel in range(4):
        expected = summed(data[0, pixel])
        found = described([draws[name].value[:, 0, pixel] for name in ("center", "amplitude")])
        # In units of the spread; a quantile in the tail scatters by a few per cent of it.
        np.testing.assert_allclose(found / expected[:, 1:2], expected / expected[:, 1:2], atol=0.15)


def test_the_covariance_alone_would_not_do(faint):
    data, result = faint
    result = result[:, :]
    result._sampler = None
    draws = result.sample(4000, seed=1)
    worst = 0.0
    for pixel in range(4):
        expected = summed(data[0, pixel])
        found = described([draws[name].value[:, 0, pixel] for name in ("center", "amplitude")])
        worst = max(worst, np.abs((found - expected) / expected[:, 1:2]).max())
    assert worst > 0.5


def test_a_part_draws_for_its_own_pixels(faint):
    data, result = faint
    found = described([result[:, 2:3].sample(4000)["center"].value[:, 0, 0]])
    expected = summed(data[0, 2])[:1]
    np.testing.assert_allclose(found / expected[:, 1:2], expected / expected[:, 1:2], atol=0.15)


def test_draws_keep_to_bounds_and_seed(faint):
    _, result = faint
    one, again, other = (result.sample(300, seed=seed)["center"].to_value(u.AA) for seed in (1, 1, 2))
    assert one.min() >= BOUNDS[0] - 1e-9
    assert one.max() <= BOUNDS[1] + 1e-9
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("n", [0, -3, 2.5, "many"])
def test_a_number_of_draws_that_is_none(faint, n):
    with pytest.raises(ValueError, match="positive whole number"):
        faint[1].sample(n)


def test_a_prior_counts(faint):
    data, _ = faint
    cube = NDCube(
        data, wcs=spectral_wcs((1, 4), X * u.AA), unit="ct", uncertainty=StdDevUncertainty(np.ones(data.shape))
    )
    model = (specfit.Gaussian(REST * u.AA) + specfit.Polynomial(0)).fix(width=WIDTH * u.AA, c0=OFFSET * u.ct)
    tight = specfit.Ridge("center", reference=REST * u.AA, scale=1 * u.mAA)
    draws = specfit.fit(cube, model, priors=tight).sample(4000)["center"].to_value(u.mAA) - 1e3 * REST
    np.testing.assert_allclose(draws.std(0), 1, atol=0.1)
    np.testing.assert_allclose(draws.mean(0), 0, atol=0.2)
