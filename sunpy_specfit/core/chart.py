"""Other numbers for the same thing, in which a model bends less: steps of whole maps are taken in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..numerics import packed

if TYPE_CHECKING:
    from .layout import Layout

__all__ = ["BoundChart", "Chart", "Tangent", "bind_charts"]

Numbers = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Chart:
    """As many numbers as there are parameters, which say the same, and in which a step may be long.

    Length and angles of a vector are what is asked for, and poor company on the way: where the vector is short, a small
    step of its components turns it right round, and where it vanishes the angles have no slope. A Gauss-Newton step
    is the same in either; only how far it can be followed is not.

    Attributes
    ----------
    parameters : tuple of str
        Of the model, one number each.
    forward : callable
        Takes the parameters, ``(pixels,)`` each, in physical units, inside and outside of their bounds, and returns the
        other numbers; its derivative is needed.
    inverse : callable
        The way back, to a place where ``forward`` has a derivative of full rank: next to one that has not, if need be.
    vector : tuple of int
        Which of the other numbers are the components of a vector whose length the light feels: where it vanishes there
        is a kink, and the best fit may be right there.
    shortest : float
        What length of that vector, to `inverse`, stands for none.
    pointing : tuple of str
        The parameters that nothing is known of where it vanishes.
    """

    parameters: tuple[str, ...]
    forward: Callable[..., Numbers]
    inverse: Callable[..., Numbers]
    vector: tuple[int, ...] = ()
    shortest: float = 0.0
    pointing: tuple[str, ...] = ()


class BoundChart:
    """A chart for some of a problem's free numbers, in the internal frame.

    Parameters
    ----------
    chart : `Chart`
    columns : sequence of int
        Which of the free numbers.
    factors, offsets : sequence of float
        physical = factor * internal + offset.
    """

    def __init__(self, chart: Chart, columns: Sequence[int], factors: Sequence[float], offsets: Sequence[float]):
        self.chart, self.columns = chart, list(columns)
        self.pointing = [columns[chart.parameters.index(name)] for name in chart.pointing]
        self._factors, self._offsets = factors, offsets

    def forward(self, *own: torch.Tensor) -> Numbers:
        """The chart's numbers for internal ones."""
        return self.chart.forward(
            *(f * value + o for f, o, value in zip(self._factors, self._offsets, own, strict=True))
        )

    def inverse(self, *numbers: torch.Tensor) -> Numbers:
        """Internal numbers for the chart's."""
        found = self.chart.inverse(*numbers)
        return tuple((value - o) / f for f, o, value in zip(self._factors, self._offsets, found, strict=True))

    def settled(self, free: torch.Tensor) -> torch.Tensor:
        """The same maps ``(k, pixels)``, next to places without slope if not right there."""
        return self.replaced(free, self.inverse(*self.forward(*free[self.columns])))

    def moved(self, free: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """The place that a step leads to from ``free``, both ``(k, pixels)``, along straight lines of the chart."""
        numbers, slopes = self._with_slopes(free)
        ahead = numbers + (slopes * step[self.columns]).sum(1)
        return self.replaced(free + step, self.inverse(*ahead))

    def slopes(self, free: torch.Tensor) -> torch.Tensor:
        """Derivatives of the chart's numbers by the free ones, ``(numbers, columns, pixels)``."""
        return self._with_slopes(free)[1]

    def step_between(self, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Of the chart's columns ``(columns, pixels)``, what leads from one place ``(k, pixels)`` to another."""
        numbers = zip(self.forward(*end[self.columns]), self.forward(*start[self.columns]), strict=True)
        apart = torch.stack([there - here for there, here in numbers])
        return torch.linalg.solve(self.slopes(start).movedim(-1, 0), apart.T[..., None])[..., 0].T.to(start)

    def replaced(self, free: torch.Tensor, own: Numbers) -> torch.Tensor:
        """Maps ``(k, pixels)`` with other numbers in the chart's columns."""
        free = free.clone()
        free[self.columns] = torch.stack(own).to(free)
        return free

    def _with_slopes(self, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The chart's numbers ``(numbers, pixels)``, and their `slopes`."""
        # Each pixel's numbers depend on its own alone, so that the slope of a sum over pixels has those of each.
        # Backward: forward derivatives of such short formulas cost far more than the formulas.
        with torch.enable_grad():
            own = free[self.columns].detach().requires_grad_()
            numbers = self.forward(*own)
            slopes = [torch.autograd.grad(number.sum(), own, retain_graph=True)[0] for number in numbers]
        return torch.stack(numbers).detach(), torch.stack(slopes)


class Tangent:
    """What happens at one place, told by steps from another: derivatives along a step that was taken in charts.

    Parameters
    ----------
    charts : sequence of `BoundChart`
    base, free : `torch.Tensor`
        Where the steps start from, and where one of them has led to, ``(k, pixels)``.
    """

    def __init__(self, charts: Sequence[BoundChart], base: torch.Tensor, free: torch.Tensor):
        self._turns = []
        for chart in charts:
            there, here = (chart.slopes(place).movedim(-1, 0) for place in (free, base))
            self._turns.append((chart.columns, torch.linalg.solve(there, here).permute(1, 2, 0)))

    def columns(self, columns: Sequence[Mapping[str, torch.Tensor]]) -> list[Mapping[str, torch.Tensor]]:
        """Derivatives by each number of a step, from those by each free number at the place."""
        found = list(columns)
        for own, turn in self._turns:
            for j, column in enumerate(own):
                found[column] = {
                    name: sum(turn[i, j] * columns[row][name] for i, row in enumerate(own)) for name in columns[column]
                }
        return found

    def quadratic(self, matrix: torch.Tensor, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of a packed matrix and a vector ``(k, pixels)``."""
        k = len(vector)
        whole = torch.eye(k, dtype=vector.dtype, device=vector.device)[..., None].repeat(1, 1, vector.shape[-1])
        for own, turn in self._turns:
            rows = torch.as_tensor(own, device=vector.device)
            whole[rows[:, None], rows] = turn.to(whole)
        full = whole.permute(2, 0, 1)
        return packed.pack(full.mT @ packed.unpack(matrix) @ full), torch.einsum("ijp,ip->jp", whole, vector)


def bind_charts(layout: Layout) -> list[BoundChart]:
    """The charts of all components whose parameters are free, as declared, and in no relation to others."""
    factor, offset = layout.scales()
    found = []
    for component, keys in zip(layout.components, layout.keys, strict=True):
        chart = component.chart
        if chart is None or not all(_alone(layout, keys[name]) for name in chart.parameters):
            continue
        declared = component.declare()
        if any(component.parameters[name] != declared[name] for name in chart.parameters):
            continue  # within bounds of one's own the numbers may have no other form
        rows = [layout.rows[keys[name]].start for name in chart.parameters]
        columns = [layout.columns[keys[name]].start for name in chart.parameters]
        found.append(BoundChart(chart, columns, factor[rows].tolist(), offset[rows].tolist()))
    return found


def _alone(layout: Layout, key: str) -> bool:
    """Whether a parameter is free in each pixel, and nothing is tied to it."""
    if key not in layout.columns:
        return False
    column = layout.columns[key].start
    return not layout.shared[column] and sum(layout.transform[:, column] != 0) == 1
