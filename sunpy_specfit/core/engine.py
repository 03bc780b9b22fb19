"""The run: blocks of pixels through start values, solver and errors into arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, median_filter
from tqdm.auto import tqdm

from ..numerics import packed
from .finish import Outcome, finish_block, finish_whole, place_of
from .gaussian import BoundGaussian
from .pixels import PixelBlock
from .problem import Problem
from .restart import restart
from .roles import settle_roles
from .settle import settle
from .solver import Solution, Solver
from .start import find_again, find_starts
from .status import Status

__all__ = ["neighbourly_start", "pixel_solution", "run"]

# The weight of each sample depends on the light it is a weight for: rounds of fitting with renewed weights.
_NOISE_ROUNDS = 3
# A start for each line, but no more than this.
_MOST_STARTS = 4


def run(
    problem: Problem,
    solver: Solver,
    *,
    init: Mapping[str, np.ndarray],
    follow: list[slice] | None = None,
    n_starts: int | None = None,
    progress: bool | None = None,
    local: Solver | None = None,
) -> Outcome:
    """Fit every pixel.

    Parameters
    ----------
    problem : `Problem`
    solver : `Solver`
    init : mapping
        Internal start values by key, from the user.
    follow : list of slice, optional
        Frames of a time series, each started from the one before.
    n_starts : int, optional
        Starts per pixel; by default as many as there are lines, up to four.
    progress : bool, optional
        Whether to show a bar; None shows it on a terminal when there is much to do.
    local : `Solver`, optional
        The per-pixel solver whose answer a whole-map solver starts from.
    """
    n_starts = n_starts or _default_starts(problem)
    outcome = Outcome.empty(problem, factored=solver.factored, unknown=solver.whole_map)
    if solver.whole_map:
        _run_whole(problem, solver, init, n_starts, outcome, local)
        return outcome.joined()
    previous: torch.Tensor | None = None
    pieces = [part for frame in follow for part in _cut(frame, problem.block_size)] if follow else problem.slices()
    # A bar pays from a few seconds on; on anything but a terminal tqdm stays silent by itself.
    hidden = {True: False, False: True, None: True if len(pieces) < 64 else None}[progress]
    offsets = {piece.start: frame.start for frame in follow or () for piece in _cut(frame, problem.block_size)}
    for piece in tqdm(pieces, desc="specfit", unit="block", disable=hidden, leave=False):
        if follow and offsets[piece.start] > 0:
            length = follow[0].stop - follow[0].start
            previous = torch.as_tensor(outcome.free[:, piece.start - length : piece.stop - length])
        block = problem.block(piece)
        _fit_block(problem, solver, block, piece, init, previous, n_starts, outcome)
    return outcome.joined()


def _default_starts(problem: Problem) -> int:
    lines = sum(any(p.location for p in c.parameters.values()) for c in problem.layout.components)
    return min(max(lines, 1), _MOST_STARTS)


def _cut(frame: slice, size: int) -> list[slice]:
    return [slice(i, min(i + size, frame.stop)) for i in range(frame.start, frame.stop, size)]


def starts(problem: Problem, block: PixelBlock, index, init, previous, n_starts: int) -> torch.Tensor:
    """``(starts, k, pixels)``: what the user or the frame before gives first, the rest found in the data."""
    given: dict[int, torch.Tensor] = {}
    for key, value in init.items():
        if key not in problem.layout.columns:
            continue
        columns = problem.layout.columns[key]
        value = torch.as_tensor(np.asarray(value, float).reshape(columns.stop - columns.start, -1))
        value = value if value.shape[1] == 1 else value[:, index]
        for offset, column in enumerate(range(columns.start, columns.stop)):
            given[column] = value[offset].to(block.transform)
    if not block.terms:
        # Quadratics: their minimum is one step away. Priors are heard later: their slope here may be endless.
        _, matrix, vector = block.linearize(block.nothing()[0], priors=False)
        found = torch.minimum(torch.maximum(packed.solve(matrix, vector), block.lower), block.upper)[None]
        for column, value in given.items():
            found[:, column] = torch.where(torch.isfinite(value), value, found[:, column])
        return found
    complete = len(given) == block.n_free and all(bool(torch.isfinite(v).all()) for v in given.values())
    if complete:
        found = torch.stack([given[j].expand(block.n_pixels) for j in range(block.n_free)])[None]
    else:
        found = _positive(problem, block, find_starts(block, n_starts if not given else 1))
        for column, value in given.items():
            found[:, column] = torch.where(torch.isfinite(value), value, found[:, column])
    if previous is not None:
        earlier = torch.where(torch.isfinite(previous), previous.to(found), found[0])
        found = torch.cat([earlier[None], found])
    return found


def _positive(problem: Problem, block: PixelBlock, found: torch.Tensor) -> torch.Tensor:
    """Starts ``(starts, k, pixels)``, at the mean of priors on logarithms: from zero no step leads away."""
    factor, _ = problem.layout.scales()
    for prior, _ in block.priors:
        if isinstance(prior, BoundGaussian) and prior.logarithm:
            key = problem.layout.resolve(prior.quantity)
            columns = problem.layout.columns.get(key, slice(0))
            if columns.stop - (columns.start or 0) == len(prior.mean):
                scale = torch.as_tensor(factor[problem.layout.rows[key]])
                found[:, columns] = (prior.mean.exp() / scale).to(found)[:, None]
                found = torch.minimum(found, block.upper)
    return found


def _fit_block(problem, solver, block, piece, init, previous, n_starts, outcome) -> None:
    """Fit one block and write what comes out of it."""
    rest = settle(problem, block, piece, outcome) if solver.is_exact else None
    if rest is not None:
        outcome.info["iterations"] = max(outcome.info.get("iterations", 0), 1)
        if not len(rest):
            return
    index = np.arange(piece.start, piece.stop)
    if rest is not None:
        # They are few, and what is wrong with them may be a matter of precision.
        block, index = block.select(rest).to(torch.float64), index[rest.numpy()]
    status, valid, worth = _triage(block)
    outcome.n_valid[place_of(index)] = valid.cpu().numpy()
    if not bool(worth.all()):
        kept = worth.cpu().numpy()
        outcome.leave_out(index[~kept])
        outcome.status[index[~kept]] = status.cpu().numpy()[~kept]
        outcome.dof[index[~kept]] = 0
        if not kept.any():
            return
        block, index = block.select(worth.nonzero()[:, 0]), index[kept]
        previous = None if previous is None else previous[:, torch.as_tensor(kept)]
    if not solver.needs_start:
        solution = solver.solve(block, block.nothing())
        finish_block(problem, block, solution, index, outcome)
        outcome.info["iterations"] = max(outcome.info.get("iterations", 0), solution.info.get("iterations", 0))
        return
    first = starts(problem, block, index, init, previous, n_starts)
    block, solution = _solve(problem, solver, block, first)
    if init and block.terms:
        solution = _hear_the_data(solver, block, solution)
    if n_starts > 1:
        solution = _look_again(solver, block, solution)
        settle_roles(block, solution)
    solution = restart(solver, block, solution, problem.seed, _put)
    finish_block(problem, block, solution, index, outcome)
    outcome.info["iterations"] = max(outcome.info.get("iterations", 0), solution.info.get("iterations", 0))


def _triage(block: PixelBlock):
    """Which pixels can be fitted, and the status of those that cannot."""
    valid = block.n_valid
    needed = 1 if block.priors else block.n_free
    worth = valid >= max(needed, 1)
    status = block.flags.to(torch.int32)
    status = torch.where(worth | (valid == 0), status, status | int(Status.UNDERDETERMINED))
    status = torch.where(valid == 0, status | int(Status.MASKED), status)
    return status, valid, worth


def _solve(problem, solver, block, first) -> tuple[PixelBlock, Solution]:
    if not problem.has_noise_model:
        return block, solver.solve(block, first)
    for _ in range(_NOISE_ROUNDS):
        block = block.with_weights_from(first[0])
        solution = solver.solve(block, first)
        first = solution.free[None]
    return block.with_weights_from(solution.free), solution


def _hear_the_data(solver, block, solution) -> Solution:
    """After a start that the user gave: solve once more where the data's own start is better than its end."""
    found = find_starts(block)[0]
    reached = block.objective(solution.free)
    # A given start may lose the line, and nothing about a line that is lost tells where it is.
    index = (block.objective(found) < reached).nonzero()[:, 0]
    if len(index):
        again = solver.solve(block.select(index), found[None, :, index])
        better = block.select(index).objective(again.free) < reached[index]
        _put(solution, index[better], again, better)
    return solution


