"""Integrals of a tabulated temperature response over bins, and of its product with a DEM."""

from __future__ import annotations

import numpy as np

__all__ = ["integrate_response", "response_matrix"]

# Parts of a bin for the slope of a DEM within it.
_PARTS = 16
# What slopes in bins change in what a bin adds to a channel, is no more than this part of it.
_MOST = 0.5


def response_matrix(values: np.ndarray, temperature: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The light of each bin's mean DEM, where DEMs change linearly with log T within bins.

    A bin's mean stays its mean, and the slope within it is that of the parabola through its own and its neighbours'
    means (of the first and the last bin, that to its only neighbour). The light of a DEM that falls by a factor of two
    from one bin to the next is then right to half a per cent, where bins that are flat are off by four. Slopes count
    for less where they would change what a bin's mean adds by more than half, as in very wide bins, and for nothing
    beside bins without any response. Of a DEM that is the same everywhere the light is the integral of the response.

    Parameters
    ----------
    values : `numpy.ndarray`
        ``(channels, n)``.
    temperature : `numpy.ndarray`
        ``(n,)``, increasing.
    edges : `numpy.ndarray`
        ``(k + 1,)``, increasing, within the table.

    Returns
    -------
    `numpy.ndarray`
        ``(channels, k)``.
    """
    k = len(edges) - 1
    flat = integrate_response(values, temperature, edges)
    if k == 1:
        return flat
    ends = np.log(edges)
    fine = np.append(ends[:-1, None] + np.diff(ends)[:, None] * np.arange(_PARTS) / _PARTS, ends[-1])
    parts = integrate_response(values, temperature, np.exp(fine).clip(edges[0], edges[-1])).reshape(-1, k, _PARTS)
    width = np.diff(np.exp(fine)).reshape(k, _PARTS)
    place = 0.5 * (fine[1:] + fine[:-1]).reshape(k, _PARTS)
    middle = (place * width).sum(1) / width.sum(1)
    moment = (parts * (place - middle[:, None])).sum(2)
    slope = np.gradient(np.eye(k), middle, axis=0)
    change = np.abs(moment) @ np.abs(slope)
    with np.errstate(divide="ignore", invalid="ignore"):
        bearable = np.where(change > 0, (_MOST * np.abs(flat) / change).clip(0, 1), 1.0)
    # The slope of a bin is told by some bins' means, and is as much less as the least of them bears.
    least = np.where(slope != 0, bearable[:, None], 1.0).min(2)
    return flat + (least * moment) @ slope


def integrate_response(values: np.ndarray, temperature: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """∫ R(T) dT over each bin, for responses that are power laws between the points of their tables.

    Between two points R = R₀ (T / T₀)ᵃ, the straight line in log R and log T that tables are made to be read with;
    where one of them is zero or negative, a straight line in T. The integral is that of this function, without error:
    bins may be far wider or narrower than the table's steps.

    Parameters
    ----------
    values : `numpy.ndarray`
        ``(channels, n)``.
    temperature : `numpy.ndarray`
        ``(n,)``, increasing.
    edges : `numpy.ndarray`
        ``(k + 1,)``, increasing, within the table.

    Returns
    -------
    `numpy.ndarray`
        ``(channels, k)``.
    """
    inside = temperature[(temperature > edges[0]) & (temperature < edges[-1])]
    points = np.union1d(inside, edges)
    segment = np.clip(np.searchsorted(temperature, points[:-1], side="right") - 1, 0, len(temperature) - 2)
    pieces = _segments(values, temperature, segment, points[:-1], points[1:])
    places = np.searchsorted(points, edges)
    return np.stack([pieces[:, a:b].sum(1) for a, b in zip(places[:-1], places[1:], strict=True)], axis=1)


def _segments(values, temperature, segment, low, high) -> np.ndarray:
    """The integrals from ``low`` to ``high``, each within one segment of the table."""
    t0, t1 = temperature[segment], temperature[segment + 1]
    r0, r1 = values[:, segment], values[:, segment + 1]
    positive = (r0 > 0) & (r1 > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.log(np.where(positive, r1, 1.0) / np.where(positive, r0, 1.0)) / np.log(t1 / t0)
    # ∫ T^a dT from low to high, written so that a near -1 loses nothing.
    a, span = slope + 1.0, np.log(high / low)
    power = r0 * (low / t0) ** slope * low * span * _expm1_over(a * span)
    straight_low = r0 + (r1 - r0) * (low - t0) / (t1 - t0)
    straight_high = r0 + (r1 - r0) * (high - t0) / (t1 - t0)
    return np.where(positive, power, 0.5 * (straight_low + straight_high) * (high - low))


def _expm1_over(x: np.ndarray) -> np.ndarray:
    """(eˣ - 1) / x."""
    small = np.abs(x) < 1e-8
    safe = np.where(small, 1.0, x)
    return np.where(small, 1.0 + 0.5 * x, np.expm1(safe) / safe)
