"""What spectral lines share: a rest wavelength, a Doppler shift, emission or absorption."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import numpy as np
import torch
from astropy.constants import c

from ...core.model import Model
from ...core.parameter import Auxiliary, Parameter

__all__ = ["SpectralLine", "positive_quantity", "safe_width"]

SPEED_OF_LIGHT = c.to_value(u.km / u.s)

# Where the search for start values looks for a line: shifts and widths found on the Sun but for the fastest flares.
_MAX_SHIFT = 250.0  # km/s
_MAX_WIDTH = 150.0  # km/s
_CENTERS = (15, 96)  # at least and at most
_SPACING = 0.85  # of the smallest width
_WIDTH_RATIO = 2.5


class SpectralLine(Model):
    """Base of the line profiles: an ``amplitude``, a ``center`` and a ``width`` about a rest wavelength.

    The velocity is v = c (center - λ0) / λ0 in km/s, positive for a redshift (away from the observer), in the frame
    and in the medium (air or vacuum) of the file's wavelengths; nothing is removed from it.

    `rest` hands λ0 to `derive` in the unit of the fit, which is that of the first line of a sum.
    """

    amplitude = Parameter("data", lower=0, description="peak value")
    center = Parameter("spectral", location=True, description="wavelength of the peak")
    width = Parameter("spectral", lower=0, description="standard deviation of the Gaussian")
    rest = Auxiliary("spectral", location=True)

    linear_parameters = ("amplitude",)

    def _set_line(self, rest_wavelength: u.Quantity, label: str | None, absorption: bool) -> None:
        positive_quantity(rest_wavelength, "length", f"{type(self).__name__}: rest_wavelength", "195.119 * u.AA")
        if label is not None and not isinstance(label, str):
            raise TypeError(f"{type(self).__name__}: label is a string, found {label!r}")
        self.rest_wavelength = rest_wavelength
        self.label = label
        self.absorption = bool(absorption)

    def declare(self) -> Mapping[str, Parameter]:
        declared = dict(super().declare())
        if self.absorption:
            declared["amplitude"] = declared["amplitude"].replace(lower=None, upper=0)
        return declared

    def prepare(self, observation) -> dict[str, torch.Tensor]:
        return {"rest": torch.tensor([self.rest_wavelength.to_value(observation.spectral_unit)], dtype=torch.float64)}

    def _rest(self, rest):
        """The rest wavelength as a number: the one of the fit, or in its own unit where there is no fit."""
        return self.rest_wavelength.value if rest is None else rest

    def velocity(self, center: torch.Tensor, rest) -> torch.Tensor:
        """The line-of-sight velocity in km/s."""
        return SPEED_OF_LIGHT * (center - rest) / rest

    def start_grid(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Candidates for the search of start values, in the unit of ``x``.

        Centres within 250 km/s of the rest wavelength, as close as the smallest width needs, and widths from the
        sampling to 150 km/s or a sixth of the axis; if the rest wavelength does not lie on the axis, over all of it.
        """
        low, high = float(np.min(x)), float(np.max(x))
        span = high - low
        step = span / max(len(x) - 1, 1)
        rest = self.rest_wavelength.value
        largest = span / 6
        if low - span / 4 <= rest <= high + span / 4:
            reach = max(rest * _MAX_SHIFT / SPEED_OF_LIGHT, 4 * step)
            low, high = max(low, min(rest, high) - reach), min(high, max(rest, low) + reach)
            largest = min(largest, rest * _MAX_WIDTH / SPEED_OF_LIGHT)
        smallest = 1.2 * step
        largest = max(largest, 2 * smallest)
        n_widths = 1 + int(np.ceil(np.log(largest / smallest) / np.log(_WIDTH_RATIO))) if smallest > 0 else 1
        n_centers = int(np.clip((high - low) / (_SPACING * smallest), *_CENTERS)) if smallest > 0 else _CENTERS[0]
        return {
            "center": np.linspace(low, high, n_centers),
            "width": np.geomspace(smallest, largest, n_widths) if smallest > 0 else np.array([1.0]),
        }


def positive_quantity(value, physical_type: str, what: str, example: str) -> None:
    """Refuse whatever is not one positive, finite Quantity of a physical type.

    Raises
    ------
    TypeError
        If it is not a scalar Quantity.
    astropy.units.UnitConversionError
        If it has another physical type.
    ValueError
        If it is not positive and finite.
    """
    if not isinstance(value, u.Quantity) or not value.isscalar:
        raise TypeError(f"{what} is one Quantity such as {example}, found {value!r}")
    if physical_type not in value.unit.physical_type:
        raise u.UnitConversionError(
            f"{what} is a {physical_type} such as {example}, found {value} ({value.unit.physical_type})"
        )
    if not (np.isfinite(value.value) and value.value > 0):
        raise ValueError(f"{what} must be positive and finite, found {value}")


def safe_width(width: torch.Tensor) -> torch.Tensor:
    """The width, kept so far from zero that neither light nor derivatives overflow; no spectrum can tell."""
    return width.clamp_min(torch.finfo(width.dtype).tiny ** 0.4)
