"""A block of pixels as tensors: the view of a problem that does not couple pixels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from ..numerics import packed
from .angles import Angle, Radius, fold
from .loss import excess, reweight
from .prior import BoundPrior
from .quantities import Quantities
from .term import Term

__all__ = ["PixelBlock", "TermData", "chosen"]

# Samples worked on at a time, so that a handful of arrays of them stay in the processor's cache.
_CHUNK = 2**18


@dataclass(frozen=True)
class TermData:
    """The samples of one term in a block.

    Attributes
    ----------
    term : `Term`
    x : `torch.Tensor`
        ``(n, 1)`` or ``(n, pixels)``, internal frame.
    data, weight : `torch.Tensor`
        ``([stokes,] n, pixels)``; weight is 1/sigma², 0 where a sample is not used.
    usable : `torch.Tensor` or None
        Where the noise depends on the light: 1 where a sample is used, 0 elsewhere.
    auxiliary : list of dict
        For each component of the term.
    """

    term: Term
    x: torch.Tensor
    data: torch.Tensor
    weight: torch.Tensor
    usable: torch.Tensor | None
    auxiliary: list[dict[str, torch.Tensor]]

    def select(self, index) -> TermData:
        return replace(
            self,
            x=_take(self.x, index),
            data=chosen(self.data, index),
            weight=chosen(self.weight, index),
            usable=None if self.usable is None else chosen(self.usable, index),
            auxiliary=[{k: _take(v, index) for k, v in a.items()} for a in self.auxiliary],
        )


@dataclass(frozen=True)
class PixelBlock:
    """Some pixels of a problem, everything about them as tensors in the internal frame.

    Attributes
    ----------
    terms : list of `TermData`
    transform, base : `torch.Tensor`
        θ = base + transform · free: ``(rows, free)`` and ``(rows, 1 or pixels)``.
    lower, upper : `torch.Tensor`
        Bounds of the free numbers, ``(free, 1)``.
    flags : `torch.Tensor`
        Status bits that the data alone give, ``(pixels,)``.
    loss : str
    priors : list of (BoundPrior, Quantities)
        Those that do not couple pixels.
    simple : bool
        Whether θ is the free numbers themselves.
    angles : tuple of `Angle` and `Radius`
        Numbers that come in again beyond their bounds.
    memo : dict
        What holds for all blocks of a problem and need not be found out again for each.
    """

    terms: list[TermData]
    transform: torch.Tensor
    base: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    flags: torch.Tensor
    loss: str
    priors: list[tuple[BoundPrior, Quantities]]
    simple: bool
    angles: tuple[Angle | Radius, ...] = ()
    memo: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def n_pixels(self) -> int:
        """How many pixels there are."""
        return self.flags.shape[-1]

    @property
    def n_free(self) -> int:
        """How many free numbers a pixel has."""
        return self.transform.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the tensors."""
        return self.transform.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.transform.device

    def nothing(self) -> torch.Tensor:
        """A start for solvers that need none: zeros, ``(1, k, pixels)``."""
        return self.transform.new_zeros((1, self.n_free, self.n_pixels))

    def select(self, index: torch.Tensor | slice) -> PixelBlock:
        """The same problem on some of the pixels."""
        return replace(
            self,
            terms=[term.select(index) for term in self.terms],
            base=_take(self.base, index),
            flags=self.flags[index],
            priors=[(prior.select(index), quantities.select(index)) for prior, quantities in self.priors],
        )

    def fold(self, free: torch.Tensor) -> torch.Tensor:
        """The same light, with every angle inside its bounds."""
        return fold(free, self.angles)

    def theta(self, free: torch.Tensor) -> torch.Tensor:
        """All rows θ, ``(rows, pixels)``, from the free numbers ``(free, pixels)``."""
        if self.simple:
            return free
        return self.transform @ free + self.base

    def light(self, free: torch.Tensor) -> list[torch.Tensor]:
        """The light that each term predicts, ``([stokes,] n, pixels)``."""
        theta = self.theta(free)
        return [self._term_light(term, theta) for term in self.terms]

    def _term_light(self, data: TermData, theta: torch.Tensor, weights=None) -> torch.Tensor:
        term, light = data.term, 0
        x = self._model_axis(data)
        for number, batched in enumerate(term.batched):
            light = light + batched.light(x, term.inputs(theta, number), data.auxiliary[number])
        if term.model.operators:
            light = term.through_instrument(light, self._physical_axis(data), (light.shape[-1],), weights)
        return light

    @staticmethod
    def _physical_axis(data: TermData) -> torch.Tensor:
        frame = data.term.frame
        return data.x.double() * frame.scale + frame.origin

    def _model_axis(self, data: TermData) -> torch.Tensor:
        if not data.term.model.operators:
            return data.x
        frame = data.term.frame
        return ((data.term.operator_axes(self._physical_axis(data))[0] - frame.origin) / frame.scale).to(data.x)

    def _model_jacobian(self, data: TermData, theta: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """The model's light before all operators, and its derivative with respect to each free number."""
        term = data.term
        x = self._model_axis(data)
        columns: list = [None] * self.n_free
        light = None
        for number, batched in enumerate(term.batched):
            names = term.varying(number)
            inputs = term.inputs(theta, number)
            part, derivatives = batched.linearize(x, inputs, data.auxiliary[number], names)
            light = part if light is None else light + part
            keys = term.layout.keys[term.component_indices[number]]
            for name in names:
                rows = term.layout.rows[keys[name]]
                vector = bool(term.layout.parameters[keys[name]].shape)
                for position, row in enumerate(range(rows.start, rows.stop)):
                    column = derivatives[name][position] if vector else derivatives[name]
                    for free in term.layout.transform[row].nonzero()[0]:
                        factor = float(term.layout.transform[row, free])
                        scaled = column if factor == 1.0 else column * factor
                        columns[free] = scaled if columns[free] is None else columns[free] + scaled
        return light, columns

    def jacobian(self, free: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Light of all samples ``(samples, pixels)``, and its derivatives, each of that shape or one number."""
        theta = self.theta(free)
        lights, parts = zip(*(self._term_jacobian(term, theta) for term in self.terms), strict=True)
        lights = [light.reshape(-1, light.shape[-1]) for light in lights]
        if len(lights) == 1:
            return lights[0], parts[0]
        columns = [
            torch.cat([c.expand_as(light) for c, light in zip(column, lights, strict=True)])
            for column in zip(*parts, strict=True)
        ]
        return torch.cat(lights), columns

    def _term_jacobian(self, data: TermData, theta: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Light, and its derivative with respect to each free number."""
        term = data.term
        light, columns = self._model_jacobian(data, theta)
        shape = light.shape
        if term.model.operators:
            physical, pixels = self._physical_axis(data), (light.shape[-1],)
            columns = [
                None if c is None else term.through_instrument(c.expand(shape), physical, pixels) for c in columns
            ]
            light = term.through_instrument(light, physical, pixels)
        zero = light.new_zeros((1, 1))
        flat = []
        for column in columns:
            if column is None:
                flat.append(zero)
            elif column.numel() == 1:
                flat.append(column.reshape(1, 1))
            else:
                flat.append(column.expand(light.shape).reshape(-1, light.shape[-1]))
        return light, flat

    def objective(self, free: torch.Tensor) -> torch.Tensor:
        """½ chi² + Σ energies of each pixel, ``(pixels,)``; infinite where the model is not finite."""
        total = 0.5 * self.chi2(free)
        for prior, quantities in self.priors:
            total = total + prior.energy(quantities.maps(self.theta(free)))
        return torch.where(torch.isfinite(total), total, torch.inf)

    @cached_property
    def pieces(self) -> list[tuple[slice, PixelBlock]]:
        """The block in parts that fit the processor's cache; whole on a GPU, and where operators may mix pixels."""
        samples = sum(term.weight.numel() for term in self.terms)
        mixed = any(term.term.model.operators for term in self.terms)
        count = 1 if mixed or self.device.type != "cpu" else max(1, round(samples / _CHUNK))
        if count == 1:
            return [(slice(0, self.n_pixels), self)]
        size = -(-self.n_pixels // count)
        return [(part, self.select(part)) for part in (slice(i, i + size) for i in range(0, self.n_pixels, size))]

    def chi2(self, free: torch.Tensor) -> torch.Tensor:
        """The misfit of each pixel summed over all samples, by the loss in force."""
        return torch.cat([piece._chi2(free[:, part]) for part, piece in self.pieces])

    def _chi2(self, free: torch.Tensor) -> torch.Tensor:
        total = 0.0
        for term, light in zip(self.terms, self.light(free), strict=True):
            squared = (term.data - light).square_().mul_(term.weight).reshape(-1, light.shape[-1])
            total = total + excess(self.loss, squared).sum(0)
        return total

    def linearize(self, free: torch.Tensor, *, priors: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The Gauss-Newton quadratic of each pixel.

        Parameters
        ----------
        free : `torch.Tensor`
            ``(k, pixels)``.
        priors : bool
            Whether those that do not couple pixels are in it, or the data alone.

        Returns
        -------
        objective : `torch.Tensor`
            ``(pixels,)``, as `objective`.
        matrix : `torch.Tensor`
            Curvature A, packed ``(k (k + 1) / 2, pixels)``.
        vector : `torch.Tensor`
            Minus the gradient, b, ``(k, pixels)``: the step is A⁻¹ b.
        """
        fused = self._fused(free)
        if fused is not None:
            chi2, matrix, vector = fused
            return self._with_priors(free, 0.5 * chi2, matrix, vector, priors)
        found = [piece._linearize(free[:, part], priors) for part, piece in self.pieces]
        return found[0] if len(found) == 1 else tuple(torch.cat(parts, -1) for parts in zip(*found, strict=True))

    def _linearize(self, free: torch.Tensor, priors: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        theta = self.theta(free)
        objective, matrix, vector = 0.0, None, None
        for term, total in zip(self.terms, self._totals, strict=True):
            light, columns = self._term_jacobian(term, theta)
            residual = (term.data - light).reshape(-1, light.shape[-1])
            weight = term.weight.reshape(residual.shape)
            if self.loss != "gaussian":
                squared = residual.square().mul_(weight)
                objective = objective + 0.5 * excess(self.loss, squared).sum(0)
                weight = weight * reweight(self.loss, squared)
                a, b, _ = packed.normal_equations(columns, weight, residual)
            else:
                a, b, chi2 = packed.normal_equations(columns, weight, residual, total)
                objective = objective + 0.5 * chi2
            matrix, vector = (a, b) if matrix is None else (matrix + a, vector + b)
        return self._with_priors(free, objective, matrix, vector, priors)

    def _with_priors(self, free, objective, matrix, vector, priors: bool):
        if priors:
            objective = objective + self._add_priors(self.theta(free), matrix, vector)
        return torch.where(torch.isfinite(objective), objective, torch.inf), matrix, vector

    def _fused(self, free: torch.Tensor):
        """chi², matrix and vector as the model itself works them out, or None."""
        if not self.simple or self.loss != "gaussian" or len(self.terms) != 1:
            return None
        data, theta = self.terms[0], self.theta(free)
        model = data.term.model
        own = model.components[0].normal_equations
        if own is None or len(data.term.batched) > 1 or model.operators:
            return None
        if len(theta) != sum(p.size for p in model.parameters.values()):
            return None
        return own(data.x, data.data, data.weight, **data.term.inputs(theta, 0), **data.auxiliary[0])

    @cached_property
    def _totals(self) -> list[torch.Tensor]:
        """The sum of each term's weights: what a constant background needs to know of them."""
        return [term.weight.reshape(-1, term.weight.shape[-1]).sum(0) for term in self.terms]

    def linearize_priors(self, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `linearize`, for the priors alone that do not couple pixels."""
        k = self.n_free
        matrix, vector = free.new_zeros((k * (k + 1) // 2, free.shape[-1])), torch.zeros_like(free)
        objective = torch.zeros_like(free[0]) + self._add_priors(self.theta(free), matrix, vector)
        return objective, matrix, vector

    def _add_priors(self, theta, matrix, vector) -> torch.Tensor | float:
        objective = 0.0
        for prior, quantities in self.priors:
            objective = objective + self._add_prior(prior, quantities, theta, matrix, vector)
        return objective

    def _add_prior(self, prior, quantities, theta, matrix, vector) -> torch.Tensor:
        maps, columns = quantities.linearize(theta, self.transform)
        quadratic = prior.quadratic(maps)
        for name in maps:
            gradient, curvature = quadratic.gradient[name], quadratic.diagonal[name]
            joined = (quadratic.within or {}).get(name)
            if joined is not None:
                slope, within = joined
                moved = torch.stack([slope * column[name] for column in columns])  # (free, k, pixels)
                turned = torch.einsum("kl,jlp->jkp", within.to(moved), moved)
                for i, column in enumerate(columns):
                    vector[i] -= _rows(gradient * column[name])
                    matrix[packed.index(i, 0) : packed.index(i, 0) + i + 1] += (moved[i] * turned[: i + 1]).sum(1)
                continue
            for i, column in enumerate(columns):
                if not column[name].any():
                    continue
                vector[i] -= _rows(gradient * column[name])
                for j in range(i + 1):
                    matrix[packed.index(i, j)] += _rows(curvature * column[name] * columns[j][name])
        return prior.energy(maps)

    def with_weights_from(self, free: torch.Tensor) -> PixelBlock:
        """The same block, its noise computed from the light predicted here (where noise depends on light)."""
        if all(term.usable is None for term in self.terms):
            return self
        terms = []
        for term, light in zip(self.terms, self.light(free), strict=True):
            if term.usable is not None:
                scale = term.term.frame.data_scale
                variance = term.term.observation.noise.variance(light.double() * scale) / scale**2
                good = torch.isfinite(variance) & (variance > 0)
                weight = torch.where(good, term.usable / variance, 0.0).to(term.weight)
                term = replace(term, weight=weight)
            terms.append(term)
        return replace(self, terms=terms)

    @cached_property
    def signal(self) -> torch.Tensor:
        """The largest signal-to-noise ratio of a sample of each pixel."""
        return torch.cat([piece._signal() for _, piece in self.pieces])

    def _signal(self) -> torch.Tensor:
        squared = [(term.data.square() * term.weight).reshape(-1, self.n_pixels).amax(0) for term in self.terms]
        return torch.stack(squared).amax(0).sqrt()

    @property
    def peak_signal(self) -> float:
        """The largest signal-to-noise ratio of a sample."""
        signal = self.signal
        return float(signal.amax() if signal.stride(-1) else signal[0])  # one number for all pixels has no stride

    @cached_property
    def n_valid(self) -> torch.Tensor:
        """How many samples each pixel uses."""
        return torch.cat([piece._n_valid() for _, piece in self.pieces])

    def _n_valid(self) -> torch.Tensor:
        # Weights are not negative: their signs are quicker to add up than truth values.
        return sum(term.weight.sign().reshape(-1, self.n_pixels).sum(0).long() for term in self.terms)


def chosen(value: torch.Tensor, index: torch.Tensor | slice) -> torch.Tensor:
    """Some pixels of ``(..., pixels)``; five times as fast as with square brackets."""
    return value[..., index] if isinstance(index, slice) else value.index_select(-1, index)


def _take(value: torch.Tensor, index) -> torch.Tensor:
    return value if value.shape[-1] == 1 else chosen(value, index)


def _rows(value: torch.Tensor) -> torch.Tensor:
    """Sum a vector quantity's rows; a scalar quantity stays."""
    return value.sum(0) if value.ndim > 1 else value
