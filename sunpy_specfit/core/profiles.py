"""The shapes among which start values are sought: what each part of a model may look like.

Shapes do not depend on the pixel, so what they have in common with the data of thousands of pixels is a matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .parameter import Parameter, unit_powers
from .pixels import PixelBlock, TermData
from .term import internal_auxiliary

__all__ = ["Sketch", "Unit"]

_PLACES = 15
_LARGEST_TABLE = 96
_LARGEST_LINE_TABLE = 400
# A few hundred pixels tell the mean of the maps of wavelengths and of auxiliary inputs.
_SAMPLE = 256


@dataclass(frozen=True)
class Unit:
    """A part of a model that can be varied by itself: usually one component.

    Attributes
    ----------
    components : frozenset of int
        Positions in the layout; more than one where linear numbers are tied across components.
    columns : tuple of int
        The free numbers that shape these components and no others; the location first, if there is one.
    linear : tuple of int
        The free numbers that multiply a shape.
    values : tuple of `torch.Tensor`
        Candidates of each of ``columns``, internal frame, float64.
    located : bool
        Whether the first of ``columns`` is a place on the spectral axis.
    reference : float
        That place, if it was at rest.
    sign : int
        Of the one linear number if its bounds allow one sign only, else 0.
    """

    components: frozenset[int]
    columns: tuple[int, ...]
    linear: tuple[int, ...]
    values: tuple[torch.Tensor, ...]
    located: bool
    reference: float
    sign: int

    @property
    def is_line(self) -> bool:
        """Whether it is one shape at a place that can be varied."""
        return self.located and len(self.linear) == 1 and len(self.values[0]) > 1

    def table(self) -> torch.Tensor:
        """All combinations of the candidates, ``(columns, combinations)``."""
        return product(self.values, _LARGEST_LINE_TABLE if self.is_line else _LARGEST_TABLE)


def product(values: Sequence[torch.Tensor], largest: int = _LARGEST_TABLE) -> torch.Tensor:
    """All combinations of some values ``(len(values), combinations)``; of fewer values where these are too many."""
    if not values:
        return torch.zeros((0, 1), dtype=torch.float64)
    values = list(values)
    while np.prod([len(v) for v in values]) > largest:
        # The place, which comes first, is thinned last.
        i = max(range(len(values)), key=lambda i: (len(values[i]) > (5 if i == 0 else 1), i))
        values[i] = values[i][1::2] if len(values[i]) > 2 else values[i][:1]
    return torch.cartesian_prod(*values).reshape(-1, len(values)).T


class Sketch:
    """A model on the mean axis of the map, as a function of its free numbers.

    Parameters
    ----------
    block : `PixelBlock`

    Attributes
    ----------
    units : list of `Unit`
        What can be varied one by one.
    common : tuple of int
        Free numbers that shape several units (a width that lines share).
    common_values : tuple of `torch.Tensor`
        Their candidates.
    """

    def __init__(self, block: PixelBlock):
        self.block = block
        self.layout = block.terms[0].term.layout
        self.transform = block.transform.double()
        self.base = block.base.double().mean(-1, keepdim=True)
        self.lower, self.upper = block.lower[:, 0].double(), block.upper[:, 0].double()
        self.axes = [_mean_axis(data) for data in block.terms]
        self._key_of = {
            column: key for key, columns in self.layout.columns.items() for column in range(columns.start, columns.stop)
        }
        self._frame_axis: dict[int, int] = {}
        for number, data in enumerate(block.terms):
            for index in data.term.component_indices:
                self._frame_axis.setdefault(index, number)
        self._touched = [self._components_of(column) for column in range(block.n_free)]
        self.default = torch.zeros(block.n_free, dtype=torch.float64, device=block.device)
        grids = {j: self._candidates(j) for j in range(block.n_free)}
        for j, values in grids.items():
            self.default[j] = values[len(values) // 2]
        for index in range(len(self.layout.components)):
            self._set_finite_default(index, grids)
        self.linear = self._linear_columns()
        self.default[list(self.linear)] = 0.0
        self.units, self.common = self._split(grids)
        self.common_values = tuple(grids[j] for j in self.common)

    # -- light -----------------------------------------------------------------------------------

    def light(self, components: frozenset[int], free: torch.Tensor) -> torch.Tensor:
        """The light of some components for columns of free numbers ``(free, m)``: ``(samples, m)``."""
        theta = self.transform @ free + self.base
        parts = []
        for data, axis in zip(self.block.terms, self.axes, strict=True):
            parts.append(self._term_light(data, axis, components, theta))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _term_light(self, data: TermData, axis: torch.Tensor, components, theta: torch.Tensor) -> torch.Tensor:
        term, frame = data.term, data.term.frame
        through = bool(term.model.operators) and not term.mixes_pixels
        physical = axis * frame.scale + frame.origin
        x = (term.operator_axes(physical)[0] - frame.origin) / frame.scale if through else axis
        light = None
        for number, index in enumerate(term.component_indices):
            if index in components:
                means = {name: _mean(value.double()) for name, value in term.auxiliary[number].items()}
                auxiliary = internal_auxiliary(term.model.components[number], means, frame, axis.dtype, axis.device)
                part = term.batched[number].light(x, term.inputs(theta, number), auxiliary)
                light = part if light is None else light + part
        shape = data.data.shape[:-1]
        if light is None:
            return torch.zeros((int(np.prod(shape)), theta.shape[-1]), dtype=torch.float64, device=theta.device)
        if through:
            light = term.through_instrument(light, physical, (light.shape[-1],))
        return light.expand(*shape, theta.shape[-1]).reshape(-1, theta.shape[-1])

    def shapes(self, unit: Unit, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the unit's linear numbers multiply, and its light without them.

        Parameters
        ----------
        unit : `Unit`
        free : `torch.Tensor`
            ``(free, m)``; the linear numbers are not looked at.

        Returns
        -------
        shapes : `torch.Tensor`
            ``(linear, samples, m)``.
        rest : `torch.Tensor`
            ``(samples, m)``.
        """
        free = free.clone()
        free[list(self.linear)] = 0.0
        rest = self.light(unit.components, free)
        shapes = []
        for column in unit.linear:
            free[column] = 1.0
            shapes.append(self.light(unit.components, free) - rest)
            free[column] = 0.0
        if not shapes:
            return rest.new_zeros((0, *rest.shape)), rest
        # Where a model is not finite it has no light to offer: such a candidate explains nothing.
        shapes = torch.stack(shapes)
        return torch.where(torch.isfinite(shapes).all(1, keepdim=True), shapes, 0.0), rest

    # -- what is free, and in what way -----------------------------------------------------------

    def _components_of(self, column: int) -> frozenset[int]:
        rows = self.transform[:, column].nonzero()[:, 0].tolist()
        found = set()
        for index, (component, keys) in enumerate(zip(self.layout.components, self.layout.keys, strict=True)):
            for name in component.parameters:
                own = self.layout.rows[keys[name]]
                if any(own.start <= row < own.stop for row in rows):
                    found.add(index)
        return frozenset(found)

    def _set_finite_default(self, index: int, grids) -> None:
        """Move the defaults of a component that is not finite at the middle of its candidates to where it is."""
        component = frozenset({index})
        if bool(torch.isfinite(self.light(component, self.default[:, None])).all()):
            return
        own = [j for j in range(self.block.n_free) if index in self._touched[j]]
        table = product([grids[j] for j in own])
        trials = self.default[:, None].repeat(1, table.shape[1])
        trials[own] = table
        finite = torch.isfinite(self.light(component, trials)).all(0).nonzero()[:, 0]
        if len(finite):
            self.default = trials[:, finite[len(finite) // 2]]

    def _linear_columns(self) -> frozenset[int]:
        rows = set()
        for index, (component, keys) in enumerate(zip(self.layout.components, self.layout.keys, strict=True)):
            for name in component.linear_parameters or self._found_linear(index):
                rows.update(range(self.layout.rows[keys[name]].start, self.layout.rows[keys[name]].stop))
        driven = [set(self.transform[:, j].nonzero()[:, 0].tolist()) for j in range(self.block.n_free)]
        return frozenset(j for j, own in enumerate(driven) if own and own <= rows)

    def _found_linear(self, index: int) -> tuple[str, ...]:
        """Scalar parameters of a component that turn out to enter linearly, all of them together."""
        component, keys = self.layout.components[index], self.layout.keys[index]
        linear: list[str] = []
        columns: list[int] = []
        for name, parameter in component.parameters.items():
            own = self.layout.columns.get(keys[name])
            if own is None or parameter.shape or parameter.location:
                continue
            if self._is_linear(index, own.start, columns):
                linear.append(name)
                columns.append(own.start)
        return tuple(linear)

    def _is_linear(self, index: int, column: int, others: list[int]) -> bool:
        """Whether light is affine along a column, with the same slope wherever the other columns are."""
        step = self.default[column].abs().clamp_min(0.1)
        free = self.default[:, None].repeat(1, 3 + 2 * len(others))
        free[column, 1] += step
        free[column, 2] += 2.5 * step
        for number, other in enumerate(others):
            free[other, 3 + 2 * number :] += 0.7
            free[column, 4 + 2 * number] += step
        light = self.light(frozenset({index}), free)
        slope = light[:, 1] - light[:, 0]
        differences = [light[:, 2] - light[:, 0] - 2.5 * slope]
        differences += [light[:, 4 + 2 * i] - light[:, 3 + 2 * i] - slope for i in range(len(others))]
        size = light.abs().amax()
        return bool(torch.isfinite(light).all()) and all(bool((d.abs() <= 1e-9 * size).all()) for d in differences)

    def _split(self, grids) -> tuple[list[Unit], tuple[int, ...]]:
        # Components that share a linear number stand and fall together.
        groups = [frozenset({index}) for index in range(len(self.layout.components))]
        for column in self.linear:
            joined = frozenset().union(*(g for g in groups if g & self._touched[column]))
            groups = [g for g in groups if not g & joined] + [joined]
        shaping = [j for j in range(self.block.n_free) if j not in self.linear]
        units, common = [], [j for j in shaping if not any(self._touched[j] <= group for group in groups)]
        for group in sorted(groups, key=min):
            linear = tuple(sorted(j for j in self.linear if self._touched[j] <= group and self._touched[j]))
            own = [j for j in shaping if self._touched[j] <= group and self._touched[j]]
            own.sort(key=lambda j: not self._parameter(j).location)
            located = bool(own) and self._parameter(own[0]).location
            units.append(
                Unit(
                    components=group,
                    columns=tuple(own),
                    linear=linear,
                    values=tuple(grids[j] for j in own),
                    located=located,
                    reference=self._reference(own[0], grids[own[0]]) if located else 0.0,
                    sign=self._sign(linear[0]) if len(linear) == 1 else 0,
                )
            )
        return units, tuple(common)

    def axis_of(self, column: int) -> int | None:
        """The term on whose axis a free number marks a place; None if it marks none."""
        return self._frame_axis[self._owner(column)] if self._parameter(column).location else None

    def _parameter(self, column: int) -> Parameter:
        return self.layout.parameters[self._key_of[column]]

    def _owner(self, column: int) -> int:
        """The component that a free number is a parameter of."""
        key = self._key_of[column]
        return next(
            i for i, c in enumerate(self.layout.components) if key in (self.layout.keys[i][n] for n in c.parameters)
        )

    def _sign(self, column: int) -> int:
        return int(bool(self.lower[column] >= 0)) - int(bool(self.upper[column] <= 0))

    def _reference(self, column: int, values: torch.Tensor) -> float:
        rest = getattr(self.layout.components[self._owner(column)], "rest_wavelength", None)
        if rest is None:
            return float(values.mean())
        return float(self.layout.to_internal(self._key_of[column], rest))

    # -- candidates ------------------------------------------------------------------------------

    def _candidates(self, column: int) -> torch.Tensor:
        """Values to try for a free number, within its bounds."""
        key, owner = self._key_of[column], self._owner(column)
        component, parameter = self.layout.components[owner], self.layout.parameters[key]
        frame = self.layout.frame_of[key]
        x = self.axes[self._frame_axis[owner]][:, 0]
        low, high = float(x.min()), float(x.max())
        step = (high - low) / max(len(x) - 1, 1)
        _, spectral_power, _ = unit_powers(parameter.unit)
        if parameter.default is not None:
            values = np.ravel(self.layout.to_internal(key, parameter.default))
            values = values[[(column - self.layout.columns[key].start) % len(values)]]
        elif (offered := self._offered(component, key, x * frame.scale + frame.origin)) is not None:
            values = (np.asarray(offered, float) - frame.offset(parameter)) / frame.factor(parameter)
        elif parameter.location:
            values = np.linspace(low, high, _PLACES + 2)[1:-1]
        elif spectral_power == 1 and not parameter.shape and unit_powers(parameter.unit)[0] == 0 and step > 0:
            values = np.geomspace(1.2 * step, max((high - low) / 3, 2.4 * step), 3)
        else:
            values = None
        return torch.as_tensor(
            _within(values, float(self.lower[column]), float(self.upper[column])), device=self.block.device
        )

    def _offered(self, component, key: str, x: torch.Tensor):
        if component.start_grid is None:
            return None
        name = key.rpartition(".")[2]
        return component.start_grid(x.cpu().numpy()).get(name)


def _within(values: np.ndarray | None, lower: float, upper: float) -> np.ndarray:
    """Candidates inside bounds, as many of them as fit, and at least five where the bounds are close together."""
    if values is None:
        finite = np.isfinite([lower, upper])
        values = [1.0, lower + 1.0, upper - 1.0, 0.5 * (lower + upper)]
        inside = lower < 1.0 < upper
        return np.array([values[0] if inside and not finite.all() else values[finite[0] + 2 * finite[1]]])
    if len(values) == 1:
        return np.clip(values, lower, upper)
    low, high = max(values.min(), lower), min(values.max(), upper)
    if upper - lower < np.ptp(values):
        low, high = lower, upper
    if low == values.min() and high == values.max():
        return values
    if not low < high:  # the grid and the bounds do not meet
        low, high = max(lower, -1e300), min(upper, 1e300)
        if high - low > np.ptp(values):
            return np.clip(values[:1] if lower > values.max() else values[-1:], lower, upper)
    spacing = np.diff(np.sort(values)).min()
    number = int(np.clip(np.ceil((high - low) / spacing) + 1, min(len(values), 5), len(values)))
    margin = 0.02 * (high - low)
    return np.linspace(low + margin * (low == lower), high - margin * (high == upper), number)


def _mean_axis(data: TermData) -> torch.Tensor:
    """The axis of the whole map, averaged over pixels, internal frame, ``(n, 1)`` in float64."""
    term = data.term
    x = np.asarray(term.observation.x, float)
    if x.ndim > 1:
        x = x[:, :: max(1, x.shape[1] // _SAMPLE)].mean(1)
    return torch.as_tensor((x - term.frame.origin) / term.frame.scale, device=data.x.device)[:, None]


def _mean(value: torch.Tensor) -> torch.Tensor:
    """The mean of a map ``(..., pixels)`` over the pixels where it is finite."""
    if value.shape[-1] == 1:
        return value
    some = value[..., :: max(1, value.shape[-1] // _SAMPLE)]
    return torch.where(torch.isfinite(some), some, torch.nan).nanmean(-1, keepdim=True).nan_to_num()
