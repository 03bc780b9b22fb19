"""How well a trial of scales foretells data that it has not seen: SURE, or data thinning, on per-pixel quadratics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import torch

from ..numerics import packed
from .blocks import DenseBlocks
from .curvature import Curvature
from .problem import Problem
from .risk_curve import RiskCurves
from .solver import Solver

__all__ = ["Quadratics", "Sure", "Thinning"]

# A direction of a pixel's quadratic below this part of its size is rounding.
_SOUND = 1e-5
# Trial maps are found to this part of a sigma.
_ERROR = 2e-3
# Numbers of different pixels and probes, at the least: the scatter of a trace falls with their root.
_PROBED = 40_000
_MOST_PROBES = 8
# Of a prior that is no quadratic: reweighted ones in a trial, at the most, and the last step that ends it (sigma).
_REWEIGHTED, _SETTLED = 15, 3e-3
# The derivative of such maps is found from a probe of so many sigma.
_PROBE = 0.1
# Numbers that correlate by less, or in no more than so many of the pixels, are sought by themselves.
_RELATED, _FEW = 0.2, 0.01
# Of the information, this part goes to fitting and the rest to testing.
_KEPT = 0.8
# Splits: their mean is what is minimised.
_SPLITS = 4


class Quadratics:
    """The data as one quadratic a pixel at some place: ½ xᵀ A x - bᵀ x for steps x from there.

    Parameters
    ----------
    problem : `Problem`
    free : `torch.Tensor`
        ``(k, pixels)``.

    Attributes
    ----------
    blocks : `DenseBlocks`
        A, zero in pixels where it is rounding in some direction.
    vector : `torch.Tensor`
        b, ``(k, pixels)``.
    well_posed : bool
        Whether most pixels with data determine all their numbers.
    """

    def __init__(self, problem: Problem, free: torch.Tensor):
        self.problem, self.free = problem, free
        _, blocks, vector = problem.linearize(free, priors=False)
        sound, seen = _sound(blocks.matrix), (blocks.diagonal() > 0).any(0)
        self.well_posed = bool((sound & seen).sum() > 0.5 * seen.sum())
        # One pixel in a far degenerate place, such as a line as broad as the window over a negative continuum, would
        # outvote all others.
        use = sound if bool(sound.any()) else torch.ones_like(sound)
        self.blocks, self.vector = DenseBlocks(torch.where(use, blocks.matrix, 0.0)), torch.where(use, vector, 0.0)
        self.root = packed.cholesky(self.blocks.matrix)

    def linear(self, problem: Problem) -> bool:
        """Whether the maps of a problem with priors are linear in b: whether the priors are quadratics."""
        draw = torch.randn(self.vector.shape, generator=torch.Generator().manual_seed(self.problem.seed))
        trial = _Trial(problem, self.free, self.blocks)
        # Away from the place of the expansion, where even a bent curve is its own parabola.
        trial.respond(self.vector + self.noise(draw))
        return bool(trial.is_quadratic)

    def noise(self, draw: torch.Tensor) -> torch.Tensor:
        """Noise of b, whose covariance is A, from numbers of variance one."""
        return packed.lower_product(self.root, draw.to(self.vector))

    def equal(self, other: Quadratics) -> bool:
        """Whether both are the same quadratic but for where it is expanded."""
        scale = self.blocks.diagonal().sqrt()
        change = (self.blocks.matrix - other.blocks.matrix).abs()
        size = torch.stack([scale[i] * scale[j] for i in range(len(scale)) for j in range(i + 1)])
        return bool((change <= 1e-4 * size).all())

    def groups(self, joined: Iterable[Collection[int]]) -> list[list[int]]:
        """Free numbers that data or priors join, each set apart from the others but in few pixels, or hardly at all.

        Parameters
        ----------
        joined : iterable of collection of int
            What the priors that couple pixels join.
        """
        k = self.vector.shape[0]
        label = list(range(k))

        def join(i, j):
            a, b = label[i], label[j]
            label[:] = [a if number == b else number for number in label]

        whole = self.problem.whole()
        matrices = [self.blocks.matrix] + ([whole.linearize_priors(self.free)[1]] if whole.priors else [])
        for matrix in matrices:
            scale = matrix[packed.diagonal_index(k)].clamp_min(0).sqrt()
            for i in range(k):
                for j in range(i):
                    related = matrix[packed.index(i, j)].abs() > _RELATED * scale[i] * scale[j]
                    if float(related.double().mean()) > _FEW:
                        join(i, j)
        for together in joined:
            for j in together:
                join(min(together), j)
        return [[j for j in range(k) if label[j] == number] for number in dict.fromkeys(label)]


class _Trial:
    """Maps for one trial of scales, from b or another vector in its place.

    Parameters
    ----------
    problem : `Problem`
    free, blocks
        Where the data are quadratics, and their curvature.
    linear : bool, optional
        Whether the maps are linear in b, where that is known.
    """

    def __init__(self, problem: Problem, free: torch.Tensor, blocks: DenseBlocks, *, linear: bool | None = None):
        self.problem, self.free, self.blocks, self.is_quadratic = problem, free, blocks, linear
        self._precondition = self._about = None

    def _curvature(self, vector, step) -> Curvature:
        """About a step that the maps have already taken."""
        rest = vector if step is None else vector - self.blocks.matvec(step)
        data = torch.zeros_like(vector[0]), self.blocks, rest
        if step is None:
            return Curvature(self.problem, self.free, data=data)
        return Curvature(self.problem, self.problem.moved(self.free, step), data=data, base=self.free)

    def respond(self, vector: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
        """The step ``(k, pixels)`` to the maps that b makes; ``start`` is a guess."""
        if self.is_quadratic is False:
            return self.settle(vector, start)
        curvature = self._about = self._curvature(vector, None)
        step = self._solve(curvature, -curvature.gradient, start)
        if self.is_quadratic is None:
            there = self._curvature(vector, step)
            left = -there.gradient
            size = _norm(curvature, curvature.gradient)
            self.is_quadratic = _norm(there, left) <= 0.02 * size + 0.02 * vector.shape[-1] ** 0.5
        return step if self.is_quadratic else self.settle(vector, step)

    def settle(
        self, vector: torch.Tensor, step: torch.Tensor | None, error: float = _ERROR, settled: float = _SETTLED
    ) -> torch.Tensor:
        """The same by reweighted quadratics, from a step on."""
        for _ in range(_REWEIGHTED):
            there = self._curvature(vector, step)
            self._precondition = None
            more = self._solve(there, -there.gradient, None, error)
            step = more if step is None else step + more
            if self._length(there, more) < settled:
                break
        return step

    def response(self, noise: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
        """The derivative of the step along some noise of b, where the priors are quadratics."""
        about = self._about or self._curvature(noise, None)
        return self._solve(about, self.problem.reduce(noise), start)

    def difference(self, vector: torch.Tensor, step: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The same where they are none, about the step that b makes: from a small part of the noise."""
        moved = self.settle(vector + _PROBE * noise, step, _PROBE * _ERROR, _PROBE * _SETTLED)
        return (moved - step) / _PROBE

    def _solve(self, curvature: Curvature, right, start, error: float = _ERROR) -> torch.Tensor:
        self._precondition = self._precondition or curvature.preconditioner()
        begin = None if start is None else self.problem.flatten(start)
        found = curvature.solve(right, tolerance=1e-6, error=error, precondition=self._precondition, start=begin)
        return self.problem.unflatten(found.x)

    @staticmethod
    def _length(there: Curvature, step: torch.Tensor) -> float:
        """In sigma of each pixel's block, the root of the mean square."""
        return float((step * packed.matvec(there.block_matrix(), step)).sum(0).double().mean().clamp_min(0)) ** 0.5


