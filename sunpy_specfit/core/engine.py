"""The run: blocks of pixels through start values, solver and errors into arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, median_filter
from tqdm.auto import tqdm

from ..numerics import packed
from .arguments import accepted
from .curvature import Curvature
from .effective_medium import medium_inverse
from .factored import FactoredCovariance
from .loss import excess
from .pixels import PixelBlock
from .posterior import probe_inverse
from .problem import FLOAT32_SIGNAL, Problem
from .restart import restart
from .roles import settle_roles
from .solver import Solution, Solver
from .start import find_again, find_starts
from .status import Status

__all__ = ["Outcome", "neighbourly_start", "pixel_solution", "run"]

# The weight of each sample depends on the light it is a weight for: rounds of fitting with renewed weights.
_NOISE_ROUNDS = 3
# A start for each line, but no more than this.
_MOST_STARTS = 4
# A last step of less than so many sigma is taken unseen.
_SHORT = 0.1
# A component's amplitude below this many sigma: the likelihood is no longer Gaussian in its centre and width.
_LOW_SIGNAL = 10.0


@dataclass
class Outcome:
    """Numbers of all pixels, on the CPU, in the internal frame.

    Attributes
    ----------
    free : `numpy.ndarray`
        ``(k, pixels)``, NaN where there is no answer.
    covariance : `numpy.ndarray` or `FactoredCovariance`
        Packed, ``(k (k + 1) / 2, pixels)``.
    chi2, dof : `numpy.ndarray`
        ``(pixels,)``.
    status, n_valid : `numpy.ndarray`
        int32 ``(pixels,)``.
    info, weights : dict
        What the solver tells, and weights it learned.
    """

    free: np.ndarray
    covariance: np.ndarray
    chi2: np.ndarray
    dof: np.ndarray
    status: np.ndarray
    n_valid: np.ndarray
    info: dict
    weights: dict
    factored: list[tuple[np.ndarray, FactoredCovariance]] = field(default_factory=list)

    @classmethod
    def empty(cls, problem: Problem, *, factored: bool = False) -> Outcome:
        k, pixels = problem.n_free, problem.n_pixels
        # Components of a vector given by angles are differences of large numbers where the vector is short.
        single = problem.dtype == torch.float32 and not problem.layout.angles()
        errors = np.float32 if single else np.float64
        return cls(
            free=np.full((k, pixels), np.nan),
            covariance=np.full((0 if factored else k * (k + 1) // 2, pixels), np.nan, errors),
            chi2=np.full(pixels, np.nan),
            dof=np.full(pixels, np.nan),
            status=np.zeros(pixels, np.int32),
            n_valid=np.zeros(pixels, np.int32),
            info={},
            weights={},
        )

    def joined(self) -> Outcome:
        """The same with the covariance of all pixels, where it came in parts."""
        k, pixels = self.free.shape
        if not self.factored and len(self.covariance) == k * (k + 1) // 2:
            return self
        if not self.factored:  # no pixel had data
            nothing = np.zeros((1, k)), np.zeros((k, 1)), np.full((1, pixels), np.nan), np.zeros((1, pixels))
            return replace(self, covariance=FactoredCovariance(*nothing, logarithm=False))
        return replace(self, covariance=FactoredCovariance.spread(self.free.shape[1], self.factored), factored=[])


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
    outcome = Outcome.empty(problem, factored=solver.factored)
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
        found = find_starts(block, n_starts if not given else 1)
        for column, value in given.items():
            found[:, column] = torch.where(torch.isfinite(value), value, found[:, column])
    if previous is not None:
        earlier = torch.where(torch.isfinite(previous), previous.to(found), found[0])
        found = torch.cat([earlier[None], found])
    return found


def _fit_block(problem, solver, block, piece, init, previous, n_starts, outcome) -> None:
    """Fit one block and write what comes out of it."""
    index = np.arange(piece.start, piece.stop)
    status, valid, worth = _triage(block)
    outcome.n_valid[index] = valid.cpu().numpy()
    if not bool(worth.all()):
        kept = worth.cpu().numpy()
        outcome.status[index[~kept]] = status.cpu().numpy()[~kept]
        outcome.dof[index[~kept]] = 0
        if not kept.any():
            return
        block, index = block.select(worth.nonzero()[:, 0]), index[kept]
        previous = None if previous is None else previous[:, torch.as_tensor(kept)]
    if not solver.needs_start:
        solution = solver.solve(block, block.nothing())
        _finish(problem, block, solution, index, outcome)
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
    _finish(problem, block, solution, index, outcome)
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


def _finish_factored(block, solution, index, outcome) -> None:
    """Misfit and flags of one block whose solver tells its errors in factored form: there is nothing left to solve."""
    free = solution.free.double()
    chi2 = block.chi2(free.to(block.dtype)) if solution.chi2 is None else solution.chi2
    status = solution.status.to(torch.int32) | block.flags.to(torch.int32)
    failed = ~torch.isfinite(free.sum(0))
    status = torch.where(failed, (status | int(Status.FAILED)) & ~int(Status.CONVERGED), status)
    part = slice(int(index[0]), int(index[-1]) + 1) if _contiguous(index) else index
    for array, value in ((outcome.free, free), (outcome.chi2, chi2), (outcome.dof, block.n_valid - solution.leverage)):
        value = value.double()
        array[..., part] = (torch.where(failed, torch.nan, value) if bool(failed.any()) else value).cpu().numpy()
    outcome.factored.append((index, solution.covariance))
    outcome.status[part] = status.cpu().numpy()


def _finish(problem, block, solution, index, outcome) -> None:
    """Errors, misfit and flags of one block, after a last step; in float64 where float32 could not tell."""
    if isinstance(solution.covariance, FactoredCovariance):
        _finish_factored(block, solution, index, outcome)
        return
    free, status = solution.free, solution.status | block.flags.to(torch.int32)
    quadratic = None if problem.has_noise_model else solution.quadratic
    if block.dtype != torch.float64 and block.terms and block.peak_signal > FLOAT32_SIGNAL:
        free, quadratic = free.double(), None
        block = _in_double(problem, index, free)
    objective, matrix, vector = quadratic or block.linearize(free)
    if not solution.final or quadratic is None:
        free, objective = _last_step(block, free, objective, matrix, vector)
    free = block.fold(free)
    chi2 = block.chi2(free) if block.priors else 2 * objective
    if solution.covariance is not None:
        covariance, undetermined = solution.covariance.double(), None
    else:
        covariance, undetermined = packed.inverse(matrix)
    valid = block.n_valid
    if solution.leverage is not None:
        spent = solution.leverage.double()
    elif block.priors:
        _, data_only, _ = replace(block, priors=[]).linearize(free)
        spent = _trace(covariance, data_only)
    else:
        spent = block.n_free - (undetermined.sum(0) if undetermined is not None else 0)
    status = status | _flags(problem, block, free, covariance, undetermined)
    status = status | _own_flags(problem, block, free, covariance, index)
    failed = ((status & int(Status.FAILED)) > 0) | ~torch.isfinite(free).all(0)
    status = torch.where(failed, (status | int(Status.FAILED)) & ~int(Status.CONVERGED), status)
    for array, value in (
        (outcome.free, free),
        (outcome.covariance, covariance),
        (outcome.chi2, chi2),
        (outcome.dof, valid - spent),
    ):
        value = torch.where(failed, torch.nan, value.double())
        with np.errstate(over="ignore"):  # beyond what the type holds a variance is infinite, as good as unknown
            array[..., index] = value.cpu().numpy()
    outcome.status[index] = status.cpu().numpy()


def _in_double(problem, index, free) -> PixelBlock:
    double = problem.block(index if not _contiguous(index) else slice(int(index[0]), int(index[-1]) + 1), torch.float64)
    return double.with_weights_from(free)


def _contiguous(index: np.ndarray) -> bool:
    return int(index[-1]) - int(index[0]) + 1 == len(index)


def _last_step(block, free, objective, matrix, vector) -> tuple[torch.Tensor, torch.Tensor]:
    """One undamped step where it helps, and the objective there."""
    inside = (free > block.lower) & (free < block.upper)
    slope = torch.where(inside, vector, 0.0)
    step = torch.where(inside, packed.solve(matrix, slope), 0.0)
    trial = torch.minimum(torch.maximum(free + step, block.lower), block.upper)
    promised = (slope * step).sum(0)
    there = objective - 0.5 * promised
    # Of so short a step the quadratic tells what comes of it.
    short = inside.all(0) & (promised <= _SHORT**2) & (trial == free + step).all(0) & (there >= 0)
    index = (~short).nonzero()[:, 0]
    if len(index):
        there[index] = block.select(index).objective(trial[:, index])
    better = there <= objective * (1 + 8 * torch.finfo(there.dtype).eps)
    return torch.where(better, trial, free), torch.where(better, there, objective)


def _trace(covariance: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    k = packed.size(data.shape[0])
    finite = torch.where(torch.isfinite(covariance), covariance, 0.0)
    return sum(finite[packed.index(i, j)] * data[packed.index(i, j)] for i in range(k) for j in range(k))


def _flags(problem, block, free, covariance, undetermined) -> torch.Tensor:
    status = torch.zeros(free.shape[-1], dtype=torch.int32, device=free.device)
    at_bound = ((free <= block.lower) | (free >= block.upper)).any(0)
    status[at_bound] |= int(Status.AT_BOUND)
    if undetermined is not None:
        status[undetermined.any(0)] |= int(Status.UNCONSTRAINED)
    layout = problem.layout
    for component, keys in zip(layout.components, layout.keys, strict=True):
        if not any(parameter.location for parameter in component.parameters.values()):
            continue
        for name in component.linear_parameters:
            columns = layout.columns.get(keys[name])
            if columns is None or columns.stop - columns.start != 1:
                continue
            j = columns.start
            sigma = covariance[packed.index(j, j)].clamp_min(0).sqrt()
            status[free[j].abs() < _LOW_SIGNAL * sigma] |= int(Status.LOW_SIGNAL)
    return status


def _own_flags(problem, block, free, covariance, index) -> torch.Tensor:
    """What the models themselves have to say of the answer."""
    status = torch.zeros(free.shape[-1], dtype=torch.int32, device=free.device)
    layout = problem.layout
    if all(component.flag is None for component in layout.components):
        return status
    factor, offset = (torch.as_tensor(v, device=free.device)[:, None] for v in layout.scales())
    theta = factor * block.theta(free.to(block.dtype)).double() + offset
    transform = block.transform.double().tolist()
    variance = torch.stack([_between(covariance, row, row) for row in transform])
    sigma = factor.abs() * variance.clamp_min(0).sqrt()
    part = slice(int(index[0]), int(index[-1]) + 1) if _contiguous(index) else torch.as_tensor(index)
    for component, keys, inputs in zip(layout.components, layout.keys, problem.physical_auxiliary, strict=True):
        if component.flag is None:
            continue
        rows = {name: layout.rows[keys[name]].start for name in component.parameters}

        def between(a: str, b: str, rows=rows) -> torch.Tensor:
            own, other = rows[a], rows[b]
            return factor[own] * factor[other] * _between(covariance, transform[own], transform[other])

        own = accepted(component.flag, {**inputs, "covariance": between})
        own = {n: v[..., part] if torch.is_tensor(v) and v.shape[-1] != 1 else v for n, v in own.items()}
        status |= component.flag(
            {name: theta[row] for name, row in rows.items()}, {name: sigma[row] for name, row in rows.items()}, **own
        ).to(torch.int32)
    return status


def _between(covariance: torch.Tensor, row: list[float], other: list[float]) -> torch.Tensor:
    """The covariance of two rows of θ, given by their shares in the free numbers, ``(pixels,)``."""
    total = torch.zeros_like(covariance[0])
    for i, a in enumerate(row):
        for j, b in enumerate(other):
            # Where a number has no share in a row, its infinite variance must not make that row's unknown.
            if a and b:
                total.add_(covariance[packed.index(i, j)], alpha=a * b)
    return total


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
        block = whole.select(keep)
        if local is not None and not local.needs_start:
            start[:, keep] = local.solve(block, block.nothing()).free
            known[keep] = torch.isfinite(start[:, keep]).all(0)
            continue
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
    return start[:, _nearest(known, problem.grid.shape)], known


def neighbourly_start(problem: Problem, free: torch.Tensor) -> torch.Tensor:
    """A start for coupled maps: the pixels' own solutions, but the neighbours' median where that costs less.

    At low signal some pixels sit in a far minimum of their own, from which no small step leads to where priors that
    couple pixels would have them.
    """
    if problem.mixes_pixels or not problem.coupled_priors():
        return free
    shape = problem.grid.shape
    median = np.stack(
        [median_filter(row.reshape(shape), size=[min(n, 5) for n in shape]).reshape(-1) for row in free.cpu().numpy()]
    )
    median = torch.as_tensor(median).to(free)
    _, _, stiffness = problem.coupled_quadratic(median)
    own, of_median = problem.whole().objective(free), problem.whole().objective(median)
    apart = 0.5 * (stiffness * (free - median).square()).sum(0)
    return torch.where(of_median < own + apart, median, free)


def _run_whole(problem, solver, init, n_starts, outcome, local) -> None:
    """A whole-map solver, started from each pixel's own solution where that can be had."""
    flags = _triage(problem.whole())[0]
    start, known = pixel_solution(problem, local, init, n_starts)
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
    _finish_whole(problem, solution, flags, outcome)


