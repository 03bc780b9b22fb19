"""The Gaussian line: light, derivatives, derived quantities, start grid, errors."""

import math

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.constants import c, k_B
from scipy.integrate import quad

from sunpy_specfit.core.batching import BatchedModel
from sunpy_specfit.plugins.gaussian import Gaussian

REST = 195.119 * u.AA


def parameters(dtype=torch.float64, pixels=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "amplitude": 1 + torch.rand(pixels, generator=g, dtype=dtype),
        "center": torch.randn(pixels, generator=g, dtype=dtype),
        "width": 1 + torch.rand(pixels, generator=g, dtype=dtype),
    }


def axis(dtype=torch.float64):
    return torch.linspace(-15, 15, 31, dtype=dtype)[:, None]


@pytest.mark.parametrize("per_pixel", [False, True])
def test_jacobian_agrees_with_automatic_differentiation(per_pixel):
    model, p, x = Gaussian(REST), parameters(), axis()
    if per_pixel:
        x = x + 0.1 * torch.arange(7)
    light, derivatives = model.linearize(x, **p)
    torch.testing.assert_close(light, model.evaluate(x, **p), rtol=1e-12, atol=1e-14)
    automatic = BatchedModel(model, "vmap", analytic=False)
    _, expected = automatic.linearize(x, p, {}, tuple(p))
    for name in p:
        peak = expected[name].abs().max()
        torch.testing.assert_close(derivatives[name] / peak, expected[name] / peak, rtol=0, atol=1e-12)


def test_jacobian_agrees_with_finite_differences():
    model, p, x = Gaussian(REST), parameters(), axis()
    _, derivatives = model.linearize(x, **p)
    for name in p:
        up, down = ({**p, name: p[name] + step} for step in (1e-6, -1e-6))
        expected = (model.evaluate(x, **up) - model.evaluate(x, **down)) / 2e-6
        torch.testing.assert_close(derivatives[name], expected, rtol=0, atol=1e-8)


def test_inputs_are_left_as_they_were():
    model, p, x = Gaussian(REST), parameters(), axis()
    before = {name: value.clone() for name, value in {**p, "x": x}.items()}
    model.linearize(x, **p)
    assert all(torch.equal(before[name], value) for name, value in {**p, "x": x}.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [0.0, 1e-30, 1e-12])
def test_vanishing_widths_stay_finite(dtype, width):
    model, x = Gaussian(REST), axis(dtype)
    for center in (0.0, 0.3):
        p = {k: torch.tensor([v], dtype=dtype) for k, v in zip(parameters(), (2.0, center, width), strict=True)}
        light, derivatives = model.linearize(x, **p)
        assert all(torch.isfinite(v).all() for v in (light, model.evaluate(x, **p), *derivatives.values()))


def test_batches_by_broadcasting():
    p, x = parameters(), axis()
    chosen = BatchedModel.choose(Gaussian(REST), x, p, {"rest": torch.tensor([0.0])})
    assert (chosen.strategy, chosen.analytic) == ("broadcast", True)


def test_derived_quantities():
    model = Gaussian(REST)
    found = model.derive(*(torch.tensor([v], dtype=torch.float64) for v in (3.0, 195.2, 0.03)))
    area = quad(lambda x: 3 * math.exp(-0.5 * ((x - 195.2) / 0.03) ** 2), 194.9, 195.5, points=[195.2])[0]
    assert found["intensity"].item() == pytest.approx(area)
    assert found["velocity"].item() == pytest.approx(c.to_value("km/s") * (195.2 - 195.119) / 195.119)
    assert found["fwhm"].item() == pytest.approx(2 * 0.03 * math.sqrt(2 * math.log(2)))
    assert model.derived["intensity"] == "data * spectral"


def test_velocity_is_positive_for_a_redshift_and_knows_the_unit_of_the_fit():
    class Observation:
        spectral_unit = u.nm

    model = Gaussian(REST)
    rest = model.prepare(Observation())["rest"]
    assert rest.dtype == torch.float64
    center = torch.tensor([19.5119 * (1 + 1e-4)], dtype=torch.float64)
    found = model.derive(torch.ones(1), center, torch.ones(1), rest=rest)
    assert found["velocity"].item() == pytest.approx(29.9792458)


