"""What the data of Hinode/SP themselves tell: where the lines are, and how large the noise is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import nnls

from .lines import line

__all__ = ["DISPERSION", "Axis", "continuum", "find_lines", "noise_of"]

DISPERSION = 0.021549
"""Å a sample, measured with a laser before the launch (Lites & Ichimoto 2013)."""

# Half the window (samples) in which a core is sought, and of the area of a line.
_CORE, _AREA = 3, 12
# Samples further from the lines' centres than this (Å) are continuum, fields of 4 kG included.
_WINGS = 0.35
# Samples at the red end that the calibration's shifts have filled up and smoothed.
_FILLED = 8
_SHALLOWEST = 0.15
# Bins of the continuum's intensity in which the noise is measured, at least so many pixels in each, and about how many
# are looked at in all.
_BINS, _IN_A_BIN, _LOOKED_AT = 8, 100, 40_000


class Axis(NamedTuple):
    """Where the lines stand: the samples of their cores, the wavelength of the first sample, and Å a sample."""

    cores: tuple[float, float]
    first: float
    dispersion: float

    def free(self, n: int) -> np.ndarray:
        """Which of n samples are free of lines, and of what filled the end."""
        away = np.abs(np.arange(n)[:, None] - np.array(self.cores)).min(1) * DISPERSION
        return (away > _WINGS) & (np.arange(n) < n - _FILLED)


def _rests() -> tuple[float, float]:
    return tuple(line(name).air.to_value("Angstrom") for name in ("Fe I 6301.5", "Fe I 6302.5"))


def continuum(intensity: np.ndarray) -> np.ndarray:
    """The median of the sixteen highest samples of each profile ``(..., n)``."""
    count = min(16, intensity.shape[-1])
    return np.median(np.partition(intensity, -count, axis=-1)[..., -count:], axis=-1)


def find_lines(mean: np.ndarray) -> Axis:
    """Where the cores of Fe I 6301.5 and 6302.5 stand in a mean profile of I, ``(n,)``.

    Raises
    ------
    ValueError
        If there are no two lines that far apart, or if they stand in the order of raw data.
    """
    rests = _rests()
    depth = 1 - mean / continuum(mean)
    apart = (rests[1] - rests[0]) / DISPERSION
    places = np.arange(_CORE, len(mean) - _CORE - 1 - apart, 0.1)
    if not len(places):
        raise ValueError(f"{len(mean)} samples are too few to hold both iron lines, which lie {apart:.0f} apart")
    samples = np.arange(len(mean))
    both = np.minimum(np.interp(places, samples, depth), np.interp(places + apart, samples, depth))
    best = places[both.argmax()]
    if both.max() < _SHALLOWEST:
        raise ValueError(
            f"no two lines of Fe I stand {apart:.1f} samples apart in the mean profile: is this a window at 6302 Å?"
        )
    cores = [_core(mean, place) for place in (best, best + apart)]
    areas = [depth[max(0, round(c) - _AREA) : round(c) + _AREA + 1].sum() for c in cores]
    if areas[0] < areas[1]:
        raise ValueError(
            "the first of the two lines is the weaker one, as in raw data, whose wavelengths run backwards: give files "
            "of level 1"
        )
    middle = np.mean(rests) - np.mean(cores) * DISPERSION
    return Axis((cores[0], cores[1]), middle, (rests[1] - rests[0]) / (cores[1] - cores[0]))


def _core(mean: np.ndarray, place: float) -> float:
    """Where a spline through the profile is lowest."""
    about = np.arange(max(0, round(place) - _CORE), min(len(mean), round(place) + _CORE + 1))
    lowest = about[mean[about].argmin()]
    level = CubicSpline(np.arange(len(mean)), mean).derivative().roots(extrapolate=False)
    return float(level[np.abs(level - lowest).argmin()])


def noise_of(data: np.ndarray, intensity: np.ndarray, good: np.ndarray, axis: Axis) -> np.ndarray:
    """The standard deviation of the noise of each pixel and Stokes parameter, ``(..., 4, 1)``.

    From second differences along the continuum, which know no slopes; in bins of the continuum's intensity, through
    which goes σ² = a + b I.
    """
    free = axis.free(data.shape[-1])
    triples = np.flatnonzero(free[:-2] & free[1:-1] & free[2:]) + 1
    pixels = np.argwhere(good)
    pixels = pixels[:: max(1, len(pixels) // _LOOKED_AT)]
    chosen = data[tuple(pixels.T)].astype(float)
    level = intensity[tuple(pixels.T)]
    scatter = (chosen[..., triples - 1] - 2 * chosen[..., triples] + chosen[..., triples + 1]) / np.sqrt(6)
    edges = np.quantile(level, np.linspace(0, 1, int(np.clip(len(level) // _IN_A_BIN, 1, _BINS)) + 1))
    bins = np.clip(np.searchsorted(edges, level, side="right") - 1, 0, len(edges) - 2)
    size = float(np.median(level))
    means = np.array([level[bins == one].mean() for one in np.unique(bins)]) / size
    rows = np.stack([np.ones_like(means), means], 1)
    sigma = np.empty((*intensity.shape, 4, 1), np.float32)
    for number in range(4):
        spreads = [1.4826 * np.median(np.abs(scatter[bins == one, number])) for one in np.unique(bins)]
        squares = np.square(spreads)
        # Each variance is known to the same fraction: of what the line through all of them says.
        line_of = np.full_like(squares, squares.mean())
        for _ in range(3):
            weight = 1 / np.maximum(line_of, 1e-12 * squares.max())
            parts, _ = nnls(rows * weight[:, None], squares * weight)
            line_of = rows @ parts
        sigma[..., number, 0] = np.sqrt(parts[0] + parts[1] * np.where(good, intensity, size) / size)
    return sigma
