"""Draws from the posterior itself, where a Gaussian does not tell it."""

from __future__ import annotations

import numpy as np
import torch

from .problem import Problem

__all__ = ["Metropolis"]

# Proposals: Student's t with the covariance of the fit, in the core and in the tails: share, scale.
_MIXTURE = ((0.75, 1.1), (0.25, 2.5))
_FREEDOM = 4.0
# Steps before the first draw and from one draw to the next.
_BURN_IN, _STEPS = 40, 4
# Chains that run side by side, and how many draws each is good for at least.
_TOGETHER, _DRAWS_OF_A_CHAIN = 2048, 50


class Metropolis:
    """Independence Metropolis for pixels that are not coupled, all of them side by side.

    Every pixel proposes from its own fit, widened, and takes or leaves it by the objective: what comes out is
    distributed as exp(-objective) inside the bounds, whatever its shape (Hastings 1970,
    https://doi.org/10.1093/biomet/57.1.97).

    Parameters
    ----------
    problem : `Problem`
        One that does not couple pixels.
    pixels : `numpy.ndarray`, optional
        Flat numbers of the problem's pixels that a result holds; all of them by default.
    """

    def __init__(self, problem: Problem, pixels: np.ndarray | None = None):
        self.problem = problem
        self.pixels = np.arange(problem.n_pixels) if pixels is None else pixels

    def select(self, pixels) -> Metropolis:
        """The same for some of the pixels."""
        return Metropolis(self.problem, self.pixels[pixels])

    def draw(self, n: int, rng: np.random.Generator, index: np.ndarray, mean: np.ndarray, root: np.ndarray):
        """Draws of the free numbers of some pixels.

        Parameters
        ----------
        n : int
            How many.
        rng : `numpy.random.Generator`
        index : `numpy.ndarray`
            Which of the pixels.
        mean : `numpy.ndarray`
            Their solutions, physical, ``(k, m)``.
        root : `numpy.ndarray`
            A square root of their covariances, ``(k, k, m)``.

        Returns
        -------
        `numpy.ndarray`
            Physical, ``(n, k, m)``.
        """
        found = [np.empty((n, len(mean), 0))]
        size = self.problem.block_size
        for start in range(0, len(index), size):
            part = slice(start, start + size)
            pixels = self.pixels[index[part]]
            # A few pixels go through several chains each, side by side.
            chains = max(1, min(_TOGETHER // len(pixels), n // _DRAWS_OF_A_CHAIN))
            draws = np.empty((-(-n // chains), len(mean), chains * len(pixels)))
            self._chain(
                draws, rng, np.tile(pixels, chains), np.tile(mean[:, part], chains), np.tile(root[..., part], chains)
            )
            draws = draws.reshape(len(draws), len(mean), chains, len(pixels)).swapaxes(1, 2)
            found.append(draws.reshape(-1, len(mean), len(pixels))[:n])
        return np.concatenate(found, axis=-1)

    def _chain(self, draws: np.ndarray, rng, pixels: np.ndarray, mean: np.ndarray, root: np.ndarray) -> None:
        """Fill ``(n, k, m)`` with the states of each pixel's chain."""
        factor, offset = self._scales()
        block = self.problem.block(pixels, torch.float64)
        place = torch.as_tensor((mean - offset) / factor).to(block.device)
        place = torch.minimum(torch.maximum(place, block.lower), block.upper)
        block = block.with_weights_from(place)
        center, root = place, torch.as_tensor(root / factor[:, :, None]).to(block.device)
        objective, density = block.objective(place), self._log_density(torch.zeros_like(place))
        for step in range(_BURN_IN + _STEPS * (len(draws) - 1) + 1):
            away = torch.as_tensor(self._propose(rng, mean.shape)).to(block.device)
            proposed = center + torch.einsum("ijp,jp->ip", root, away)
            inside = ((proposed >= block.lower) & (proposed <= block.upper)).all(0)
            there = block.objective(torch.where(inside, proposed, place))
            its_density = self._log_density(away)
            log_ratio = objective - there + density - its_density
            chance = torch.as_tensor(np.log(rng.random(mean.shape[1]))).to(block.device)
            taken = inside & (chance < log_ratio)
            place = torch.where(taken, proposed, place)
            objective, density = torch.where(taken, there, objective), torch.where(taken, its_density, density)
            if step >= _BURN_IN and (step - _BURN_IN) % _STEPS == 0:
                draws[(step - _BURN_IN) // _STEPS] = place.cpu().numpy() * factor + offset

    def _scales(self) -> tuple[np.ndarray, np.ndarray]:
        """Physical = factor · internal + offset of each free number, ``(k, 1)``."""
        layout = self.problem.layout
        rows = np.concatenate([np.arange(layout.n_rows)[layout.rows[key]] for key in layout.free_keys])
        factor, offset = layout.scales()
        return factor[rows, None], offset[rows, None]

    @staticmethod
    def _propose(rng, shape: tuple[int, int]) -> np.ndarray:
        """Distances from the solution in units of the root of the covariance, ``(k, m)``."""
        share, scale = np.array(_MIXTURE).T
        wide = scale[rng.choice(len(share), shape[1], p=share)]
        return rng.standard_normal(shape) * wide / np.sqrt(rng.chisquare(_FREEDOM, shape[1]) / _FREEDOM)

    @staticmethod
    def _log_density(away: torch.Tensor) -> torch.Tensor:
        """Of the proposals, but for a constant."""
        squared, k = away.square().sum(0), away.shape[0]
        parts = [
            share * scale**-k * (1.0 + squared / (_FREEDOM * scale**2)) ** (-0.5 * (_FREEDOM + k))
            for share, scale in _MIXTURE
        ]
        return sum(parts).log()
