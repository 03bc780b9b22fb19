"""Gauss-Newton for whole maps, with conjugate gradients."""

from __future__ import annotations

import math

import torch

from ...core.blocks import DenseBlocks
from ...core.curvature import Curvature
from ...core.kink import rest_at_kinks
from ...core.prior import BoundPrior
from ...core.solver import Solution, Solver
from ...core.status import Status
from ...numerics import packed

__all__ = ["GaussNewton"]

# Steps are found to this part of the tolerance.
_EXACT = 0.1
# Products with the curvature for what is solved at once, at the most.
_PRODUCTS = 1000


class GaussNewton(Solver):
    """Newton steps for all pixels together, each found by preconditioned conjugate gradients.

    For maps whose pixels are coupled, by a prior, an operator or a shared parameter. The data enter as one small
    quadratic for each pixel, whatever the number of wavelengths; the preconditioner is the inverse of each pixel's
    block, or, where pixels are coupled strongly by priors that tell it, that among cosines. A step is taken only where
    the true objective falls. Damping belongs to each pixel, by how well its own quadratic foretold its misfit, so that
    a few stubborn pixels do not hold back the others. Bounds are kept by projection.

    Parameters
    ----------
    max_iterations : int
        Linearisations, at the most.
    tolerance : float
        Converged where a step is shorter than this many sigma.

    References
    ----------
    Marquardt (1963), https://doi.org/10.1137/0111030; Hestenes & Stiefel (1952),
    https://doi.org/10.6028/jres.049.044

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    >>> prior = specfit.Smooth("velocity", scale=5 * u.km / u.s)
    >>> result = specfit.fit(gaussian_cube((4, 5)), model, priors=prior, solver=specfit.GaussNewton(tolerance=1e-3))
    >>> result.meta["solver"]
    'GaussNewton(tolerance=0.001)'
    """

    name = "gauss_newton"
    references = ("10.1137/0111030", "10.6028/jres.049.044")
    preference = 40

    def __init__(self, *, max_iterations: int = 100, tolerance: float = 1e-2):
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def accepts(self, problem) -> str | None:
        for prior, _ in problem.coupled_priors():
            if type(prior).quadratic is BoundPrior.quadratic:
                return (
                    "gauss_newton needs the curvature of a prior that couples pixels, and "
                    f"{type(prior).__name__} offers its energy only; use solver='lbfgs' (or 'adam')"
                )
        return None

    def heeds_start(self, problem) -> bool:
        # From zero the steps add up to the light itself, and rounding counts by it: in single precision, and where only
        # spectra tell what the data say of a pixel, its own solution is the better start.
        precise = problem.dtype == torch.float64 and not bool(problem.shared.any())
        return not (_is_one_quadratic(problem) and problem.compressible and precise)

    def solve(self, problem, start: torch.Tensor) -> Solution:
        if _is_one_quadratic(problem):
            return self._at_once(problem, start[0])
        lower, upper = problem.flat_bounds()

        def inside(flat):
            return torch.minimum(torch.maximum(flat, lower), upper)

        def pushed_out(flat, at):
            return ((flat <= lower) & (at.gradient > 0)) | ((flat >= upper) & (at.gradient < 0))

        flat = inside(problem.flatten(start[0]))
        here = Curvature(problem, problem.unflatten(flat))
        damping = torch.zeros_like(here.free[0])
        products, iterations = 0, 0
        # A prior's quadratic may be of a quantity that is no linear one: the slope after a step must tell.
        quadratic = problem.is_linear and all(prior.is_quadratic for prior, _ in problem.priors)
        length = torch.full_like(damping, torch.inf if not problem.is_linear else 0.0)
        resting, watch = torch.zeros_like(here.free, dtype=torch.bool), _has_kinks(problem)
        while iterations < self.max_iterations:
            iterations += 1
            if watch:
                before = resting.any(0)
                here, resting = rest_at_kinks(here, before | (damping > 0))
                damping[resting.any(0) & ~before] = 0.0
                flat = problem.flatten(here.free)
            held = pushed_out(flat, here)
            held = held | resting.reshape(-1) if watch else held
            # Far from the end a rough step serves as well as an exact one; at the end a small part of sigma is enough.
            near = bool((length < 1.0).all())  # where all is linear, from the beginning
            step, spent = self._step(here, held, damping, 1e-6 if near else 1e-2)
            products += spent
            beyond = bool((inside(flat + step) != flat + step).any())
            step = problem.unflatten(inside(flat + step) - flat)
            trial = inside(problem.flatten(problem.moved(problem.unflatten(flat), step)))
            length = self._length(here, step) * (1 + damping)
            if near and not bool((length > self.tolerance).any()):
                flat, here = self._better(problem, flat, here, trial)
                break
            there = Curvature(problem, problem.unflatten(trial))
            # Where bounds cut the step short, or let go of a number, others have to move once more.
            settled = not beyond and not bool((held & ~pushed_out(trial, there)).any())
            if quadratic and settled and self._as_told(here, there, problem.flatten(step)):
                flat, here, length = trial, there, torch.zeros_like(length)
                break
            surprise = self._surprise(here, there, step, damping)
            wrong = surprise > 1.0
            if here.pixel_objective is not None and not problem.shared.any() and bool(wrong.any()):
                # These stay where they are, with shorter steps to come, and do not hold back the others.
                there = there.replace_pixels(here, wrong)
                trial = problem.flatten(there.free)
            if there.objective <= here.objective + 1e-12 * abs(here.objective):
                flat, here = trial, there
                factor = torch.where(surprise > 1.0, 8.0, torch.where(surprise > 0.25, 2.0, 0.1))
                damping = torch.where(surprise > 0.25, damping.clamp_min(1e-3), damping) * factor
                damping = torch.where(damping < 1e-4, 0.0, damping)
            else:
                # Those that were surprised most are to blame; when none was, all are.
                guilty = surprise > 0.1
                damping = torch.where(guilty | ~guilty.any(), (damping * 8).clamp_min(1e-2), damping)
                if float(damping.amax()) > 1e12:
                    break
        status = torch.where(length <= self.tolerance, int(Status.CONVERGED), int(Status.MAX_ITERATIONS))
        return Solution(
            free=problem.unflatten(flat),
            status=status.to(torch.int32),
            info={"iterations": iterations, "products": products},
            curvature=here,
        )

    def _at_once(self, problem, free: torch.Tensor) -> Solution:
        """The minimum of an objective that is one quadratic."""
        data = None
        if problem.compressible and not bool(free.any()):
            objective, matrix, vector = problem.whole().at_zero()
            data = objective, DenseBlocks(matrix), vector
        if bool(problem.shared.any()):
            free = problem.unflatten(problem.flatten(free))
        here = Curvature(problem, free, data=data)
        # The error that is left decides, in sigma: a part of the right-hand side is one of the brightest pixels'.
        part = 1e-12 if here.free.dtype == torch.float64 else 1e-6
        solved = here.solve(here.gradient, tolerance=part, error=_EXACT * self.tolerance, max_iterations=_PRODUCTS)
        status = Status.CONVERGED if solved.iterations < _PRODUCTS else Status.MAX_ITERATIONS
        return Solution(
            free=problem.unflatten(solved.x).neg_().add_(here.free),
            status=torch.full((problem.n_pixels,), int(status), dtype=torch.int32, device=free.device),
            info={"iterations": 1, "products": solved.iterations},
            curvature=here,
        )

    def _step(self, here: Curvature, held, damping, tolerance: float) -> tuple[torch.Tensor, int]:
        """The step to the minimum of the quadratic at hand, flat, and the products it took."""
        error = _EXACT * self.tolerance
        solved = here.solve(-here.gradient, held=held, damping=damping, tolerance=tolerance, error=error)
        return solved.x, solved.iterations

    @staticmethod
    def _length(here: Curvature, step: torch.Tensor) -> torch.Tensor:
        """The step of each pixel, in sigma of its own block."""
        return (step * packed.matvec(here.block_matrix(), step)).sum(0).clamp_min(0.0).sqrt()

    @staticmethod
    def _as_told(here: Curvature, there: Curvature, step: torch.Tensor) -> bool:
        """Whether the slope after a step is what the quadratic had said, so that it is no approximation."""
        problem, diagonal = here.problem, here.block_matrix()[packed.diagonal_index(len(here.free))]
        # In sigma, number by number: what one of them says must not drown what another does.
        unit = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
        told, size, found = (
            problem.unflatten(v) * unit for v in (here.gradient + here.product(step), here.gradient, there.gradient)
        )
        off, size = ((v.square().mean(-1)).sqrt() for v in (found - told, size))
        return bool((off <= 1e-3 + 1e-5 * size).all())

    @staticmethod
    def _surprise(here: Curvature, there: Curvature, step: torch.Tensor, damping: torch.Tensor) -> torch.Tensor:
        """How far each pixel's misfit came out above what its quadratic had said, in units of the curvature's part.

        Damping adds to the curvature: where the true one is the larger, it takes that much for a step to be trusted.
        """
        bend = 0.5 * (step * here.blocks.matvec(step)).sum(0)
        if here.pixel_objective is None:
            # Behind an operator that mixes pixels, misfit belongs to no pixel: all are surprised alike.
            flat = here.problem.flatten(step)
            bent = 0.5 * float(flat @ here.product(flat))
            stiff = max(bent * (1 + float(damping[0])), 1e-6)
            surprise = (there.objective - here.objective - float(here.gradient @ flat) - bent) / stiff
            return torch.full_like(bend, surprise if math.isfinite(surprise) else math.inf)
        told = bend - (step * here.vector).sum(0)
        found = there.pixel_objective - here.pixel_objective
        # Far below one sigma there is only rounding to be surprised by.
        surprise = (found - told) / (bend * (1 + damping)).clamp_min(1e-6)
        return torch.where(torch.isfinite(surprise), surprise, torch.inf)

    @staticmethod
    def _better(problem, flat, here, trial):
        """The last short step, where it helps."""
        there = Curvature(problem, problem.unflatten(trial))
        return (trial, there) if there.objective <= here.objective else (flat, here)


def _is_one_quadratic(problem) -> bool:
    return problem.is_quadratic and not problem.mixes_pixels


def _has_kinks(problem) -> bool:
    """Whether there are vectors that may vanish, in pixels of their own."""
    alone = not problem.mixes_pixels and not bool(problem.shared.any())
    return alone and any(chart.chart.vector for chart in problem.charts)