def _norm(curvature: Curvature, flat: torch.Tensor) -> float:
    """In sigma of each pixel's block."""
    size = packed.solve(curvature.block_matrix(), curvature.problem.unflatten(flat)) * curvature.problem.unflatten(flat)
    return float(size.double().sum().clamp_min(0)) ** 0.5


class Sure:
    """Stein's unbiased estimate of the risk, which for a linear estimate is Mallows' Cp.

    (x - x₀)ᵀ A (x - x₀) + 2 tr(∂x/∂x₀) with x₀ the pixels' own solution, up to a constant: the misfit of unseen data,
    in units of chi². The trace is that along random signs, the same for all trials, so that the curve is smooth. Of
    maps that are not linear in the data, the derivative is a difference.

    Parameters
    ----------
    quadratics : `Quadratics`
    with_scales : callable
        The problem for a trial of scales.
    linear : bool
        Whether the priors are quadratics; else they must be convex.

    References
    ----------
    Stein (1981), https://doi.org/10.1214/aos/1176345632; Mallows (1973), https://doi.org/10.2307/1267380; random
    probes: Ramani et al. (2008), https://doi.org/10.1109/TIP.2008.2001404
    """

    name = "SURE"

    def __init__(
        self, quadratics: Quadratics, with_scales: Callable[[Sequence[float]], Problem], *, linear: bool = True
    ):
        self.quadratics, self.with_scales, self.linear = quadratics, with_scales, linear
        generator = torch.Generator().manual_seed(quadratics.problem.seed)
        shape = quadratics.vector.shape
        number = min(max(-(-_PROBED // shape[-1]), 1), _MOST_PROBES)
        self.signs = [torch.randint(2, shape, generator=generator, dtype=torch.float32) * 2 - 1 for _ in range(number)]
        self.probes = [quadratics.noise(signs) for signs in self.signs]
        self._last: list[torch.Tensor | None] = [None] * (number + 1)
        self._curves: tuple[RiskCurves, list[list[int]]] | None = None

    def search_among(self, groups: Sequence[tuple[list[int], list[int]]], values: Sequence[float]) -> None:
        """Tell which scales bear on which free numbers, and where the search begins: some risks are known at once."""
        curves = RiskCurves.of(self.quadratics, self.with_scales, values, groups, self.signs) if self.linear else None
        self._curves = None if curves is None else (curves, [rows for _, rows in groups])

    def errors(self, values: Sequence[float]) -> torch.Tensor:
        """The part of each free number in the risk, ``(k,)``; that of a group may all be told by its first.

        Raises
        ------
        Unsettled
            Once, where curves that were to tell it do not: whoever searches has to begin again, for all trials of a
            search must be judged alike.
        """
        if self._curves is not None:
            (curves, groups), self._curves = self._curves, None
            parts = torch.zeros(len(self.quadratics.vector), dtype=torch.float64)
            parts[[rows[0] for rows in groups]] = torch.tensor(curves.errors(values), dtype=torch.float64)
            self._curves = curves, groups  # which it stays as long as they are settled
            return parts
        vector, blocks = self.quadratics.vector, self.quadratics.blocks
        trial = _Trial(self.with_scales(values), self.quadratics.free, blocks, linear=self.linear)
        step = self._last[0] = trial.respond(vector, self._last[0])
        total = (step * (blocks.matvec(step) - 2 * vector)).double().sum(-1)
        for number, probe in enumerate(self.probes):
            if self.linear:
                moved = self._last[number + 1] = trial.response(probe, self._last[number + 1])
            else:
                moved = trial.difference(vector, step, probe)
            total += 2 / len(self.probes) * (probe * moved).double().sum(-1)
        return total


class Thinning:
    """Several splits of the data: what is fitted to one part is tested on the other.

    Gaussian data of known noise fall into two independent parts: y + a σ ε and y - σ ε / a, with ε drawn from a
    standard normal distribution; in each pixel's quadratic that is as exact as in the samples themselves.

    Parameters
    ----------
    quadratics, with_scales
        As for `Sure`.
    coupled : callable, optional
        Returns a solver for a problem, which then solves each trial to the end. For priors with a kink: a few
        reweighted quadratics stay near the maps that they began at, and so would the scale.

    References
    ----------
    Neufeld et al. (2024), Journal of Machine Learning Research 25, 57 (data thinning); Oliveira et al. (2021),
    https://arxiv.org/abs/2111.09447 (the error of prediction from noised copies)
    """

    name = "data thinning"

    def __init__(
        self,
        quadratics: Quadratics,
        with_scales: Callable[[Sequence[float]], Problem],
        coupled: Callable[[Problem], Solver] | None = None,
    ):
        self.quadratics, self.with_scales, self.coupled = quadratics, with_scales, coupled
        self._splits, self._last = [], [None] * _SPLITS
        generator = torch.Generator().manual_seed(quadratics.problem.seed)
        spread = ((1 - _KEPT) / _KEPT) ** 0.5
        vector = quadratics.vector
        for _ in range(_SPLITS):
            noise = quadratics.noise(torch.randn(vector.shape, generator=generator, dtype=torch.float64))
            self._splits.append((_KEPT * (vector + spread * noise), vector - noise / spread))

    def errors(self, values: Sequence[float]) -> torch.Tensor:
        """The part of each free number in the misfit of the test parts, ``(k,)``."""
        problem, total = self.with_scales(values), 0.0
        blocks = DenseBlocks(_KEPT * self.quadratics.blocks.matrix)
        respond = self._solver(problem) if self.coupled else _Trial(problem, self.quadratics.free, blocks).respond
        for number, (train, test) in enumerate(self._splits):
            step = self._last[number] = respond(train, self._last[number])
            total = total + (step * (self.quadratics.blocks.matvec(step) - 2 * test)).double().sum(-1) / _SPLITS
        return total

    def _solver(self, problem: Problem):
        """What `_Trial.respond` does, by the solver that accepts the problem."""
        free, matrix = self.quadratics.free, _KEPT * self.quadratics.blocks.matrix

        def respond(vector: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
            trial = problem.with_quadratics(free, matrix, vector)
            return self.coupled(trial).solve(trial, (free if start is None else free + start)[None]).free - free

        return respond


def _sound(matrix: torch.Tensor) -> torch.Tensor:
    """Pixels whose quadratic is more than rounding in every direction."""
    k = packed.size(matrix.shape[0])
    rows = packed.diagonal_index(k)
    left = packed.cholesky(matrix)[rows].square() / matrix[rows].clamp_min(torch.finfo(matrix.dtype).tiny)
    return torch.where(matrix[rows] > 0, left, 1.0).amin(0) > _SOUND
