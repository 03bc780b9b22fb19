"""The loop over pixels of `profile` in compiled code (Numba): each spectrum is looked at once, in the cache."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["look_at"]

# Pixels at a time, whose samples stay in the inner caches.
_AT_ONCE = 512
_compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})


@_compiled
def look_at(light, moment, extent, steps, depth_of, found):
    """Two sums over the samples of each pixel, and the longest stretch at half depth or deeper.

    Parameters
    ----------
    light : `numpy.ndarray`
        ``(m, pixels)``.
    moment, extent : `numpy.ndarray`
        Weights of the sums, ``(m,)``.
    steps : `numpy.ndarray`
        From sample to sample, ``(m - 1,)``.
    depth_of : number
        The part of a line's depth that counts.
    found : `numpy.ndarray`
        ``(3, pixels)``, to be filled; a stretch of 0 where a sample is not a number.
    """
    m, pixels = light.shape
    zero, half = light.dtype.type(0), light.dtype.type(0.5)
    away = np.empty((m, _AT_ONCE), light.dtype)
    base, deepest, stretch = np.empty((3, _AT_ONCE), light.dtype)
    for begin in range(0, pixels, _AT_ONCE):
        number = min(_AT_ONCE, pixels - begin)
        first, last = light[0, begin : begin + number], light[m - 1, begin : begin + number]
        place, depth, longest = (
            found[0, begin : begin + number],
            found[1, begin : begin + number],
            found[2, begin : begin + number],
        )
        for p in range(number):
            base[p] = half * (first[p] + last[p])
            place[p] = depth[p] = longest[p] = deepest[p] = stretch[p] = zero
        for j in range(m):
            row, out, by_place, by_depth = light[j, begin : begin + number], away[j], moment[j], extent[j]
            for p in range(number):
                place[p] += by_place * row[p]
                depth[p] += by_depth * row[p]
                out[p] = abs(row[p] - base[p])
                deepest[p] = out[p] if out[p] > deepest[p] else deepest[p]
        for p in range(number):
            deepest[p] *= depth_of
        for j in range(m - 1):
            here, there, step = away[j], away[j + 1], half * steps[j]
            for p in range(number):
                a, b = here[p] - deepest[p], there[p] - deepest[p]
                # The part of a straight line from a to b that is above zero is (1 + (a + b) / (|a| + |b|)) / 2.
                part = step + step * (a + b) / (abs(a) + abs(b))
                stretch[p] = part + (stretch[p] if a > zero else zero)
                longest[p] = stretch[p] if stretch[p] > longest[p] else longest[p]
        for p in range(number):
            if not (abs(depth[p]) >= zero and longest[p] >= zero):
                longest[p] = zero
