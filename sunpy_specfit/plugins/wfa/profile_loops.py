"""The loop over pixels of `profile` in compiled code (Numba): each spectrum is looked at once, in the cache."""

from __future__ import annotations

import numpy as np

from ...numerics.loops import inner_loop, loop

__all__ = ["AT_ONCE", "look_at"]

# Pixels at a time, whose samples stay in the inner caches.
AT_ONCE = 1024
# Where rows of numbers begin that lie in one piece of memory, by which the compiler knows that they do not overlap: the
# sums, the level of the continuum, the depth that counts, the stretch so far and the longest; and the largest sample,
# of all pixels so far.
_PLACE, _DEPTH, _BASE, _DEEPEST, _STRETCH, _LONGEST, _LARGEST = (k * AT_ONCE for k in range(7))
_ROWS = 7


@inner_loop
def _continuum(first, last, step, work, pixels):
    """Half the sum of the first and the last sample, and sums of nothing."""
    half, zero = work.dtype.type(0.5), work.dtype.type(0)
    if step == 1:
        for p in range(pixels):
            work[_BASE + p] = half * (first[p] + last[p])
    else:
        for p in range(pixels):
            work[_BASE + p] = half * (first[p * step] + last[p * step])
    for row in (_PLACE, _DEPTH, _DEEPEST, _STRETCH, _LONGEST):
        for p in range(pixels):
            work[row + p] = zero


@inner_loop
def _copy(row, step, out, pixels):
    if step == 1:
        for p in range(pixels):
            out[p] = row[p]
    else:
        for p in range(pixels):
            out[p] = row[p * step]


@inner_loop
def _add(row, by_place, by_depth, work, pixels):
    """What one sample adds to the sums; in its place, how far it is from the continuum."""
    for p in range(pixels):
        value = row[p]
        work[_PLACE + p] += by_place * value
        work[_DEPTH + p] += by_depth * value
        away = abs(value - work[_BASE + p])
        row[p] = away
        work[_DEEPEST + p] = away if away > work[_DEEPEST + p] else work[_DEEPEST + p]
        work[_LARGEST + p] = np.maximum(work[_LARGEST + p], abs(value))


@inner_loop
def _add_four(a, b, c, d, by_place, by_depth, work, pixels):
    """The same of four samples, with sums that are fetched once."""
    place_a, place_b, place_c, place_d = by_place[0], by_place[1], by_place[2], by_place[3]
    depth_a, depth_b, depth_c, depth_d = by_depth[0], by_depth[1], by_depth[2], by_depth[3]
    for p in range(pixels):
        va, vb, vc, vd = a[p], b[p], c[p], d[p]
        work[_PLACE + p] += place_a * va + place_b * vb + place_c * vc + place_d * vd
        work[_DEPTH + p] += depth_a * va + depth_b * vb + depth_c * vc + depth_d * vd
        base = work[_BASE + p]
        aa, ab, ac, ad = abs(va - base), abs(vb - base), abs(vc - base), abs(vd - base)
        a[p], b[p], c[p], d[p] = aa, ab, ac, ad
        ab, ad = aa if aa > ab else ab, ac if ac > ad else ad
        ad = ab if ab > ad else ad
        work[_DEEPEST + p] = ad if ad > work[_DEEPEST + p] else work[_DEEPEST + p]
        most, other = np.maximum(abs(va), abs(vb)), np.maximum(abs(vc), abs(vd))
        work[_LARGEST + p] = np.maximum(work[_LARGEST + p], np.maximum(most, other))


@inner_loop
def _go_on(stretch, a, b, step, zero):
    """How long the profile stays as deep as counts, from one sample to the next."""
    # The part of a straight line from a to b that is above zero is (1 + (a + b) / (|a| + |b|)) / 2.
    part = step + step * ((a + b) / (abs(a) + abs(b)))
    return part + (stretch if a > zero else zero)


@inner_loop
def _walk(here, there, step, work, pixels):
    """The longest stretch, up to the next sample."""
    zero = work.dtype.type(0)
    for p in range(pixels):
        level = work[_DEEPEST + p]
        stretch = _go_on(work[_STRETCH + p], here[p] - level, there[p] - level, step, zero)
        work[_STRETCH + p] = stretch
        work[_LONGEST + p] = stretch if stretch > work[_LONGEST + p] else work[_LONGEST + p]


@inner_loop
def _walk_four(a, b, c, d, e, steps, work, pixels):
    """The same over four samples, with what is known so far fetched once."""
    zero, half = work.dtype.type(0), work.dtype.type(0.5)
    to_b, to_c, to_d, to_e = half * steps[0], half * steps[1], half * steps[2], half * steps[3]
    for p in range(pixels):
        level, stretch, longest = work[_DEEPEST + p], work[_STRETCH + p], work[_LONGEST + p]
        va, vb, vc, vd, ve = a[p] - level, b[p] - level, c[p] - level, d[p] - level, e[p] - level
        stretch = _go_on(stretch, va, vb, to_b, zero)
        longest = stretch if stretch > longest else longest
        stretch = _go_on(stretch, vb, vc, to_c, zero)
        longest = stretch if stretch > longest else longest
        stretch = _go_on(stretch, vc, vd, to_d, zero)
        longest = stretch if stretch > longest else longest
        stretch = _go_on(stretch, vd, ve, to_e, zero)
        longest = stretch if stretch > longest else longest
        work[_STRETCH + p] = stretch
        work[_LONGEST + p] = longest


