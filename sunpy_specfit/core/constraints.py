"""What is known of parameters: bounds that make sense, and constraints as text."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import numpy as np

from .parameter import Parameter

__all__ = ["constraint_calls", "with_bounds"]

# Numbers of a vector that are still printed.
_LONGEST = 8


def constraint_calls(parameters: Mapping[str, Parameter], declared: Mapping[str, Parameter]) -> str:
    """What was fixed, bound, tied and shared after the model was made, as the calls that did it."""
    calls = {"fix": [], "bound": [], "share": [], "free": []}
    for name, now in parameters.items():
        first = declared[name]
        if _differ(now, first, "lower", "upper"):
            calls["bound"].append(f"{name}=({_short(now.lower)}, {_short(now.upper)})")
        if now.fixed and (not first.fixed or _differ(now, first, "default")):
            same = not _differ(now, first, "default")
            calls["fix"].append(repr(name) if same else f"{name}={_short(now.default)}")
        if first.fixed and not now.fixed:
            calls["free"].append(repr(name))
        if now.shared:
            calls["share"].append(repr(name))
    text = "".join(f".{call}({', '.join(sorted(found, key=_is_keyword))})" for call, found in calls.items() if found)
    for name, now in parameters.items():
        if now.tie is not None:
            factor = f", factor={now.tie.factor!r}" if now.tie.factor != 1 else ""
            offset = f", offset={now.tie.offset!r}" if u.Quantity(now.tie.offset).value != 0 else ""
            text += f".tie({name!r}, {now.tie.target!r}{factor}{offset})"
    return text


def _differ(one: Parameter, other: Parameter, *fields: str) -> bool:
    pairs = [(getattr(one, field), getattr(other, field)) for field in fields]
    return any(a is not b and repr(a) != repr(b) for a, b in pairs)


def _short(value) -> str:
    """A number in full, a map by its shape."""
    return repr(value) if np.size(value) <= _LONGEST else f"<values of shape {np.shape(value)}>"


def _is_keyword(argument: str) -> bool:
    return not argument.startswith("'")


def with_bounds(parameter: Parameter, limits) -> Parameter:
    """The parameter between limits, after a look at whether they make sense; see `Model.bound`."""
    try:
        lower, upper = limits
    except (TypeError, ValueError):
        raise ValueError(f"bounds are a pair (lower, upper), found {limits!r}; use None for no limit") from None
    given = [limit for limit in (lower, upper) if limit is not None]
    for limit in given:
        if np.shape(limit) not in ((), parameter.shape):
            expected = f" or, for this vector, {parameter.shape}" if parameter.shape else ""
            raise ValueError(
                f"a bound is one number for all pixels{expected}; found one of shape {np.shape(limit)}. "
                "A limit cannot vary over the map"
            )
    if len(given) == 2:
        # Zero and infinity are the same in any unit.
        bare = [one for one in given if not isinstance(one, u.Quantity) and np.any(one) and np.all(np.isfinite(one))]
        if bare and any(isinstance(limit, u.Quantity) for limit in given):
            raise ValueError(f"the bounds ({lower}, {upper}) mix a plain number with a Quantity: give both their unit")
        try:
            below = np.all(_in_unit_of(lower, upper) < _in_unit_of(upper, lower))
        except u.UnitConversionError:
            raise u.UnitConversionError(f"the bounds ({lower}, {upper}) have units that do not convert") from None
        if not below:
            raise ValueError(f"the lower bound must be below the upper one, found ({lower}, {upper})")
    return parameter.replace(lower=lower, upper=upper, beyond="stop", opposite=None)


def _in_unit_of(limit, other):
    """A bound as a Quantity; a plain number (zero, infinity) in the unit of the other one."""
    unit = other.unit if isinstance(other, u.Quantity) and not isinstance(limit, u.Quantity) else None
    return u.Quantity(limit, unit)
