"""The light that a model predicts for given numbers, outside of any fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import astropy.units as u
import numpy as np
import torch

from .batching import BatchedModel
from .canvas import Canvas
from .covariance import Propagation
from .layout import Layout
from .model import Model
from .term import probe

__all__ = ["Prediction", "Profile", "Surroundings"]

# Samples that are computed at once.
_BATCH = 2**20
# Points of a smooth curve for each sample.
_FINE = 8


@dataclass(frozen=True)
class Profile:
    """Everything about one pixel of one observation; arrays are ``(stokes, n)``, one row for intensity alone.

    Attributes
    ----------
    names : tuple of str
        The Stokes parameters, ``("",)`` for intensity alone.
    x : `numpy.ndarray`
        The data axis, ``(n,)``.
    light : `numpy.ndarray`
        The fit on that axis.
    fine_x, fine_light : `numpy.ndarray`
        The fit on a finer axis, where the model can be computed there.
    components : dict of str to `numpy.ndarray`
        Each component's light on the finer axis, by label.
    data, sigma, used : `numpy.ndarray` or None
        The samples; sigma is infinite where a sample was not used.
    """

    names: tuple[str, ...]
    x: np.ndarray
    light: np.ndarray
    fine_x: np.ndarray
    fine_light: np.ndarray
    components: dict[str, np.ndarray]
    data: np.ndarray | None
    sigma: np.ndarray | None
    used: np.ndarray | None
    data_unit: u.UnitBase
    spectral_unit: u.UnitBase | None


@dataclass(frozen=True)
class Surroundings:
    """The whole maps that a part of a result was cut from: where light goes from pixel to pixel, theirs is needed.

    Attributes
    ----------
    propagation : `Propagation`
        The numbers of all pixels.
    canvases : tuple of `Canvas`
    pixels : `numpy.ndarray`
        Which of them the part is.
    """

    propagation: Propagation
    canvases: tuple[Canvas, ...]
    pixels: np.ndarray


class Prediction:
    """Light from numbers, in physical units and float64.

    Parameters
    ----------
    layout : `Layout`
    propagation : `Propagation`
        Holds the numbers.
    canvases : sequence of `Canvas`
        One for each model of the layout.
    weights : dict, optional
        Observation number -> operator number -> learned weights.
    surroundings : `Surroundings`, optional
        Of a part, where an operator mixes pixels.
    """

    def __init__(
        self,
        layout: Layout,
        propagation: Propagation,
        canvases: Sequence[Canvas],
        weights: Mapping | None = None,
        surroundings: Surroundings | None = None,
    ):
        self.layout = layout
        self.propagation = propagation
        self.canvases = tuple(canvases)
        self.weights = weights or {}
        self.surroundings = surroundings

    def light(self, number: int) -> np.ndarray:
        """What one observation should look like, ``([stokes,] n, pixels)``."""
        model = self.layout.models[number]
        propagation, canvas, pixels = self._scene(number)
        axes = _axes(model, _axis(canvas))
        parts = (self._component(propagation, index, axes[0]) for index in self.layout.term_components[number])
        return self._through_instrument(number, sum(parts), axes, canvas.shape).numpy()[..., pixels]

    def _scene(self, number: int) -> tuple[Propagation, Canvas, np.ndarray | slice]:
        """The maps that the light of one observation is made of, and which of their pixels are wanted."""
        around = self.surroundings
        if around is None or not any(operator.mixes_pixels for operator in self.layout.models[number].operators):
            return self.propagation, self.canvases[number], slice(None)
        return around.propagation, around.canvases[number], around.pixels

    def profile(self, number: int, pixel: int) -> Profile:
        """One pixel of one observation, with the data if they are at hand."""
        model, canvas = self.layout.models[number], self.canvases[number]
        indices = self.layout.term_components[number]
        x = _axis(canvas)
        own = x[:, pixel if x.shape[1] > 1 else 0, None]
        if any(operator.mixes_pixels for operator in model.operators):
            propagation, scene, pixels = self._scene(number)
            shape, place, x = scene.shape, np.arange(propagation.n_pixels)[pixels][pixel], _axis(scene)
        else:
            propagation, shape, place, x = self.propagation.select(np.array([pixel])), (1,), 0, own

        def components(grid: torch.Tensor) -> dict[str, np.ndarray]:
            axes = _axes(model, grid)
            return {
                self.layout.components[i].component_label(): self._through_instrument(
                    number, self._component(propagation, i, axes[0]), axes, shape
                )[..., place].numpy()
                for i in indices
            }

        parts = components(x)
        fine, fine_parts = own[:, 0], parts
        if self._is_function_of_x(model, indices, canvas):
            n = len(own)
            fine = torch.as_tensor(np.interp(np.linspace(0, n - 1, _FINE * (n - 1) + 1), np.arange(n), own[:, 0]))
            fine_parts = components(fine[:, None])
        light = sum(parts.values())
        samples = canvas.samples(pixel, light) or (None, None, None)
        names = tuple(model.stokes) if len(model.stokes) > 1 else ("",)
        return Profile(
            names,
            own[:, 0].numpy(),
            np.atleast_2d(light),
            fine.numpy(),
            np.atleast_2d(sum(fine_parts.values())),
            {label: np.atleast_2d(light) for label, light in fine_parts.items()},
            *(None if one is None else np.atleast_2d(one) for one in samples),
            canvas.data_unit,
            canvas.spectral_unit,
        )

    def _is_function_of_x(self, model: Model, indices: Sequence[int], canvas: Canvas) -> bool:
        """Whether the light can be computed anywhere on the axis: nothing about it is known at the samples only."""
        at_samples = any(v.ndim > 1 for i in indices for v in self.propagation.auxiliary[i].values())
        return model.data_axis == "spectral" and not model.operators and not at_samples and len(canvas.x) > 1

    def _component(self, propagation: Propagation, index: int, x: torch.Tensor) -> torch.Tensor:
        """The light of one component before the instrument, ``([stokes,] n, pixels)``."""
        component, frame = self.layout.components[index], self.layout.component_frames[index].physical()
        parameters, auxiliary = propagation.inputs(index)
        auxiliary = {k: v.double() if v.is_floating_point() else v for k, v in auxiliary.items()}
        trial_x = x if x.shape[1] == 1 else x[:, torch.arange(4) % x.shape[1]]
        trial_inputs = {k: v[..., torch.arange(4) % v.shape[-1]] for k, v in auxiliary.items()}
        batched = BatchedModel.choose(component, trial_x, probe(component, trial_x, frame), trial_inputs)
        parts = []
        step = max(1, _BATCH // max(x.shape[0], 1))
        for first in range(0, propagation.n_pixels, step):
            part = slice(first, min(first + step, propagation.n_pixels))
            light = batched.light(
                x if x.shape[1] == 1 else x[:, part],
                {k: v[..., part] for k, v in parameters.items()},
                {k: v if v.shape[-1] == 1 else v[..., part] for k, v in auxiliary.items()},
            )
            parts.append(light.detach())
        return torch.cat(parts, dim=-1)

    def _through_instrument(self, number: int, light, axes, shape) -> torch.Tensor:
        learned = self.weights.get(number, {})
        for position, operator in enumerate(self.layout.models[number].operators):
            weights = learned.get(position) or operator.weights
            weights = {name: torch.as_tensor(np.array(value)) for name, value in weights.items()}
            light = operator.apply(light, axes[position + 1], shape, **weights)
        return light.detach()


def _axis(canvas: Canvas) -> torch.Tensor:
    """The data axis, ``(n, 1 or pixels)``, in physical numbers."""
    x = torch.tensor(np.asarray(canvas.x, dtype=float))
    return x[:, None] if x.ndim == 1 else x


def _axes(model: Model, x: torch.Tensor) -> list[torch.Tensor]:
    """The axis before each operator, and last that of the data."""
    axes = [x]
    for operator in reversed(model.operators):
        axes.insert(0, operator.input_axis(axes[0]))
    return axes
