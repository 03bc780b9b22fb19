"""Draws of whole maps: which of the ways to draw from a posterior suits a result."""

from __future__ import annotations

import numpy as np

from .arguments import check_seed
from .covariance import Propagation
from .map_sampler import MapSampler
from .metropolis import Metropolis
from .sampling import derived_draws, displaced, draw
from .status import Status

__all__ = ["draw_maps", "turned_draws"]


def draw_maps(
    propagation: Propagation, sampler: Metropolis | MapSampler | None, status: np.ndarray, n: int, seed: int
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
    if isinstance(sampler, MapSampler):
        moves = sampler.draw(n, seed)
        if moves is not None:
            return displaced(propagation, moves, *bounds)
    chain = sampler if isinstance(sampler, Metropolis) else None
    return draw(propagation, *bounds, n, seed, chain, (status & int(Status.LOW_SIGNAL)) > 0)


def turned_draws(draws: np.ndarray, middle: np.ndarray, turned: np.ndarray, status: np.ndarray) -> np.ndarray:
    """Draws of azimuths ``(n, pixels)`` from 0 to 180 degrees, where `disambiguate` decided on the side that it took.

    There they lie within 90 degrees of the value, from 0 to 360; where it is still open they stay as they are.

    Parameters
    ----------
    middle : `numpy.ndarray`
        The values before they were turned, degrees ``(pixels,)``.
    turned : `numpy.ndarray`
        Which of them were turned, bool ``(pixels,)``.
    status : `numpy.ndarray`
        ``(pixels,)``.
    """
    decided = (status & int(Status.AMBIGUOUS)) == 0
    near = middle + np.remainder(draws - middle + 90.0, 180.0) - 90.0
    return np.where(decided, np.remainder(near + 180.0 * turned, 360.0), draws)
