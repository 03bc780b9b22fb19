"""The internal frame: numbers near one, so that float32 suffices where the physics allows it."""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u

from .parameter import Auxiliary, Parameter, resolve_unit, unit_powers

__all__ = ["Frame"]


@dataclass(frozen=True)
class Frame:
    """Units of the data, and the affine map from physical to internal numbers.

    The internal spectral axis is ``(x - origin) / scale`` and internal data are ``data / data_scale``.
    In float32 a wavelength of 6302 Å resolves only 0.02 km/s, so the axis is centred before it is rounded.
    """

    data_unit: u.UnitBase
    spectral_unit: u.UnitBase | None
    origin: float = 0.0
    scale: float = 1.0
    data_scale: float = 1.0

    @property
    def is_identity(self) -> bool:
        """Whether internal numbers are the physical ones."""
        return (self.origin, self.scale, self.data_scale) == (0.0, 1.0, 1.0)

    def physical(self) -> Frame:
        """The frame of the same units in which internal numbers are the physical ones."""
        return Frame(self.data_unit, self.spectral_unit)

    def unit(self, expression) -> u.UnitBase:
        """The real unit of a declared one."""
        return resolve_unit(expression, data=self.data_unit, spectral=self.spectral_unit)

    def factor(self, declared: Parameter | Auxiliary) -> float:
        """Physical number per internal number."""
        data_power, spectral_power, _ = unit_powers(declared.unit)
        return self.data_scale ** float(data_power) * self.scale ** float(spectral_power)

    def offset(self, declared: Parameter | Auxiliary) -> float:
        """Physical number at internal zero."""
        return self.origin if declared.location else 0.0
