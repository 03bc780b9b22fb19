"""What all checks share."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import numpy as np
import torch

from ..core.arguments import Configurable
from ..core.loading import check_class

__all__ = ["check_configurable", "peak", "require", "unchanged"]


def require(condition, sentence: str) -> None:
    """Raise an AssertionError with a sentence, also where Python runs without assertions."""
    if not condition:
        raise AssertionError(sentence)


def peak(value: torch.Tensor) -> float:
    """The largest absolute value, never zero."""
    return float(value.detach().abs().amax().clamp_min(torch.finfo(torch.float64).tiny)) if value.numel() else 1.0


def unchanged(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of the tensors that are no longer what they were."""
    return [name for name in before if not torch.equal(before[name], after[name])]


def check_configurable(thing: Configurable, kind: str) -> None:
    """An object of the right kind, registrable, and nothing but its constructor's arguments."""
    who = type(thing).__name__
    require(not isinstance(thing, type), f"pass an instance, {getattr(thing, '__name__', thing)}(...), not the class")
    try:
        found = check_class(type(thing))
    except (TypeError, ValueError) as error:
        raise AssertionError(str(error)) from None
    require(found == kind, f"{who} is a {found}: use check_{found}")
    try:
        arguments = thing.arguments()
        rebuilt = rebuild(thing, arguments)
        again = rebuilt.arguments()
    except Exception as error:
        raise AssertionError(
            f"{who} cannot be rebuilt from its arguments(), as loading a saved result does: {error}"
        ) from error
    for name, value in arguments.items():
        require(
            _same(value, again[name]),
            f"{who} does not store its argument {name!r} as given: it was given {value!r} and kept {again[name]!r}. "
            f"Write `self.{name} = {name}` and convert where it is used",
        )
    require(repr(thing), f"repr({who}) is empty")


def rebuild(thing: Configurable, arguments: Mapping):
    """A new object of the same class from arguments, positional ones of any number included."""
    positional, keywords = [], {}
    for parameter in inspect.signature(type(thing).__init__).parameters.values():
        if parameter.name not in arguments:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += arguments[parameter.name]
        elif parameter.kind is parameter.KEYWORD_ONLY:
            keywords[parameter.name] = arguments[parameter.name]
        else:
            positional.append(arguments[parameter.name])
    return type(thing)(*positional, **keywords)


def _same(a, b) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Configurable):
        return repr(a) == repr(b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    if torch.is_tensor(a):
        return torch.equal(a, b)
    try:
        return bool(np.all(a == b))
    except (TypeError, ValueError):
        return False
