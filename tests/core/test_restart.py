"""Other starts for pixels whose fit is poor."""

import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty

import sunpy_specfit as specfit
from sunpy_specfit import Model, Parameter
from sunpy_specfit.data import gaussian_cube


class Wave(Model):
    """A wave whose number has a minimum of chi-squared at every wrong one too."""

    name = "wave"
    amplitude = Parameter("data")
    number = Parameter(None, lower=0.5, upper=12)
    attempts: list = []

    def evaluate(self, x, amplitude, number):
        z = (x - x[:1]) / (x[-1:] - x[:1])
        return amplitude * torch.sin(2 * torch.pi * number * z)

    def start_values(self, x, data, weight):
        one = torch.ones_like(data[0])
        return {"amplitude": one, "number": 9 * one}


class Persistent(Wave):
    name = "persistent"

    def restart_values(self, x, data, weight, values, attempt, draws):
        Persistent.attempts.append((attempt, tuple(draws), data.shape[-1]))
        assert set(values) == {"amplitude", "number"}
        return {"number": torch.full_like(values["number"], 0.5 + 3 * draws[0] * (attempt + 1) / 2)}


@pytest.fixture
def cube():
    empty = gaussian_cube(shape=(6, 6), seed=1)
    z = np.linspace(0, 1, empty.data.shape[-1])
    number = np.where(np.arange(36).reshape(6, 6) % 4 == 0, 2.0, 9.0)
    light = 10 * np.sin(2 * np.pi * number[..., None] * z)
    data = light + 0.5 * np.random.default_rng(0).standard_normal(light.shape)
    return type(empty)(data, wcs=empty.wcs, unit=empty.unit, uncertainty=StdDevUncertainty(np.full(data.shape, 0.5)))


def test_only_poor_pixels_are_started_anew_and_the_best_is_kept(cube):
    poor = specfit.fit(cube, Wave()).reduced_chi2.data > 3
    assert poor.sum() == 9
    Persistent.attempts.clear()
    result = specfit.fit(cube, Persistent())
    assert (result.reduced_chi2.data < 2).all()
    assert np.allclose(result["number"].data, np.where(poor, 2.0, 9.0), atol=0.05)
    assert max(size for *_, size in Persistent.attempts) == 9


def test_the_seed_decides(cube):
    drawn = []
    for seed in (0, 0, 1):
        Persistent.attempts.clear()
        specfit.fit(cube, Persistent(), seed=seed)
        drawn.append([draws for _, draws, _ in Persistent.attempts])
    assert drawn[0] == drawn[1] != drawn[2]


def test_no_pixel_depends_on_its_neighbours(cube):
    whole, parts = specfit.fit(cube, Persistent()), specfit.fit(cube, Persistent(), chunks=5)
    np.testing.assert_allclose(whole["number"].data, parts["number"].data, rtol=1e-5)
