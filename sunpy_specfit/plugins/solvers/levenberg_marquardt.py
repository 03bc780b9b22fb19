"""Levenberg-Marquardt for all pixels at once."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...core.gaussian import BoundGaussian
from ...core.pixels import chosen
from ...core.solver import Solution, Solver
from ...core.status import Status
from ...numerics import packed

__all__ = ["LevenbergMarquardt"]

# Iterations from each of several starts, before all but the best are given up.
_TRIAL = 8
# Numbers that differ by less than this part of all starts' range are the same; so many pixels are always tried at once.
_SAME, _TOGETHER = 1e-3, 20_000
# So many steps without a gain that can be told from round-off end a fit, and fewer if they are short.
_IDLE, _IDLE_AND_SHORT = 16, 6
# No damping is larger than this.
_STIFFEST = 1e12
# A number on which the light hardly depends is damped as if it had this part of the curvature that it once had.
_FLATTEST = 1e6
# How often a step that meets bounds is cut and solved for anew.
_CUTS = 1


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
        return self.suits(problem)

    def suits(self, problem) -> str | None:
        if any(isinstance(prior, BoundGaussian) and prior.logarithm for prior, _ in problem.priors):
            return (
                "levenberg_marquardt steps in the numbers themselves, and stops short where a prior is on their "
                "logarithm: use solver='data_space' (or 'gauss_newton', beside priors that it does not know)"
            )
        return None

    def solve(self, problem, start: torch.Tensor) -> Solution:
        free, tried = start[0], 0
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
        start = start.clone()
        scale = (start.amax(0) - start.amin(0)).clamp_min(torch.finfo(start.dtype).tiny)
        objective = torch.full_like(start[:, 0], torch.inf)
        # Starts that a pixel has twice are tried once.
        number, pixel = [], []
        for i, own in enumerate(start):
            new = torch.ones_like(objective[i], dtype=torch.bool)
            for other in start[:i]:
                new &= ((own - other).abs() > _SAME * scale).any(0)
            pixel.append(new.nonzero()[:, 0])
            number.append(torch.full_like(pixel[-1], i))
        number, pixel = torch.cat(number), torch.cat(pixel)
        count = 0
        for part in torch.arange(len(pixel), device=pixel.device).split(max(block.n_pixels, _TOGETHER)):
            which, where = number[part], pixel[part]
            found, _, count = self._run(block.select(where), start[which, :, where].T, min(_TRIAL, self.max_iterations))
            start[which, :, where] = found.free.T
            objective[which, where] = found.objective
        # A later start must gain something real: equal minima keep the first.
        lowest = objective.amin(0)
        best = (objective <= lowest + 1e-6 * lowest.abs()).to(torch.uint8).argmax(0)
        return start[best, :, torch.arange(block.n_pixels, device=best.device)].T.contiguous(), count

    def _run(self, block, free: torch.Tensor, max_iterations: int) -> tuple[_Place, torch.Tensor, int]:
        here = _Place.at(block, block.fold(torch.minimum(torch.maximum(free, block.lower), block.upper)))
        pixels = block.n_pixels
        result = None
        status = torch.full((pixels,), int(Status.MAX_ITERATIONS), dtype=torch.int32, device=free.device)
        where = torch.arange(pixels, device=free.device)
        damping = torch.full_like(here.objective, 1e-3)
        steepest = here.matrix[packed.diagonal_index(len(free))]
        done = ~torch.isfinite(here.objective)
        status[done] = int(Status.FAILED)
        last_length = torch.full_like(here.objective, torch.inf)
        idle = torch.zeros_like(where)
        signal = block.signal
        # What one Gauss-Newton step leaves of the way is about noise over signal, whatever the first steps seem to say.
        leaves = (3.0 / signal).clamp(0.02, 0.9).nan_to_num(nan=0.9)
        noise = 8 * torch.finfo(free.dtype).eps
        # Below this length a step is round-off, or far below the tolerance whatever its ratio.
        shortest = (100 * torch.finfo(free.dtype).eps * signal).clamp(min=0.1 * self.tolerance)
        tiny = torch.finfo(free.dtype).tiny
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
                    damping, last_length, done, idle = damping[keep], last_length[keep], done[keep], idle[keep]
                    leaves, shortest, steepest = leaves[keep], shortest[keep], steepest[:, keep]
            system, right = self._hold_at_bounds(block, here)
            diagonal = here.matrix[packed.diagonal_index(len(free))]
            steepest = torch.maximum(steepest, diagonal)
            damp = damping * (steepest / diagonal.clamp_min(tiny)).clamp_max(_FLATTEST)
            step, promised = _step_inside(block, here.free, system, right, damp)
            trial = block.fold(here.free + step)
            # The step's length in sigma; undoing the damping keeps a timid step from passing for a short one.
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
            unseen = noise * here.objective.abs()
            gain = here.objective - there.objective
            kept = gain / (0.5 * promised).clamp_min(unseen)
            factor = torch.where(kept > 0.75, 0.1, torch.where(kept > 0.4, 0.5, 4.0))
            damping = torch.where(accepted, (damping * factor).clamp_min(1e-9), (damping * 8.0).clamp(1e-3, _STIFFEST))
            idle = torch.where(accepted & (gain > unseen), 0, idle + 1)
            here = there if bool(accepted.all()) else there.where(accepted, here)
            # Where so many steps gain nothing none does: round-off, or a kink of the model.
            enough = torch.where(length <= 10 * self.tolerance, _IDLE_AND_SHORT, _IDLE)
            newly = (converged | (idle >= enough)) & ~done
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
        loose = (~held).to(vector)
        return packed.scale_both(matrix, loose), vector * loose


def _step_inside(block, free, system, right, damping) -> tuple[torch.Tensor, torch.Tensor]:
    """The damped step that stays inside the bounds, and what it promises: the slope times the step.

    A number that would leave its bounds goes as far as the bound, and the others are solved for anew beside it: cut off
    without that, a step may lead uphill.
    """
    step = packed.solve(system, right, damping)
    for angle in block.angles:
        step[angle.column].clamp_(-angle.longest, angle.longest)
    promised = (right * step).sum(0)
    low, high = block.lower - free, block.upper - free
    inside = torch.minimum(torch.maximum(step, low), high)
    index = (inside != step).any(0).nonzero()[:, 0]
    if len(index):
        part, slope, damp = system[:, index], right[:, index], damping[..., index]
        low, high, wish = low[:, index], high[:, index], step[:, index]
        cut = torch.zeros_like(wish, dtype=torch.bool)
        for _ in range(_CUTS):
            within = torch.minimum(torch.maximum(wish, low), high)
            cut |= within != wish
            fixed = torch.where(cut, within, 0.0)
            loose = (~cut).to(wish)
            rest = (slope - packed.matvec(part, fixed)) * loose
            wish = fixed + packed.solve(packed.scale_both(part, loose), rest, damp)
        within = torch.minimum(torch.maximum(wish, low), high)
        inside[:, index] = within
        gain = (slope * within).sum(0)
        # Still uphill: not promising, but no sign that nothing is left to gain either.
        promised[index] = torch.where(gain > 0, gain, promised[index])
    return inside, promised.clamp_min_(0.0)


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
        return _Place(*(chosen(value, index) for value in self))

    def put(self, index: torch.Tensor, part: _Place) -> _Place:
        """The same with some pixels replaced, in place."""
        for value, new in zip(self, part, strict=True):
            value.index_copy_(-1, index, new)
        return self

    def where(self, condition: torch.Tensor, other: _Place) -> _Place:
        """This where the condition holds, the other elsewhere."""
        return _Place(*(torch.where(condition, mine, its) for mine, its in zip(self, other, strict=True)))
