"""Levenberg-Marquardt for all pixels at once."""

from __future__ import annotations

import torch

from ...core.solver import Solution, Solver
from ...core.status import Status
from ...numerics import packed

__all__ = ["LevenbergMarquardt"]


class LevenbergMarquardt(Solver):
    """Damped Gauss-Newton steps, one small system a pixel, until no pixel can gain.

    Every pixel has its own damping, and leaves the batch when it has converged. Bounds are kept by projection: a
    number that sits on its bound and is pushed outwards is held for that step.

    Parameters
    ----------
    max_iterations : int
        Linearisations per start, at the most.
    tolerance : float
        A pixel has converged when what remains to go is less than this many sigma. Where noise rules, Gauss-Newton
        steps shrink by a constant ratio only: what remains is the sum of that geometric series, so fast pixels stop
        early and slow ones are not stopped too soon.

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
        best = None
        for free in start:
            found = self._run(problem, free)
            if best is None:
                best = found
                continue
            # A later start must gain something real: equal minima keep the first.
            better = found[1] < best[1] - 1e-6 * best[1].abs()
            best = (
                torch.where(better, found[0], best[0]),
                torch.where(better, found[1], best[1]),
                torch.where(better, found[2], best[2]),
                max(found[3], best[3]),
            )
        free, _, status, iterations = best
        return Solution(free=free, status=status, info={"iterations": iterations})

    def _run(self, block, free: torch.Tensor):
        free = torch.minimum(torch.maximum(free, block.lower), block.upper)
        pixels = block.n_pixels
        result, objective_out = free.clone(), torch.full_like(free[0], torch.inf)
        status = torch.full((pixels,), int(Status.MAX_ITERATIONS), dtype=torch.int32, device=free.device)
        where = torch.arange(pixels, device=free.device)
        objective, matrix, vector = block.linearize(free)
        damping = torch.full_like(objective, 1e-3)
        done = ~torch.isfinite(objective)
        status[done] = int(Status.FAILED)
        last_length = torch.full_like(objective, torch.inf)
        # Below this length a step is round-off, or far below the tolerance whatever its ratio.
        shortest = max(0.1 * self.tolerance, 10 * torch.finfo(free.dtype).eps * block.peak_signal())
        noise = 8 * torch.finfo(free.dtype).eps
        iterations = 0
        while iterations < self.max_iterations:
            iterations += 1
            if iterations > 1 or bool(done.any()):
                n_done = int(done.sum())
                if n_done == len(where):
                    break
                if n_done * 3 >= len(where):
                    keep = (~done).nonzero()[:, 0]
                    result[:, where] = free
                    objective_out[where] = objective
                    block, where = block.select(keep), where[keep]
                    free, objective, matrix, vector = free[:, keep], objective[keep], matrix[:, keep], vector[:, keep]
                    damping, last_length, done = damping[keep], last_length[keep], done[keep]
            system, right = self._hold_at_bounds(block, free, matrix, vector)
            step = packed.solve(system, right, damping)
            trial = torch.minimum(torch.maximum(free + step, block.lower), block.upper)
            step = trial - free
            # The step's length in sigma; undoing the damping keeps a timid step from passing for a short one.
            length = ((right * step).sum(0).clamp_min(0.0) * (1.0 + damping)).sqrt()
            ratio = (length / last_length).clamp(0.0, 0.98)
            remaining = length * ratio / (1.0 - ratio)
            last_length = torch.where(length > 0, length, last_length)
            new_objective, new_matrix, new_vector = block.linearize(trial)
            accepted = new_objective <= objective + noise * objective.abs()
            converged = (length <= shortest) | (
                (remaining <= self.tolerance) & (length <= 3 * self.tolerance) & accepted
            )
            accepted &= ~done
            # Damp by how much of the promised gain came true: one that overshoots is taken and the next shortened.
            promised = 0.5 * (right * step).sum(0)
            kept = (objective - new_objective) / promised.clamp_min(noise * objective.abs())
            factor = torch.where(kept > 0.75, 0.1, torch.where(kept > 0.4, 0.5, 4.0))
            damping = torch.where(accepted, (damping * factor).clamp(1e-9, None), (damping * 8.0).clamp_min(1e-3))
            if bool(accepted.all()):
                free, objective, matrix, vector = trial, new_objective, new_matrix, new_vector
            else:
                free = torch.where(accepted, trial, free)
                objective = torch.where(accepted, new_objective, objective)
                matrix = torch.where(accepted, new_matrix, matrix)
                vector = torch.where(accepted, new_vector, vector)
            # With the damping at its end no step helps any more: round-off, or a kink of the model.
            converged |= damping > 1e12
            newly = converged & ~done
            status[where[newly]] = int(Status.CONVERGED)
            done = done | newly
        result[:, where] = free
        objective_out[where] = objective
        return result, objective_out, status, iterations

    @staticmethod
    def _hold_at_bounds(block, free, matrix, vector):
        """The system with the rows of numbers that are pushed against their bound taken out."""
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
