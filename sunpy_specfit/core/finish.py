"""What a run leaves: numbers of all pixels, and how errors, misfit and flags are added to a solver's answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..numerics import packed
from .arguments import accepted
from .curvature import Curvature
from .effective_medium import medium_inverse
from .factored import FactoredCovariance
from .loss import excess
from .map_sampler import MapSampler
from .pixels import PixelBlock
from .posterior import probe_inverse
from .problem import FLOAT32_SIGNAL, Problem
from .status import Status

__all__ = ["Outcome", "finish_block", "finish_whole", "own_flags", "place_of"]

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
    factored : list
        Covariances in parts, with the pixels that each is of.
    sampler : `MapSampler`, optional
        The solver's own.
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
    sampler: MapSampler | None = None

    @classmethod
    def empty(cls, problem: Problem, *, factored: bool = False, unknown: bool = True) -> Outcome:
        """Room for the numbers of all pixels; NaN, if the unknown ones are not left out one by one: `leave_out`."""
        k, pixels = problem.n_free, problem.n_pixels
        # Components of a vector given by angles are differences of large numbers where the vector is short.
        single = problem.dtype == torch.float32 and not problem.layout.angles()
        errors = np.float32 if single else np.float64
        found = cls(
            free=np.empty((k, pixels)),
            covariance=np.empty((0 if factored else k * (k + 1) // 2, pixels), errors),
            chi2=np.empty(pixels),
            dof=np.empty(pixels),
            status=np.zeros(pixels, np.int32),
            n_valid=np.zeros(pixels, np.int32),
            info={},
            weights={},
        )
        if unknown:
            found.leave_out(slice(None))
        return found

    def leave_out(self, index: slice | np.ndarray) -> None:
        """Nothing is known of some pixels."""
        for numbers in (self.free, self.covariance, self.chi2, self.dof):
            numbers[..., index] = np.nan

    def joined(self) -> Outcome:
        """The same with the covariance of all pixels, where it came in parts."""
        k, pixels = self.free.shape
        if not self.factored and len(self.covariance) == k * (k + 1) // 2:
            return self
        if not self.factored:  # no pixel had data
            nothing = np.zeros((1, k)), np.zeros((k, 1)), np.full((1, pixels), np.nan), np.zeros((1, pixels))
            return replace(self, covariance=FactoredCovariance(*nothing, logarithm=False))
        return replace(self, covariance=FactoredCovariance.spread(self.free.shape[1], self.factored), factored=[])


def finish_factored(block, solution, index, outcome) -> None:
    """Misfit and flags of one block whose solver tells its errors in factored form: there is nothing left to solve."""
    free = solution.free.double()
    chi2 = block.chi2(free.to(block.dtype)) if solution.chi2 is None else solution.chi2
    status = solution.status.to(torch.int32) | block.flags.to(torch.int32)
    failed = ~torch.isfinite(free.sum(0))
    status = torch.where(failed, (status | int(Status.FAILED)) & ~int(Status.CONVERGED), status)
    part = place_of(index)
    for array, value in ((outcome.free, free), (outcome.chi2, chi2), (outcome.dof, block.n_valid - solution.leverage)):
        value = value.double()
        array[..., part] = (torch.where(failed, torch.nan, value) if bool(failed.any()) else value).cpu().numpy()
    outcome.factored.append((index, solution.covariance))
    outcome.status[part] = status.cpu().numpy()


def finish_block(problem, block, solution, index, outcome) -> None:
    """Errors, misfit and flags of one block, after a last step; in float64 where float32 could not tell."""
    if isinstance(solution.covariance, FactoredCovariance):
        finish_factored(block, solution, index, outcome)
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
        covariance, undetermined = solution.covariance.double(), solution.undetermined
    else:
        covariance, undetermined = packed.inverse(matrix)
    valid = block.n_valid
    if solution.leverage is not None:
        spent = solution.leverage.double()
    elif block.priors:
        _, data_only, _ = replace(block, priors=[]).linearize(free)
        spent = _trace(covariance, data_only)
    else:
        undetermined = undetermined if undetermined is not None and bool(undetermined.any()) else None
        spent = block.n_free - (undetermined.sum(0) if undetermined is not None else 0)
    status = status | _flags(problem, block, free, covariance, undetermined)
    status = status | _all_own_flags(problem, block, free, covariance, index)
    failed = (status & int(Status.FAILED)) > 0
    if not bool(torch.isfinite(free.sum())):
        failed = failed | ~torch.isfinite(free).all(0)
    part, some_failed = place_of(index), bool(failed.any())
    if some_failed:
        status = torch.where(failed, (status | int(Status.FAILED)) & ~int(Status.CONVERGED), status)
    for array, value in (
        (outcome.free, free),
        (outcome.covariance, covariance),
        (outcome.chi2, chi2),
        (outcome.dof, valid - spent),
    ):
        value = torch.where(failed, torch.nan, value.double()) if some_failed else value
        with np.errstate(over="ignore"):  # beyond what the type holds a variance is infinite, as good as unknown
            array[..., part] = value.cpu().numpy()
    outcome.status[part] = status.cpu().numpy()


def _in_double(problem, index, free) -> PixelBlock:
    return problem.block(place_of(index), torch.float64).with_weights_from(free)


def place_of(index: np.ndarray) -> slice | np.ndarray:
    """Rising pixel numbers as a slice where none is left out, which is far quicker to read from and write to."""
    first, last = int(index[0]), int(index[-1])
    return slice(first, last + 1) if last - first + 1 == len(index) else index


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
    if bool(torch.isfinite(block.lower).any() | torch.isfinite(block.upper).any()):
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


def _all_own_flags(problem, block, free, covariance, index) -> torch.Tensor:
    """`own_flags`, with the deviations that are in the covariance."""
    if all(component.flag is None for component in problem.layout.components):
        return torch.zeros(free.shape[-1], dtype=torch.int32, device=free.device)
    if block.simple:  # θ is the free numbers themselves
        theta, variance = free.double(), covariance[packed.diagonal_index(block.n_free)]
    else:
        theta = block.theta(free.to(block.dtype)).double()
        variance = torch.stack([_between(covariance, row, row) for row in block.transform.double().tolist()])
    return own_flags(problem, block, theta, variance.clamp_min_(0).sqrt_(), covariance, place_of(index))


def own_flags(problem, block, theta, sigma, covariance, part) -> torch.Tensor:
    """What the models themselves have to say of the answer, int32 ``(pixels,)``.

    Parameters
    ----------
    problem : `Problem`
    block : `PixelBlock`
    theta, sigma : `torch.Tensor`
        All rows θ and their standard deviations, float64 ``(rows, pixels)``, in the internal frame.
    covariance : `torch.Tensor`
        Of the free numbers, packed.
    part : slice or `numpy.ndarray`
        Which pixels of the problem these are.
    """
    layout = problem.layout
    status = torch.zeros(theta.shape[-1], dtype=torch.int32, device=theta.device)
    factor, offset = (torch.as_tensor(v, device=theta.device)[:, None] for v in layout.scales())
    transform = block.transform.double().tolist()
    if bool((factor != 1).any() | (offset != 0).any()):
        theta, sigma = factor * theta + offset, factor.abs() * sigma
    part = part if isinstance(part, slice) else torch.as_tensor(part)
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


def finish_whole(problem, solution, flags, outcome) -> None:
    if isinstance(solution.covariance, FactoredCovariance):
        finish_factored(problem.whole(), solution, np.arange(problem.n_pixels), outcome)
        outcome.n_valid[:] = problem.whole().n_valid.cpu().numpy()
        outcome.info.update(solution.info)
        outcome.sampler = solution.sampler
        return
    problem = problem.with_learned(solution.weights)
    whole = problem.whole()
    free = whole.fold(solution.free)
    leverage = solution.leverage
    if solution.covariance is not None:
        covariance, undetermined = solution.covariance.to(torch.float64, copy=True), None
    elif problem.couples_pixels:
        curvature = solution.curvature
        if curvature is None or curvature.problem is not problem or not torch.equal(solution.free, free):
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
    status = status | _all_own_flags(problem, whole, free, covariance, np.arange(problem.n_pixels))
    # Without a sample of its own a pixel has what priors and neighbours say, and nothing where they are silent.
    empty = valid == 0
    failed = ~torch.isfinite(free).all(0) & ~empty
    free = torch.where(failed, torch.nan, free.double())
    if undetermined is not None and bool(empty.any()):
        free[undetermined & empty] = torch.nan
    silent = torch.isnan(free).all(0)
    if bool(silent.any()):
        covariance[:, silent] = torch.nan
    status = torch.where(silent, flags, status)
    status = torch.where(failed, status | int(Status.FAILED), status)
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
