"""Numbers that are missing from what the user or a model gives: one pixel's gap is no other pixel's loss."""

import astropy.units as u
import numpy as np
import pytest
import torch
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import Status
from sunpy_specfit.data import gaussian_cube

REST = 195.119 * u.AA
LINE = specfit.Gaussian(REST) + specfit.Polynomial(0)


@pytest.fixture(scope="module")
def cube():
    return gaussian_cube((6, 7), seed=1)


def apart(result, expected, name="velocity"):
    """The distance of all pixels but the first, in sigma."""
    return (np.abs(result[name].data - expected[name].data) / expected[name].uncertainty.array).ravel()[1:]


@pytest.mark.parametrize("solver", ["auto", "gauss_newton", "adam", "lbfgs"])
def test_a_gap_in_a_fixed_map(cube, solver):
    width = specfit.fit(cube, LINE)["width"].data.copy()
    expected = specfit.fit(cube, LINE.fix(width=width * u.AA), solver=solver)
    width[0, 0] = np.nan
    result = specfit.fit(cube, LINE.fix(width=width * u.AA), solver=solver)
    assert apart(result, expected).max() < 1e-3
    assert result.status.data[0, 0] & int(Status.BAD_DATA)
    assert np.isnan(result["velocity"].data[0, 0])
    assert np.all(result.status.data.ravel()[1:] == int(Status.CONVERGED))


class Scaled(specfit.Model):
    """A line on a background that is known for each pixel."""

    name = "scaled"
    amplitude = specfit.Parameter("data", lower=0)
    center = specfit.Parameter("spectral", location=True)
    width = specfit.Parameter("spectral", lower=0)
    background = specfit.Auxiliary("data")

    def __init__(self, known=None):
        self.known = known

    def prepare(self, observation):
        return {"background": torch.as_tensor(self.known).reshape(-1)}

    def evaluate(self, x, amplitude, center, width, *, background):
        return amplitude * torch.exp(-0.5 * ((x - center) / width) ** 2) + background


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gap_in_an_auxiliary_map(cube, bad):
    background = specfit.fit(cube, LINE)["c0"].data.copy()
    expected = specfit.fit(cube, Scaled(background))
    background[0, 0] = bad
    result = specfit.fit(cube, Scaled(background))
    assert apart(result, expected, "center").max() < 1e-3
    assert result.status.data[0, 0] & int(Status.BAD_DATA)
    assert np.isnan(result["center"].data[0, 0])


class Limited(specfit.Model):
    """A line that exists for narrow widths only."""

    name = "limited"
    amplitude = specfit.Parameter("data", lower=0)
    center = specfit.Parameter("spectral", location=True)
    width = specfit.Parameter("spectral", lower=0)
    level = specfit.Parameter("data")

    def evaluate(self, x, amplitude, center, width, level):
        return amplitude * torch.exp(-0.5 * ((x - center) / width) ** 2) + level + 0 * torch.sqrt(0.06 - width)


def test_a_model_that_does_not_exist_everywhere(cube):
    expected, result = specfit.fit(cube, LINE), specfit.fit(cube, Limited())
    np.testing.assert_allclose(result.chi2.data, expected.chi2.data, rtol=1e-4)
    assert np.all(result.status.data == int(Status.CONVERGED))


@pytest.mark.parametrize("solver", ["auto", "adam", "lbfgs"])
def test_what_is_no_measurement_is_left_out(cube, solver):
    expected = specfit.fit(cube, LINE, solver=solver)
    data = cube.data.copy()
    data[0, 0, 10] = 1e30
    wild = NDCube(data, wcs=cube.wcs, unit=cube.unit, uncertainty=cube.uncertainty)
    result = specfit.fit(wild, LINE, solver=solver)
    assert apart(result, expected).max() < 1e-3
    # The other samples of that pixel still tell.
    assert result.status.data[0, 0] == int(Status.CONVERGED | Status.BAD_DATA)
    assert (
        abs(result["velocity"].data[0, 0] - expected["velocity"].data[0, 0])
        < expected["velocity"].uncertainty.array[0, 0]
    )
