"""One observation and the model that should explain it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import astropy.units as u
import numpy as np
import torch

from .batching import BatchedModel, check_light
from .frame import Frame
from .layout import Layout
from .model import Model
from .observation import Observation

__all__ = ["Term", "choose_frame", "prepared_inputs"]

# Pixels on which a model is tried out.
_PROBES = 4


@dataclass
class Term:
    """An observation, its model, and how each component of the model is evaluated.

    Attributes
    ----------
    observation : `Observation`
    model : `Model`
    layout : `Layout`
    number : int
        Which of the layout's models this is.
    frame : `Frame`
    auxiliary : list of dict of str to `torch.Tensor`
        For each component of the term, its auxiliary inputs in physical numbers, pixels last, as `Model.prepare` gave
        them.
    batched : list of `BatchedModel`
    learned : mapping
        Operator number -> weights that a solver learned, in place of the operator's own.
    light_error : float
        By what part of itself the light may be off beside the noise, as a prior learned.
    """

    observation: Observation
    model: Model
    layout: Layout
    number: int
    frame: Frame
    auxiliary: list[dict[str, torch.Tensor]]
    batched: list[BatchedModel]
    learned: Mapping[int, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    light_error: float = 0.0

    @classmethod
    def prepare(
        cls, observation: Observation, model: Model, layout: Layout, number: int, frame: Frame, auxiliary
    ) -> Term:
        """Find out how the model can be batched, with the auxiliary inputs that it asked for."""
        batched = []
        for component, prepared in zip(model.components, auxiliary, strict=True):
            x = _probe_axis(observation, frame)
            inputs = internal_auxiliary(component, few_pixels(prepared), frame)
            batched.append(BatchedModel.choose(component, x, probe(component, x, frame), inputs))
        return cls(observation, model, layout, number, frame, auxiliary, batched)

    def auxiliary_of(self, component: int, index, dtype: torch.dtype, device) -> dict[str, torch.Tensor]:
        """Auxiliary inputs of one component for some pixels, in the internal frame."""
        part = {name: v if v.shape[-1] == 1 else v[..., index] for name, v in self.auxiliary[component].items()}
        return internal_auxiliary(self.model.components[component], part, self.frame, dtype, device)

    @property
    def component_indices(self) -> list[int]:
        """Where the term's components stand in the layout."""
        return self.layout.term_components[self.number]

    @property
    def mixes_pixels(self) -> bool:
        """Whether an operator sends light from one pixel to another."""
        return any(operator.mixes_pixels for operator in self.model.operators)

    def without_mixing(self) -> Term:
        """The same term without the operators that mix pixels."""
        model = self.model.components[0]
        for component in self.model.components[1:]:
            model = model + component
        for operator in self.model.operators:
            if not operator.mixes_pixels:
                model = model | operator
        return replace(self, model=model)

    def inputs(self, theta: torch.Tensor, component: int) -> dict[str, torch.Tensor]:
        """The parameters of one component out of all rows θ."""
        index = self.component_indices[component]
        keys = self.layout.keys[index]
        values = {}
        for name, parameter in self.layout.components[index].parameters.items():
            rows = self.layout.rows[keys[name]]
            values[name] = theta[rows] if parameter.shape else theta[rows.start]
        return values

    def varying(self, component: int) -> tuple[str, ...]:
        """The names of a component's parameters that depend on free numbers."""
        index = self.component_indices[component]
        keys = self.layout.keys[index]
        return tuple(
            name
            for name in self.layout.components[index].parameters
            if np.any(self.layout.transform[self.layout.rows[keys[name]]])
        )

    def through_instrument(self, light: torch.Tensor, x: torch.Tensor, shape, weights=None) -> torch.Tensor:
        """Send light through the term's operators, from left to right."""
        operators = self.model.operators
        axes = self.operator_axes(x)
        for number, operator in enumerate(operators):
            own = (weights or self.learned).get(number, operator.weights)
            light = operator.apply(light, axes[number + 1], shape, **own)
        return light

    def operator_axes(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The spectral grid before each operator, in physical numbers, and last that of the data."""
        axes = [x]
        for operator in reversed(self.model.operators):
            axes.insert(0, operator.input_axis(axes[0]))
        return axes


def prepared_inputs(component: Model, observation: Observation) -> dict[str, torch.Tensor]:
    """What a component asks of the observation, in physical numbers; every input with a pixel axis."""
    inputs = {}
    for name, value in component.prepare(observation).items():
        value = torch.as_tensor(value)
        value = value if value.is_floating_point() else value.double()
        inputs[name] = value if value.ndim else value[None]
    return inputs


def internal_auxiliary(
    component: Model, inputs: Mapping[str, torch.Tensor], frame: Frame, dtype=torch.float64, device=None
) -> dict[str, torch.Tensor]:
    """Auxiliary inputs moved from physical numbers to the internal frame; centred before they are rounded."""
    moved = {}
    for name, value in inputs.items():
        declared = component.auxiliaries.get(name)
        if declared is not None:
            offset, factor = frame.offset(declared), frame.factor(declared)
            value = value.to(device=device, dtype=torch.promote_types(value.dtype, dtype))
            value = value - offset if offset else value
            value = value / factor if factor != 1.0 else value
        moved[name] = value.to(dtype=dtype, device=device)
    return moved


def choose_frame(observation: Observation, model: Model, auxiliary) -> Frame:
    """The internal frame of a term: centred and scaled, unless the model's physics forbids it.

    A model may hold constants of nature or a rest wavelength. Whether it commutes with the change of frame is
    found by evaluating it in both; if not, its numbers stay physical.
    """
    data_unit, spectral_unit = observation.data_unit, observation.spectral_unit
    physical = Frame(data_unit, spectral_unit)
    data_scale = observation.typical if np.isfinite(observation.typical) else 1.0
    if model.data_axis == "spectral":
        low, high = float(np.min(observation.x)), float(np.max(observation.x))
        n = observation.x.shape[0]
        origin, scale = 0.5 * (low + high), max((high - low) / max(n - 1, 1), np.finfo(float).tiny) if n > 1 else 1.0
    else:
        origin, scale = 0.0, 1.0
    frame = Frame(data_unit, spectral_unit, origin, scale, data_scale)
    for component, prepared in zip(model.components, auxiliary, strict=True):
        lights = []
        for trial in (frame, physical):
            x = _probe_axis(observation, frame)
            values = probe(component, x, frame)
            if trial is physical:
                x = x * frame.scale + frame.origin
                values = {
                    name: v * frame.factor(component.parameters[name]) + frame.offset(component.parameters[name])
                    for name, v in values.items()
                }
            inputs = internal_auxiliary(component, few_pixels(prepared), trial)
            check_light(component, x, values, inputs)
            light = BatchedModel(component, "loop", analytic=False).light(x, values, inputs)
            lights.append(light / data_scale if trial is physical else light)
        peak = lights[1].nan_to_num().abs().amax().clamp_min(1e-30)
        if not bool(torch.isfinite(lights[1]).any()):
            return physical  # nothing was compared
        if not bool(torch.isclose(lights[0] / peak, lights[1] / peak, rtol=1e-6, atol=1e-7, equal_nan=True).all()):
            return physical
    return frame


def few_pixels(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Auxiliary inputs of as many pixels as `probe` has numbers for."""
    return {name: v if v.shape[-1] == 1 else v[..., torch.arange(_PROBES) % v.shape[-1]] for name, v in inputs.items()}


def _probe_axis(observation: Observation, frame: Frame) -> torch.Tensor:
    x = np.asarray(observation.x, float)
    x = x[:, None] if x.ndim == 1 else x[:, :_PROBES]
    x = np.repeat(x, _PROBES, axis=1) if x.shape[1] == 1 else np.resize(x.T, (_PROBES, x.shape[0])).T
    return torch.as_tensor((x - frame.origin) / frame.scale)


def probe(component: Model, x: torch.Tensor, frame: Frame) -> dict[str, torch.Tensor]:
    """Plausible and different parameter values for four pixels, in the internal frame."""
    spread = torch.tensor([0.37, 0.52, 0.66, 0.45], dtype=torch.float64)
    low, high = x.amin(), x.amax()
    values = {}
    for name, parameter in component.parameters.items():
        factor, offset = frame.factor(parameter), frame.offset(parameter)

        def inner(value, name=name, parameter=parameter, factor=factor, offset=offset):
            unit = frame.unit(parameter.unit)
            try:
                number = np.asarray(getattr(value, "to_value", lambda _: value)(unit), float)
            except u.UnitConversionError:
                raise u.UnitConversionError(
                    f"a bound or the default of {name!r} is {value}, which does not convert to {unit}"
                ) from None
            number = np.atleast_1d(number).ravel()
            finite = number[np.isfinite(number)]  # a map of fixed values may have holes
            return torch.as_tensor(((finite if finite.size else number)[:1] - offset) / factor)

        if parameter.location:
            value = low + (high - low) * spread
        elif parameter.default is not None:
            value = inner(parameter.default) * (0.9 + 0.2 * spread)
        elif parameter.lower is not None and parameter.upper is not None:
            bottom = inner(parameter.lower)
            value = bottom + (inner(parameter.upper) - bottom) * spread
        elif getattr(parameter.unit, "strip", None) and parameter.unit.strip() == "spectral":
            value = ((high - low) * spread / 4).clamp_min(1e-3)
        else:
            value = 2 * spread
        values[name] = value.expand(*parameter.shape, _PROBES).clone()
    return values
