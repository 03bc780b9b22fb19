"""From the numbers that were fitted to every quantity of the result, with its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import astropy.units as u
import numpy as np
import torch

from ..numerics.threads import copied, in_pieces
from .arguments import accepted
from .elementwise import pixel_gradients
from .factored import FactoredCovariance
from .layout import Layout

__all__ = ["Propagation", "packed_row"]

# Pixels whose derived quantities are worked out at a time: with fewer, calls cost more than the numbers.
_TOGETHER = 2**16


def packed_row(i: int, j: int) -> int:
    """The row of entry (i, j) in a packed lower triangle (0,0), (1,0), (1,1), (2,0), ..."""
    i, j = max(i, j), min(i, j)
    return i * (i + 1) // 2 + j


class Propagation:
    """Fitted and derived quantities of all pixels, and the covariance of any two of them.

    Errors of derived quantities follow from those of the free numbers to first order (the delta method),
    cov(a, b) = ∇a C ∇bᵀ, with the full covariance C and gradients from forward-mode automatic differentiation
    of `Model.derive`. Everything is in physical units and float64, pixels last.

    Parameters
    ----------
    layout : `Layout`
    values : dict of str to `numpy.ndarray`
        Every parameter by key, ``(pixels,)`` or ``(k, pixels)``.
    covariance : `numpy.ndarray`, `FactoredCovariance` or None
        Packed lower triangle of the free numbers, ``(t, pixels)``; infinite where the data determine nothing.
    transform : `numpy.ndarray`
        dθ/dfree, ``(rows, free)``.
    auxiliary : sequence of dict
        Inputs of each component beside its parameters; the last axis is the pixels', of their number or 1.
    """

    def __init__(
        self,
        layout: Layout,
        values: Mapping[str, np.ndarray],
        covariance: np.ndarray | None,
        transform: np.ndarray,
        auxiliary: Sequence[Mapping[str, np.ndarray]],
    ):
        self.layout = layout
        self.values = {key: np.asarray(value) for key, value in values.items()}
        self.covariance_rows = covariance
        self.transform = np.asarray(transform, float)
        self.auxiliary = [dict(inputs) for inputs in auxiliary]
        self._derived: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
        # Azimuths that something beside the data says to turn by 180 degrees: key -> bool (pixels,).
        self.turned: dict[str, np.ndarray] = {}

    def remember(self, derived: Mapping[str, tuple[np.ndarray, np.ndarray | None]]) -> None:
        """Take ``(value, sigma)`` of derived quantities from elsewhere, as from a file, instead of computing them."""
        self._derived.update(derived)

    @property
    def n_pixels(self) -> int:
        """The number of pixels."""
        return next(iter(self.values.values())).shape[-1]

    def select(self, index: np.ndarray) -> Propagation:
        """The same on some of the pixels."""

        def take(value):
            return None if value is None else value[..., index]

        part = Propagation(
            self.layout,
            {key: take(value) for key, value in self.values.items()},
            take(self.covariance_rows),
            self.transform,
            [{k: v if v.shape[-1] == 1 else take(v) for k, v in inputs.items()} for inputs in self.auxiliary],
        )
        part.turned = {key: take(turned) for key, turned in self.turned.items()}
        part.remember({key: (take(value), take(sigma)) for key, (value, sigma) in self._derived.items()})
        return part

    # -- values and errors of single quantities --------------------------------------------------

    def value(self, key: str) -> np.ndarray:
        """A quantity, ``(pixels,)`` or ``(k, pixels)``."""
        if key in self.values:
            return self.values[key]
        return self._known(key)[0]

    def vector_axes(self, keys: Sequence[str]) -> list[tuple[str, u.Quantity]]:
        """The axes, name and places, that vectors among some quantities bring to a map of them."""
        axes = []
        for key in keys:
            value = self.value(key)
            if value.ndim == 1:
                continue
            component, own = self.layout.origin(key)
            name, places = component.vector_axis(own)
            if places is None:
                places = np.arange(len(value)) * u.dimensionless_unscaled
            # A vector's covariance with itself has its axis twice.
            times = sum(known.rpartition("_")[0] == name or known == name for known, _ in axes)
            axes.append((f"{name}_{times + 1}" if times else name, places))
        return axes

    def with_undefined(self, status: np.ndarray, *, but: int) -> np.ndarray:
        """A status with the flags of derived quantities that have no value, but where some bits say so already."""
        status = status.copy()
        for component, keys in zip(self.layout.components, self.layout.keys, strict=True):
            for name, flag in component.undefined.items():
                if name in component.derived:
                    nowhere = np.isnan(np.atleast_2d(self.value(keys[name]))).any(0)
                    status[nowhere & ((status & but) == 0)] |= int(flag)
        return status

    def sigma(self, key: str) -> np.ndarray | None:
        """Its standard deviation, infinite where the data do not determine it, a new array; None without covariance."""
        if key not in self.values:
            sigma = self._known(key)[1]
            return None if sigma is None else copied(sigma)
        if self.covariance_rows is None:
            return None
        if isinstance(self.covariance_rows, FactoredCovariance) and self._is_all(key):
            return self.covariance_rows.deviation().copy()
        own = self._free_number(key) if isinstance(self.covariance_rows, np.ndarray) else None
        if own is not None and not self.layout.parameters[key].shape:
            variance, deviation = self.covariance_rows[packed_row(own, own)], np.empty(self.n_pixels)

            def fill(part: slice) -> None:
                np.maximum(variance[part], 0.0, out=deviation[part])
                np.sqrt(deviation[part], out=deviation[part])

            in_pieces(fill, self.n_pixels)
            return deviation
        return self._deviation(self._gradient_of_parameter(key), self.values[key].shape)

    def _known(self, key: str) -> tuple[np.ndarray, np.ndarray | None]:
        if key not in self._derived:
            # One pass serves all derived quantities of the component, by pixels few enough for the processor's cache.
            index, _ = self.layout.derived_from[key]
            if self._derive_at_once(index):
                return self._derived[key]
            parts = [self.select(part)._derive_with_errors(index) for part in self._pieces()]
            for own in parts[0]:
                values, sigmas = zip(*(part[own] for part in parts), strict=True)
                sigma = None if sigmas[0] is None else np.concatenate(sigmas, -1)
                self._derived[own] = np.concatenate(values, -1), sigma
        return self._derived[key]

    def _derive_at_once(self, index: int) -> bool:
        """Whether one component itself told what it derives, with errors, in a look at each pixel."""
        component, keys = self.layout.components[index], self.layout.keys[index]
        if component.derive_with_errors is None or not isinstance(self.covariance_rows, np.ndarray):
            return False
        names = [name for name, parameter in component.parameters.items() if not parameter.shape]
        columns = {name: self._free_number(keys[name]) for name in names}
        if None in columns.values():
            return False

        def between(a: str, b: str) -> np.ndarray:
            return self.covariance_rows[packed_row(columns[a], columns[b])]

        told = component.derive_with_errors({name: self.values[keys[name]] for name in names}, between)
        if told is None:
            return False
        found, settled = told
        rest = np.flatnonzero(~settled)
        if len(rest):
            for own, numbers in self.select(rest)._derive_with_errors(index).items():
                name = next(name for name in component.derived if keys[name] == own)
                for whole, some in zip(found[name], numbers, strict=True):
                    whole[rest] = some
        self._derived.update({keys[name]: found[name] for name in component.derived})
        return True

    def _free_number(self, key: str) -> int | None:
        """Which free number a scalar parameter is itself; None where it is none of them."""
        row = self.transform[self.layout.rows[key]][0]
        column = int(row.argmax())
        return column if row[column] == 1.0 and np.count_nonzero(row) == 1 else None

    def _pieces(self) -> list[slice]:
        return [slice(first, first + _TOGETHER) for first in range(0, max(self.n_pixels, 1), _TOGETHER)]

    def _derive_with_errors(self, index: int) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
        """Values and standard deviations of what one component derives, by key."""
        values, gradients = self.linearize(index, self.covariance_rows is not None)
        found = {}
        for name, value in values.items():
            key = self.layout.keys[index].get(name)
            if key in self.layout.derived:
                found[key] = value, self._deviation(gradients[name], value.shape) if gradients else None
        if gradients and self.layout.components[index].far_from_linear is not None:
            self._replace_where_far(index, found)
        return found

    def _replace_where_far(self, index: int, found) -> None:
        """Other errors where derived quantities are far from linear within the errors of the parameters.

        They are as the model knows them, else from draws.
        """
        from .sampling import spread_of_draws  # which is made of propagations itself

        component, keys = self.layout.components[index], self.layout.keys[index]
        names = [name for name, parameter in component.parameters.items() if not parameter.shape]
        values, sigmas = (
            {name: torch.as_tensor(np.array(what(keys[name]))) for name in names} for what in (self.value, self.sigma)
        )
        where = np.flatnonzero(component.far_from_linear(values, sigmas).numpy())
        if len(where) and component.spread is not None:
            chosen = torch.as_tensor(where)

            def between(a: str, b: str) -> torch.Tensor:
                return torch.tensor(self.covariance(keys[a], keys[b])[..., where])

            values, sigmas = ({name: v[chosen] for name, v in one.items()} for one in (values, sigmas))
            told = component.spread(values, sigmas, between)
            for name, spread in told.items():
                found[keys[name]][1][..., where] = spread.numpy()
            unknown = np.logical_or.reduce([np.isnan(spread.numpy()) for spread in told.values()])
            where = where[unknown]
        if len(where):
            for key, spread in spread_of_draws(self.select(where), index).items():
                found[key][1][..., where] = spread

    def _deviation(self, gradient, shape) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            variance = self._product(gradient, gradient, diagonal=True)
            sigma = np.sqrt(np.maximum(variance, 0.0))
        return np.broadcast_to(sigma if len(shape) > 1 else sigma[0], shape).copy()

    # -- pairs -----------------------------------------------------------------------------------

    def covariance(self, a: str, b: str) -> np.ndarray:
        """The covariance of two quantities in each pixel.

        Returns
        -------
        `numpy.ndarray`
            ``([ka,] [kb,] pixels)``: a vector quantity brings an axis.
        """
        if self.covariance_rows is None:
            raise ValueError("this result holds no covariance: its solver gave none")
        with np.errstate(invalid="ignore"):
            product = self._product(self._gradient(a), self._gradient(b))
        lead = [self.value(key).shape[:-1] for key in (a, b)]
        return np.broadcast_to(product, (*(lead[0] or (1,)), *(lead[1] or (1,)), self.n_pixels)).reshape(
            *lead[0], *lead[1], self.n_pixels
        )

    def _product(self, left, right, *, diagonal: bool = False) -> np.ndarray:
        """Σ left_i C_ij right_j: ``(ka, kb, pixels)``, or ``(k, pixels)`` where only i-th with i-th is asked for.

        A free number that the data do not determine has infinite variance: whatever depends on it has too.
        """

        if isinstance(self.covariance_rows, FactoredCovariance):
            same = right is left
            left = self._dense(left)
            return self.covariance_rows.between(left, left if same else self._dense(right), diagonal=diagonal)

        def outer(a, b):
            return a * b if diagonal else a[:, None] * b[None]

        twice = diagonal and left is right  # each pair stands for both of its orders
        total = np.zeros((1, 1) if diagonal else (1, 1, 1))
        for i, a in left.items():
            for j, b in right.items():
                if twice and j > i:
                    continue
                entry = self.covariance_rows[packed_row(i, j)].astype(float, copy=False)
                product = outer(a, b)
                if i == j and not np.isfinite(np.max(entry, initial=0.0)):
                    product = np.where(np.isinf(entry) & (product == 0), 0.0, product * entry)
                else:
                    product = product * entry
                total = total + (2.0 * product if twice and i != j else product)
        return total

    def _is_all(self, key: str) -> bool:
        """Whether a parameter is the free numbers themselves."""
        own = self.transform[self.layout.rows[key]]
        return own.shape[0] == own.shape[1] and bool((own == np.eye(len(own))).all())

    def _dense(self, gradient: Mapping[int, np.ndarray]) -> np.ndarray:
        """Free number -> derivative ``(a, pixels or 1)`` as one array ``(a, k, pixels or 1)``."""
        shapes = [np.shape(value) for value in gradient.values()] or [(1, 1)]
        full = np.zeros((max(s[0] for s in shapes), self.transform.shape[1], max(s[-1] for s in shapes)))
        for free, value in gradient.items():
            full[:, free] = value
        return full

    def _gradient(self, key: str) -> dict[int, np.ndarray]:
        if key in self.values:
            return self._gradient_of_parameter(key)
        index, name = self.layout.derived_from[key]
        return self.linearize(index, True)[1][name]

    def _gradient_of_parameter(self, key: str) -> dict[int, np.ndarray]:
        """Free number -> derivative ``(k, 1)``."""
        part = self.transform[self.layout.rows[key]]
        return {int(j): part[:, j, None] for j in np.flatnonzero(part.any(0))}

    # -- derived quantities ----------------------------------------------------------------------

    def derive(
        self, index: int, inputs: Mapping[str, torch.Tensor], auxiliary: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """What component ``index`` derives from its own parameters."""
        component = self.layout.components[index]
        found = component.derive(**inputs, **auxiliary)
        missing = sorted(set(component.derived) - set(found))
        if missing:
            raise ValueError(f"{type(component).__name__}.derive returned no {', '.join(missing)}, which it declares")
        return {name: found[name] for name in component.derived}

    def inputs(self, index: int, function=None) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Parameters by their own names, and auxiliary inputs (those that ``function`` takes), of one component."""
        keys = self.layout.keys[index]
        names = self.layout.components[index].parameters
        parameters = {name: torch.tensor(self.values[keys[name]], dtype=torch.float64) for name in names}
        auxiliary = self.auxiliary[index] if function is None else accepted(function, self.auxiliary[index])
        return parameters, {name: torch.as_tensor(np.array(v)) for name, v in auxiliary.items()}

    def linearize(
        self, index: int, with_gradients: bool
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[int, np.ndarray]]]:
        """Derived quantities of one component and their gradients.

        Returns
        -------
        values : dict of str to `numpy.ndarray`
        gradients : dict of str to dict
            Name -> free number -> derivative ``(k, pixels)``, k = 1 for scalars; empty if not asked for.
        """
        parameters, auxiliary = self.inputs(index, self.layout.components[index].derive)
        if with_gradients:
            parameters = {name: value.requires_grad_() for name, value in parameters.items()}
        derived = self.derive(index, parameters, auxiliary)
        values = {name: self._spread(value).numpy() for name, value in derived.items()}
        if not with_gradients:
            return values, {}
        gradients: dict[str, dict[int, np.ndarray]] = {name: {} for name in values}
        for key, outputs in pixel_gradients(derived, parameters).items():
            for output, pulled in enumerate(outputs):
                for name, gradient in pulled.items():
                    self._collect(gradients[key], index, name, gradient, (output, len(outputs)))
        return values, gradients

    def _collect(self, gradients, index: int, name: str, gradient: torch.Tensor, place: tuple[int, int]) -> None:
        """Add one output's derivative with respect to a parameter, through the free numbers it follows."""
        output, n_outputs = place
        gradient = self._spread(gradient).numpy()
        gradient = gradient if gradient.ndim > 1 else gradient[None]
        rows = self.layout.rows[self.layout.keys[index][name]]
        for position, row in enumerate(range(rows.start, rows.stop)):
            for j in np.flatnonzero(self.transform[row]):
                total = gradients.setdefault(int(j), np.zeros((n_outputs, self.n_pixels)))
                total[output] += self.transform[row, j] * gradient[position]

    def _spread(self, value: torch.Tensor) -> torch.Tensor:
        value = value.detach().double()
        return value.expand(*value.shape[:-1], self.n_pixels) if value.ndim else value.expand(self.n_pixels)
