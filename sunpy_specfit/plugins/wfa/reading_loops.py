"""Samples out of a cube in compiled code (Numba), to where those of some pixels lie side by side."""

from __future__ import annotations

import numpy as np

from ...numerics.loops import inner_loop
from .sum_loops import TILE

__all__ = ["look_closer", "take"]


@inner_loop
def _copy(here, scale, own):
    for p in range(TILE):
        own[p] = scale * here[p]


@inner_loop
def _copy_folded(here, there, scale, own, other):
    """The sum of two samples, and their difference."""
    for p in range(TILE):
        a, b = scale * here[p], scale * there[p]
        own[p] = a + b
        other[p] = a - b


@inner_loop
def _largest_of(bits, step, pixels, mask, most):
    """The size of the largest number by its bits, which rise as sizes do; those of what is no number are above all."""
    kind = bits.dtype.type
    largest = kind(0)
    if step == 1:
        for p in range(pixels):
            size = kind(bits[p] & mask)
            largest = size if size > largest else largest
    else:
        for p in range(pixels):
            size = kind(bits[p * step] & mask)
            largest = size if size > largest else largest
    return max(largest, most)


@inner_loop
def _take_two(source, begin, other_begin, step, scale, pixels, samples, stokes, row, other_row, folded):
    """Two samples of some pixels out of the cube, multiplied, to where the samples of so many pixels lie side by side.

    Sums and differences if these are asked for. The last pixel stands in for those that are missing.
    """
    whole = pixels // TILE if step == 1 else 0
    for tile in range(whole):
        at, other_at = begin + tile * TILE, other_begin + tile * TILE
        one, two = samples[tile, stokes, row], samples[tile, stokes, other_row]
        here, there = source[at : at + TILE], source[other_at : other_at + TILE]
        if folded:
            _copy_folded(here, there, scale, one, two)
        else:
            _copy(here, scale, one)
            _copy(there, scale, two)
    for tile in range(whole, (pixels + TILE - 1) // TILE):
        at, other_at = begin + tile * TILE * step, other_begin + tile * TILE * step
        one, two = samples[tile, stokes, row], samples[tile, stokes, other_row]
        number = min(TILE, pixels - tile * TILE)
        for p in range(number):
            a, b = scale * source[at + p * step], scale * source[other_at + p * step]
            one[p] = a + b if folded else a
            two[p] = a - b if folded else b
        for p in range(number, TILE):
            one[p], two[p] = one[number - 1], two[number - 1]


@inner_loop
def _take_one(source, begin, step, scale, pixels, samples, stokes, row):
    """One sample, as `_take_two`."""
    for tile in range((pixels + TILE - 1) // TILE):
        own, at = samples[tile, stokes, row], begin + tile * TILE * step
        number = min(TILE, pixels - tile * TILE)
        for p in range(number):
            own[p] = scale * source[at + p * step]
        for p in range(number, TILE):
            own[p] = own[number - 1]


@inner_loop
def take(source, bits, at, sample_step, step, scale, pixels, samples, stokes, folded, mask, most):
    """All samples of one Stokes parameter, mirror images together, and the largest by its bits."""
    n = samples.shape[2]
    for k in range(n // 2):
        one, other = at + k * sample_step, at + (n - 1 - k) * sample_step
        _take_two(source, one, other, step, scale, pixels, samples, stokes, k, n - 1 - k, folded)
        most = _largest_of(bits[one:], step, pixels, mask, most)
        most = _largest_of(bits[other:], step, pixels, mask, most)
    if n % 2:
        one = at + n // 2 * sample_step
        _take_one(source, one, step, scale, pixels, samples, stokes, n // 2)
        most = _largest_of(bits[one:], step, pixels, mask, most)
    return most


@inner_loop
def _largest_in(source, at, stokes_step, stokes, sample_step, n):
    """The size of the largest sample of a pixel, NaN where one is."""
    most = abs(source[at])
    for s in range(stokes):
        for j in range(n):
            most = np.maximum(most, abs(source[at + s * stokes_step + j * sample_step]))
    return most


@inner_loop
def look_closer(spectra, steps, scale, first, pixels, n, limit, regular):
    """Which of some pixels have measurements only, and the largest of their Q, U and V."""
    sample_step, pixel_step, stokes_step, other_sample, other_pixel = steps
    largest = limit * 0
    for p in range(pixels):
        at, other_at = (first + p) * pixel_step, (first + p) * other_pixel
        of_light = scale[0] * _largest_in(spectra[0], at, 0, 1, sample_step, n)
        of_others = scale[1] * _largest_in(spectra[1], other_at, stokes_step, 3, other_sample, n)
        regular[p] = (of_light <= limit) & (of_others <= limit)
        largest = of_others if regular[p] and of_others > largest else largest
    return largest
