"""Candidates of lines: the places and forms that a search tries, and what light with them looks like."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from .profiles import Sketch, Unit

__all__ = ["Joint", "Table", "Tables"]

# Candidates whose shapes have a larger cosine than this are as good as one.
_ALIKE = 0.98


@dataclass(frozen=True)
class Table:
    """Candidates of one line: numbers ``(columns, candidates)``, shapes and their squares ``(samples, candidates)``.

    ``neighbours`` tells for each number and candidate which two candidates differ in that number alone and the least,
    ``(columns, 2, candidates)``; the candidate itself twice where there are no two.
    """

    values: torch.Tensor
    shape: torch.Tensor
    square: torch.Tensor
    tangents: torch.Tensor
    neighbours: torch.Tensor

    def around(self, gain: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The gain of the neighbours of some candidates, ``(columns, 2, pixels)``."""
        sides = self.neighbours.index_select(-1, index)
        return gain.gather(0, sides.flatten(0, 1)).unflatten(0, sides.shape[:2])

    def between(self, index: torch.Tensor, gain: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
        """Where the gain is largest, by a parabola through its logarithm at the best candidate and its neighbours."""
        tiny, grid = torch.finfo(gain.dtype).tiny, self._scaled(self.values)
        before, after = self.neighbours.index_select(-1, index).unbind(1)
        middle = grid.index_select(1, index)
        low, high = (around.clamp_min(tiny).log_() - gain.clamp_min(tiny).log_()).unbind(1)
        left, right = grid.gather(1, before) - middle, grid.gather(1, after) - middle
        # The vertex of the parabola through (left, low), (0, 0), (right, high), where it is a maximum.
        bend = (high * left - low * right) * left * right * (right - left)
        shift = 0.5 * (high * left * left - low * right * right) / (high * left - low * right)
        # At an end of the grid both neighbours are on one side, and so is the place.
        shift = torch.minimum(torch.maximum(shift, 0.5 * left.clamp_max(0.0)), 0.5 * right.clamp_min(0.0))
        shift = torch.where((before != after) & (bend < 0) & torch.isfinite(shift), shift, 0.0)
        return torch.where(shift != 0, self._unscaled(middle + shift), self.values.index_select(1, index))

    @cached_property
    def _geometric(self) -> torch.Tensor:
        """Numbers whose candidates span several octaves, such as widths: between these one looks in the logarithm."""
        low, high = self.values.amin(1, keepdim=True), self.values.amax(1, keepdim=True)
        return (low > 0) & (high > 2 * low)

    def _scaled(self, values: torch.Tensor) -> torch.Tensor:
        return torch.where(self._geometric, values.clamp_min(1e-30).log(), values)

    def _unscaled(self, values: torch.Tensor) -> torch.Tensor:
        return torch.where(self._geometric, values.exp(), values)


@dataclass(frozen=True)
class Joint:
    """Candidates of all free numbers at once.

    Attributes
    ----------
    free : `torch.Tensor`
        ``(free, candidates)``.
    shapes : dict
        What each linear number multiplies, ``(samples, candidates or 1)``.
    rest : `torch.Tensor`
        The light without linear numbers.
    tangents : dict
        How the shape of each line changes when it moves and widens, ``(columns, samples, candidates)``.
    near : `torch.Tensor`
        Which candidates hardly differ in where they have their lines, ``(candidates, candidates)``.
    """

    free: torch.Tensor
    shapes: dict[int, torch.Tensor]
    rest: torch.Tensor
    tangents: dict[int, torch.Tensor]
    near: torch.Tensor


class Tables:
    """The candidates of each line of a sketch, with the numbers that lines have in common held.

    Parameters
    ----------
    sketch : `Sketch`
    default : `torch.Tensor`
        ``(free,)``.
    dtype : `torch.dtype`
        Of the tables.
    """

    def __init__(self, sketch: Sketch, default: torch.Tensor, dtype: torch.dtype):
        self.sketch, self.default, self.dtype = sketch, default, dtype
        self.step = min(float((a.amax() - a.amin()) / max(len(a) - 1, 1)) for a in sketch.axes)
        self.lines = [unit for unit in sketch.units if unit.is_line]
        self.leaders, self.followers = self._leaders()
        self._made: dict[int, Table] = {}

    def _leaders(self) -> tuple[list[Unit], list[Unit]]:
        """Lines with a rest wavelength of their own, and those that share it with an earlier one; none for one line."""
        leaders: list[Unit] = []
        for line in self.lines:
            if all(abs(line.reference - other.reference) > self.step for other in leaders):
                leaders.append(line)
        if len(self.lines) == 1:
            leaders = []  # nothing to keep together
        return leaders, [line for line in self.lines if line not in leaders]

    def of(self, line: Unit) -> Table:
        """The candidates of one line."""
        column = line.linear[0]
        if column not in self._made:
            values = line.table()
            shapes = self.sketch.shapes(line, self._grid(line, values))[0][0]
            if len(self.lines) > 1:
                kept = _distinct(shapes)
                values, shapes = values[:, kept], shapes[:, kept]
            shape = shapes.to(self.dtype)
            tangents = self.tangents(line, self._grid(line, values))
            self._made[column] = Table(values.to(self.dtype), shape, shape.square(), tangents, _neighbours(values))
        return self._made[column]

    @cached_property
    def joint(self) -> Joint:
        """Lines with a rest wavelength of their own moved together; where that is one alone, everything but lines."""
        alone = len(self.leaders) == 1
        grid = self.default[:, None] if alone else self._joint_grid()
        shapes, rest = self._shapes_of(grid, leave_out=self.lines if alone else self.followers)
        tangents = {
            line.linear[0]: self.tangents(line, grid)
            for line in self.lines
            if line.linear[0] in shapes and len(self.lines) > 1
        }
        return Joint(grid.to(self.dtype), shapes, rest, tangents, self._near(grid))

    def _joint_grid(self) -> torch.Tensor:
        """Candidates of all free numbers at once, ``(free, candidates)``."""
        varied = [u for u in self.sketch.units if u.table().shape[1] > 1 and (u in self.leaders or not u.is_line)]
        if len(varied) == 1:
            table = varied[0].table()
            grid = self.default[:, None].repeat(1, table.shape[1])
            grid[list(varied[0].columns)] = table
            return grid
        shifts = (
            self.leaders[0].values[0] - self.leaders[0].reference
            if self.leaders
            else torch.zeros(1, dtype=torch.float64)
        )
        forms = max([len(v) for unit in varied for v in unit.values[1 if unit.located else 0 :]], default=1)
        grid = self.default[:, None].repeat(1, len(shifts) * forms)
        for unit in varied:
            for column, values in zip(unit.columns, unit.values, strict=True):
                if unit.located and column == unit.columns[0]:
                    places = (
                        (unit.reference + shifts).clamp(values.min(), values.max())
                        if unit in self.leaders
                        else values.mean()
                    )
                    grid[column] = places.repeat_interleave(forms) if unit in self.leaders else places
                else:
                    # Narrow goes with narrow: one index for all forms.
                    index = torch.linspace(0, len(values) - 1, forms).round().long()
                    grid[column] = values[index].repeat(len(shifts))
        return grid

    def _shapes_of(self, grid: torch.Tensor, leave_out=()) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """For each linear number its shape ``(samples, candidates or 1)``, and the light without linear numbers."""
        shapes, rest = {}, torch.zeros((), dtype=torch.float64, device=grid.device)
        for unit in self.sketch.units:
            if unit in leave_out:
                continue
            varies = bool((grid[list(unit.columns)] != grid[list(unit.columns), :1]).any())
            own, light = self.sketch.shapes(unit, grid if varies else grid[:, :1])
            rest = rest + light
            shapes |= dict(zip(unit.linear, own.to(self.dtype), strict=True))
        return shapes, rest.to(self.dtype)

    def _near(self, grid: torch.Tensor) -> torch.Tensor:
        located = [unit.columns[0] for unit in self.lines]
        reach = max((float(u.values[0].amax() - u.values[0].amin()) for u in self.lines), default=0.0) / 10
        near = torch.ones((grid.shape[1],) * 2, dtype=torch.bool, device=grid.device)
        for place in grid[located]:
            near &= (place[:, None] - place).abs() <= reach
        return near

    def tangents(self, line: Unit, grid: torch.Tensor) -> torch.Tensor:
        """The derivatives of a line's shape at free numbers ``(free, m)``: ``(columns, samples, m)``."""
        here, tangents = self.sketch.shapes(line, grid)[0][0], []
        for column in line.columns:
            moved = grid.clone()
            step = 1e-4 * max(self.step, 1e-6 * float(grid[column].abs().amax()))
            moved[column] += step
            tangents.append((self.sketch.shapes(line, moved)[0][0] - here) / step)
        return torch.stack(tangents).to(self.dtype)

    def _grid(self, line: Unit, values: torch.Tensor) -> torch.Tensor:
        grid = self.default[:, None].repeat(1, values.shape[1])
        grid[list(line.columns)] = values
        return grid


def _distinct(shapes: torch.Tensor) -> list[int]:
    """Which of some shapes ``(samples, candidates)`` to keep, so that no two of them are nearly the same.

    Places that a narrow line needs are closer together than those of a broad one.
    """
    unit = shapes / shapes.norm(dim=0).clamp_min(1e-30)
    alike = (unit.T @ unit > _ALIKE).cpu().numpy()
    kept: list[int] = []
    for candidate, row in enumerate(alike):
        if not row[kept].any():
            kept.append(candidate)
    return kept


def _neighbours(table: torch.Tensor) -> torch.Tensor:
    """For each column and combination the next smaller and larger ones; at an end the two next to it, in that order.

    ``(columns, 2, combinations)``, numbers of combinations; itself twice where there are no two.
    """
    itself = torch.arange(table.shape[1], device=table.device)
    found = []
    for column in range(len(table)):
        others = [i for i in range(len(table)) if i != column]
        alike = (table[others, :, None] == table[others, None, :]).all(0)
        apart = table[column][None, :] - table[column][:, None]  # of the second from the first
        below = torch.where(alike & (apart < 0), apart, -torch.inf)
        above = torch.where(alike & (apart > 0), -apart, -torch.inf)
        (down, lower), (up, higher) = (side.topk(min(2, side.shape[1]), 1) for side in (below, above))
        before, after = lower[:, 0], higher[:, 0]
        down, up = torch.isfinite(down), torch.isfinite(up)
        bottom, top = ~down[:, 0] & up[:, -1], ~up[:, 0] & down[:, -1]
        before, after = torch.where(bottom, higher[:, -1], before), torch.where(top, lower[:, -1], after)
        known = (down[:, 0] & up[:, 0]) | bottom | top
        found.append(torch.stack([torch.where(known, side, itself) for side in (before, after)]))
    return torch.stack(found)
