"""Maps less their own noise."""

import astropy.units as u
import numpy as np
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.core.shrinkage import shrink
from sunpy_specfit.data import spectral_wcs

SHAPE = (20, 20)


class Bent(specfit.Model):
    """A constant whose square is seen."""

    name = "bent"
    root = specfit.Parameter("data", lower=0)

    def evaluate(self, x, root):
        return root**2 + 0 * x


class Turning(Bent):
    """The same of an angle."""

    name = "turning"
    periods = {"root": 180.0}


def problem_of(model, sigma, mask=None):
    """Three samples a pixel that say nothing but how well a pixel knows its number."""
    data = np.full((*SHAPE, 3), 100.0)
    cube = NDCube(
        data,
        wcs=spectral_wcs(SHAPE, [1, 2, 3] * u.AA),
        unit=u.DN,
        uncertainty=StdDevUncertainty(np.full(data.shape, sigma)),
    )
    return build_problem([cube], [model], mask=mask, dtype="float64")


def shrunk(truth, error, seed=0, mask=None, model=None):
    """Maps with that error, before and after."""
    # The slope of the square is twice the root.
    problem = problem_of(model or Bent(), error * 2 * 10 * 3**0.5, mask)
    factor = problem.layout.scales()[0][0]
    given = truth + error * np.random.default_rng(seed).standard_normal(SHAPE)
    found = shrink(problem, torch.as_tensor(given.reshape(1, -1) / factor))
    return given, found.numpy().reshape(SHAPE) * factor


def test_noise_goes():
    given, found = shrunk(np.full(SHAPE, 10.0), 0.5)
    assert found.std() < 0.35 * given.std()


def test_what_noise_does_not_explain_stays():
    truth = 10 + 3 * np.random.default_rng(1).standard_normal(SHAPE)
    given, found = shrunk(truth, 0.1)
    assert np.abs(found - given).max() < 0.1


def test_a_pixel_without_data_gets_its_neighbours_mean_and_gives_them_nothing():
    mask = np.zeros((*SHAPE, 3), bool)
    mask[7, 8] = True
    truth = np.full(SHAPE, 10.0)
    truth[7, 8] = 1000.0
    _, found = shrunk(truth, 0.1, mask=mask)
    assert np.abs(found - 10).max() < 0.5


def test_an_angle_that_wraps_stays():
    given, found = shrunk(np.full(SHAPE, 10.0), 0.5, model=Turning())
    np.testing.assert_allclose(found, given)


def test_a_linear_model_is_the_same_everywhere():
    problem = problem_of(specfit.Polynomial(0), 1.0)
    free = torch.randn(1, problem.n_pixels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert shrink(problem, free) is free
