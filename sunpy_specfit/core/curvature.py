"""The whole problem as one quadratic about a point: what solvers of coupled maps and their errors are made of."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cached_property

import torch

from ..numerics import packed
from ..numerics.conjugate_gradient import Solved, conjugate_gradient
from ..numerics.memory import room_like
from .blocks import DenseBlocks
from .chart import Tangent
from .coupling import CosineMap, Coupling
from .jacobian import MixedJacobian
from .loss import reweight
from .preconditioner import cosine_preconditioner
from .problem import Problem

__all__ = ["Curvature"]

# Systems are solved in single precision where rounding leaves at most this part of the error that is asked for, after
# so many rounds.
_ROUNDED, _ROUNDS = 0.3, 3
# That is tried where a pixel's own curvatures are within these, or nothing, and each is known to this part of itself
# while the others are free.
_LEAST, _MOST, _CLEAR = 1e-24, 1e24, 1e-4


class Curvature:
    """Objective, gradient and Gauss-Newton curvature of a problem at some free numbers.

    Where no operator mixes pixels, the data are per-pixel blocks; else they are reached through the Jacobian's
    products, and the blocks of the problem without those operators serve as a preconditioner. Vectors are flat, and a
    shared parameter stands once in them, as in `Problem.flatten`.

    Parameters
    ----------
    problem : `Problem`
    free : `torch.Tensor`
        ``(k, pixels)``.
    data : tuple, optional
        What `Problem.linearize` gives for the data alone, where it is known, or where other data are to stand for them.
    base : `torch.Tensor`, optional
        Where the steps start from that have led to ``free``, and that ``data`` and all vectors are told by.

    Attributes
    ----------
    pixel_objective : `torch.Tensor` or None
        Each pixel's part without the coupled priors; None where operators mix pixels.
    data : `DenseBlocks`
        The data's curvature, block by block (of the problem without mixing).
    vector : `torch.Tensor`
        Minus the gradient of all but the coupled priors, ``(k, pixels)``; not to be changed in place.
    gradient : `torch.Tensor`
        Of the whole objective, flat.
    """

    def __init__(
        self,
        problem: Problem,
        free: torch.Tensor,
        *,
        data: tuple[torch.Tensor, DenseBlocks, torch.Tensor] | None = None,
        base: torch.Tensor | None = None,
    ):
        self.problem, self.free = problem, free
        tangent = None if base is None or not problem.charts else Tangent(problem.charts, base, free)
        whole = problem.whole()
        prior_objective, prior_matrix, prior_vector = whole.linearize_priors(free) if whole.priors else (0.0, None, 0.0)
        if tangent is not None and whole.priors:
            prior_matrix, prior_vector = tangent.quadratic(prior_matrix, prior_vector)
        if problem.mixes_pixels:
            residual = problem.residual(free)
            factor = reweight(problem.loss_name, residual.square())
            self._weigh = (lambda r: r) if factor is None else (lambda r: factor * r)
            self._jacobian = MixedJacobian(problem, free)
            self.pixel_objective = None
            data_vector = -self._jacobian.pull(self._weigh(residual))
            self.data = problem.without_mixing().linearize(free, priors=False)[1]
        else:
            self._parts = data or problem.linearize(free, priors=False)
            data_objective, self.data, data_vector = self._parts
            self.pixel_objective = data_objective + prior_objective if whole.priors else data_objective
        self._prior_blocks = DenseBlocks(prior_matrix) if whole.priors else None
        self.vector = data_vector + prior_vector if whole.priors else data_vector
        self.coupling = Coupling(problem, free, tangent)
        self.gradient = problem.reduce(self.coupling.gradient - self.vector)

    def elsewhere(self, index: torch.Tensor, own: torch.Tensor) -> Curvature:
        """The curvature with some pixels at other numbers ``(k, some)``; only their light is computed.

        Parameters
        ----------
        index : `torch.Tensor`
            The pixels' numbers. Not for problems that mix pixels.
        """
        found = self.problem.whole().select(index).linearize(own, priors=False)
        free, parts = self.free.clone(), (self._parts[0].clone(), self._parts[1].matrix.clone(), self._parts[2].clone())
        for mine, its in zip((free, *parts), (own, *found), strict=True):
            mine[..., index] = its
        return Curvature(self.problem, free, data=(parts[0], DenseBlocks(parts[1]), parts[2]))

    def replace_pixels(self, other: Curvature, where: torch.Tensor) -> Curvature:
        """The curvature at these numbers, with those of another place in some pixels; no light is computed again.

        Parameters
        ----------
        where : `torch.Tensor`
            bool ``(pixels,)``: which pixels to take from ``other``. Not for problems that mix pixels.
        """
        (o1, a1, v1), (o2, a2, v2) = self._parts, other._parts
        parts = (
            torch.where(where, o2, o1),
            DenseBlocks(torch.where(where, a2.matrix, a1.matrix)),
            torch.where(where, v2, v1),
        )
        return Curvature(self.problem, torch.where(where, other.free, self.free), data=parts)

    @cached_property
    def objective(self) -> float:
        """½ chi² + Σ energies, infinite where the model is not finite."""
        if self.pixel_objective is None:
            found = float(self.problem.loss(self.free))
        else:
            found = float(self.pixel_objective.double().sum()) + float(self.problem.coupled_energy(self.free))
        return found if found == found else float("inf")

    @property
    def blocks(self) -> DenseBlocks:
        """Data and the priors that do not couple pixels, block by block."""
        if self._prior_blocks is None:
            return self.data
        return DenseBlocks(self.data.matrix + self._prior_blocks.matrix)

    def block_matrix(self, damping: torch.Tensor | float = 0.0) -> torch.Tensor:
        """The diagonal blocks of the whole curvature, packed; damping multiplies the data's diagonal."""
        matrix = self._damped(damping)
        matrix = room_like(matrix).copy_(matrix)
        for row, own in zip(packed.diagonal_index(self.free.shape[0]), self.coupling.diagonal, strict=True):
            matrix[row] += own  # only of each number with itself
        return matrix

    def _damped(self, damping: torch.Tensor | float) -> torch.Tensor:
        """The same without what is coupled; not to be changed in place."""
        matrix = self.blocks.matrix
        if _any(damping):
            matrix = matrix.clone()
            matrix[packed.diagonal_index(self.free.shape[0])] *= 1 + damping
        return matrix

    def data_product(self, direction: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The data's curvature times a direction, both ``(k, pixels)``; ``out`` is memory that may be used."""
        if not self.problem.mixes_pixels:
            return self.data.matvec(direction, out)
        return self._jacobian.pull(self._weigh(self._jacobian.push(direction)))

    def product(
        self, flat: torch.Tensor, damping: torch.Tensor | float = 0.0, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The whole curvature times a flat vector; ``out``, ``(k, pixels)``, is memory that may be used."""
        direction = self.problem.unflatten(flat)
        out = self.data_product(direction, out)
        self.coupling.product(direction, out)
        if self._prior_blocks is not None:
            out = out + self._prior_blocks.matvec(direction)
        if _any(damping):
            out = out + damping * self.blocks.diagonal() * direction
        return self.problem.reduce(out)

    def preconditioner(
        self, damping: torch.Tensor | float = 0.0, blocks: torch.Tensor | None = None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """A rough inverse of the whole curvature, flat; a shared parameter stands alone.

        The inverse of each pixel's block, or, where neighbours say more than a pixel's own data, that among cosines.
        What it returns holds until it is called again: the same memory for all, as for `product`. ``blocks`` is what
        `block_matrix` returns of the same damping, where it is at hand.
        """
        problem, shared = self.problem, self.problem.shared
        k = shared.numel()
        own = [j for j in range(k) if not shared[j]]
        solve = self._own_preconditioner(own, damping, blocks)
        if len(own) == k:
            memory = room_like(self.free)
            return lambda flat: solve(flat.reshape(k, -1), memory).reshape(-1)
        diagonal = self.block_matrix(damping)[packed.diagonal_index(k)][shared].sum(-1)
        n_own = len(own) * problem.n_pixels

        def apply(flat: torch.Tensor) -> torch.Tensor:
            common = flat[n_own:] / torch.where(diagonal > 0, diagonal, 1.0)
            parts = [solve(flat[:n_own].reshape(len(own), -1)).reshape(-1)] if own else []
            return torch.cat([*parts, torch.where(diagonal > 0, common, 0.0)])

        return apply

    def _own_preconditioner(self, own: list[int], damping, blocks: torch.Tensor | None):
        """Of what belongs to single pixels, ``(own, pixels)``."""
        maps = self.coupling.cosine_maps
        if maps and own:
            place = {j: number for number, j in enumerate(own)}
            maps = [CosineMap({place[j]: c for j, c in m.columns.items() if j in place}, m.eigenvalues) for m in maps]
            found = cosine_preconditioner(
                _principal(self._damped(damping), own),
                self.coupling.diagonal[own],
                [m for m in maps if m.columns],
                self.problem.grid.shape,
            )
            if found is not None:
                return found
        if not own:
            return None
        return packed.factorize(_principal(self.block_matrix(damping) if blocks is None else blocks, own))

    def solve(
        self,
        right: torch.Tensor,
        *,
        held: torch.Tensor | None = None,
        damping: torch.Tensor | float = 0.0,
        tolerance: float = 1e-4,
        error: float = 0.0,
        max_iterations: int = 1000,
        precondition: Callable[[torch.Tensor], torch.Tensor] | None = None,
        start: torch.Tensor | None = None,
    ) -> Solved:
        """Solve (curvature + damping · data's diagonal) x = right by conjugate gradients, all flat.

        Parameters
        ----------
        held : `torch.Tensor`, optional
            bool, flat: numbers that stay where they are.
        tolerance : float
            Solved when the residual has fallen to this fraction.
        error : float
            Or when the error that is left is so many sigma, as the root of its mean square over pixels.
        precondition : callable, optional
            What `preconditioner` returned, to use it again.
        start : `torch.Tensor`, optional
            A guess, flat; not with ``held``.
        """
        error = error * self.problem.n_pixels**0.5
        held = None if held is None or not bool(held.any()) else held
        if error and held is None and precondition is None and start is None and not _any(damping):
            found = self._solve_in_single(right, tolerance, error, max_iterations)
            if found is not None:
                return found
        precondition = precondition or self.preconditioner(damping)
        if held is None:
            # The same memory for all products: for large maps fresh memory costs more than the sums.
            memory = torch.empty_like(self.free)
            return conjugate_gradient(
                lambda v: self.product(v, damping, memory),
                right,
                preconditioner=precondition,
                tolerance=tolerance,
                error=error,
                max_iterations=max_iterations,
                x0=start,
            )
        loose = (~held).to(right)
        return conjugate_gradient(
            lambda v: loose * self.product(v, damping),
            loose * right,
            preconditioner=lambda r: loose * precondition(r),
            tolerance=tolerance,
            error=error,
            max_iterations=max_iterations,
        )

    def _solve_in_single(self, right: torch.Tensor, tolerance: float, error: float, most: int) -> Solved | None:
        """`solve` with all products in single precision, which take half the time; None where that is not enough.

        What rounding left is seen in the residual, worked out in double precision: where it is more than was asked for,
        that residual is solved for in the same way (Wilkinson 1963, Rounding Errors in Algebraic Processes).
        """
        single, blocks = self._in_single()
        if single is None:
            return None
        memory, precondition = room_like(single.free), single.preconditioner(blocks=blocks)
        x, rest, iterations = room_like(right), room_like(right), 0
        rounded = room_like(right, torch.float32).copy_(right)
        for number in range(_ROUNDS):
            found = conjugate_gradient(
                lambda v: single.product(v, out=memory),
                rounded,
                preconditioner=precondition,
                tolerance=tolerance,
                error=error,
                max_iterations=most - iterations,
            )
            if found.stuck:
                return None
            x = x.add_(found.x) if number else x.copy_(found.x)
            iterations += found.iterations
            rest = self.product(x, out=rest.reshape(self.free.shape)).neg_().add_(right)
            rounding = rounded.copy_(rest).sub_(found.rest)
            left = float(torch.dot(rounding, precondition(rounding)).clamp_min(0)) ** 0.5
            if left <= _ROUNDED * error or iterations >= most:
                return found._replace(x=x, iterations=iterations, rest=rest)
            rounded.copy_(rest)
        return None

    def _in_single(self) -> tuple[Curvature | None, torch.Tensor | None]:
        """Products and preconditioners in single precision, and its `block_matrix`.

        None where numbers do not fit it, or are in it already.
        """
        problem = self.problem
        if self.free.dtype != torch.float64 or problem.mixes_pixels or bool(problem.shared.any()):
            return None, None
        single = copy(self)
        single.free = torch.empty_like(self.free, dtype=torch.float32)  # its shape is all that they ask for
        single.data, single.coupling = DenseBlocks(_as_single(self.data.matrix)), self.coupling.in_single()
        if self._prior_blocks is not None:
            single._prior_blocks = DenseBlocks(_as_single(self._prior_blocks.matrix))
        blocks = single.block_matrix()
        return (single, blocks) if _fits_single(blocks) else (None, None)


def _as_single(matrix: torch.Tensor) -> torch.Tensor:
    return room_like(matrix, torch.float32).copy_(matrix)


def _fits_single(matrix: torch.Tensor) -> bool:
    """Whether packed blocks are far from the ends of what single precision holds, and from where it sees no minimum."""
    rows = packed.diagonal_index(packed.size(len(matrix)))
    for own in matrix[rows]:
        least, most = torch.aminmax(own)
        if not most < _MOST or not (least > _LEAST or bool(((own == 0) | (own > _LEAST)).all())):
            return False
    return packed.least_pivot(matrix) >= _CLEAR


def _any(damping: torch.Tensor | float) -> bool:
    return bool((damping != 0).any()) if torch.is_tensor(damping) else damping != 0


def _principal(matrix: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Some rows and columns of packed matrices."""
    if len(rows) == packed.size(matrix.shape[0]):
        return matrix
    return torch.stack([matrix[packed.index(i, j)] for i in rows for j in rows if j <= i])
