"""The light that a model predicts for given numbers, outside of any fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from .batching import BatchedModel
from .covariance import Propagation
from .layout import Layout
from .model import Model
from .observation import Observation
from .term import probe

__all__ = ["component_light", "predict"]

# Samples that are computed at once.
_BATCH = 2**20


def predict(
    layout: Layout,
    propagation: Propagation,
    observations: Sequence[Observation],
    weights: Mapping | None = None,
) -> list[np.ndarray]:
    """The light of every observation, ``([stokes,] n, pixels)``, in physical units and float64.

    Parameters
    ----------
    layout : `Layout`
    propagation : `Propagation`
        Holds the numbers.
    observations : sequence of `Observation`
        One for each model of the layout; their data are not looked at.
    weights : dict, optional
        Observation number -> operator number -> learned weights.
    """
    return [
        _through_instrument(
            layout.models[number],
            sum(
                component_light(layout, propagation, index, model_axis(layout.models[number], observation))
                for index in layout.term_components[number]
            ),
            observation,
            (weights or {}).get(number, {}),
        ).numpy()
        for number, observation in enumerate(observations)
    ]


def data_axis(observation: Observation) -> torch.Tensor:
    """The spectral axis of the data, ``(n, 1 or pixels)``, in physical numbers."""
    x = torch.tensor(np.asarray(observation.x, dtype=float))
    return x[:, None] if x.ndim == 1 else x


def model_axis(model: Model, observation: Observation) -> torch.Tensor:
    """The spectral axis on which the first operator wants the light."""
    return _axes(model, observation)[0]


def _axes(model: Model, observation: Observation) -> list[torch.Tensor]:
    axes = [data_axis(observation)]
    for operator in reversed(model.operators):
        axes.insert(0, operator.input_axis(axes[0]))
    return axes


def component_light(layout: Layout, propagation: Propagation, index: int, x: torch.Tensor) -> torch.Tensor:
    """The light of one component before the instrument, ``([stokes,] n, pixels)``."""
    component = layout.components[index]
    parameters, auxiliary = propagation.inputs(index)
    pixels, n = propagation.n_pixels, x.shape[0]
    trial = x[:, :4] if x.shape[1] == 1 or x.shape[1] >= 4 else x[:, torch.arange(4) % x.shape[1]]
    inputs = {k: v[..., torch.arange(4) % v.shape[-1]] for k, v in auxiliary.items()}
    values = probe(component, trial, layout.component_frames[index].physical())
    batched = BatchedModel.choose(component, trial, values, inputs)
    parts = []
    step = max(1, _BATCH // max(n, 1))
    for first in range(0, pixels, step):
        part = slice(first, min(first + step, pixels))
        light = batched.light(
            x if x.shape[1] == 1 else x[:, part],
            {k: v[..., part] for k, v in parameters.items()},
            {k: v if v.shape[-1] == 1 else v[..., part] for k, v in auxiliary.items()},
        )
        parts.append(light.detach())
    return torch.cat(parts, dim=-1)


def _through_instrument(model: Model, light: torch.Tensor, observation: Observation, weights: Mapping) -> torch.Tensor:
    axes = _axes(model, observation)
    for number, operator in enumerate(model.operators):
        own = {k: torch.as_tensor(np.array(v)) for k, v in (weights.get(number) or operator.weights).items()}
        light = operator.apply(light, axes[number + 1], observation.grid.shape, **own)
    return light.detach()
