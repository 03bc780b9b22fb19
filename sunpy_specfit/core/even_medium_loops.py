"""The steps of `even_medium` that every pixel takes on its own, in compiled code (Numba)."""

from __future__ import annotations

import numpy as np

from ..numerics.loops import loop

__all__ = ["cross", "from_neighbours", "interpolate"]


@loop
def cross(smoothed, above, number, octaves, least, first, found):
    """Where the neighbours' precision is first found above that of a medium; how many pixels are left.

    Parameters
    ----------
    smoothed, above : `numpy.ndarray`
        What neighbours know as they count in a medium of precision 2^number, and in one of 2^octaves times that,
        ``(pixels,)``.
    number, octaves : int
    least : number
        What neighbours know at least.
    first : bool
        Whether there was no medium before.
    found : `numpy.ndarray`
        ``(pixels,)``: the logarithm to base 2 of the precision at which they agree; NaN where that is not yet known.
    """
    level, left = 2.0**number, 0
    for p in range(len(found)):
        if found[p] == found[p]:
            continue
        if smoothed[p] < level:
            left += 1
        elif first:
            found[p] = number
        else:
            excess = np.log2(smoothed[p]) - number
            before = np.log2(max(above[p], least)) - number - octaves
            found[p] = number - octaves * excess / (before - excess)
    return left


@loop
def from_neighbours(place, lowest, rows, table, outer, inner, found):
    """What neighbours add to a pixel's own precision in a medium: 1 / variance less the medium's own.

    Parameters
    ----------
    place : `numpy.ndarray`
        Logarithms to base 2 of the precision of each pixel's medium, ``(pixels,)``.
    lowest : int
    rows : `numpy.ndarray`
        For each whole number from the lowest on, which row of the table is that medium's.
    table : `numpy.ndarray`
        Logarithms of variances, ``(media, columns)``.
    outer, inner : `numpy.ndarray`
        What the place along all axes but the last, and along the last, adds to a pixel's column.
    found : `numpy.ndarray`
        ``(pixels,)``, to be filled.
    """
    n = len(inner)
    for i in range(len(outer)):
        for j in range(n):
            own = place[i * n + j]
            below = np.floor(own)
            row, column = rows[int(below) - lowest], outer[i] + inner[j]
            low = table[row, column]
            logarithm = low + (own - below) * (table[row + 1, column] - low)
            found[i * n + j] = max(np.exp(-logarithm) - np.exp2(own), 0.0)


@loop
def interpolate(place, number, below, high, found):
    """A line from what holds at 2^number to what holds at twice that, for the pixels between the two.

    Parameters
    ----------
    place : `numpy.ndarray`
        Logarithms to base 2, ``(pixels,)``.
    number : int
    below, high, found : `numpy.ndarray`
        ``(pixels,)``; the last to be filled there.
    """
    for p in range(len(found)):
        if np.floor(place[p]) == number:
            found[p] = below[p] + (place[p] - number) * (high[p] - below[p])