def _look_again(solver, block, solution) -> Solution:
    """Solve once more where a line looks misplaced, and keep what is better."""
    if solution.quadratic is None:
        return solution
    offers, promising = find_again(block, solution.free)
    index = promising.any(0).nonzero()[:, 0]
    if not len(index):
        return solution
    # Beside the solution itself, so that a solver that tries several starts gives up those that come to nothing.
    own = solution.free[:, index]
    again = solver.solve(
        block.select(index), torch.stack([own, *torch.where(promising[:, None], offers, solution.free)[..., index]])
    )
    before, after = solution.quadratic[0][index], again.quadratic[0]
    better = after < before - 1e-6 * before.abs()
    _put(solution, index[better], again, better)
    return solution


def _put(solution: Solution, index: torch.Tensor, other: Solution, which: torch.Tensor) -> None:
    """Replace some pixels of a solution by those of another, in place."""
    pairs = [(getattr(solution, name), getattr(other, name)) for name in ("free", "status", "covariance", "leverage")]
    for mine, its in [*pairs, *zip(solution.quadratic or (), other.quadratic or (), strict=True)]:
        if mine is not None and its is not None:
            mine[..., index] = its[..., which]


def pixel_solution(
    problem: Problem, local: Solver | None, init: Mapping[str, np.ndarray], n_starts: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pixel's own solution ``(k, pixels)``, or its start values, and for which pixels there is one.

    Pixels without data of their own have the numbers of the nearest that has; all are NaN where there is none at all.
    """
    start = torch.zeros((problem.n_free, problem.n_pixels), dtype=problem.dtype, device=problem.device)
    known = torch.zeros(problem.n_pixels, dtype=torch.bool, device=problem.device)
    whole = problem.whole()
    _, _, worth = _triage(whole)
    for piece in problem.slices():
        index = torch.arange(piece.start, piece.stop, device=problem.device)
        keep = index[worth[index]]
        if not len(keep):
            continue
        if local is not None and not local.needs_start:
            part = piece if len(keep) == len(index) else keep
            block = whole.select(part)
            found = local.solve(block, block.nothing()).free
            start[:, part], known[part] = found, torch.isfinite(found).all(0)
            continue
        block = whole.select(keep)
        first = starts(problem, block, keep.cpu().numpy(), init, None, n_starts or _default_starts(problem))
        if local is not None and not problem.mixes_pixels:
            block, solution = _solve(problem, local, block, first)
            if init and block.terms:
                solution = _hear_the_data(local, block, solution)
            first = solution.free[None]
        start[:, keep] = first[0]
        known[keep] = torch.isfinite(first[0]).all(0)
    if not bool(known.any()):
        return torch.full_like(start, torch.nan), known
    return start if bool(known.all()) else start[:, _nearest(known, problem.grid.shape)], known


def neighbourly_start(problem: Problem, free: torch.Tensor) -> torch.Tensor:
    """A start for coupled maps: the pixels' own solutions, but the neighbours' median where that costs less.

    At low signal some pixels sit in a far minimum of their own, from which no small step leads to where priors that
    couple pixels would have them.
    """
    if problem.mixes_pixels or not problem.coupled_priors():
        return free
    for chart in problem.charts:
        free = chart.settled(free)
    shape = problem.grid.shape
    size = [min(n, 5) for n in shape]

    def medians(rows) -> torch.Tensor:
        found = [median_filter(row.reshape(shape), size=size).reshape(-1) for row in rows.cpu().numpy()]
        return torch.as_tensor(np.stack(found)).to(free)

    median = medians(free)
    for chart in problem.charts:
        median = chart.replaced(median, chart.inverse(*medians(torch.stack(chart.forward(*free[chart.columns])))))
    _, _, stiffness = problem.coupled_quadratic(median)
    own, of_median = problem.whole().objective(free), problem.whole().objective(median)
    apart = 0.5 * (stiffness * problem.step_between(median, free).square()).sum(0)
    return torch.where(of_median < own + apart, median, free)


def _run_whole(problem, solver, init, n_starts, outcome, local) -> None:
    """A whole-map solver, started from each pixel's own solution where that can be had."""
    flags, _, known = _triage(problem.whole())
    if solver.heeds_start(problem):
        start, known = pixel_solution(problem, local, init, n_starts)
    else:
        start = torch.zeros((problem.n_free, problem.n_pixels), dtype=problem.dtype, device=problem.device)
    if not bool(known.any()):
        outcome.status[:] = flags.cpu().numpy()
        outcome.dof[:] = 0
        return
    problem.renew_weights(start)
    if not problem.is_linear:
        start = neighbourly_start(problem, start)
    solution = solver.solve(problem, start[None])
    for _ in range(_NOISE_ROUNDS - 1 if problem.has_noise_model else 0):
        problem.renew_weights(solution.free)
        solution = solver.solve(problem, solution.free[None])
    finish_whole(problem, solution, flags, outcome)


def _nearest(known: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """For each pixel the nearest known one: where those without data of their own start from."""
    places = distance_transform_edt(~known.cpu().numpy().reshape(shape), return_distances=False, return_indices=True)
    return torch.as_tensor(np.ravel_multi_index(tuple(places), shape).reshape(-1), device=known.device)
