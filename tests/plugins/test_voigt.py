"""The Voigt line: light, derivatives, limits, area, width."""

import math

import astropy.units as u
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import voigt_profile

from sunpy_specfit.core.batching import BatchedModel
from sunpy_specfit.plugins.gaussian import Gaussian, Voigt

MODEL = Voigt(6562.8 * u.AA)


def parameters(pixels=6, damping=(0.0, 2.0)):
    g = torch.Generator().manual_seed(0)
    a = torch.linspace(*damping, pixels, dtype=torch.float64)
    width = 1 + torch.rand(pixels, generator=g, dtype=torch.float64)
    return {
        "amplitude": 1 + torch.rand(pixels, generator=g, dtype=torch.float64),
        "center": torch.randn(pixels, generator=g, dtype=torch.float64),
        "width": width,
        "lorentz_width": a * math.sqrt(2) * width,
    }


def axis(dtype=torch.float64):
    return torch.linspace(-15, 15, 31, dtype=dtype)[:, None]


def scalars(amplitude, center, width, lorentz_width, dtype=torch.float64):
    values = (amplitude, center, width, lorentz_width)
    return {name: torch.tensor([v], dtype=dtype) for name, v in zip(MODEL.parameters, values, strict=True)}


def test_light_agrees_with_scipy():
    p = parameters()
    amplitude, center, width, lorentz_width = (v.numpy() for v in p.values())
    expected = amplitude * voigt_profile(axis().numpy() - center, width, lorentz_width)
    expected /= voigt_profile(0, width, lorentz_width)
    np.testing.assert_allclose(MODEL.evaluate(axis(), **p), expected, atol=1e-12)


@pytest.mark.parametrize("damping", [(0.0, 2.0), (2.0, 300.0)])
def test_jacobian_agrees_with_automatic_differentiation(damping):
    p = parameters(damping=damping)
    light, derivatives = MODEL.linearize(axis(), **p)
    torch.testing.assert_close(light, MODEL.evaluate(axis(), **p), rtol=1e-12, atol=1e-14)
    _, expected = BatchedModel(MODEL, "vmap", analytic=False).linearize(axis(), p, {}, tuple(p))
    for name in p:
        peak = expected[name].abs().max()
        torch.testing.assert_close(derivatives[name] / peak, expected[name] / peak, rtol=0, atol=1e-7)


def test_jacobian_agrees_with_finite_differences():
    p = parameters(damping=(0.01, 2.0))
    _, derivatives = MODEL.linearize(axis(), **p)
    for name in p:
        up, down = ({**p, name: p[name] + step} for step in (1e-5, -1e-5))
        expected = (MODEL.evaluate(axis(), **up) - MODEL.evaluate(axis(), **down)) / 2e-5
        torch.testing.assert_close(derivatives[name], expected, rtol=0, atol=1e-7)


def test_without_damping_it_is_a_gaussian():
    p = {**parameters(), "lorentz_width": torch.zeros(6, dtype=torch.float64)}
    gaussian = Gaussian(6562.8 * u.AA)
    expected, slopes = gaussian.linearize(axis(), p["amplitude"], p["center"], p["width"])
    light, derivatives = MODEL.linearize(axis(), **p)
    torch.testing.assert_close(light, expected, rtol=0, atol=1e-12)
    for name in slopes:
        torch.testing.assert_close(derivatives[name], slopes[name], rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [0.0, 1e-30, 1e-7])
def test_without_gaussian_width_it_is_a_lorentzian(dtype, width):
    p = scalars(2.0, 0.25, width, 1.5, dtype)
    expected = 2 / (1 + ((axis(dtype) - 0.25) / 1.5) ** 2)
    light, derivatives = MODEL.linearize(axis(dtype), **p)
    for found in (light, MODEL.evaluate(axis(dtype), **p)):
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-6 if dtype == torch.float32 else 1e-11)
    z = (axis(dtype) - 0.25) / 1.5
    expected = {
        "amplitude": 1 / (1 + z**2),
        "center": 4 * z / 1.5 / (1 + z**2) ** 2,
        "width": torch.zeros_like(z),
        "lorentz_width": 4 * z**2 / 1.5 / (1 + z**2) ** 2,
    }
    tolerance = 2e-3 if dtype == torch.float32 else 1e-6
    for name in expected:
        torch.testing.assert_close(derivatives[name], expected[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_widths_may_vanish(dtype):
    for center in (0.0, 0.3):
        p = scalars(2.0, center, 0.0, 0.0, dtype)
        light, derivatives = MODEL.linearize(axis(dtype), **p)
        assert all(torch.isfinite(v).all() for v in (light, MODEL.evaluate(axis(dtype), **p), *derivatives.values()))


@pytest.mark.parametrize(("width", "lorentz_width"), [(0.3, 0.0), (0.3, 0.02), (0.3, 0.6), (0.01, 2.0), (0.0, 0.5)])
def test_area_and_width_are_exact(width, lorentz_width):
    found = MODEL.derive(**scalars(3.0, 6562.9, width, lorentz_width))

    def profile(x):
        return 3 * voigt_profile(x, width, lorentz_width) / voigt_profile(0, width, lorentz_width)

    area = 2 * (quad(profile, 0, 5, limit=200)[0] + quad(profile, 5, np.inf)[0])
    assert found["intensity"].item() == pytest.approx(area, rel=1e-7)
    half = brentq(lambda x: profile(x) - 1.5, 0, 10, xtol=1e-14)
    assert found["fwhm"].item() == pytest.approx(2 * half, rel=1e-9)
    assert found["velocity"].item() == pytest.approx(299792.458 * 0.1 / 6562.8)


def test_derived_quantities_can_be_differentiated():
    p = parameters(damping=(0.1, 2.0))
    for name in ("width", "lorentz_width"):
        one = {name: torch.ones(6, dtype=torch.float64)}

        def derive(value, name=name):
            return MODEL.derive(**{**p, name: value})

        _, slopes = torch.func.jvp(derive, (p[name],), (one[name],))
        up, down = derive(p[name] + 1e-5), derive(p[name] - 1e-5)
        for key in ("intensity", "fwhm"):
            torch.testing.assert_close(slopes[key], (up[key] - down[key]) / 2e-5, rtol=1e-6, atol=1e-8)


def test_batches_by_broadcasting():
    chosen = BatchedModel.choose(MODEL, axis(), parameters(), {"rest": torch.tensor([0.0])})
    assert (chosen.strategy, chosen.analytic) == ("broadcast", True)


def test_absorption_and_errors():
    assert Voigt(1 * u.um, absorption=True).parameters["amplitude"].upper == 0
    with pytest.raises(u.UnitConversionError, match="Voigt: rest_wavelength is a length"):
        Voigt(1 * u.s)
