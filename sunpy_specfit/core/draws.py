"""Draws of whole maps: which of the ways to draw from a posterior suits a result."""

from __future__ import annotations

import numpy as np

from .arguments import check_seed
from .covariance import Propagation
from .metropolis import Metropolis
from .perturbation import Perturbation
from .sampling import derived_draws, displaced, draw
from .status import Status

__all__ = ["draw_maps"]


def draw_maps(
    propagation: Propagation, sampler: Metropolis | Perturbation | None, status: np.ndarray, n: int, seed: int
) -> dict[str, np.ndarray]:
    """Draws of every fitted and derived quantity, key -> ``(n, [k,] pixels)``.

    Coupled maps are drawn as wholes where the sampler can; else each pixel from its Gaussian, and from the posterior
    itself where the signal is low.

    Raises
    ------
    ValueError
        If n is not a positive whole number or the seed no whole number, or there is no covariance to draw from.
    """
    if not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n, the number of draws, is a positive whole number, found {n!r}")
    check_seed(seed)
    draws = _parameters(propagation, sampler, status, int(n), seed)
    return draws | derived_draws(propagation, draws)


def _parameters(propagation, sampler, status, n, seed) -> dict[str, np.ndarray]:
    bounds = propagation.layout.physical_bounds()
    if isinstance(sampler, Perturbation):
        moves = sampler.draw(n, seed)
        if moves is not None:
            return displaced(propagation, moves, *bounds)
    chain = sampler if isinstance(sampler, Metropolis) else None
    return draw(propagation, *bounds, n, seed, chain, (status & int(Status.LOW_SIGNAL)) > 0)
