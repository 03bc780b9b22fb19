"""Where a search of whole maps stands: the objective, its slope, and the step that lowers it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ...core.gaussian import BoundGaussian
from ...numerics import data_space
from ...numerics.conjugate_gradient import conjugate_gradient
from .cosine_preconditioner import CosinePreconditioner
from .medium import Medium, inverse_root, seen_by_data
from .neighbours import Neighbours

__all__ = ["Place"]

# Each step is found to this part of itself; the next ones improve on it.
_EXACT = 0.15
# Where that is cheap, to this.
_EXACT_ALIKE = 0.05
# Directions of which the data of all pixels together say less than this part of what the priors do stay as they are.
_TOLD = 1e-3


@dataclass
class Place:
    """The numbers z ``(r, pixels)``, of which the logarithm is mean + root · z.

    Attributes
    ----------
    problem : `~sunpy_specfit.core.problem.Problem`
    prior : `~sunpy_specfit.core.gaussian.BoundGaussian`
    neighbours : `Neighbours`
    root : `torch.Tensor`
        Of the prior's covariance, ``(k, r)``, less those directions that no data tell of.
    response, data, weight : `torch.Tensor`
        ``(m, k)``, ``(m, pixels)``, ``(m, pixels)``.
    z : `torch.Tensor`
    """

    problem: object
    prior: BoundGaussian
    neighbours: Neighbours
    root: torch.Tensor
    response: torch.Tensor
    data: torch.Tensor
    weight: torch.Tensor
    z: torch.Tensor

    def __post_init__(self):
        logarithm = torch.addmm(self.prior.mean[:, None], self.root, self.z)
        self.free = logarithm.exp()
        self.residual = torch.addmm(self.data, self.response, self.free, alpha=-1).mul_(self.weight)
        coupled, self.slope = self.neighbours.at(self.free, self.z)
        misfit = (self.residual.square() / self.weight.clamp_min(1e-300)).sum()
        self.energy = 0.5 * float(misfit + self.z.square().sum()) + coupled
        if not self.energy < float("inf"):
            self.energy = float("inf")

    @classmethod
    def of(cls, problem, free: torch.Tensor) -> Place:
        """The place of some free numbers ``(k, pixels)``."""
        prior = next(p for p, _ in problem.priors if not p.couples_pixels)
        term = problem.whole().terms[0]
        _, columns = problem.whole().select(slice(0, 1)).jacobian(free[:, :1])
        response = torch.stack([column[:, 0] for column in columns], 1).double().cpu()
        data, weight = term.data.double().cpu(), term.weight.double().cpu()
        free = free.double().cpu().clamp_min(1e-300)
        root = prior.root
        z = torch.linalg.pinv(root) @ (free.log() - prior.mean[:, None])
        neighbours = Neighbours(problem, root, free)
        if neighbours.alike:
            medium = Medium(problem, root, response, free, weight)
            told, axes = torch.linalg.eigh(medium.information)
            axes = axes[:, told > _TOLD * medium.waves[:, 0, 0].min()]
            root, z = root @ axes, axes.T @ z
            neighbours = Neighbours(problem, root, free)
        return cls(problem, prior, neighbours, root, response, data, weight, z)

    def moved(self, step: torch.Tensor, few: torch.Tensor | None) -> Place:
        """The place a step away, of all pixels or of a few."""
        return replace(self, z=self.z + step if few is None else self.z.index_add(1, few, step))

    def medium(self, root: torch.Tensor) -> Medium:
        """The map as a medium, with all or some of the prior's directions."""
        return Medium(self.problem, root, self.response, self.free, self.weight)

    def factors(self, root: torch.Tensor, few: torch.Tensor | None = None):
        """H of all pixels or of a few, piece by piece."""
        free, weight = (self.free, self.weight) if few is None else (self.free[:, few], self.weight[:, few])
        return seen_by_data(root, self.response, free, weight)

    def seen(self, step: torch.Tensor, few: torch.Tensor | None) -> torch.Tensor:
        """What a step changes in the data, in sigma."""
        free, weight = (self.free, self.weight) if few is None else (self.free[:, few], self.weight[:, few])
        return weight.sqrt() * (self.response @ (free * (self.root @ step)))

    def step(self, damping: float, few: torch.Tensor | None, *, near: bool) -> tuple[torch.Tensor, int]:
        """The Gauss-Newton step, and the products with the curvature that it took; of a few pixels each by itself.

        ``near`` the minimum all the curvature counts, that of exp with it, where neighbours hold all numbers alike:
        maps that are free to rise as a whole would else creep.

        In z = shared · v the prior and what neighbours hold are of unit curvature, on the average. Single precision is
        enough for a step: how far it leads is measured in double.
        """
        own = slice(None) if few is None else few
        asked = (self.response.T @ self.residual[:, own]).mul_(self.free[:, own])
        gradient = self.z[:, own] + self.slope[:, own] - self.root.T @ asked
        if few is None and self.neighbours.alike:
            return self._step_alike(gradient, asked if near else None, damping)
        shared = inverse_root(torch.eye(len(self.z), dtype=self.z.dtype) + self.neighbours.held(self.free))
        root = (self.root @ shared).float()
        right = -(shared.T @ gradient).float()
        # The preconditioner is 1 + Hᵀ H of each pixel, the inverse of which is 1 - Kᵀ K.
        pieces = [
            (part, data_space.whiten(data_space.cholesky(data_space.gram(factor, damping)), factor))
            for part, factor in self.factors(root, few)
        ]
        shape = right.shape

        def precondition(v):
            out = v.reshape(shape).clone()
            for part, factor in pieces:
                here = out[:, part]
                here.sub_(data_space.pull(factor, (factor * here).sum(1)))
            return out.div_(1 + damping).reshape(-1)

        if few is not None:
            return shared @ precondition(right.reshape(-1)).double().reshape(shape), 0
        lack = (shared.T @ shared - torch.eye(len(shared), dtype=shared.dtype)).float()
        held = self.neighbours.curvature(self.free.float(), root, shared.float())

        def product(v):
            """The curvature less the preconditioner's."""
            v = v.reshape(shape)
            return held(v).addmm_(lack, v).reshape(-1)

        solved = conjugate_gradient(
            product, right.reshape(-1), preconditioner=precondition, tolerance=_EXACT, max_iterations=200, split=True
        )
        return shared @ solved.x.double().reshape(shape), solved.iterations

    def _step_alike(
        self, gradient: torch.Tensor, bend: torch.Tensor | None, damping: float
    ) -> tuple[torch.Tensor, int]:
        """The step where neighbours hold all numbers alike."""
        shape, firm, root = gradient.shape, 1 + damping, self.root.float()
        bend = None if bend is None else bend.float()
        waves = firm * (1 + self.neighbours.eigenvalues())
        near = CosinePreconditioner(self.problem.grid.shape, waves, self.factors(root))

        def product(v):
            v = v.reshape(shape)
            out = near.data_product(v).add_(v, alpha=firm).add_(self.neighbours.product(v), alpha=firm)
            if bend is not None:
                out.addmm_(root.T, bend * (root @ v), alpha=-1)
            return out.reshape(-1)

        solved = conjugate_gradient(
            product,
            -gradient.float().reshape(-1),
            preconditioner=lambda v: near(v.reshape(shape)).reshape(-1),
            tolerance=_EXACT_ALIKE,
            max_iterations=200,
        )
        return solved.x.double().reshape(shape), solved.iterations
