"""The Voigt line."""

from __future__ import annotations

import math

import astropy.units as u
import numpy as np
import torch

from ...core.parameter import Parameter
from ...numerics.voigt import faddeeva, faddeeva_derivative
from .line import SpectralLine, safe_width

__all__ = ["Voigt"]

_ROOT2 = math.sqrt(2)


class Voigt(SpectralLine):
    r"""A Voigt emission or absorption line: a Gaussian convolved with a Lorentzian.

    Thermal and turbulent motions give the Gaussian, radiation and collisions the Lorentzian wings. With λ the
    wavelength, σ the Gaussian standard deviation, γ the Lorentzian half width at half maximum, and
    H the Voigt function (real part of the Faddeeva function), the light is

    .. math:: A \frac{H(a, v)}{H(a, 0)}, \quad v = \frac{\lambda - \lambda_c}{\sqrt 2 \sigma},
        \quad a = \frac{\gamma}{\sqrt 2 \sigma}.

    Parameters
    ----------
    rest_wavelength : `~astropy.units.Quantity`
        λ0, in the medium (air or vacuum) of the data's wavelengths. ``center`` and the widths come in its unit.
    label : str, optional
        What distinguishes the line in a sum; needed where there are two.
    absorption : bool
        Whether the amplitude is negative (at most 0) instead of positive (at least 0).

    Raises
    ------
    TypeError, ValueError, astropy.units.UnitConversionError
        If the rest wavelength is not one positive Quantity of length.

    Notes
    -----
    Fitted: ``amplitude`` A, the peak (data), ``center`` λc (spectral), ``width`` σ (spectral), ``lorentz_width`` γ
    (spectral).

    Derived: ``intensity`` (data × spectral), the exact area √(2π) A σ / H(a, 0); ``velocity`` = c (λc - λ0) / λ0
    (km/s), positive away from the observer, in the frame of the file; ``fwhm`` (spectral), the full width of the
    profile at half of its maximum.

    H is the rational approximation of Weideman (1994, https://doi.org/10.1137/0731077).

    Examples
    --------
    >>> import astropy.units as u
    >>> from sunpy_specfit import Voigt
    >>> list(Voigt(6562.8 * u.AA, absorption=True).parameters)
    ['amplitude', 'center', 'width', 'lorentz_width']
    """

    name = "voigt"
    references = ("10.1137/0731077",)

    lorentz_width = Parameter("spectral", lower=0, description="half width at half maximum of the Lorentzian")
    derived = {"intensity": "data * spectral", "velocity": u.km / u.s, "fwhm": "spectral"}

    def __init__(self, rest_wavelength: u.Quantity, *, label: str | None = None, absorption: bool = False):
        self._set_line(rest_wavelength, label, absorption)

    def evaluate(self, x, amplitude, center, width, lorentz_width, *, rest=None):
        inverse = 1.0 / (_ROOT2 * safe_width(width))
        damping = lorentz_width * inverse
        peak, _ = faddeeva(torch.zeros_like(damping), damping)
        profile, _ = faddeeva((x - center) * inverse, damping)
        return amplitude * profile / peak

    def linearize(self, x, amplitude, center, width, lorentz_width, *, rest=None):
        """The light ``(n, pixels)`` and its four derivatives."""
        inverse = 1.0 / (_ROOT2 * safe_width(width))
        damping = lorentz_width * inverse
        v = (x - center) * inverse
        profile, _, by_v, minus_by_a = faddeeva_derivative(v, damping)
        peak, _, _, minus_peak_by_a = faddeeva_derivative(torch.zeros_like(damping), damping)
        shape = profile / peak
        light = shape * amplitude
        factor = amplitude * inverse / peak
        by_lorentz = (shape * minus_peak_by_a - minus_by_a).mul_(factor)
        by_center = by_v.mul_(factor).neg_()
        # Homogeneous of degree zero in (x - center, width, lorentz_width). For a nearly pure Lorentzian the two terms
        # cancel to less than their round-off, and the width has no effect left.
        by_width = (v * by_center).sub_(by_lorentz * damping).mul_(_ROOT2)
        by_width.mul_(damping < torch.finfo(damping.dtype).eps ** -0.5)
        return light, {"amplitude": shape, "center": by_center, "width": by_width, "lorentz_width": by_lorentz}

    def derive(self, amplitude, center, width, lorentz_width, *, rest=None):
        width = safe_width(width)
        damping = lorentz_width / (_ROOT2 * width)
        peak, _ = faddeeva(torch.zeros_like(damping), damping)
        return {
            "intensity": math.sqrt(2 * math.pi) * amplitude * width / peak,
            "velocity": self.velocity(center, self._rest(rest)),
            "fwhm": 2 * _ROOT2 * width * _half_width(damping, peak),
        }

    def start_grid(self, x: np.ndarray) -> dict[str, np.ndarray]:
        grid = super().start_grid(x)
        grid["lorentz_width"] = grid["width"][:2]
        return grid


def _half_width(damping: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    """Where H(a, v) is half of H(a, 0): Newton steps from Olivero & Longbothum's (1977) 0.02 % approximation."""
    v = 0.5346 * damping + torch.sqrt(0.2166 * damping**2 + math.log(2))
    for _ in range(3):
        profile, _, slope, _ = faddeeva_derivative(v, damping)
        v = v - (profile - 0.5 * peak) / slope
    return v
