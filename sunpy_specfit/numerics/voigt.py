"""The Faddeeva function w(z): Voigt and Faraday-Voigt functions, in real arithmetic.

Weideman (1994, https://doi.org/10.1137/0731077) approximates w in the upper half plane by

.. math:: w(z) ≈ q / √π + 2 q² p(Z),   q = 1 / (L - i z),   Z = (L + i z) q = 2 L q - 1,

with a polynomial p of N real coefficients. Two rewritings make it fast and keep it exact far from the line:

- w(z) → i / (√π z) demands p(-1) = L / (2 √π). With p(Z) = p(-1) + (Z + 1) r(Z) and Z + 1 = 2 L q, both w and its
  derivative w' = -2 z w + 2 i / √π come out without the cancellation that this last formula suffers for large z:
  w' = 4 i L q² [p(-1) - 2 (1 - L q) r(Z)].
- r has real coefficients, so the recurrence b_k = c_k + 2 Re(Z) b_{k+1} - |Z|² b_{k+2} needs only two
  operations a coefficient.

Everything is elementwise on real tensors, so automatic differentiation, `torch.vmap` and compilation work.
"""

from __future__ import annotations

import math

import numpy as np
import torch

__all__ = ["faddeeva", "faddeeva_derivative"]

# Coefficients for an error of 6e-7 and of 4e-14 (N = 16 and 32), about the round-off of the precision.
_TERMS = {torch.float32: 16, torch.float64: 32}

_Complex = tuple[torch.Tensor, torch.Tensor]


def _coefficients(terms: int) -> tuple[float, float, tuple[float, ...]]:
    """L, p(-1) and the coefficients of r in ascending order, as Python floats."""
    scale = math.sqrt(terms / math.sqrt(2))
    half = 2 * terms
    t = scale * np.tan(0.5 * np.pi * np.arange(-half + 1, half) / half)
    samples = np.concatenate([[0.0], np.exp(-t * t) * (scale**2 + t * t)])
    p = np.real(np.fft.fft(np.fft.fftshift(samples)))[1 : terms + 1] / (2 * half)
    end = scale / (2 * math.sqrt(math.pi))
    remainder = p.copy()
    remainder[0] -= np.polyval(p[::-1], -1.0)
    r = np.polynomial.polynomial.polydiv(remainder, [1.0, 1.0])[0]
    return scale, end, tuple(map(float, r))


_NUMBERS = {dtype: _coefficients(terms) for dtype, terms in _TERMS.items()}


def _rational(x: torch.Tensor, y: torch.Tensor):
    """L, p(-1), and q and r(Z) as pairs of real and imaginary part."""
    dtype = torch.promote_types(x.dtype, y.dtype)
    if dtype not in _TERMS:
        raise TypeError(f"the Faddeeva function needs float32 or float64 tensors, found {dtype}")
    scale, end, numbers = _NUMBERS[dtype]
    shifted = y + scale
    inverse = torch.addcmul(shifted * shifted, x, x).reciprocal_()
    q = shifted * inverse, x * inverse
    z_re, z_im = (2 * scale * q[0]).sub_(1.0), 2 * scale * q[1]
    norm = torch.addcmul(z_re * z_re, z_im, z_im)
    if torch.compiler.is_compiling():
        # Numbers that stand in the generated code need not be fetched.
        later, last = 2 * numbers[-1] * z_re + numbers[-2], numbers[-1]
        for coefficient in reversed(numbers[1:-2]):
            later, last = coefficient + 2 * z_re * later - norm * last, later
        return scale, end, q, (numbers[0] + z_re * later - norm * last, z_im * later)
    r = torch.tensor(numbers, dtype=dtype, device=x.device).unbind()
    later, last = 2 * numbers[-1] * z_re + numbers[-2], r[-1]
    for coefficient in reversed(r[1:-2]):
        raised = torch.addcmul(coefficient, z_re, later, value=2)
        later, last = torch.addcmul(raised, norm, last, value=-1), later
    r_re = torch.addcmul(torch.addcmul(r[0], z_re, later), norm, last, value=-1)
    return scale, end, q, (r_re, z_im * later)


def _times(a: _Complex, b: _Complex, factor: float = 1.0) -> _Complex:
    """The product of two complex numbers and a real one."""
    if factor != 1.0:
        a = factor * a[0], factor * a[1]
    return torch.addcmul(a[0] * b[0], a[1], b[1], value=-1), torch.addcmul(a[0] * b[1], a[1], b[0])


def faddeeva(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Real and imaginary part of w(x + i y), the Voigt and the Faraday-Voigt function.

    Parameters
    ----------
    x, y : `torch.Tensor`
        Real, float32 or float64; they broadcast. ``y`` must not be negative.

    Returns
    -------
    voigt, faraday : `torch.Tensor`
        H(y, x) with H(0, 0) = 1, and F(y, x). The error is below 1e-6 in float32 and 2e-13 in float64.

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.numerics.voigt import faddeeva
    >>> faddeeva(torch.tensor([0.0, 1.0]), torch.tensor(0.0))[0]
    tensor([1.0000, 0.3679])
    """
    return _value(*_rational(x, y))


def faddeeva_derivative(
    x: torch.Tensor, y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Real and imaginary part of w(x + i y) and of its derivative w'.

    Parameters
    ----------
    x, y : `torch.Tensor`
        As for `faddeeva`.

    Returns
    -------
    voigt, faraday, voigt_x, faraday_x : `torch.Tensor`
        H, F and their derivatives by x. Those by y follow from w being analytic: H_y = -F_x, F_y = H_x.
    """
    scale, end, q, r = _rational(x, y)
    # w' = 4 i L q² [p(-1) - 2 (1 - L q) r]
    inner = _times((1.0 - scale * q[0], -scale * q[1]), r, -2.0)
    slope = _times(_times(q, q, 4 * scale), (inner[0].add_(end), inner[1]))
    return *_value(scale, end, q, r), slope[1].neg_(), slope[0]


def _value(scale: float, end: float, q: _Complex, r: _Complex) -> _Complex:
    # w = q [1/√π + 2 q (p(-1) + 2 L q r)], from the inside out
    inner = _times(q, r, 2 * scale)
    outer = _times(q, (inner[0].add_(end), inner[1]), 2.0)
    return _times(q, (outer[0].add_(1 / math.sqrt(math.pi)), outer[1]))
