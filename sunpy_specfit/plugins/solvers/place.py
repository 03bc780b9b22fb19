"""Where a search of whole maps stands: the objective, its slope, and the step that lowers it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from scipy.ndimage import gaussian_filter

from ...core.gaussian import BoundGaussian
from ...numerics import data_space
from .map_system import AlikeSystem, JoinedSystem, map_system
from .medium import Medium
from .neighbours import Neighbours
from .seen_by_data import SeenByData

__all__ = ["Place"]

# Where by this part of itself, in that part of the pixels, what pixels share of an error is not as in even maps, the
# difference is solved for, to this part of itself.
_UNEVEN, _SOME, _SHARED = 0.15, 1e-3, 0.01
# To this part of itself it is asked of all together.
_ROUGHLY = 0.3
# By this part of itself the energy may seem to rise where nothing but rounding is left.
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-8}
# Parts of a step that are tried.
_PARTS = (1.0, 0.5, 0.25)
# A start is smoothed by a Gaussian of this sigma, pixels.
_SMOOTHING = 2.0
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
        Of the prior's covariance, ``(k, r)``, less those directions that no data tell of; float64.
    response : `torch.Tensor`
        ``(m, k)``, float64.
    data, weight : `torch.Tensor`
        ``(m, pixels)``, as all that follows in single precision where that is enough.
    z : `torch.Tensor`
    free, residual : `torch.Tensor`
        What follows from z: the vector, and what the data still ask for, times their weight.
    """

    problem: object
    prior: BoundGaussian
    neighbours: Neighbours
    root: torch.Tensor
    response: torch.Tensor
    data: torch.Tensor
    weight: torch.Tensor
    z: torch.Tensor
    free: torch.Tensor | None = None
    residual: torch.Tensor | None = None

    def __post_init__(self):
        # For work on all pixels, in their precision.
        self._mean, self._root, self._response = (
            matrix.to(self.z) for matrix in (self.prior.mean[:, None], self.root, self.response)
        )
        self._rounding = _ROUNDING[self.z.dtype]
        if self.free is None:
            self.free, self.residual = self._seen(slice(None), self.z)
        coupled, self.slope = self.neighbours.at(self.free, self.z)
        misfit = (
            self.residual.square()
            .div_(self.weight.clamp_min(torch.finfo(self.weight.dtype).tiny))
            .sum(dtype=torch.float64)
        )
        self.energy = 0.5 * float(misfit + self.z.square().sum(dtype=torch.float64)) + coupled
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
            told, axes = torch.linalg.eigh(medium.known)
            axes = axes[:, told > _TOLD * medium.waves[:, 0, 0].min()]
            root, z = root @ axes, axes.T @ z
            neighbours = Neighbours(problem, root, free)
        # Of other priors there are squares of the vector itself, whatever its unit.
        single = data_space.single_is_enough(data, weight, response, free) and not neighbours.others
        data, weight, z = (numbers.to(torch.float32 if single else torch.float64) for numbers in (data, weight, z))
        return cls(problem, prior, neighbours, root, response, data, weight, z)

    def smoothed(self) -> Place:
        """The place where all pixels are more like their neighbours."""
        axes = self.neighbours.axes(self.free, self.problem.grid.shape)
        image = self.z.unflatten(1, self.problem.grid.shape).numpy()
        smooth = gaussian_filter(image, _SMOOTHING, axes=[axis + 1 for axis in axes], mode="nearest")
        return replace(self, z=torch.as_tensor(smooth).flatten(1), free=None, residual=None)

    def badness(self) -> float:
        """-2 ln of what lies about this place of the posterior, up to a constant."""
        return 2 * self.energy + self.medium(self.root).log_determinant()

    def moved(self, step: torch.Tensor, few: torch.Tensor | None) -> Place:
        """The place a step away, of all pixels or of a few."""
        if few is None:
            return replace(self, z=self.z + step, free=None, residual=None)
        z, free, residual = self.z.index_add(1, few, step), self.free.clone(), self.residual.clone()
        free[:, few], residual[:, few] = self._seen(few, z[:, few])
        return replace(self, z=z, free=free, residual=residual)

    def lowest_along(self, step: torch.Tensor, few: torch.Tensor | None) -> tuple[Place | None, float]:
        """The first place along a step, from its end on, that is not higher, and what part of the step leads there."""
        for part in _PARTS:
            there = self.moved(step if part == 1 else part * step, few)
            if there.energy <= self.energy + self._rounding * abs(self.energy):
                return there, part
        return None, 0.0

    def _seen(self, few, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The vector of some pixels and what their data still ask for, times its weight."""
        free = torch.addmm(self._mean, self._root, z).exp_()
        return free, torch.addmm(self.data[:, few], self._response, free, alpha=-1).mul_(self.weight[:, few])

    def medium(self, root: torch.Tensor) -> Medium:
        """The map as a medium, with all or some of the prior's directions."""
        return Medium(self.problem, root, self.response, self.free, self.weight)

    def factors(self, root: torch.Tensor, few: torch.Tensor | None = None) -> SeenByData:
        """H of all pixels or of a few."""
        free, weight = (self.free, self.weight) if few is None else (self.free[:, few], self.weight[:, few])
        return SeenByData(root, self.response, free, weight)

    def logarithms(self, step: torch.Tensor) -> torch.Tensor:
        """What a step adds to the logarithms, ``(k, pixels)``."""
        return self._root @ step

    def seen(self, step: torch.Tensor, few: torch.Tensor | None) -> torch.Tensor:
        """What a step changes in the data, in sigma."""
        free, weight = (self.free, self.weight) if few is None else (self.free[:, few], self.weight[:, few])
        return weight.sqrt() * (self._response @ (self.logarithms(step).mul_(free)))

    def step(self, damping: float, few: torch.Tensor | None, *, near: bool) -> tuple[torch.Tensor, int]:
        """The Gauss-Newton step, and the products with the curvature that it took; of a few pixels each by itself.

        ``near`` the minimum all the curvature counts, that of exp with it, where neighbours hold all numbers alike:
        maps that are free to rise as a whole would else creep.
        """
        own = slice(None) if few is None else few
        asked = (self._response.T @ self.residual[:, own]).mul_(self.free[:, own])
        gradient = self.z[:, own] + self.slope[:, own] - self._root.T @ asked
        if few is not None:
            factors = partial(self.factors, few=few)
            return JoinedSystem(self.neighbours, self.free, factors, damping).alone(-gradient), 0
        return self.system(damping, asked if near and self.neighbours.alike else None).solve(-gradient)

    def system(self, damping: float = 0.0, bend: torch.Tensor | None = None) -> AlikeSystem | JoinedSystem:
        """The curvature of all pixels here, of Gauss and Newton, less that of exp, ``bend``, where it is given."""
        return map_system(self.problem.grid.shape, self.neighbours, self.free, self.factors, damping, bend)

    def shifted(self, means: torch.Tensor) -> torch.Tensor:
        """By how much the logarithms of the solution follow a shift of the prior's mean, all pixels together.

        Pixels that are as their neighbours are follow as if each were by itself, for neighbours move along and hold
        them no more. By how much others follow differently is asked of one shift, of all together with signs at random,
        and where that is much in some pixels it is solved for.

        Parameters
        ----------
        means : `torch.Tensor`
            Shifts ``(k, q)``.

        Returns
        -------
        `torch.Tensor`
            ``(k, q, pixels)``.
        """
        means = means.to(self.z)
        found = self.z.new_empty((*means.shape, self.z.shape[1]))
        squares = torch.empty_like(found[:, 0])
        signs = (torch.randint(0, 2, means.shape[1:], generator=torch.Generator().manual_seed(0)) * 2 - 1).to(means)
        follows = torch.empty_like(self.z)

        def follow(part, factor) -> None:
            told = self._told(part, factor, means)
            follows[:, part] = data_space.pull(factor, torch.einsum("mqp,q->mp", told, signs))
            data_space.depart(means, self._root @ factor, told, part, found, squares)

        factors = self.factors(self._root)
        factors.each(follow)
        system = self.system()
        probe = self._root @ system.solve(self.neighbours.uneven(self.free, follows), _ROUGHLY)[0]
        uneven = (probe.square() / squares).mean(0)
        if float(uneven.kthvalue(math.ceil((1 - _SOME) * len(uneven))).values) > _UNEVEN**2:

            def follow_one(mean, part, factor) -> None:
                follows[:, part] = data_space.pull(factor, self._told(part, factor, mean[:, None])[:, 0])

            for number, mean in enumerate(means.T):
                factors.each(partial(follow_one, mean))
                uneven = system.solve(self.neighbours.uneven(self.free, follows), _SHARED)[0]
                found[:, number] += self._root @ uneven
        return found

    def _told(self, part: slice, factor: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        """Where each pixel is by itself z follows shifts ``(k, q)`` by Hᵀ u: u ``(m, q, pixels)`` of some."""
        q, even = means.shape[1], self.neighbours.even
        seen = (self._response[:, None] * means.T).flatten(0, 1) @ self.free[:, part]
        told = seen.unflatten(0, (-1, q)).mul_(self.weight[:, part].sqrt()[:, None])
        return data_space.solve(data_space.factorize(factor, even), told)
