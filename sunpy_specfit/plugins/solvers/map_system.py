"""The curvature of whole maps at some place, and systems of equations with it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...numerics import data_space
from ...numerics.conjugate_gradient import conjugate_gradient
from ...numerics.threads import side_by_side
from .cosine_preconditioner import CosinePreconditioner
from .medium import inverse_root
from .neighbours import Neighbours
from .seen_by_data import SeenByData

__all__ = ["AlikeSystem", "JoinedSystem", "map_system"]

# Products with the curvature, at the most.
_PRODUCTS = 200
# Where nothing else is asked for, a solution is found to this part of itself; where that is cheap, to the second.
_EXACT, _EXACT_ALIKE = 0.15, 0.05

Factors = Callable[[torch.Tensor], SeenByData]


def map_system(
    shape, neighbours: Neighbours, free: torch.Tensor, factors: Factors, damping: float = 0.0, bend=None
) -> AlikeSystem | JoinedSystem:
    """1 + Hᵀ H + what neighbours add, for the numbers z ``(r, pixels)`` of unit prior variance.

    Single precision is enough for a step, or for an error.

    Parameters
    ----------
    shape : tuple of int
        Of the map.
    neighbours : `Neighbours`
    free : `torch.Tensor`
        ``(k, pixels)``.
    factors : callable
        H ``(m, r, pixels)`` for some root ``(k, r)`` of the prior's covariance.
    damping : float
        All but what couples z with others is multiplied by one more than this.
    bend : `torch.Tensor`, optional
        ``(k, pixels)``: what curvature Gauss-Newton leaves out, of the logarithm; where neighbours hold all z alike.
    """
    if neighbours.alike:
        return AlikeSystem(shape, neighbours, factors, damping, bend)
    return JoinedSystem(neighbours, free, factors, damping)


class AlikeSystem:
    """Where neighbours hold all numbers alike: preconditioned among cosines."""

    def __init__(self, shape, neighbours: Neighbours, factors: Factors, damping: float, bend):
        self.neighbours, self.firm, self.root = neighbours, 1 + damping, neighbours.root.float()
        self.bend = None if bend is None else bend.float()
        waves = self.firm * (1 + neighbours.eigenvalues())
        self.near = CosinePreconditioner(shape, waves, factors(self.root))

    def solve(self, right: torch.Tensor, tolerance: float = _EXACT_ALIKE) -> tuple[torch.Tensor, int]:
        """The solution, and the products that it took."""
        shape = right.shape

        def product(v):
            v = v.reshape(shape)
            out = self.near.data_product(v).add_(v, alpha=self.firm)
            out.add_(self.neighbours.product(v), alpha=self.firm)
            if self.bend is not None:
                out.addmm_(self.root.T, self.bend * (self.root @ v), alpha=-1)
            return out.reshape(-1)

        solved = conjugate_gradient(
            product,
            right.float().reshape(-1),
            preconditioner=lambda v: self.near(v.reshape(shape)).reshape(-1),
            tolerance=tolerance,
            max_iterations=_PRODUCTS,
        )
        return solved.x.to(right).reshape(shape), solved.iterations


class JoinedSystem:
    """Where they do not: preconditioned by systems as large as the data, one a pixel.

    In z = shared · v the prior and what neighbours hold are of unit curvature, on the average.
    """

    def __init__(self, neighbours: Neighbours, free: torch.Tensor, factors: Factors, damping: float):
        root = neighbours.root
        self.damping = damping
        self.shared = inverse_root(torch.eye(root.shape[1], dtype=root.dtype) + neighbours.held(free))
        self.root = (root @ self.shared).float()
        eye = torch.eye(len(self.shared), dtype=root.dtype)
        self._lack = (self.shared.T @ self.shared - eye).float()
        self._held = lambda: neighbours.curvature(free.float(), self.root, self.shared.float())
        # The preconditioner is 1 + Hᵀ H of each pixel, the inverse of which is 1 - Kᵀ K.
        self._pieces = factors(self.root).each(
            lambda part, factor: (part, data_space.whiten(data_space.factorize(factor, damping), factor))
        )

    def alone(self, right: torch.Tensor) -> torch.Tensor:
        """The solution of each pixel by itself, neighbours held."""
        single = self.shared.float()
        return (single @ self._precondition(single.T @ right.float())).to(right)

    def _precondition(self, v: torch.Tensor) -> torch.Tensor:
        out = v.clone()
        side_by_side(lambda piece: data_space.project(piece[1], out, piece[0]), self._pieces)
        return out.div_(1 + self.damping)

    def solve(self, right: torch.Tensor, tolerance: float = _EXACT) -> tuple[torch.Tensor, int]:
        """The solution, and the products that it took."""
        shape, held, single = right.shape, self._held(), self.shared.float()

        def product(v):
            """The curvature less the preconditioner's."""
            v = v.reshape(shape)
            return held(v).addmm_(self._lack, v).reshape(-1)

        solved = conjugate_gradient(
            product,
            (single.T @ right.float()).reshape(-1),
            preconditioner=lambda v: self._precondition(v.reshape(shape)).reshape(-1),
            tolerance=tolerance,
            max_iterations=_PRODUCTS,
            split=True,
        )
        return (single @ solved.x.reshape(shape)).to(right), solved.iterations
