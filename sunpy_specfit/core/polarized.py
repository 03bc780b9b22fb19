"""What models of polarised light in known lines share: signs, the frame of angles, and the medium of wavelengths."""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Mapping

import astropy.units as u

from .medium import MediumWarning
from .model import Model
from .parameter import Parameter

__all__ = ["PolarizedModel"]


class PolarizedModel(Model):
    """A model of Stokes parameters in lines whose wavelengths are known in air and in vacuum.

    A subclass has the arguments ``medium``, ``stokes_sign`` and ``stokes_reference``, perhaps ``offset`` and
    ``crosstalk``, keeps its lines in ``_atomic``, and calls `check_polarization` and `place_lines` when it is made.
    """

    medium: str | None = None
    stokes_sign: Mapping[str, int] | None = None
    stokes_reference: u.Quantity | None = None
    offset: bool = False
    crosstalk: bool = False

    def check_polarization(self) -> None:
        """Refuse signs and angles that are none.

        Raises
        ------
        ValueError, astropy.units.UnitConversionError
        """
        who = type(self).__name__
        for name, sign in (self.stokes_sign or {}).items():
            if name not in ("Q", "U", "V") or sign not in (1, -1):
                raise ValueError(f"{who}: stokes_sign maps 'Q', 'U' or 'V' to 1 or -1, found {name!r}: {sign!r}")
        if self.stokes_reference is not None and not u.Quantity(self.stokes_reference).unit.is_equivalent(u.deg):
            raise u.UnitConversionError(f"{who}: stokes_reference is an angle, found {self.stokes_reference!r}")

    def rest_wavelengths(self) -> list[u.Quantity]:
        """Of all lines, in the medium in force; in air where none was named."""
        return [one.wavelength("vacuum" if one.air is None else self.medium or "air") for one in self._atomic]

    def nuisances(self) -> dict[str, Parameter]:
        """Constant offsets of Q, U and V and the part of I in them, as far as they were asked for."""
        declared, polarized = {}, [s.lower() for s in self.stokes if s != "I"]
        if self.offset:
            declared |= {f"offset_{s}": Parameter("data", default=0.0, description="offset") for s in polarized}
        if self.crosstalk:
            declared |= {f"crosstalk_{s}": Parameter(None, default=0.0, description="part of I") for s in polarized}
        return declared

    @abstractmethod
    def place_lines(self) -> None:
        """Work out what depends on the lines' wavelengths."""

    def in_medium(self, medium: str) -> PolarizedModel:
        if self.medium is not None or all(one.air is None for one in self._atomic):
            return self
        if medium == "unknown":
            who = type(self).__name__
            warnings.warn(
                f"the header does not say whether wavelengths are in air or vacuum: {self._atomic[0].name} is sought "
                f"at {self.rest_wavelengths()[0]:.8g}, in air; say {who}(..., medium='air') or 'vacuum'",
                MediumWarning,
                stacklevel=6,
            )
            medium = "air"
        new = copy.copy(self)
        new.medium = medium
        new.place_lines()
        return new

    def remarks(self) -> dict[str, str]:
        if self.stokes_reference is None:
            return {"azimuth": "counter-clockwise from +Q in the instrument frame"}
        return {"azimuth": f"counter-clockwise from solar north, where +Q is at {self.stokes_reference}"}

    def sign(self, name: str) -> int:
        """1, or -1 where files have a Stokes parameter of the opposite sign."""
        return (self.stokes_sign or {}).get(name, 1)

    @property
    def reference_angle(self) -> float:
        """Of +Q from solar north in degrees, or 0: what is added to azimuths in the instrument's frame."""
        return 0.0 if self.stokes_reference is None else float(u.Quantity(self.stokes_reference).to_value(u.deg))
