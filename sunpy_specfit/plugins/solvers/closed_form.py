"""Linear models, solved at once."""

from __future__ import annotations

import torch

from ...core.compressed import CompressedBlock
from ...core.solver import Solution, Solver
from ...core.status import Status
from ...numerics import packed

__all__ = ["ClosedForm"]


class ClosedForm(Solver):
    """The least-squares solution of models whose parameters all enter linearly: one small system a pixel.

    Nothing is iterated and no start is sought. The covariance is exact for Gaussian noise.

    Examples
    --------
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> result = specfit.fit(gaussian_cube((2, 3)), specfit.Polynomial(2))
    >>> result.meta["solver"]
    'ClosedForm()'
    """

    name = "closed_form"
    preference = 60
    whole_map = False
    needs_start = False
    exact = True

    def accepts(self, problem) -> str | None:
        reason = self.suits(problem)
        if reason is None and problem.couples_pixels:
            reason = (
                "closed_form solves pixel by pixel, and a prior, an operator or a shared parameter couples the pixels "
                "here; use solver='gauss_newton' (or 'adam', 'lbfgs')"
            )
        return reason

    def suits(self, problem) -> str | None:
        instead = "use solver='levenberg_marquardt'"
        if not problem.is_linear:
            return f"closed_form needs a model that is linear in all free parameters, and Gaussian noise; {instead}"
        if bool(torch.isfinite(problem.lower).any() | torch.isfinite(problem.upper).any()):
            return f"closed_form keeps no bounds, and a parameter has one; {instead}"
        if problem.priors and not all(prior.couples_pixels for prior, _ in problem.priors):
            return f"closed_form knows the data only, and there is a prior on single pixels; {instead}"
        return None

    def solve(self, problem, start: torch.Tensor) -> Solution:
        if isinstance(problem, CompressedBlock):
            # The quadratic itself: one step from zero to its minimum.
            matrix, vector = problem.matrix, problem.vector
            found = packed.solve_and_invert(matrix, vector)
            free, covariance, undetermined = found or (packed.solve(matrix.double(), vector.double()), None, None)
            objective = 0.5 * problem.constant.to(free)
            for own, right in zip(free, vector, strict=True):
                objective.sub_(own * right, alpha=0.5)
        else:
            free, covariance, undetermined = start[0], None, None
            _, matrix, vector = problem.linearize(free)
            solve = packed.factorize(matrix)
            free = free + solve(vector)
            # A second time, to remove what single precision left. Of so short a step the quadratic tells all.
            objective, _, vector = problem.linearize(free)
            step = solve(vector)
            objective, free = objective - 0.5 * (step * vector).sum(0), free + step
        status = torch.full(objective.shape, int(Status.CONVERGED), dtype=torch.int32, device=free.device)
        if not bool(torch.isfinite(objective.sum())):
            status[~torch.isfinite(objective)] = int(Status.FAILED)
        return Solution(
            free=free,
            status=status,
            covariance=covariance,
            undetermined=undetermined,
            quadratic=(objective, matrix, torch.zeros_like(vector)),
            info={"iterations": 1},
            final=True,
        )
