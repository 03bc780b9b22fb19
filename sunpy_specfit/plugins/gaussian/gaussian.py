"""The Gaussian line."""

from __future__ import annotations

import math

import astropy.units as u
import torch
from astropy.constants import k_B

from ...core.status import Status
from .line import SPEED_OF_LIGHT, SpectralLine, positive_quantity, safe_width

__all__ = ["Gaussian"]

_AREA = math.sqrt(2 * math.pi)
# exp(-z²/2) = 2^(_EXPONENT z²); on a CPU torch's exp2 takes a quarter of the time of its exp.
_EXPONENT = -0.5 / math.log(2)
_FWHM = 2 * math.sqrt(2 * math.log(2))


class Gaussian(SpectralLine):
    r"""A Gaussian emission or absorption line.

    Optically thin lines of a plasma with Maxwellian and turbulent motions, and most instrument profiles, are close to
    Gaussian. With λ the wavelength, the light is

    .. math:: A \exp\left(-\frac{(\lambda - \lambda_c)^2}{2 w^2}\right).

    Parameters
    ----------
    rest_wavelength : `~astropy.units.Quantity`
        λ0, in the medium (air or vacuum) of the data's wavelengths. ``center`` and ``width`` come in its unit.
    label : str, optional
        What distinguishes the line in a sum; needed where there are two.
    mass : `~astropy.units.Quantity`, optional
        Of the ion, such as ``55.845 * u.u``.
    temperature : `~astropy.units.Quantity`, optional
        Of the ion. With mass and temperature there is a ``nonthermal_velocity``.
    absorption : bool
        Whether the amplitude is negative (at most 0) instead of positive (at least 0).

    Raises
    ------
    TypeError, ValueError, astropy.units.UnitConversionError
        If a Quantity is missing, of the wrong physical type, or not positive; or if only one of mass and temperature
        is given.

    Notes
    -----
    Fitted: ``amplitude`` A (data), ``center`` λc (spectral), ``width`` w, the standard deviation (spectral).

    Derived:

    - ``intensity`` = √(2π) A w (data × spectral), the area;
    - ``velocity`` = c (λc - λ0) / λ0 (km/s), positive away from the observer, in the frame of the file;
    - ``fwhm`` = 2 √(2 ln 2) w (spectral);
    - ``nonthermal_velocity`` ξ (km/s), the most probable speed of the unresolved motions:
      (c / λ0)² 2 w² = 2 k T / M + ξ² (e.g. Del Zanna & Mason 2018, https://doi.org/10.1007/s41116-018-0015-3). The
      instrument's width must have been removed from w, by fitting ``model | LSF(fwhm)``. It is NaN where the line is
      narrower than the thermal width, and the status says WIDTH_BELOW_THERMAL.

    Examples
    --------
    >>> import astropy.units as u
    >>> import torch
    >>> from sunpy_specfit import Gaussian
    >>> line = Gaussian(195.119 * u.AA)
    >>> list(line.parameters), list(line.derived)
    (['amplitude', 'center', 'width'], ['intensity', 'velocity', 'fwhm'])
    >>> x = torch.tensor([195.089, 195.119], dtype=torch.float64)
    >>> line.evaluate(x, amplitude=torch.tensor(2.0), center=torch.tensor(195.119).double(), width=torch.tensor(0.03))
    tensor([1.2129, 2.0000], dtype=torch.float64)
    """

    name = "gaussian"
    undefined = {"nonthermal_velocity": Status.WIDTH_BELOW_THERMAL}

    def __init__(
        self,
        rest_wavelength: u.Quantity,
        *,
        label: str | None = None,
        mass: u.Quantity | None = None,
        temperature: u.Quantity | None = None,
        absorption: bool = False,
    ):
        self._set_line(rest_wavelength, label, absorption)
        self.mass = mass
        self.temperature = temperature
        self._thermal_speed_squared = None
        if (mass is None) != (temperature is None):
            missing = "mass" if mass is None else "temperature"
            raise ValueError(f"Gaussian: the thermal width needs mass and temperature, and {missing} is missing")
        if mass is not None:
            positive_quantity(mass, "mass", "Gaussian: mass", "55.845 * u.u")
            positive_quantity(temperature, "temperature", "Gaussian: temperature", "1.5 * u.MK")
            self._thermal_speed_squared = (2 * k_B * temperature / mass).to_value((u.km / u.s) ** 2)

    @property
    def derived(self):
        units = {"intensity": "data * spectral", "velocity": u.km / u.s, "fwhm": "spectral"}
        if self._thermal_speed_squared is not None:
            units["nonthermal_velocity"] = u.km / u.s
        return units

    def evaluate(self, x, amplitude, center, width, *, rest=None):
        z = (x - center) / safe_width(width)
        return amplitude * torch.exp2(_EXPONENT * z * z)

    def linearize(self, x, amplitude, center, width, *, rest=None):
        """The light ``(n, pixels)`` and its three derivatives; few passes over memory are what makes a fit fast."""
        inverse = 1.0 / safe_width(width)
        z = torch.sub(x, center).mul_(inverse)
        shape = (z * z).mul_(_EXPONENT).exp2_()
        light = shape * amplitude
        by_center = torch.mul(light, z).mul_(inverse)
        return light, {"amplitude": shape, "center": by_center, "width": z.mul_(by_center)}

    def derive(self, amplitude, center, width, *, rest=None):
        rest = self._rest(rest)
        derived = {
            "intensity": _AREA * amplitude * width,
            "velocity": self.velocity(center, rest),
            "fwhm": _FWHM * width,
        }
        if self._thermal_speed_squared is not None:
            speed_squared = 2 * (SPEED_OF_LIGHT * width / rest) ** 2
            derived["nonthermal_velocity"] = torch.sqrt(speed_squared - self._thermal_speed_squared)
        return derived
