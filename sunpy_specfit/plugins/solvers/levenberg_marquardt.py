"""Levenberg-Marquardt for all pixels at once."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...core.solver import Solution, Solver
from ...core.status import Status
from ...numerics import packed

__all__ = ["LevenbergMarquardt"]

# Iterations from each of several starts, before all but the best are given up.
_TRIAL = 12


class LevenbergMarquardt(Solver):
    """Damped Gauss-Newton steps, one small system a pixel, until no pixel can gain.

    Every pixel has its own damping, and leaves the batch when it has converged. Bounds are kept by projection: a
    number that sits on its bound and is pushed outwards is held for that step.

    Parameters
    ----------
    max_iterations : int
        Linearisations per start, at the most.
    tolerance : float
        A pixel has converged when less than this many sigma remain to go after one more step, which the engine takes.
        Where noise rules, Gauss-Newton steps shrink by a constant ratio only: what remains is the sum of that geometric
        series, so fast pixels stop early and slow ones are not stopped too soon.

    References
    ----------
    Marquardt (1963), https://doi.org/10.1137/0111030

    Examples
    --------
    >>> from sunpy_specfit import LevenbergMarquardt
    >>> LevenbergMarquardt(max_iterations=50)
    LevenbergMarquardt(max_iterations=50)
    """

    name = "levenberg_marquardt"
    references = ("10.1137/0111030",)
    preference = 50
    whole_map = False

    def __init__(self, *, max_iterations: int = 100, tolerance: float = 1e-3):
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def accepts(self, problem) -> str | None:
        if problem.couples_pixels:
            return (
                "levenberg_marquardt fits pixel by pixel, and a prior, an operator or a shared parameter couples the "
                "pixels here; use solver='gauss_newton' (or 'adam', 'lbfgs')"
            )
        return None

    def solve(self, problem, start: torch.Tensor) -> Solution:
        tried = 0
        free = start[0]
        if len(start) > 1:
            free, tried = self._most_promising(problem, start)
        found, status, count = self._run(problem, free, self.max_iterations)
        return Solution(
            free=found.free,
            status=status,
            quadratic=(found.objective, found.matrix, found.vector),
            info={"iterations": tried + count},
        )

    def _most_promising(self, block, start: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Where some iterations from each start lead, the best for each pixel; only that one is followed to its end."""
        best, best_objective, count = start[0], None, 0
        for free in start:
            found, _, count = self._run(block, free, min(_TRIAL, self.max_iterations))
            if best_objective is None:
                best, best_objective = found.free, found.objective
                continue
            # A later start must gain something real: equal minima keep the first.
            better = found.objective < best_objective - 1e-6 * best_objective.abs()
            best = torch.where(better, found.free, best)
            best_objective = torch.where(better, found.objective, best_objective)
        return best, count

    def _run(self, block, free: torch.Tensor, max_iterations: int) -> tuple[_Place, torch.Tensor, int]:
        here = _Place.at(block, torch.minimum(torch.maximum(free, block.lower), block.upper))
        pixels = block.n_pixels
        result = None
        status = torch.full((pixels,), int(Status.MAX_ITERATIONS), dtype=torch.int32, device=free.device)
        where = torch.arange(pixels, device=free.device)
        damping = torch.full_like(here.objective, 1e-3)
        done = ~torch.isfinite(here.objective)
        status[done] = int(Status.FAILED)
        last_length = torch.full_like(here.objective, torch.inf)
        signal = block.signal
        # What one Gauss-Newton step leaves of the way is about noise over signal, whatever the first steps seem to say.
        leaves = (3.0 / signal).clamp(0.02, 0.9).nan_to_num(nan=0.9)
        noise = 8 * torch.finfo(free.dtype).eps
        # Below this length a step is round-off, or far below the tolerance whatever its ratio.
        shortest = (10 * torch.finfo(free.dtype).eps * signal).clamp(min=0.1 * self.tolerance)
        iterations = 0
        while iterations < max_iterations:
            iterations += 1
            if iterations > 1 or bool(done.any()):
                n_done = int(done.sum())
                if n_done == len(where):
                    break
                if n_done * 3 >= len(where):
                    result = here if result is None else result.put(where, here)
                    keep = (~done).nonzero()[:, 0]
                    block, where, here = block.select(keep), where[keep], here.select(keep)
                    damping, last_length, done = damping[keep], last_length[keep], done[keep]
                    leaves, shortest = leaves[keep], shortest[keep]
            system, right = self._hold_at_bounds(block, here)
            step = packed.solve(system, right, damping)
            trial = torch.minimum(torch.maximum(here.free + step, block.lower), block.upper)
            step = trial - here.free
            # The step's length in sigma; undoing the damping keeps a timid step from passing for a short one.
            promised = (right * step).sum(0).clamp_min(0.0)
            length = (promised * (1.0 + damping)).sqrt()
            ratio = torch.maximum(length / last_length, leaves).clamp_max(0.98)
            last_length = torch.where(length > 0, length, last_length)
            there = _Place.at(block, trial)
            accepted = there.objective <= here.objective + noise * here.objective.abs()
            # The engine takes one more undamped step: the rest of the way after that one counts.
            remaining = length * ratio.square() / (1.0 - ratio)
            converged = (length <= shortest) | (
                (remaining <= self.tolerance) & (length <= 300 * self.tolerance) & accepted
            )
            accepted &= ~done
            # Damp by how much of the promised gain came true: one that overshoots is taken and the next shortened.
            kept = (here.objective - there.objective) / (0.5 * promised).clamp_min(noise * here.objective.abs())
            factor = torch.where(kept > 0.75, 0.1, torch.where(kept > 0.4, 0.5, 4.0))
            damping = torch.where(accepted, (damping * factor).clamp_min(1e-9), (damping * 8.0).clamp_min(1e-3))
            here = there if bool(accepted.all()) else there.where(accepted, here)
            # With the damping at its end no step helps any more: round-off, or a kink of the model.
            newly = (converged | (damping > 1e12)) & ~done
            status[where[newly]] = int(Status.CONVERGED)
            done = done | newly
        return here if result is None else result.put(where, here), status, iterations

    @staticmethod
    def _hold_at_bounds(block, here: _Place):
        """The system with the rows of numbers that are pushed against their bound taken out."""
        free, matrix, vector = here.free, here.matrix, here.vector
        held = ((free <= block.lower) & (vector < 0)) | ((free >= block.upper) & (vector > 0))
        if not bool(held.any()):
            return matrix, vector
        k = vector.shape[0]
        loose = (~held).to(vector)
        system = matrix.clone()
        for i in range(k):
            for j in range(i):
                system[packed.index(i, j)] *= loose[i] * loose[j]
            system[packed.index(i, i)] *= loose[i]
        return system, vector * loose


class _Place(NamedTuple):
    """Free numbers, and the quadratic that stands for each pixel there."""

    free: torch.Tensor
    objective: torch.Tensor
    matrix: torch.Tensor
    vector: torch.Tensor

    @classmethod
    def at(cls, block, free: torch.Tensor) -> _Place:
        return cls(free, *block.linearize(free))

    def select(self, index: torch.Tensor) -> _Place:
        return _Place(*(value[..., index] for value in self))

    def put(self, index: torch.Tensor, part: _Place) -> _Place:
        """The same with some pixels replaced, in place."""
        for value, new in zip(self, part, strict=True):
            value[..., index] = new
        return self

    def where(self, condition: torch.Tensor, other: _Place) -> _Place:
        """This where the condition holds, the other elsewhere."""
        return _Place(*(torch.where(condition, mine, its) for mine, its in zip(self, other, strict=True)))
