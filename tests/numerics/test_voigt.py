"""The Faddeeva function against scipy's, and the ways it must be usable."""

import numpy as np
import pytest
import torch
from scipy.special import wofz

from sunpy_specfit.numerics.voigt import faddeeva, faddeeva_derivative


@pytest.fixture(scope="module")
def plane():
    """Points of the upper half plane: the core densely, the wings to 1e4, and the real axis."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-10, 10, 5000), 10 ** rng.uniform(-3, 4, 5000), np.linspace(-30, 30, 601)])
    y = np.concatenate([rng.uniform(0, 5, 5000), 10 ** rng.uniform(-8, 3, 5000), np.zeros(601)])
    return x, y


def reference(x, y):
    z = x + 1j * y
    w = wofz(z)
    far = np.abs(z) > 300
    # -2zw + 2i/√π cancels far away, where two terms of the asymptotic series are exact.
    with np.errstate(divide="ignore", invalid="ignore"):
        series = -1j / np.sqrt(np.pi) * (1 / z**2 + 1.5 / z**4)
    slope = np.where(far, series, -2 * z * w + 2j / np.sqrt(np.pi))
    return w, slope


@pytest.mark.parametrize(
    ("dtype", "value", "slope", "far_slope"),
    [(torch.float32, 1e-6, 2e-6, 1e-3), (torch.float64, 2e-13, 2e-12, 1e-8)],
)
def test_agrees_with_scipy(plane, dtype, value, slope, far_slope):
    x, y = (torch.tensor(v, dtype=dtype) for v in plane)
    w, dw = reference(x.double().numpy(), y.double().numpy())
    parts = [v.double().numpy() for v in faddeeva_derivative(x, y)]
    ours, ours_slope = parts[0] + 1j * parts[1], parts[2] + 1j * parts[3]
    assert np.abs(ours - w).max() < value
    assert np.abs(ours / w - 1).max() < 10 * value  # relative too: the wings are not lost in the core's error
    assert np.abs(ours_slope - dw).max() < slope
    assert np.abs(ours_slope / dw - 1).max() < far_slope


def test_both_functions_agree(plane):
    x, y = map(torch.tensor, plane)
    for a, b in zip(faddeeva(x, y), faddeeva_derivative(x, y), strict=False):
        assert torch.equal(a, b)


def test_derivatives_agree_with_automatic_differentiation():
    x, y = torch.linspace(-6, 6, 41, dtype=torch.float64), torch.full((41,), 0.3, dtype=torch.float64)
    ones = torch.ones_like(x)
    _, _, h_x, f_x = faddeeva_derivative(x, y)
    _, (auto_h, auto_f) = torch.func.jvp(lambda x: faddeeva(x, y), (x,), (ones,))
    torch.testing.assert_close(h_x, auto_h, rtol=0, atol=1e-11)
    torch.testing.assert_close(f_x, auto_f, rtol=0, atol=1e-11)
    _, (auto_h, auto_f) = torch.func.jvp(lambda y: faddeeva(x, y), (y,), (ones,))
    torch.testing.assert_close(-f_x, auto_h, rtol=0, atol=1e-11)
    torch.testing.assert_close(h_x, auto_f, rtol=0, atol=1e-11)
    for single in (x.clone().requires_grad_(), y.clone().requires_grad_()):
        inputs = (single, y) if single[0] != y[0] else (x, single)
        assert torch.autograd.gradcheck(lambda v, i=inputs: faddeeva(*(v if t is v else t for t in i)), (single,))


def test_batches_under_vmap():
    x, y = torch.linspace(-3, 3, 7).double(), torch.rand(4, generator=torch.Generator().manual_seed(0)).double()
    batched = torch.vmap(lambda y: faddeeva(x, y)[0])(y)
    torch.testing.assert_close(batched, faddeeva(x, y[:, None])[0])


def test_broadcasts_pixels_last():
    x, y = torch.zeros(5, 1), torch.ones(3)
    assert [part.shape for part in faddeeva_derivative(x, y)] == [(5, 3)] * 4


def test_other_precisions_are_refused():
    with pytest.raises(TypeError, match="float32 or float64"):
        faddeeva(torch.zeros(2, dtype=torch.float16), torch.zeros(2, dtype=torch.float16))
