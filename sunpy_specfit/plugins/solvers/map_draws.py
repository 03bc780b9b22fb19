"""Draws of whole maps of vectors with fewer data than unknowns: perturb data and priors, and solve."""

from __future__ import annotations

import numpy as np
import torch

from ...core.factored import LARGEST_MOVE, FactoredCovariance
from ...core.map_sampler import MapSampler
from ...numerics import data_space
from .map_system import map_system
from .neighbours import Neighbours
from .seen_by_data import SeenByData

__all__ = ["MapDraws"]

# Each draw is found to this part of itself.
_EXACT = 1e-3


class MapDraws(MapSampler):
    """Draws of positive maps from the Gaussian of their logarithms, linearised about the solution.

    With H the curvature of the numbers z of unit prior variance, H⁻¹ r has the covariance H⁻¹ if r has the covariance
    H: it is the sum of what data and priors tell, and each gives noise of its own (Papandreou & Yuille 2010, Advances
    in Neural Information Processing Systems 23). Numbers that all pixels share are drawn once for all.

    Parameters
    ----------
    problem : `~sunpy_specfit.core.problem.Problem`
    root : `torch.Tensor`
        Of the covariance of the prior, what all pixels share apart, ``(k, r)``.
    covariance : `~sunpy_specfit.core.factored.FactoredCovariance`
        Of all pixels, whose scale is the solution.
    pixels : `numpy.ndarray`, optional
        Flat numbers of the pixels that a result holds; all of them by default.
    """

    def __init__(self, problem, root: torch.Tensor, covariance: FactoredCovariance, pixels: np.ndarray | None = None):
        self.problem, self.root, self.covariance = problem, root, covariance
        self.pixels = np.arange(covariance.n_pixels) if pixels is None else pixels

    def select(self, pixels) -> MapDraws:
        return MapDraws(self.problem, self.root, self.covariance, self.pixels[pixels])

    def draw(self, n: int, seed: int) -> np.ndarray | None:
        known = self.covariance
        free, weight, response = map(torch.as_tensor, (known.scale, known.weight, known.response))

        def factors(root):
            return SeenByData(root, response, free, weight)

        neighbours = Neighbours(self.problem, self.root, free)
        system = map_system(self.problem.grid.shape, neighbours, free, factors)
        generator = torch.Generator().manual_seed(seed)
        common = None if self.covariance.common is None else self.covariance.common[..., self.pixels]
        middle = free.numpy()[:, self.pixels]
        found = np.empty((n, *middle.shape))
        like = free.new_empty((self.root.shape[1], free.shape[1]))
        for number in range(n):
            right = neighbours.noise(free, like, generator)
            if right is None:
                return None
            for part, factor in factors(self.root):
                noise = torch.randn((len(factor), factor.shape[2]), generator=generator, dtype=factor.dtype)
                right[:, part] += data_space.pull(factor, noise)
            moved = (self.root @ system.solve(right, _EXACT)[0]).numpy()[:, self.pixels]
            if common is not None:
                shared = torch.randn(common.shape[1], generator=generator, dtype=free.dtype).numpy()
                moved = moved + np.einsum("kqp,q->kp", common, shared)
            found[number] = middle * np.expm1(np.minimum(moved, LARGEST_MOVE))
        return found
