"""Coordinates in which a gradient's step of one is about one sigma, whatever the units."""

from __future__ import annotations

import torch

from ...core.curvature import Curvature
from ...core.solver import Solution
from ...core.status import Status
from ...numerics import packed
from .transforms import Transform

__all__ = ["Whitened"]


class Whitened:
    """A problem for descent by gradients: each pixel's numbers rotated and stretched so that its curvature is one.

    Limits are kept by `Transform`. Weights of operators that learn stand at the end, as they are.

    Parameters
    ----------
    problem : `~sunpy_specfit.core.problem.Problem`
    start : `torch.Tensor`
        ``(k, pixels)``.

    Attributes
    ----------
    numbers : `torch.Tensor`
        What to vary, flat, zero at the start; it requires a gradient.
    weights : dict
        Weights of operators, leaves that require a gradient.
    """

    def __init__(self, problem, start: torch.Tensor):
        self.problem = problem
        lower, upper = problem.lower, problem.upper
        start = torch.minimum(torch.maximum(start, lower), upper)
        start = problem.unflatten(problem.flatten(start))
        here = Curvature(problem, start)
        diagonal = here.block_matrix()[packed.diagonal_index(problem.n_free)]
        sigma = torch.where(diagonal > 0, diagonal.clamp_min(torch.finfo(diagonal.dtype).tiny).rsqrt(), torch.nan)
        typical = sigma.nanmedian(-1, keepdim=True).values.nan_to_num(1.0)
        self.transform = Transform(lower, upper, typical)
        origin = self.transform.inverse(start)
        self.origin = problem.flatten(origin)
        self.to_unlimited = self._whitening(here, self.transform.slope(origin), typical)
        self.numbers = torch.zeros_like(self.origin, requires_grad=True)
        self.weights = problem.operator_weights()
        for operators in self.weights.values():
            for own in operators.values():
                for weight in own.values():
                    weight.requires_grad_()

    def _whitening(self, here: Curvature, slope: torch.Tensor, typical: torch.Tensor):
        """A function from flat white numbers to flat displacements of the unlimited ones: L⁻ᵀ v in each pixel."""
        problem, k = self.problem, self.problem.n_free
        shared = problem.shared
        matrix = here.block_matrix()
        floor = 1e-6 / typical.square()
        for i in range(k):
            for j in range(i + 1):
                row = packed.index(i, j)
                matrix[row] *= slope[i] * slope[j]
                if i == j:
                    # What nothing determines moves by typical steps; what sits at a limit, not by huge ones.
                    matrix[row] = torch.where(matrix[row] > floor[i], matrix[row], 1 / typical[i] ** 2)
        common = matrix[packed.diagonal_index(k)][shared].sum(-1).rsqrt()
        own = [j for j in range(k) if not shared[j]]
        full = packed.unpack(matrix)[:, own][:, :, own]
        scale = full.diagonal(dim1=-2, dim2=-1).rsqrt()
        unit = full * scale[:, :, None] * scale[:, None, :]
        unit = unit + 1e-6 * torch.eye(len(own), dtype=full.dtype, device=full.device)
        factor, failed = torch.linalg.cholesky_ex(unit)
        factor = torch.where((failed > 0)[:, None, None], torch.eye(len(own)).to(factor), factor)
        pixels = problem.n_pixels

        self._factor, self._scale, self._own = factor, scale, own

        def apply(white: torch.Tensor) -> torch.Tensor:
            rows = white[: len(own) * pixels].reshape(len(own), pixels)
            moved = torch.linalg.solve_triangular(factor.mT, rows.T[..., None], upper=True)[..., 0] * scale
            return torch.cat([moved.T.reshape(-1), white[len(own) * pixels :] * common])

        return apply

    def free(self) -> torch.Tensor:
        """The free numbers ``(k, pixels)`` at present; differentiable."""
        self._unlimited = self.origin + self.to_unlimited(self.numbers)
        if self._unlimited.requires_grad:
            self._unlimited.retain_grad()
        return self.transform.forward(self.problem.unflatten(self._unlimited))

    def loss(self) -> torch.Tensor:
        """The objective at present."""
        return self.problem.loss(self.free(), self.weights or None)

    def at_limits(self, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which numbers are as near to a lower, and to an upper limit as makes no difference."""
        near = 1e-2 * self.transform.scale
        return free - self.problem.lower < near, self.problem.upper - free < near

    def distance(self) -> torch.Tensor:
        """About how many sigma each pixel is from its minimum, ``(pixels,)``, by the gradient of the last `loss`.

        What is pushed against a limit that it has reached has arrived.
        """
        with torch.no_grad():
            problem = self.problem
            gradient = problem.unflatten(self._unlimited.grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
            low, high = self.at_limits(self.transform.forward(problem.unflatten(self._unlimited)))
            gradient = torch.where((low & (gradient > 0)) | (high & (gradient < 0)), 0.0, gradient)
            own = (gradient[self._own] * self._scale.T).T[..., None]
            white = torch.linalg.solve_triangular(self._factor, own, upper=False)[..., 0]
            return white.square().sum(-1).sqrt()

    def leaves(self) -> list[torch.Tensor]:
        """The weights that learn."""
        return [w for operators in self.weights.values() for own in operators.values() for w in own.values()]

    def solution(self, tolerance: float, iterations: int) -> Solution:
        """What was found; numbers that have come as near to a limit as makes no difference sit on it."""
        problem = self.problem
        distance = self.distance()
        with torch.no_grad():
            free = self.free()
            low, high = self.at_limits(free)
            free = torch.where(low, problem.lower, torch.where(high, problem.upper, free))
        status = torch.where(distance <= tolerance, int(Status.CONVERGED), int(Status.MAX_ITERATIONS))
        weights = {
            term: {position: {name: w.detach() for name, w in own.items()} for position, own in operators.items()}
            for term, operators in self.weights.items()
        }
        return Solution(
            free=free.detach(), status=status.to(torch.int32), weights=weights, info={"iterations": iterations}
        )