def test_nonthermal_velocity():
    mass, temperature = 55.845 * u.u, 1.5 * u.MK
    model = Gaussian(REST, mass=mass, temperature=temperature)
    assert model.derived["nonthermal_velocity"] == u.km / u.s
    thermal = np.sqrt(2 * k_B * temperature / mass).to_value("km/s")
    width = 195.119 / c.to_value("km/s") * math.sqrt((thermal**2 + 25.0**2) / 2)
    found = model.derive(*(torch.tensor([v], dtype=torch.float64) for v in (1.0, 195.119, width)))
    assert found["nonthermal_velocity"].item() == pytest.approx(25.0)
    narrow = model.derive(*(torch.tensor([v], dtype=torch.float64) for v in (1.0, 195.119, 0.5 * width)))
    assert math.isnan(narrow["nonthermal_velocity"].item())
    assert "nonthermal_velocity" not in Gaussian(REST).derived


def test_absorption_turns_the_sign():
    emission, absorption = Gaussian(REST), Gaussian(REST, absorption=True)
    assert (emission.parameters["amplitude"].lower, emission.parameters["amplitude"].upper) == (0, None)
    assert (absorption.parameters["amplitude"].lower, absorption.parameters["amplitude"].upper) == (None, 0)
    assert absorption.parameters["width"].lower == 0
    assert absorption.bound(amplitude=(-2, 0)).parameters["amplitude"].lower == -2


def test_start_grid_surrounds_the_rest_wavelength():
    x = np.linspace(194, 196, 91)
    grid = Gaussian(REST).start_grid(x)
    assert len(grid["center"]) == 15
    assert 2 <= len(grid["width"]) <= 4
    assert np.abs(grid["center"] - 195.119).max() * c.to_value("km/s") / 195.119 < 260
    assert grid["width"].min() > 0


@pytest.mark.parametrize("rest", [17.0, 194.05, 195.95, 300.0])
def test_start_grid_stays_on_the_axis(rest):
    x = np.linspace(194, 196, 91)
    grid = Gaussian(rest * u.AA).start_grid(x)
    assert grid["center"].min() >= 194
    assert grid["center"].max() <= 196
    # As close as the smallest width needs, 15 at least.
    spacing = np.diff(grid["center"])
    assert len(spacing) >= 14
    assert np.all(spacing > 0)
    assert spacing.max() < 1.01 * max(0.0227, np.ptp(grid["center"]) / 14)


def test_start_grid_of_one_sample():
    grid = Gaussian(REST).start_grid(np.array([195.1]))
    assert all(np.isfinite(v).all() for v in grid.values())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((195.119,), TypeError, "one Quantity such as"),
        (([195.1, 195.2] * u.AA,), TypeError, "one Quantity"),
        ((3 * u.km / u.s,), u.UnitConversionError, "rest_wavelength is a length"),
        ((-195 * u.AA,), ValueError, "positive and finite"),
        ((np.nan * u.AA,), ValueError, "positive and finite"),
    ],
)
def test_wrong_rest_wavelengths_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Gaussian(*arguments)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"mass": 56 * u.u}, ValueError, "temperature is missing"),
        ({"temperature": 1 * u.MK}, ValueError, "mass is missing"),
        ({"mass": 56 * u.AA, "temperature": 1 * u.MK}, u.UnitConversionError, "mass is a mass"),
        ({"mass": 56 * u.u, "temperature": 0 * u.K}, ValueError, "temperature must be positive"),
        ({"label": 3}, TypeError, "label is a string"),
    ],
)
def test_wrong_keywords_are_refused(keywords, error, message):
    with pytest.raises(error, match=message):
        Gaussian(REST, **keywords)


def test_repr_rebuilds():
    found = repr(Gaussian(REST, label="a", absorption=True))
    assert found == "Gaussian(<Quantity 195.119 Angstrom>, label='a', absorption=True)"
    model = Gaussian(REST, mass=56 * u.u, temperature=1 * u.MK)
    assert list(model.arguments()) == ["rest_wavelength", "label", "mass", "temperature", "absorption"]
