"""Integrals of a tabulated temperature response over bins."""

from __future__ import annotations

import numpy as np

__all__ = ["integrate_response"]


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
