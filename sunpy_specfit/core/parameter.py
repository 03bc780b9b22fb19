"""What a model declares: parameters, auxiliary inputs and derived quantities."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import astropy.units as u
import numpy as np

__all__ = ["Auxiliary", "Parameter", "Tie", "as_quantity", "resolve_unit"]

_DATA = u.def_unit("data")
_SPECTRAL = u.def_unit("spectral")


def as_quantity(value):
    """What an NDCube (a map of an earlier result) holds, as a Quantity; anything else as it is."""
    if not hasattr(value, "wcs"):
        return value
    return u.Quantity(np.asarray(value.data), value.unit or u.dimensionless_unscaled, copy=False)


def resolve_unit(expression, *, data: u.UnitBase, spectral: u.UnitBase | None) -> u.UnitBase:
    """Turn a declared unit into a real one.

    Parameters
    ----------
    expression : `astropy.units.Unit` or str
        An astropy unit, or an expression in which the words ``data`` and ``spectral`` stand for
        the cube's units, such as ``"data / spectral"``.
    data, spectral : `astropy.units.Unit`
        The units to put in their place.

    Returns
    -------
    `astropy.units.Unit`

    Examples
    --------
    >>> import astropy.units as u
    >>> from sunpy_specfit.core.parameter import resolve_unit
    >>> resolve_unit("data * spectral", data=u.DN, spectral=u.AA)
    Unit("Angstrom DN")
    """
    data_power, spectral_power, rest = unit_powers(expression)
    if spectral_power and spectral is None:
        raise ValueError(f"the unit {expression!r} needs a spectral axis, and these data have none")
    unit = rest
    if data_power:
        unit = unit * data**data_power
    if spectral_power:
        unit = unit * spectral**spectral_power
    return unit


def unit_powers(expression) -> tuple[float, float, u.UnitBase]:
    """Split a declared unit into (power of data, power of spectral, the rest)."""
    if isinstance(expression, u.UnitBase):
        return 0, 0, expression
    if expression is None:
        return 0, 0, u.dimensionless_unscaled
    return _powers_of_words(expression)


@cache
def _powers_of_words(expression: str) -> tuple[float, float, u.UnitBase]:
    with u.add_enabled_units([_DATA, _SPECTRAL]):
        unit = u.Unit(expression)
    data_power, spectral_power, rest = 0, 0, u.dimensionless_unscaled
    bases, powers, scale = unit.bases, unit.powers, unit.scale
    for base, power in zip(bases, powers, strict=True):
        if base == _DATA:
            data_power = power
        elif base == _SPECTRAL:
            spectral_power = power
        else:
            rest = rest * base**power
    if scale != 1.0:
        rest = rest * scale
    return data_power, spectral_power, rest


@dataclass(frozen=True)
class Tie:
    """An affine tie: ``this = factor * target + offset``."""

    target: str
    factor: float = 1.0
    offset: Any = 0.0


@dataclass(frozen=True)
class Parameter:
    """One quantity that a fit may change, declared on the class of a `~sunpy_specfit.Model`.

    Parameters
    ----------
    unit : `astropy.units.Unit` or str
        Its unit, or an expression of the words ``"data"`` and ``"spectral"`` that stand for the
        cube's units, such as ``"data / spectral"``.
    shape : tuple of int
        ``()`` for a number, ``(k,)`` for a vector (the bins of a DEM).
    default : float or `~astropy.units.Quantity`, optional
        A start value; without one the engine finds it in the data.
    lower, upper : float or `~astropy.units.Quantity`, optional
        Bounds. How they are kept is the solver's business.
    beyond : {"stop", "wrap", "reflect"}
        What lies beyond the bounds of an angle: ``"wrap"`` comes in again at the other bound, as an azimuth does, and
        ``"reflect"`` turns back at the bound, as an inclination does. The model's light is the same there, solvers go
        through, and what they find is brought back between the bounds.
    opposite : str, optional
        Of a radius such as a field strength: the angle that is mirrored between its bounds where the radius goes below
        its lower one, to come out with the same light on the other side.
    fixed : bool
        Whether the parameter is held at ``default``.
    location : bool
        Whether it marks a place on the spectral axis (and so moves with its origin).
    description : str
        One line for tables and documentation.
    tie : `Tie`, optional
        Set by :meth:`Model.tie`.
    shared : bool
        Whether one value serves all pixels; set by :meth:`Model.share`.

    Examples
    --------
    >>> from sunpy_specfit import Parameter
    >>> Parameter("data", lower=0).lower
    0
    """

    unit: Any
    shape: tuple[int, ...] = field(default=(), kw_only=True)
    default: Any = field(default=None, kw_only=True)
    lower: Any = field(default=None, kw_only=True)
    upper: Any = field(default=None, kw_only=True)
    beyond: str = field(default="stop", kw_only=True)
    opposite: str | None = field(default=None, kw_only=True)
    fixed: bool = field(default=False, kw_only=True)
    location: bool = field(default=False, kw_only=True)
    description: str = field(default="", kw_only=True)
    tie: Tie | None = field(default=None, kw_only=True)
    shared: bool = field(default=False, kw_only=True)

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(int(n) for n in np.atleast_1d(self.shape)) if self.shape != () else ())
        if self.fixed and self.tie is not None:
            raise ValueError("a parameter is either fixed or tied, not both")
        if self.beyond not in ("stop", "wrap", "reflect"):
            raise ValueError(f"beyond is 'stop', 'wrap' or 'reflect'; found {self.beyond!r}")
        if self.beyond != "stop" and (self.lower is None or self.upper is None):
            raise ValueError(f"beyond={self.beyond!r} needs both bounds: lower= and upper=")
        if self.opposite is not None and self.lower is None:
            raise ValueError("a radius with an opposite= needs its lower bound")

    def replace(self, **changes) -> Parameter:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @property
    def size(self) -> int:
        """How many numbers it holds per pixel."""
        return int(np.prod(self.shape, dtype=int))


@dataclass(frozen=True)
class Auxiliary:
    """An input that :meth:`Model.prepare` takes from the observation and that is never fitted.

    The engine needs its unit, and whether it is a place on the spectral axis, to hand it to the model in
    the same units as everything else.
    """

    unit: Any = None
    location: bool = field(default=False, kw_only=True)
