"""Objects that are nothing but their constructor arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, ClassVar

__all__ = ["Configurable", "accepted", "check_seed"]


def check_seed(seed) -> None:
    """Refuse what random numbers cannot start from.

    Raises
    ------
    ValueError
        If it is no whole number, or below zero.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"a seed is a whole number, zero or above; found {seed!r}")


class Configurable:
    """Base of models, operators, priors, solvers and noises: immutable, and rebuilt from plain data.

    The constructor stores every argument under its own name, as given. That is all a class has to do to be
    printed, compared, saved to a file and loaded again.

    Attributes
    ----------
    name : str
        The registered name, spelled in lower case.
    references : tuple of str
        What to cite, as DOI or ADS bibcode.
    """

    name: ClassVar[str] = ""
    references: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def _constructor(cls) -> list[inspect.Parameter]:
        if cls.__init__ is object.__init__:
            return []
        signature = list(inspect.signature(cls.__init__).parameters.values())[1:]
        return [p for p in signature if p.kind is not p.VAR_KEYWORD]

    def arguments(self) -> dict[str, Any]:
        """The constructor arguments, as given, in the constructor's order."""
        values = {}
        for parameter in self._constructor():
            if not hasattr(self, parameter.name):
                raise TypeError(
                    f"{type(self).__name__} does not store its constructor argument {parameter.name!r}: "
                    f"write `self.{parameter.name} = {parameter.name}` in __init__"
                )
            values[parameter.name] = getattr(self, parameter.name)
        return values

    def __repr__(self) -> str:
        parts = []
        for parameter in self._constructor():
            value = getattr(self, parameter.name, parameter.default)
            if parameter.kind is parameter.VAR_POSITIONAL:
                parts += [repr(v) for v in value]
            elif value is not parameter.default:
                word = f"{parameter.name}=" if parameter.kind is parameter.KEYWORD_ONLY else ""
                parts.append(f"{word}{value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


def accepted(function: Callable, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some inputs that a function asks for by name; what it collects as ``**keywords`` is something else."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in inputs.items() if name in names}
