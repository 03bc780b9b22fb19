"""Scales with units: how strong a prior is, in the units of what it acts on."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import numpy as np

from ...core.prior import Prior

__all__ = ["FLOOR", "ScaledPrior", "check_names", "check_scale", "in_unit"]

# The smallest number that a logarithm is taken of; its inverse squared is finite in float32.
FLOOR = 1e-15


def in_unit(value, unit: u.UnitBase, name: str, what: str, *, positive: bool = False) -> np.ndarray:
    """A Quantity, or a number in ``unit``, as plain numbers in ``unit``.

    Raises
    ------
    astropy.units.UnitConversionError
        If its unit does not convert.
    ValueError
        If it is not finite, or not positive where it must be.
    """
    if isinstance(value, u.Quantity):
        try:
            value = value.to_value(unit)
        except u.UnitConversionError:
            wanted = f"the unit of {name!r}, {unit}" if unit != u.dimensionless_unscaled else "a plain number"
            raise u.UnitConversionError(
                f"the {what} of a prior on {name!r} is in {value.unit}, which does not convert to {wanted}"
            ) from None
    try:
        value = np.asarray(value, float)
    except (TypeError, ValueError):
        raise TypeError(
            f"the {what} of a prior on {name!r} should be a Quantity or a number, found {value!r}"
        ) from None
    if positive and not (np.all(np.isfinite(value)) and np.all(value > 0)):
        raise ValueError(f"the {what} of a prior on {name!r} must be positive and finite, found {value}")
    return value


class ScaledPrior(Prior):
    """A prior with one scale for each of its quantities, given or to be chosen from the data.

    A subclass stores ``names`` and ``scale`` and takes them as its arguments of the same names.
    """

    subtracts = True

    @property
    def quantities(self) -> tuple[str, ...] | None:
        return tuple(self.names) or None

    @property
    def automatic(self) -> bool:
        scales = self.scale.values() if isinstance(self.scale, Mapping) else [self.scale]
        return any(isinstance(scale, str) for scale in scales)

    def with_scales(self, scales: Mapping[str, u.Quantity]) -> ScaledPrior:
        arguments = self.arguments()
        names = arguments.pop("names") or tuple(scales)
        arguments["scale"] = {**(self.scale if isinstance(self.scale, Mapping) else {}), **scales}
        return type(self)(*names, **arguments)

    def given_scale(self, name: str):
        """What the user gave for one quantity."""
        if not isinstance(self.scale, Mapping):
            return self.scale
        if name not in self.scale:
            raise KeyError(
                f"{type(self).__name__} acts on {name!r}, but its scales are for {', '.join(map(repr, self.scale))}"
            )
        return self.scale[name]

    def numbers(self, units: Mapping[str, u.UnitBase]) -> dict[str, float]:
        """The scale of each quantity as a number in its unit.

        Raises
        ------
        ValueError
            If a scale is still automatic: `sunpy_specfit.fit` chooses those; if it is an array.
        """
        found = {}
        for name, unit in units.items():
            scale = self.given_scale(name)
            if isinstance(scale, str):
                raise ValueError(f"the scale of {type(self).__name__} on {name!r} is still {scale!r}: fit() chooses it")
            number = in_unit(scale, unit, name, "scale", positive=True)
            if number.ndim:
                raise ValueError(
                    f"{type(self).__name__} has one scale for {name!r}, found {number.size}: give each quantity "
                    f'its own, as a mapping, scale={{"{name}": ...}}'
                )
            found[name] = float(number)
        return found


def check_scale(prior: str, scale, *, automatic: bool) -> None:
    """Refuse a word that is not "auto" when the prior is made, not when the fit runs."""
    for value in scale.values() if isinstance(scale, Mapping) else [scale]:
        if isinstance(value, str) and not (automatic and value == "auto"):
            allowed = "a Quantity, a number in the quantity's unit" + (', or "auto"' if automatic else "")
            raise ValueError(f"the scale of {prior} is {allowed}; found {value!r}")


def check_names(prior: str, names: tuple) -> None:
    """What a prior acts on is named by text; a scale among the names was meant for ``scale=``.

    Raises
    ------
    TypeError
    """
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"{prior} takes names of quantities, found {name!r}; a scale is given by keyword, "
                f'{prior}("velocity", scale=5 * u.km / u.s)'
            )