@inner_loop
def _finish(work, place, shape, noise, center, depth, width, core, wing, pixels):
    """The line's centre, its width, and where the core ends and the wing begins; `LineWindow` has the formulas."""
    middle, reach, rest = place
    doppler, spacing, margin, clear_of = shape
    kind = work.dtype.type
    zero, half = kind(0), kind(0.5)
    squared, mixed, flat = noise
    for p in range(pixels):
        found = np.float64(work[_PLACE + p]) / np.float64(work[_DEPTH + p])
        found = found if abs(found) <= reach else rest
        center[p] = found + middle
        work[_PLACE + p] = found
    for p in range(pixels):
        here, deep, long = work[_PLACE + p], work[_DEPTH + p], work[_LONGEST + p]
        known = (abs(deep) >= zero) & (long > zero)
        own = doppler * long
        own = own if own > half * spacing else half * spacing
        own = own if known else spacing + spacing
        uncertain = np.sqrt(squared - here * (mixed - here * flat)) / abs(deep)
        # Of what is no number the margin is the most, too.
        uncertain = uncertain * clear_of if uncertain * clear_of < margin else margin
        clear = np.sqrt(margin * margin + uncertain * uncertain)
        width[p] = own
        core[p] = own - clear if own - clear > margin else margin
        wing[p] = own + clear
    for p in range(len(depth)):
        depth[p] = work[_DEPTH + p]


@loop
def look_at(begin, end, light, steps, rows, moment, extent, distances, depth_of, place, shape, noise, found):
    """Centre, depth and width of one line in each pixel, the edges of its core and wing, and the largest sample.

    Parameters
    ----------
    begin, end : int
        Which pixels.
    light : `numpy.ndarray`
        One-dimensional, from the first sample of the first pixel to the last of the last.
    steps : tuple of int
        How far apart samples and pixels lie there.
    rows : `numpy.ndarray`
        Which samples are the line's, in the order of their wavelengths, ``(m,)``.
    moment, extent : `numpy.ndarray`
        Weights of two sums over the samples, ``(m,)``.
    distances : `numpy.ndarray`
        From sample to sample, ``(m - 1,)``.
    depth_of : number
        The part of a line's depth that counts.
    place : tuple of float
        The middle of the window, how far from there a centre may be, and where it is else.
    shape : tuple of number
        The Doppler width over the stretch at half depth, the samples' spacing, the margin between core and wing, and
        how many deviations of the centre these are to be clear of each other.
    noise : tuple of number
        The variance of I times the squares of the moment's weights, twice their products, and the extent's squares.
    found : tuple of `numpy.ndarray`
        Centre (float64), depth (or nothing), width, core and wing, ``(pixels,)``, to be filled. Where there is no line,
        or a sample is no number, the width is twice the spacing.

    Returns
    -------
    number
        The size of the largest sample, NaN where one is none.
    """
    sample, pixel = steps
    m = len(rows)
    kind = light.dtype.type
    half, largest = kind(0.5), kind(0)
    work, away = np.zeros(_ROWS * AT_ONCE, light.dtype), np.zeros((m, AT_ONCE), light.dtype)
    for here in range(begin, end, AT_ONCE):
        pixels = min(AT_ONCE, end - here)
        first = light[rows[0] * sample + here * pixel :]
        last = light[rows[m - 1] * sample + here * pixel :]
        _continuum(first, last, pixel, work, pixels)
        for j in range(m):
            _copy(light[rows[j] * sample + here * pixel :], pixel, away[j], pixels)
        at = 0
        while at + 4 <= m:
            _add_four(away[at], away[at + 1], away[at + 2], away[at + 3], moment[at:], extent[at:], work, pixels)
            at += 4
        for j in range(at, m):
            _add(away[j], moment[j], extent[j], work, pixels)
        for p in range(pixels):
            work[_DEEPEST + p] *= depth_of
        at = 0
        while at + 4 < m:
            _walk_four(away[at], away[at + 1], away[at + 2], away[at + 3], away[at + 4], distances[at:], work, pixels)
            at += 4
        for j in range(at, m - 1):
            _walk(away[j], away[j + 1], half * distances[j], work, pixels)
        last_one = here + pixels
        center, depth, width, core, wing = found
        center, width, core, wing = (
            center[here:last_one],
            width[here:last_one],
            core[here:last_one],
            wing[here:last_one],
        )
        _finish(work, place, shape, noise, center, depth[here:last_one], width, core, wing, pixels)
    for p in range(AT_ONCE):
        largest = np.maximum(largest, work[_LARGEST + p])
    return largest