def _nearest(known: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """For each pixel the nearest known one: where those without data of their own start from."""
    if bool(known.all()):
        return torch.arange(known.numel(), device=known.device)
    places = distance_transform_edt(~known.cpu().numpy().reshape(shape), return_distances=False, return_indices=True)
    return torch.as_tensor(np.ravel_multi_index(tuple(places), shape).reshape(-1), device=known.device)


def _finish_whole(problem, solution, flags, outcome) -> None:
    if isinstance(solution.covariance, FactoredCovariance):
        _finish_factored(problem.whole(), solution, np.arange(problem.n_pixels), outcome)
        outcome.n_valid[:] = problem.whole().n_valid.cpu().numpy()
        outcome.info.update(solution.info)
        return
    problem = problem.with_learned(solution.weights)
    whole = problem.whole()
    free = whole.fold(solution.free)
    leverage = solution.leverage
    if solution.covariance is not None:
        covariance, undetermined = solution.covariance.double(), None
    elif problem.couples_pixels:
        curvature = Curvature(problem, free)
        covariance, found, undetermined = medium_inverse(curvature) or probe_inverse(curvature, seed=problem.seed)
        leverage = found if leverage is None else leverage
    else:
        parts = [packed.inverse(_block_matrix(problem, free, part)) for part in problem.slices()]
        covariance, undetermined = torch.cat([p[0] for p in parts], -1), torch.cat([p[1] for p in parts], -1)
        if leverage is None and whole.priors:
            leverage = _trace(covariance, problem.linearize(free, priors=False)[1].matrix)
    chi2 = (
        whole.chi2(free)
        if not problem.mixes_pixels
        else excess(problem.loss_name, problem.residual(free).square()).sum(0)
    )
    valid = whole.n_valid
    spent = leverage.double() if leverage is not None else torch.full_like(covariance[0], problem.n_free)
    status = solution.status.to(torch.int32) | flags | _flags(problem, whole, free.double(), covariance, undetermined)
    status = status | _own_flags(problem, whole, free, covariance, np.arange(problem.n_pixels))
    # Without a sample of its own a pixel has what priors and neighbours say, and nothing where they are silent.
    empty = valid == 0
    free, covariance = free.double().clone(), covariance.clone()
    if undetermined is not None:
        free[undetermined & empty] = torch.nan
    silent = torch.isnan(free).all(0)
    covariance[:, silent] = torch.nan
    status = torch.where(silent, flags, status)
    outcome.free[:] = free.cpu().numpy()
    with np.errstate(over="ignore"):
        outcome.covariance[:] = covariance.cpu().numpy()
    outcome.chi2[:] = chi2.double().where(~silent, torch.nan).cpu().numpy()
    outcome.n_valid[:] = valid.cpu().numpy()
    outcome.dof[:] = (valid - spent).double().where(~empty, 0.0).cpu().numpy()
    outcome.status[:] = status.cpu().numpy()
    outcome.info.update(solution.info)
    outcome.weights = {
        term: {
            position: {name: w.detach().cpu().numpy() for name, w in own.items()} for position, own in operators.items()
        }
        for term, operators in solution.weights.items()
    }


def _block_matrix(problem, free, part) -> torch.Tensor:
    index = torch.arange(part.start, part.stop, device=problem.device)
    return problem.whole().select(index).linearize(free[:, index])[1]
