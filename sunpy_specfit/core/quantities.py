"""Fitted and derived quantities as functions of the free numbers, for priors and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .arguments import accepted
from .elementwise import pixel_gradients
from .layout import Layout

__all__ = ["Quantities"]


class Quantities:
    """Physical maps of named quantities, and their derivatives with respect to the free numbers.

    Parameters
    ----------
    layout : `Layout`
    names : sequence of str
        Quantities, fitted or derived, in any spelling that the layout resolves.
    auxiliary : sequence of dict
        Physical auxiliary inputs of each layout component, pixels last.
    """

    def __init__(self, layout: Layout, names: Sequence[str], auxiliary: Sequence[Mapping[str, torch.Tensor]]):
        self.layout = layout
        self.names = tuple(names)
        self._keys = {name: layout.resolve(name) for name in self.names}
        self.auxiliary = [
            accepted(component.derive, inputs) for component, inputs in zip(layout.components, auxiliary, strict=True)
        ]
        factor, offset = layout.scales()
        self._factor, self._offset = torch.as_tensor(factor)[:, None], torch.as_tensor(offset)[:, None]

    def select(self, index) -> Quantities:
        """The same on some of the pixels."""
        auxiliary = [
            {name: value if value.shape[-1] == 1 else value[..., index] for name, value in inputs.items()}
            for inputs in self.auxiliary
        ]
        return Quantities(self.layout, self.names, auxiliary)

    def maps(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        """Quantities ``([k,] pixels)`` for internal rows θ ``(rows, pixels)``; differentiable."""
        physical = torch.addcmul(self._offset.to(theta), theta, self._factor.to(theta))
        maps, derived = {}, {}
        for name, key in self._keys.items():
            if key in self.layout.parameters:
                rows = self.layout.rows[key]
                maps[name] = physical[rows] if self.layout.parameters[key].shape else physical[rows.start]
                continue
            index, bare = self.layout.derived_from[key]
            if index not in derived:
                component, keys = self.layout.components[index], self.layout.keys[index]
                inputs = {}
                for own, parameter in component.parameters.items():
                    rows = self.layout.rows[keys[own]]
                    inputs[own] = physical[rows] if parameter.shape else physical[rows.start]
                auxiliary = {k: v.to(theta) for k, v in self.auxiliary[index].items()}
                derived[index] = component.derive(**inputs, **auxiliary)
            maps[name] = derived[index][bare]
        return maps

    def linearize(self, theta: torch.Tensor, transform: torch.Tensor):
        """Maps, and for each free number the maps' derivatives with respect to it.

        Parameters
        ----------
        theta : `torch.Tensor`
            ``(rows, pixels)``.
        transform : `torch.Tensor`
            dθ/dfree, ``(rows, free)``.
        """
        # What is fitted depends on the free numbers by constants; only what is derived must be differentiated.
        fitted = {name for name, key in self._keys.items() if key in self.layout.parameters}
        theta = theta.detach().requires_grad_(len(fitted) < len(self._keys))
        maps = self.maps(theta)
        gradients = pixel_gradients({n: value for n, value in maps.items() if n not in fitted}, {"theta": theta})
        slopes = self._factor.to(theta) * transform
        columns = []
        for j in range(transform.shape[1]):
            column = {}
            for name, key in self._keys.items():
                if name in fitted:
                    rows = self.layout.rows[key]
                    own = slopes[rows, j : j + 1] if maps[name].ndim > 1 else slopes[rows.start, j : j + 1]
                    column[name] = own.expand(maps[name].shape)
                    continue
                rows = gradients[name]
                moved = [
                    (transform[:, j : j + 1] * row["theta"]).sum(0) if row else torch.zeros_like(theta[0])
                    for row in rows
                ]
                column[name] = torch.stack(moved) if maps[name].ndim > 1 else moved[0]
            columns.append(column)
        return {name: value.detach() for name, value in maps.items()}, columns
