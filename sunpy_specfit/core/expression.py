"""Models, operators, priors and solvers as plain data, and back.

An object is its registered name and its constructor arguments, so a file needs no code and runs none when it is read.
What plain data cannot hold (a function, an object of some foreign class) becomes a note that says what it was; a
component that cannot be made again becomes an `Unavailable`, which keeps names and units and says what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import astropy.units as u
import numpy as np
import torch
from astropy.coordinates import SkyCoord
from astropy.time import Time

from . import registry
from .arguments import Configurable
from .composite import Instrumented, Sum
from .loading import KINDS
from .model import Model
from .operator import Operator
from .parameter import Auxiliary, Parameter, Tie

__all__ = ["Unavailable", "from_plain", "missing", "model_from_plain", "model_to_plain", "to_plain"]

# What ASDF writes as it is.
_AS_IS = (bool, int, float, complex, str, u.Quantity, u.UnitBase, Time, SkyCoord, type(None))


@cache
def _dataclasses() -> dict[str, type]:
    """What is stored by its fields; line data are asked for here, as they are made with names of core themselves."""
    from ..data.atomic_line import AtomicLine
    from ..data.zeeman import Level

    return {"parameter": Parameter, "auxiliary": Auxiliary, "tie": Tie, "atomic_line": AtomicLine, "level": Level}


def _has_a_name(unit: u.UnitBase) -> bool:
    """Whether a unit is found again by its name: ASDF would spell mAngstrom as 0.001 Angstrom."""
    try:
        return u.Unit(unit.to_string()) == unit
    except ValueError:
        return False


class _NotStorable(ValueError):
    """Plain data lack something that the object needs."""


def to_plain(value: Any) -> Any:
    """A value as nested lists, dictionaries, numbers, strings, arrays and astropy objects.

    Examples
    --------
    >>> import astropy.units as u
    >>> from sunpy_specfit import Gaussian
    >>> from sunpy_specfit.core.expression import to_plain
    >>> plain = to_plain(Gaussian(195.119 * u.AA, label="blue"))
    >>> plain["name"], plain["arguments"]["label"]
    ('gaussian', 'blue')
    """
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, np.ndarray) and not isinstance(value, u.Quantity):
        return value if value.dtype.kind in "biufc" else {"is": "array", "items": to_plain(value.tolist())}
    if isinstance(value, u.Quantity) and _has_a_name(value.unit):
        return {"is": "quantity", "value": value.value, "unit": value.unit.to_string()}
    if isinstance(value, _AS_IS):
        return value
    if isinstance(value, torch.Tensor):
        return {"is": "tensor", "array": value.detach().cpu().numpy()}
    if isinstance(value, (tuple, list)):
        items = [to_plain(item) for item in value]
        return items if isinstance(value, list) else {"is": "tuple", "items": items}
    if isinstance(value, Mapping):
        return {"is": "mapping", "items": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    for word, cls in _dataclasses().items():
        if isinstance(value, cls):
            own = {f.name.lstrip("_"): to_plain(getattr(value, f.name)) for f in fields(cls)}
            return {"is": word, "fields": own}
    if isinstance(value, (Sum, Instrumented)):
        return model_to_plain(value)
    if isinstance(value, UnavailableOperator):
        return value.plain
    if isinstance(value, Configurable):
        return _object_to_plain(value)
    name = getattr(value, "__qualname__", None)
    return {"is": "missing", "what": f"the function {name}" if name else f"an object of class {type(value).__name__}"}


def from_plain(plain: Any, *, strict: bool = True) -> Any:
    """The value that `to_plain` was given.

    Parameters
    ----------
    plain
        What `to_plain` returned.
    strict : bool
        Whether what cannot be made again is an error; if not, a text stands in its place.

    Raises
    ------
    ValueError
        If it held something that plain data cannot, or a method that is not installed here.
    """
    if isinstance(plain, list):
        return [from_plain(item, strict=strict) for item in plain]
    if not isinstance(plain, Mapping):
        return plain
    word = plain["is"]
    if word == "array":
        return np.array(from_plain(plain["items"], strict=strict))
    if word == "quantity":
        return u.Quantity(np.array(plain["value"])[()], plain["unit"])
    if word == "tensor":
        return torch.tensor(np.array(plain["array"]))
    if word == "tuple":
        return tuple(from_plain(item, strict=strict) for item in plain["items"])
    if word == "mapping":
        return {from_plain(key, strict=strict): from_plain(item, strict=strict) for key, item in plain["items"]}
    if word in _dataclasses():
        return _dataclasses()[word](**{name: from_plain(item) for name, item in plain["fields"].items()})
    if word == "missing":
        if strict:
            raise _NotStorable(f"a file cannot hold {plain['what']}")
        return f"<{plain['what']}>"
    if word == "object":
        try:
            return _make(plain)
        except _NotStorable:
            if strict:
                raise
            return plain["text"]
    return model_from_plain(plain)


def missing(plain: Any) -> list[str]:
    """What could not be put into plain data, such as ``"the function profile"``."""
    if isinstance(plain, Mapping):
        if plain.get("is") == "missing":
            return [plain["what"]]
        plain = list(plain.values())
    return [what for item in plain for what in missing(item)] if isinstance(plain, list) else []


def _object_to_plain(value: Configurable) -> dict[str, Any]:
    kind = next((kind for kind, base in KINDS.items() if isinstance(value, base)), "")
    distribution, version = registry.origin(type(value))
    return {
        "is": "object",
        "kind": kind,
        "name": value.name,
        "distribution": distribution,
        "version": version,
        "text": repr(value),
        "arguments": {name: to_plain(argument) for name, argument in value.arguments().items()},
    }


def _make(plain: Mapping[str, Any]) -> Configurable:
    """The object again, from its registered name and its arguments."""
    who = f"the {plain['kind']} {plain['name']!r}"
    try:
        cls = _look_up(plain)
    except KeyError as error:
        origin = f"{plain['distribution']} {plain['version']}".strip()
        raise _NotStorable(f"{who} came from {origin!r}, which is not registered here: {error.args[0]}") from None
    arguments = {}
    for name, argument in plain["arguments"].items():
        try:
            arguments[name] = from_plain(argument)
        except _NotStorable as error:
            raise _NotStorable(f"{who} needs its argument {name!r}, and {error}") from None
    positional, keywords = [], {}
    for parameter in cls._constructor():
        if parameter.name not in arguments:
            continue
        value = arguments.pop(parameter.name)
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += value
        elif parameter.kind is parameter.KEYWORD_ONLY:
            keywords[parameter.name] = value
        else:
            positional.append(value)
    try:
        return cls(*positional, **keywords, **arguments)
    except (TypeError, ValueError) as error:
        raise _NotStorable(
            f"{who} was stored by {plain['distribution']} {plain['version']}, and its class no longer takes these "
            f"arguments: {error}"
        ) from error


def _look_up(plain: Mapping[str, Any]) -> type:
    try:
        return registry.get(plain["kind"], f"{plain['distribution']}:{plain['name']}")
    except KeyError:
        return registry.get(plain["kind"], plain["name"])


# -- models: sums, operators, constraints --------------------------------------------------------


def model_to_plain(model: Model) -> dict[str, Any]:
    """A model expression as plain data: components with their constraints, sums, operators."""
    if isinstance(model, Sum):
        return {"is": "sum", "models": [model_to_plain(m) for m in model.models]}
    if isinstance(model, Instrumented):
        return {"is": "instrumented", "model": model_to_plain(model.model), "operator": to_plain(model.operator)}
    if isinstance(model, Unavailable):
        return model.plain
    return {
        "is": "component",
        "object": _object_to_plain(model),
        "label": model.component_label(),
        "data_axis": model.data_axis,
        "stokes": model.stokes,
        # Declared names and units too: a reader without the model's code can then still read the maps.
        "parameters": to_plain(model.parameters),
        "auxiliaries": to_plain(model.auxiliaries),
        "derived": to_plain(dict(model.derived)),
    }


def model_from_plain(plain: Mapping[str, Any]) -> Model:
    """The model again; a component that cannot be made here comes back as `Unavailable`.

    Examples
    --------
    >>> import astropy.units as u
    >>> from sunpy_specfit import Gaussian, Polynomial
    >>> from sunpy_specfit.core.expression import model_from_plain, model_to_plain
    >>> model = Gaussian(195.119 * u.AA).fix(width=30 * u.mAA) + Polynomial(1)
    >>> again = model_from_plain(model_to_plain(model))
    >>> again
    Gaussian(<Quantity 195.119 Angstrom>).fix(width=<Quantity 30. mAngstrom>) + Polynomial(1)
    """
    if plain["is"] == "sum":
        return Sum(*(model_from_plain(m) for m in plain["models"]))
    if plain["is"] == "instrumented":
        try:
            operator = from_plain(plain["operator"])
        except _NotStorable as error:
            operator = UnavailableOperator(plain["operator"], str(error))
        return Instrumented(model_from_plain(plain["model"]), operator)
    parameters = from_plain(plain["parameters"])
    try:
        model = _make(plain["object"])
        declared = model.parameters
        if list(declared) != list(parameters):
            raise _NotStorable(
                f"the model {plain['object']['name']!r} had the parameters {', '.join(parameters)} when it was stored, "
                f"and has {', '.join(declared)} as it is installed here"
            )
    except _NotStorable as error:
        return Unavailable(plain, str(error))
    changed = {name: p for name, p in parameters.items() if repr(p) != repr(declared[name])}
    return model._override(changed) if changed else model


class Unavailable(Model):
    """Stands for a component whose code or function is not at hand: it has names and units but gives no light.

    Parameters
    ----------
    plain : dict
        What was stored of the component.
    reason : str
        Why it cannot be made.
    """

    name = "unavailable"

    def __init__(self, plain: Mapping[str, Any], reason: str):
        self.plain = plain
        self.reason = reason
        self.label = plain["label"]
        self.data_axis, self.stokes = plain["data_axis"], plain["stokes"]
        self.derived = from_plain(plain["derived"])
        self._parameters = from_plain(plain["parameters"])
        self._auxiliaries = from_plain(plain["auxiliaries"])

    def declare(self) -> Mapping[str, Parameter]:
        return self._parameters

    @property
    def auxiliaries(self) -> dict[str, Auxiliary]:
        return self._auxiliaries

    def evaluate(self, x, **parameters):
        raise ValueError(self._sentence())

    def derive(self, **parameters):
        raise ValueError(self._sentence())

    def _sentence(self) -> str:
        return f"{self.reason}. Pass the model that was fitted: FitResult.load(path, model=...)"

    def __repr__(self) -> str:
        return self.plain["object"]["text"]


class UnavailableOperator(Operator):
    """Stands for an operator that cannot be made here."""

    name = "unavailable"

    def __init__(self, plain: Mapping[str, Any], reason: str):
        self.plain = plain
        self.reason = reason

    def _sentence(self) -> str:
        return f"{self.reason}. Pass the model that was fitted: FitResult.load(path, model=...)"

    def input_axis(self, x):
        raise ValueError(self._sentence())

    def apply(self, light, x, shape, **weights):
        raise ValueError(self._sentence())

    def __repr__(self) -> str:
        return self.plain["text"]
