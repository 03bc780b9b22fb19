"""What a map says of its prior: the level of its DEMs, and by how much they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ...core import registry
from ...numerics import data_space, packed

__all__ = ["Evidence", "sample_pixels"]

# So many pixels tell as much as any.
_PIXELS = 512
# From fewer pixels than these no common mean is learned: it would be made of each pixel's own data.
_FEWEST = 32


def sample_pixels(problem) -> np.ndarray:
    """Some pixels, evenly spread over the map."""
    n = problem.n_pixels
    return np.unique(np.linspace(0, n - 1, min(n, _PIXELS)).astype(int))


class Evidence:
    """Some pixels of a problem, asked how well a prior explains them.

    Parameters
    ----------
    problem : `~sunpy_specfit.core.problem.Problem`
    pixels : `numpy.ndarray`
    logarithm : bool
    """

    def __init__(self, problem, pixels: np.ndarray, logarithm: bool):
        self.problem, self.logarithm = problem, logarithm
        block = problem.spectra(pixels, torch.float64)
        worth = block.terms[0].weight.sum(0) > 0
        self.pixels = torch.as_tensor(pixels)[worth]
        self.block = block.select(worth.nonzero()[:, 0])
        self.data, self.weight = self.block.terms[0].data, self.block.terms[0].weight
        one = problem.block(slice(0, 1), torch.float64)
        _, columns = one.jacobian(torch.zeros((problem.n_free, 1), dtype=torch.float64))
        self.response = torch.stack([column[:, 0] for column in columns], 1)

    def own(self, levels: torch.Tensor) -> torch.Tensor:
        """Of numbers for all pixels those of the sample."""
        return levels[self.pixels]

    def level(self, shape: np.ndarray) -> float:
        """By what a DEM of this shape must be multiplied to give the light of the typical pixel."""
        levels = _levels(self.data, self.weight, self.response, shape)
        known = levels[torch.isfinite(levels) & (levels > 0)]
        return float(known.median()) if len(known) else 1.0

    def pixel_level(self, shape: np.ndarray, typical: float) -> torch.Tensor:
        """The same for every pixel of the problem, ``(pixels,)``."""
        out = torch.full((self.problem.n_pixels,), typical, dtype=torch.float64)
        for part in self.problem.slices():
            term = self.problem.spectra(part, torch.float64).terms[0]
            levels = _levels(term.data, term.weight, self.response, shape)
            out[part] = torch.where(torch.isfinite(levels) & (levels > 0), levels, typical)
        return out

    @property
    def tells_mean(self) -> bool:
        """Whether there are pixels enough to learn from."""
        return len(self.pixels) >= _FEWEST

    def solve(self, prior):
        """The sample's pixels with some prior: solution."""
        solver = registry.get("solver", "data_space")()
        block = _with_prior(self.block, prior, self.problem)
        return solver.solve(block, block.nothing())

    def mean(self, prior, first: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean that pixels with some prior's covariance have in common, and its covariance.

        Its own prior is N(first, spread). Given it, each pixel's linearised data have the covariance F C Fᵀ + N: what
        all pixels say together is one system of the size of the vector.
        """
        solution = self.solve(prior)
        free = solution.free
        covariance = solution.covariance
        x = free.log() if self.logarithm else free / prior.level
        information, pull = torch.linalg.inv(spread), 0.0
        for part in covariance._chunks():
            scale, _, lower = covariance._of(part)
            root_weight = self.weight[:, part].sqrt()
            jacobian = self.response[:, :, None] * scale * root_weight[:, None]
            residual = root_weight * (self.data[:, part] - self.response @ free[:, part])
            residual = residual + (jacobian * (x[:, part] - first[:, None])).sum(1)
            jacobian, residual = data_space.whiten(lower, jacobian), data_space.whiten(lower, residual)
            information = information + torch.einsum("mkp,mlp->kl", jacobian, jacobian)
            pull = pull + torch.einsum("mkp,mp->k", jacobian, residual)
        uncertain = torch.linalg.inv(information)
        return first + uncertain @ pull, 0.5 * (uncertain + uncertain.T)

    def criterion(self, prior, kind: str) -> float:
        """How badly a prior explains the sample, a pixel."""
        solution = self.solve(prior)
        chi2 = solution.chi2
        if kind == "sure":
            return float((chi2 + 2 * solution.leverage).mean())
        if kind == "discrepancy":
            return float(chi2.sum() / (self.weight > 0).sum())
        energy = prior.energy({prior.quantity: solution.free})
        return float((chi2 + 2 * energy + log_determinant(solution.covariance)).mean())

    def choose(self, bound: Callable, scales: Sequence[float], kind: str) -> tuple[float, dict[float, float]]:
        """The scale of a prior that the pixels ask for, and the criterion at each that was tried (less is better)."""
        if not len(self.pixels):
            return scales[len(scales) // 2], {}
        curve = {scale: self.criterion(bound(scale), kind) for scale in scales}
        if kind == "discrepancy":
            enough = [scale for scale in scales if curve[scale] <= 1.0]
            return (min(enough) if enough else max(scales)), curve
        best = min(scales, key=curve.get)
        place = scales.index(best)
        # A parabola through the neighbours of the best, in the logarithm of the scale.
        if 0 < place < len(scales) - 1:
            x = np.log(scales[place - 1 : place + 2])
            y = np.array([curve[s] for s in scales[place - 1 : place + 2]])
            a, b, _ = np.polyfit(x - x[1], y, 2)
            if a > 0:
                best = float(np.exp(np.clip(x[1] - b / (2 * a), x[0], x[2])))
        return best, curve

def _with_prior(block, prior, problem):
    from dataclasses import replace

    from ...core.quantities import Quantities

    quantities = Quantities(problem.layout, (prior.quantity,), problem.physical_auxiliary)
    return replace(block, priors=[(prior, quantities)])


def log_determinant(covariance) -> torch.Tensor:
    """ln det (1 + H Hᵀ) of each pixel."""
    parts = []
    for part in covariance._chunks():
        _, factor, lower = covariance._of(part)
        m = factor.shape[0]
        parts.append(2 * lower[packed.diagonal_index(m)].log().sum(0))
    return torch.cat(parts)


def _levels(data, weight, response, shape: np.ndarray) -> torch.Tensor:
    """The geometric mean over channels of data over prediction, by how far each stands above its noise."""
    expected = (response @ torch.as_tensor(shape))[:, None]
    signal = data * weight.sqrt()
    good = (signal > 0) & (expected > 0)
    trust = torch.where(good, signal.square() / (9 + signal.square()), 0.0)
    ratio = torch.where(good, data, 1.0).log() - torch.where(expected > 0, expected, 1.0).log()
    return ((trust * ratio).sum(0) / trust.sum(0)).exp()
