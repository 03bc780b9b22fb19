"""Draws of whole coupled maps: perturb the data and the priors by their own noise, and solve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..numerics import packed
from .curvature import Curvature
from .map_sampler import MapSampler
from .problem import Problem

__all__ = ["Perturbation"]

# Each draw is found to this part of a sigma; small, for in the middle of a hole a draw is found last.
_ERROR = 1e-4


class Perturbation(MapSampler):
    """Draws from the Gaussian that the whole curvature describes, neighbours' errors in step with each other.

    H⁻¹ r has the covariance H⁻¹ if r has the covariance H, which is the sum of those of the data and of the priors:
    each gives noise of its own, and one system of equations makes a draw of it (Papandreou & Yuille 2010, Advances in
    Neural Information Processing Systems 23).

    Parameters
    ----------
    problem : `Problem`
        One whose pixels are coupled by priors or shared parameters.
    free : `numpy.ndarray`
        The solution, internal, ``(k, pixels)``; NaN where there is none.
    pixels : `numpy.ndarray`, optional
        Flat numbers of the pixels that a result holds; all of them by default.
    """

    def __init__(self, problem: Problem, free: np.ndarray, pixels: np.ndarray | None = None):
        # Without the spectra that were read: a result should not hold a copy of the cube.
        self.problem, self.free = replace(problem, _whole=None), free
        self.pixels = np.arange(problem.n_pixels) if pixels is None else pixels

    def select(self, pixels) -> Perturbation:
        """The same for some of the pixels; the maps are still solved for as a whole."""
        return Perturbation(self.problem, self.free, self.pixels[pixels])

    def draw(self, n: int, seed: int) -> np.ndarray | None:
        """Distances of draws from the solution, physical, ``(n, k, pixels)``.

        None where it cannot be done: an operator mixes the pixels, or a prior does not tell the noise of its curvature.
        """
        problem = self.problem
        if problem.mixes_pixels:
            return None
        free = torch.as_tensor(self.free).to(dtype=problem.dtype, device=problem.device)
        usual = free.nanmedian(-1, keepdim=True).values.nan_to_num()
        free = torch.where(torch.isfinite(free), free, usual)
        problem.renew_weights(free)
        curvature = Curvature(problem, free)
        generator = torch.Generator(device=problem.device).manual_seed(seed)
        root, precondition = packed.cholesky(curvature.blocks.matrix), curvature.preconditioner()
        factor, _ = problem.layout.scales()
        rows = np.concatenate([np.arange(len(factor))[problem.layout.rows[key]] for key in problem.layout.free_keys])
        found = np.empty((n, len(free), len(self.pixels)))
        for number in range(n):
            own = torch.randn(free.shape, generator=generator, dtype=free.dtype, device=free.device)
            joint = curvature.coupling.noise(generator)
            if joint is None:
                return None
            right = problem.reduce(packed.lower_product(root, own) + joint)
            solved = curvature.solve(right, tolerance=1e-7, error=_ERROR, precondition=precondition)
            moved = problem.unflatten(solved.x)[:, torch.as_tensor(self.pixels, device=free.device)]
            found[number] = moved.double().cpu().numpy() * factor[rows, None]
        return found
