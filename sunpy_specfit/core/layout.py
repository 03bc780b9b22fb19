"""Which numbers are free, and how every parameter follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import astropy.units as u
import numpy as np

from .angles import Angle, Radius
from .frame import Frame
from .model import Model
from .names import component_keys, unknown_name
from .parameter import Auxiliary, Parameter

__all__ = ["Layout"]


class Layout:
    """The named unknowns of one problem: all rows θ are affine in the free ones, ``θ = base + T · free``.

    Fixed values sit in ``base``, ties and selections in ``T``; both are in the internal frame. Each row is
    one number per pixel; a vector parameter has several rows.

    Parameters
    ----------
    models : sequence of `Model`
        The model of each term. A component that stands in two of them (the same label and the same
        description) is one component with one set of unknowns.
    frames : sequence of `Frame`
        The frame of each term.

    Attributes
    ----------
    components : list of `Model`
        The distinct components of all terms.
    keys : list of dict
        For each component, parameter or derived name -> result key.
    parameters : dict of str to `Parameter`
        Every parameter by result key, in declared order.
    rows : dict of str to slice
        Where each parameter stands in θ.
    free_keys : tuple of str
        The parameters that are neither fixed nor tied.
    transform : `numpy.ndarray`
        T, ``(rows, free)``.
    shared : `numpy.ndarray`
        For each free number, whether one value serves all pixels.
    """

    def __init__(self, models: Sequence[Model], frames: Sequence[Frame]):
        self.models = tuple(models)
        self.components: list[Model] = []
        self.term_components: list[list[int]] = []
        component_frames: list[Frame] = []
        for model, frame in zip(models, frames, strict=True):
            indices = []
            for component in model.components:
                index = self._find(component)
                if index is None:
                    index = len(self.components)
                    self.components.append(component)
                    component_frames.append(frame)
                elif component_frames[index] != frame:
                    raise ValueError(
                        f"component {component.component_label()!r} stands in two cubes with different units: "
                        "give each cube a component of its own (another label) and tie what they share"
                    )
                indices.append(index)
            self.term_components.append(indices)
        self.keys = component_keys(tuple(self.components))
        self._read_parameters(component_frames)
        self._solve_ties()

    def _find(self, component: Model) -> int | None:
        for index, known in enumerate(self.components):
            if known.component_label() == component.component_label():
                same = known is component or (
                    type(known) is type(component)
                    and repr(known) == repr(component)
                    and repr(known.parameters) == repr(component.parameters)
                )
                if same:
                    return index
                raise ValueError(
                    f"two different components are labelled {component.component_label()!r}: "
                    "give them labels of their own"
                )
        return None

    def _read_parameters(self, frames: Sequence[Frame]) -> None:
        self.parameters: dict[str, Parameter] = {}
        self.auxiliaries: list[dict[str, Auxiliary]] = [c.auxiliaries for c in self.components]
        self.component_frames = list(frames)
        self.frame_of: dict[str, Frame] = {}
        self.full_names: dict[str, str] = {}
        self.rows: dict[str, slice] = {}
        self.derived: dict[str, u.UnitBase] = {}
        self.derived_from: dict[str, tuple[int, str]] = {}
        n = 0
        for index, (component, keys, frame) in enumerate(zip(self.components, self.keys, frames, strict=True)):
            for name, parameter in component.parameters.items():
                key = keys[name]
                self.parameters[key] = parameter
                self.frame_of[key] = frame
                self.full_names[f"{component.component_label()}.{name}"] = key
                self.rows[key] = slice(n, n + parameter.size)
                n += parameter.size
            for name, unit in component.derived.items():
                self.derived[keys[name]] = frame.unit(unit)
                self.derived_from[keys[name]] = (index, name)
                self.full_names[f"{component.component_label()}.{name}"] = keys[name]
        self.n_rows = n
        self.units = {key: self.frame_of[key].unit(p.unit) for key, p in self.parameters.items()}

    def resolve(self, name: str) -> str:
        """The result key of a fitted or derived quantity, from any accepted spelling."""
        if name in self.parameters or name in self.derived:
            return name
        if name in self.full_names:
            return self.full_names[name]
        several = [key for key in (*self.parameters, *self.derived) if key.rpartition(".")[2] == name]
        if several:
            raise KeyError(f"{name!r} is ambiguous here: write {' or '.join(map(repr, several))}")
        raise unknown_name(name, [*self.parameters, *self.derived], kind="quantity")

    def origin(self, key: str) -> tuple[Model, str]:
        """The component that a quantity belongs to, and what it is called there."""
        return next(
            (component, name)
            for component, keys in zip(self.components, self.keys, strict=True)
            for name, known in keys.items()
            if known == key
        )

    def to_internal(self, key: str, value, *, what: str = "value", difference: bool = False) -> np.ndarray:
        """A physical value (Quantity or number in the parameter's unit) as internal number(s)."""
        parameter, frame = self.parameters[key], self.frame_of[key]
        try:
            number = np.asarray(
                u.Quantity(value, self.units[key]).value if isinstance(value, u.Quantity) else value, float
            )
        except u.UnitConversionError:
            raise u.UnitConversionError(
                f"the {what} of {key!r} is in {u.Quantity(value).unit}, which does not convert to {self.units[key]}"
            ) from None
        return (number - (0.0 if difference else frame.offset(parameter))) / frame.factor(parameter)

    def scales(self) -> tuple[np.ndarray, np.ndarray]:
        """(factor, offset) of each row: physical = factor * internal + offset."""
        factor, offset = np.ones(self.n_rows), np.zeros(self.n_rows)
        for key, parameter in self.parameters.items():
            factor[self.rows[key]] = self.frame_of[key].factor(parameter)
            offset[self.rows[key]] = self.frame_of[key].offset(parameter)
        return factor, offset

    def _solve_ties(self) -> None:
        free = [key for key, p in self.parameters.items() if not p.fixed and p.tie is None]
        self.free_keys = tuple(free)
        self.n_free = sum(self.parameters[key].size for key in free)
        transform = np.zeros((self.n_rows, self.n_free))
        base = np.zeros(self.n_rows)
        column = 0
        self.columns: dict[str, slice] = {}
        for key in free:
            size = self.parameters[key].size
            self.columns[key] = slice(column, column + size)
            transform[self.rows[key], self.columns[key]] = np.eye(size)
            column += size
        self.fixed_keys = tuple(key for key, p in self.parameters.items() if p.fixed)
        factor, offset = self.scales()
        done = {*free, *self.fixed_keys}
        waiting = {key: p.tie for key, p in self.parameters.items() if p.tie is not None}
        self.tie_order: list[tuple[str, str]] = []
        while waiting:
            ready = [key for key, tie in waiting.items() if self.resolve(tie.target) in done]
            if not ready:
                raise ValueError(f"these ties lead in a circle: {', '.join(waiting)}")
            for key in ready:
                tie = waiting.pop(key)
                target = self.resolve(tie.target)
                if self.parameters[target].shape != self.parameters[key].shape:
                    raise ValueError(f"{key!r} and {target!r} have different shapes and cannot be tied")
                if not self.units[target].is_equivalent(self.units[key]):
                    raise u.UnitConversionError(
                        f"{key!r} is in {self.units[key]} and cannot be tied to {target!r} in {self.units[target]}"
                    )
                slope = tie.factor * self.units[target].to(self.units[key])
                shift = self.to_internal(key, tie.offset, what="offset", difference=True)
                a, b = self.rows[key], self.rows[target]
                # physical: f·(s_b θ_b + o_b) + c = s_a θ_a + o_a
                transform[a] = slope * (factor[b] / factor[a])[:, None] * transform[b]
                base[a] = slope * (factor[b] * base[b] + offset[b]) / factor[a] - offset[a] / factor[a] + shift
                self.tie_order.append((key, target))
                done.add(key)
        self.transform, self.tie_base = transform, base
        self.shared = np.zeros(self.n_free, bool)
        for key in free:
            self.shared[self.columns[key]] = self.parameters[key].shared
        self.is_selection = not self.tie_order

    def fixed_base(self, values: Mapping[str, np.ndarray], n_pixels: int) -> np.ndarray:
        """The rows' constant part, ``(rows, 1 or pixels)``, given internal values of the fixed parameters."""
        per_pixel = any(np.ndim(v) > len(self.parameters[k].shape) for k, v in values.items())
        base = np.repeat(self.tie_base[:, None], n_pixels if per_pixel else 1, axis=1)
        for key, value in values.items():
            value = np.asarray(value, float)
            rows = self.rows[key]
            base[rows] = value.reshape(rows.stop - rows.start, -1)
        factor, _ = self.scales()
        for key, target in self.tie_order:
            slope = self.parameters[key].tie.factor * self.units[target].to(self.units[key])
            a, b = self.rows[key], self.rows[target]
            base[a] += slope * (factor[b] / factor[a])[:, None] * (base[b] - self.tie_base[b][:, None])
        return base

    def angles(self) -> tuple[Angle | Radius, ...]:
        """The free numbers that wrap, are reflected or come out on the other side at their bounds; radii first."""
        radii, found = [], []
        for key in self.free_keys:
            parameter, angle = self.parameters[key], self._mirrored(key)
            if angle is not None:
                lower = float(self.to_internal(key, parameter.lower, what="bound"))
                total = sum(float(self.to_internal(angle, end)) for end in self._ends(angle))
                radii.append(Radius(self.columns[key].start, lower, self.columns[angle].start, total))
            if parameter.beyond == "stop":
                continue
            low, high = (self.to_internal(key, value, what="bound") for value in self._ends(key))
            for offset in range(parameter.size):
                ends = (float(end.ravel()[offset % end.size]) for end in (low, high))
                found.append(Angle(self.columns[key].start + offset, *ends, parameter.beyond == "reflect"))
        return (*radii, *found)

    def _ends(self, key: str):
        return self.parameters[key].lower, self.parameters[key].upper

    def _mirrored(self, key: str) -> str | None:
        """The angle that a radius has to itself, if both are free and nothing else is tied to them."""
        if self.parameters[key].opposite is None:
            return None
        component, _ = self.origin(key)
        angle = self.keys[self.components.index(component)][self.parameters[key].opposite]
        alone = all(
            name in self.columns and np.count_nonzero(self.transform[:, self.columns[name].start]) == 1
            for name in (key, angle)
        )
        return angle if alone and self.parameters[angle].beyond != "stop" else None

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Internal (lower, upper) of each free number; those of tied parameters bound what they are tied to.

        Those of `angles` bound nothing.

        Raises
        ------
        ValueError
            If a lower bound is not below the upper one.
        """
        lower, upper = np.full(self.n_free, -np.inf), np.full(self.n_free, np.inf)
        for key, parameter in self.parameters.items():
            if parameter.fixed or parameter.beyond != "stop":
                continue
            for row in range(self.rows[key].start, self.rows[key].stop):
                columns = np.flatnonzero(self.transform[row])
                if len(columns) != 1:
                    continue
                slope = self.transform[row, columns[0]]
                limits = []
                lowest = None if self._mirrored(key) is not None else parameter.lower
                for value, infinite in ((lowest, -np.inf), (parameter.upper, np.inf)):
                    number = infinite
                    if value is not None:
                        inner = np.atleast_1d(self.to_internal(key, value, what="bound")).ravel()
                        number = inner[(row - self.rows[key].start) % inner.size]
                        number = (number - self.tie_base[row]) / slope
                    elif slope < 0:
                        number = -infinite
                    limits.append(number)
                low, high = sorted(limits)
                lower[columns[0]] = max(lower[columns[0]], low)
                upper[columns[0]] = min(upper[columns[0]], high)
        for key in self.free_keys:
            columns = self.columns[key]
            if np.any(lower[columns] >= upper[columns]):
                p = self.parameters[key]
                raise ValueError(
                    f"the bounds of {key!r} leave no room: lower {p.lower}, upper {p.upper}; lower must be below upper"
                )
        return lower, upper

    def physical_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper) of each free number in its unit."""
        factor, offset = self.scales()
        rows = [row for key in self.free_keys for row in range(self.rows[key].start, self.rows[key].stop)]
        lower, upper = self.bounds()
        return lower * factor[rows] + offset[rows], upper * factor[rows] + offset[rows]
