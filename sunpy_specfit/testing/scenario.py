"""Something to check a model on: an axis, plausible parameters, auxiliary inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import astropy.units as u
import numpy as np
import torch

from ..core.frame import Frame
from ..core.model import Model
from ..core.names import component_keys
from ..core.parameter import Parameter, unit_powers
from .common import require
from .scene import DATA_SIZE

__all__ = ["Scenario", "plausible_ranges"]


@dataclass(frozen=True)
class Scenario:
    """One model on some pixels, in physical numbers, float64, pixels last.

    Attributes
    ----------
    model : `~sunpy_specfit.Model`
    frame : `~sunpy_specfit.core.frame.Frame`
        The units.
    x : `torch.Tensor`
        ``(n, 1)`` or ``(n, pixels)``.
    parameters : dict of str to `torch.Tensor`
        ``([k,] pixels)``.
    auxiliary : dict of str to `torch.Tensor`
        ``(..., 1 or pixels)``.
    spread : dict of str to float
        The width of the range that each parameter was drawn from.
    """

    model: Model
    frame: Frame
    x: torch.Tensor
    parameters: dict[str, torch.Tensor]
    auxiliary: dict[str, torch.Tensor]
    spread: dict[str, float]

    @classmethod
    def draw(
        cls, model: Model, observation, *, truth: Mapping | None = None, pixels: int = 5, seed: int = 0
    ) -> Scenario:
        """Parameters at random for the first pixels of an observation."""
        frame = Frame(observation.data_unit, observation.spectral_unit)
        x = torch.as_tensor(np.asarray(observation.x, float))
        x = x[:, None] if x.ndim == 1 else x[:, :pixels]
        pixels = min(pixels, observation.grid.size)
        auxiliary = {}
        for component in model.components:
            for name, value in component.prepare(observation).items():
                value = torch.as_tensor(value, dtype=torch.float64)
                value = value if value.ndim else value[None]
                require(
                    value.shape[-1] in (1, observation.grid.size),
                    f"{type(component).__name__}.prepare: the last axis of {name!r} should be the pixels "
                    f"({observation.grid.size}, or 1 where they share it), found the shape {tuple(value.shape)}",
                )
                auxiliary[name] = value if value.shape[-1] == 1 else value[..., :pixels]
        ranges = plausible_ranges(model, frame, x, truth or {})
        generator = np.random.default_rng(seed)
        parameters = {}
        for name, parameter in model.parameters.items():
            low, high = ranges[name]
            parameters[name] = torch.as_tensor(generator.uniform(low, high, (*parameter.shape, pixels)))
        return cls(model, frame, x, parameters, auxiliary, {name: high - low for name, (low, high) in ranges.items()})

    @property
    def pixels(self) -> int:
        """How many there are."""
        return next(iter(self.parameters.values())).shape[-1]

    def one(self, pixel: int, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
        """All inputs of one pixel, as `Model.evaluate` takes them."""
        inputs = {"x": self.x, **self.parameters, **self.auxiliary}
        return {k: v[..., pixel if v.shape[-1] > 1 else 0].to(dtype, copy=True) for k, v in inputs.items()}

    def light(self, **changes: torch.Tensor) -> torch.Tensor:
        """`Model.evaluate` pixel by pixel, ``([stokes,] n, pixels)``, with some inputs replaced."""
        inputs = {"x": self.x, **self.parameters, **self.auxiliary, **changes}
        return torch.stack(
            [
                self.model.evaluate(**{k: v[..., p if v.shape[-1] > 1 else 0] for k, v in inputs.items()})
                for p in range(self.pixels)
            ],
            dim=-1,
        )


def plausible_ranges(model: Model, frame: Frame, x: torch.Tensor, truth: Mapping) -> dict[str, tuple[float, float]]:
    """(low, high) of each parameter as physical numbers: the author's, or guessed from unit, bounds and default."""
    unknown = sorted(set(truth) - set(model.parameters))
    require(not unknown, f"truth names {unknown}, which are not parameters of {model!r}")
    low, high = float(x.min()), float(x.max())
    places = _places(model, frame, low, high)
    # Components at one place overlap whatever their widths: what tells them apart is the author's to say.
    gaps = np.diff(sorted(places.values()))
    gap = min([high - low, *gaps[gaps > 1e-3 * (high - low)]])
    width = min(0.08 * (high - low), gap / 6)
    ranges = {}
    for key, parameter in model.parameters.items():
        unit = frame.unit(parameter.unit)
        if key in truth:
            ranges[key] = tuple(u.Quantity(truth[key], unit).value)
        elif parameter.location:
            half = min(0.1 * (high - low), gap / 8)
            ranges[key] = _inside(parameter, unit, places[key] - half, places[key] + half)
        else:
            ranges[key] = _plausible(parameter, frame, high - low, width)
    return ranges


def _places(model: Model, frame: Frame, low: float, high: float) -> dict[str, float]:
    """Where the locations are: lines at their rest wavelengths, others share the axis."""
    components, keys = model.components, component_keys(model.components)
    found = [(c, names[n], p) for c, names in zip(components, keys, strict=True) for n, p in c.parameters.items()]
    found = [(component, key, parameter) for component, key, parameter in found if parameter.location]
    places = {}
    for number, (component, key, parameter) in enumerate(found):
        places[key] = low + (high - low) * (number + 1) / (len(found) + 1)
        rest = getattr(component, "rest_wavelength", None)
        if rest is not None and low < (wavelength := u.Quantity(rest).to_value(frame.unit(parameter.unit))) < high:
            places[key] = wavelength
    return places


def _plausible(parameter: Parameter, frame: Frame, span: float, width: float) -> tuple[float, float]:
    unit = frame.unit(parameter.unit)
    data_power, spectral_power, _ = unit_powers(parameter.unit)
    # A width is a fraction of the axis; a slope is per axis.
    length = width if spectral_power > 0 else span
    size = DATA_SIZE ** float(data_power) * length ** float(spectral_power)
    lower, upper, default = (_number(v, unit) for v in (parameter.lower, parameter.upper, parameter.default))
    if default is not None:
        return _inside(parameter, unit, default - 0.2 * abs(default or size), default + 0.2 * abs(default or size))
    if lower is not None and upper is not None:
        return lower + 0.3 * (upper - lower), lower + 0.7 * (upper - lower)
    if upper is not None:
        return upper - 1.3 * size, upper - 0.7 * size
    return (lower or 0.0) + 0.7 * size, (lower or 0.0) + 1.3 * size


def _inside(parameter: Parameter, unit, low: float, high: float) -> tuple[float, float]:
    lower, upper = _number(parameter.lower, unit), _number(parameter.upper, unit)
    low = low if lower is None else max(low, lower)
    high = high if upper is None else min(high, upper)
    if low < high:
        return low, high
    # The guess lies outside: stay close to the bound that it violates.
    edge = lower if lower is not None else upper
    return (edge, edge + abs(low - high)) if lower is not None else (edge - abs(low - high), edge)


def _number(value, unit) -> float | None:
    if value is None:
        return None
    number = value.to_value(unit) if isinstance(value, u.Quantity) else value
    return float(np.ravel(number)[0])
