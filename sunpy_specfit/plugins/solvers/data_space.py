"""More unknowns than data, and a Gaussian prior: systems as large as the data."""

from __future__ import annotations

import torch

from ...core.factored import FactoredCovariance
from ...core.gaussian import BoundGaussian
from ...core.quantities import Quantities
from ...core.solver import Solution, Solver
from ...core.status import Status
from ...numerics import data_space, packed
from ...numerics.threads import side_by_side
from .log_map import LogMap
from .penalty_rows import PenaltyRows, linear_rows

__all__ = ["DataSpace"]

# Pixels worked on at a time, so that their numbers stay in the processor's cache.
_PIXELS = 4096
# Where no datum stands this many sigma above nothing, the answer is the prior's.
_FAINT = 3.0


class DataSpace(Solver):
    """The posterior of a vector of which there are fewer data than unknowns, such as a DEM, from m by m systems.

    With a Gaussian prior of mean m and covariance B Bᵀ on the vector, or on its logarithm, the unknowns are m + B z
    with z ~ N(0, 1). A linear model is solved at once. On the logarithm, where positivity is exact, each step is the
    Gauss-Newton step from where the last one ended, damped where the objective would rise; other priors of single
    pixels, such as a `Hinge`, may then act on what is linear in the vector, and count like data. Bounded from below at
    zero, without the logarithm, an active set is kept.

    Parameters
    ----------
    max_iterations : int
        Steps, at the most.
    tolerance : float
        Converged where the step is shorter than this many sigma.

    References
    ----------
    Rodgers (2000), Inverse Methods for Atmospheric Sounding, https://doi.org/10.1142/3171, equation 5.10; Tarantola
    (2005), https://doi.org/10.1137/1.9780898717921; Bertsekas (1982), https://doi.org/10.1137/0320018

    Examples
    --------
    >>> from sunpy_specfit import DataSpace
    >>> DataSpace(tolerance=1e-3)
    DataSpace(tolerance=0.001)
    """

    name = "data_space"
    references = ("10.1142/3171", "10.1137/1.9780898717921")
    preference = 70
    whole_map = False
    needs_start = False
    factored = True

    def __init__(self, *, max_iterations: int = 50, tolerance: float = 1e-2):
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def accepts(self, problem) -> str | None:
        reason = self.suits(problem)
        if reason is None and problem.couples_pixels:
            reason = (
                "data_space solves pixel by pixel, and a prior, an operator or a shared parameter couples the pixels "
                "here; use solver='gauss_newton'"
            )
        return reason

    def suits(self, problem) -> str | None:
        own = [prior for prior, _ in problem.priors if isinstance(prior, BoundGaussian)]
        logarithm = any(prior.logarithm for prior in own)
        instead = f"use solver='{'gauss_newton' if logarithm else 'levenberg_marquardt'}'"
        others = [names for prior, names in problem.priors if not prior.couples_pixels and prior not in own]
        if len(own) != 1:
            return f"data_space needs one Gaussian prior with a full covariance on a vector, and no other; {instead}"
        if others and not own[0].logarithm:
            return f"data_space knows other priors beside one on the logarithm only; {instead}"
        if not problem.is_linear:
            return f"data_space needs a model that is linear in all that is free, and Gaussian noise; {instead}"
        layout = problem.layout
        one = len(problem.terms) == 1 and problem.terms[0].frame.is_identity and problem.simple
        if (
            not one
            or layout.free_keys != (layout.resolve(own[0].quantity),)
            or any(t.model.operators for t in problem.terms)
        ):
            return f"data_space knows a single vector and nothing else; {instead}"
        if bool(torch.isfinite(problem.upper).any()):
            return f"data_space keeps no upper bounds; {instead}"
        if own[0].logarithm and not bool((problem.lower == 0).all()):
            return f"a prior on the logarithm needs a lower bound of zero; {instead}"
        for names in others:
            if linear_rows(Quantities(layout, names, problem.physical_auxiliary), problem.transform) is None:
                return (
                    f"data_space knows priors on single quantities that are linear in {own[0].quantity!r} only, and "
                    f"{' and '.join(map(repr, names))} is not; use solver='gauss_newton'"
                )
        return None

    def solve(self, problem, start: torch.Tensor) -> Solution:
        prior = next(prior for prior, _ in problem.priors if isinstance(prior, BoundGaussian))
        others = [
            (other, quantities.names[0], rows)
            for other, quantities in problem.priors
            if other is not prior and (rows := linear_rows(quantities, problem.transform)) is not None
        ]
        term = problem.terms[0]
        _, columns = problem.select(slice(0, 1)).jacobian(start[0][:, :1])
        response = torch.stack([column[:, 0] for column in columns], 1).double().cpu()
        m = response.shape[0]
        if len(columns[0]) != m or term.data.ndim != 2:
            raise ValueError("data_space knows one Stokes parameter only")
        # On the processor, wherever the data are: the systems are tiny, and fit its cache.
        data, weight = term.data.double().cpu(), term.weight.double().cpu()
        if prior.logarithm:
            penalties = PenaltyRows(others) if others else None
            found = LogMap(prior, response, data, weight, penalties)
            found = found.minimise(start[0].double().cpu(), self.max_iterations, self.tolerance)
            free, chi2, leverage, scale = found.free, found.chi2, found.leverage, found.free
            status = torch.where(found.converged, int(Status.CONVERGED), int(Status.MAX_ITERATIONS)).to(torch.int32)
            iterations, counted = found.iterations, weight
            if penalties is not None:
                response = torch.cat([response, penalties.response])
                counted = torch.cat([weight, found.roots.square()])
        else:
            bounded = bool(torch.isfinite(problem.lower).any())
            free, chi2, leverage, status, iterations = self._linear_map(prior, response, data, weight, bounded)
            scale, counted = torch.ones((1, data.shape[1])) if prior.level is None else prior.level[None], weight
        faint = (data * weight.sqrt()).amax(0) < _FAINT
        status = torch.where(faint, status | int(Status.LOW_SIGNAL), status)
        covariance = FactoredCovariance(
            response=response.numpy(),
            root=prior.root.numpy(),
            scale=scale.numpy(),
            weight=counted.contiguous().numpy(),
            logarithm=prior.logarithm,
        )
        free, chi2, leverage, status = (value.to(problem.device) for value in (free, chi2, leverage, status))
        info = {"iterations": iterations}
        return Solution(free=free, status=status, covariance=covariance, leverage=leverage, chi2=chi2, info=info)

    # -- linear ----------------------------------------------------------------------------------

    def _linear_map(self, prior, response, data, weight, bounded: bool):
        """Vectors, chi², leverage and status of all pixels, and the iterations."""
        pixels = data.shape[1]
        free = torch.empty((response.shape[1], pixels), dtype=torch.float64)
        chi2, leverage = torch.empty((2, pixels), dtype=torch.float64)
        status = torch.empty(pixels, dtype=torch.int32)
        method = self._non_negative if bounded else self._linear

        def solve(part: slice) -> int:
            *found, iterations = method(prior.select(part), response, data[:, part], weight[:, part])
            free[:, part], chi2[part], leverage[part], status[part] = found
            return iterations

        parts = [slice(first, first + _PIXELS) for first in range(0, pixels, _PIXELS)]
        return free, chi2, leverage, status, max(side_by_side(solve, parts), default=0)

    @staticmethod
    def _linear(prior, response, data, weight):
        """z = Hᵀ (1 + H Hᵀ)⁻¹ d, without ever forming H: it is the same for all pixels but for a factor a channel."""
        mean, root = prior.mean, prior.root
        base = response @ root
        scale = weight.sqrt() if prior.level is None else weight.sqrt() * prior.level
        d = weight.sqrt() * data - scale * (response @ mean)[:, None]
        lower = data_space.cholesky(_scaled_gram(base, scale))
        told = data_space.solve(lower, d)
        free = mean[:, None] + (root @ base.T) @ (scale * told)
        if prior.level is not None:
            free = free * prior.level
        # What is left of the data is (1 + H Hᵀ)⁻¹ d itself.
        chi2 = told.square().sum(0)
        leverage = len(base) - data_space.trace_inverse(lower)
        status = torch.full((data.shape[-1],), int(Status.CONVERGED), dtype=torch.int32, device=data.device)
        return free, chi2, leverage, status, 1

    # -- at or above zero ------------------------------------------------------------------------

    def _non_negative(self, prior, response, data, weight):
        """Projected Newton steps on the numbers that are not held at zero."""
        k = response.shape[1]
        level = torch.ones_like(data[0]) if prior.level is None else prior.level
        whitened = (response[:, :, None] * (weight.sqrt() * level)[:, None]).permute(2, 0, 1)  # (pixels, m, k)
        precision = prior.precision
        hessian = whitened.mT @ whitened + precision
        right = (whitened * (weight.sqrt() * data).T[:, :, None]).sum(1) + precision @ prior.mean
        v = prior.mean.clamp_min(0).expand(len(hessian), k).clone()
        converged = torch.zeros(len(v), dtype=torch.bool, device=v.device)
        active, iterations = torch.arange(len(v), device=v.device), 0
        while len(active) and iterations < self.max_iterations:
            iterations += 1
            h, b, here = hessian[active], right[active], v[active]
            gradient = (h @ here[..., None])[..., 0] - b
            held = (here <= 0) & (gradient > 0)
            moving = ~held
            masked = h * (moving[:, :, None] & moving[:, None, :])
            masked = masked + torch.diag_embed(held.to(h))
            factor = torch.linalg.cholesky_ex(masked)[0]
            step = -torch.cholesky_solve((gradient * moving)[..., None], factor)[..., 0]
            best, value = here, _quadratic(h, b, here)
            todo = torch.ones(len(active), dtype=torch.bool, device=v.device)
            length = 1.0
            for _ in range(12):
                trial = (here + length * step).clamp_min(0)
                there = _quadratic(h, b, trial)
                better = todo & (there <= value)
                best = torch.where(better[:, None], trial, best)
                todo = todo & ~better
                if not bool(todo.any()):
                    break
                length *= 0.5
            moved = best - here
            v[active] = best
            size = (moved * (h @ moved[..., None])[..., 0]).sum(-1)
            done = size <= self.tolerance**2
            converged[active[done]] = True
            active = active[~done]
        lower = data_space.cholesky(_scaled_gram(response @ prior.root, weight.sqrt() * level))
        leverage = response.shape[0] - data_space.trace_inverse(lower)
        free = v.T * level
        chi2 = ((data - response @ free).square() * weight).sum(0)
        status = torch.where(converged, int(Status.CONVERGED), int(Status.MAX_ITERATIONS)).to(torch.int32)
        status = torch.where((v <= 0).any(1), status | int(Status.AT_BOUND), status)
        return free, chi2, leverage, status, iterations


def _quadratic(h, b, v):
    return (v * (0.5 * (h @ v[..., None])[..., 0] - b)).sum(-1)


def _scaled_gram(base: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """1 + H Hᵀ, packed, where H is base times a factor for each datum and pixel."""
    m, product = len(base), base @ base.T
    out = scale.new_empty((m * (m + 1) // 2, scale.shape[-1]))
    for i in range(m):
        for j in range(i + 1):
            torch.mul(scale[i], scale[j], out=out[packed.index(i, j)]).mul_(product[i, j])
        out[packed.index(i, i)] += 1.0
    return out
