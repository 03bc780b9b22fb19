"""Loops over pixels in compiled code (Numba), for `compiled`: each spectrum is read once, where it lies in the cube."""

from __future__ import annotations

import numpy as np

from ...numerics.loops import inner_loop, loop
from ...numerics.row_products import multiply
from .reading_loops import look_closer, take
from .sum_loops import (
    CONSTANT,
    COUNTED,
    QQ,
    QU,
    ROWS,
    TILE,
    UU,
    VALID,
    VV,
    Q,
    U,
    V,
    add_core,
    add_longitudinal,
    add_squares,
    add_wing,
    add_wing_twice,
    finish,
)

__all__ = ["READ", "flag", "look_at"]

# Pixels that are read at a time, for memory is quick where much of it is read in a row.
_TILES = 8
READ = _TILES * TILE


@inner_loop
def _fold(rows, half):
    """Sums of what is at equal distances from the middle, and differences below them, in place of the samples."""
    n = len(rows)
    for k in range(n - half):
        one, other = rows[k], rows[n - 1 - k]
        for p in range(TILE):
            a, b = one[p], other[p]
            one[p] = a + b
            other[p] = a - b


@inner_loop
def _place(target, maps, origin, shrink, begin, pixels):
    """Some pixels of maps in the frame of the samples."""
    for j in range(len(maps)):
        own, here = target[j], maps[j, begin : begin + pixels]
        for p in range(pixels):
            own[p] = (here[p] - origin) * shrink
        for p in range(pixels, TILE):
            own[p] = own[pixels - 1]


@inner_loop
def _least(row, work):
    """The least of some numbers: halves are compared number by number, which the compiler takes eight at a time."""
    half = TILE // 2
    for p in range(half):
        a, b = row[p], row[half + p]
        work[p] = a if a < b else b
    while half > 1:
        half //= 2
        for p in range(half):
            a, b = work[p], work[half + p]
            work[p] = a if a < b else b
    return work[0]


@inner_loop
def _reach(place, wing, work):
    """The least and the largest of the centres, and where the first wing begins."""
    nearest, least = _least(wing, work), _least(place, work)
    for p in range(TILE):
        work[TILE + p] = -place[p]
    return least, -_least(work[TILE:], work), nearest


@inner_loop
def _move_centers(tilt, moment, depth, window):
    """What the sums that give a line's centre are to be pulled back with, in their place."""
    zero = tilt.dtype.type(0)
    for p in range(TILE):
        middle = moment[p] / depth[p]
        moved = tilt[p] / depth[p]
        inside = abs(middle) <= window
        moved = moved if inside else zero
        middle = middle if inside else zero
        moment[p] = moved
        depth[p] = -moved * middle


@inner_loop
def _add_transverse(linear, noise, axis, lines, parts, derived, edges, sums, tilt, work):
    """What all samples of Q and U add; the derivatives become their factors times the shape."""
    owner, known, _ = lines
    outer, n_wing, inner, n_core = parts
    place, wing, core = edges
    n, alone, zero = len(axis), len(place) == 1, derived.dtype.type(0)
    least, most, nearest = _reach(place[0], wing[0], work)
    j = 0
    while j < n:
        one = 0 if alone else j
        if known[j] == 0:
            for k in range(j, n_wing + n_core, n):
                derived[k, :] = zero
            j += 1
            continue
        twice = False
        if n_wing and alone and axis[j] - least <= nearest and most - axis[j] <= nearest:
            # No pixel's wing reaches here.
            derived[j, :] = zero
        elif n_wing:
            twice = alone and n_core == 0 and j + 1 < n and known[j + 1] != 0 and owner[j + 1] == owner[j]
            if twice:
                add_wing_twice(
                    (axis[j], axis[j + 1]),
                    place[0],
                    (outer[j], outer[j + 1]),
                    wing[0],
                    (noise[j], noise[j + 1]),
                    derived[j],
                    derived[j + 1],
                    linear[0, j],
                    linear[0, j + 1],
                    linear[1, j],
                    linear[1, j + 1],
                    sums,
                    tilt[owner[j]],
                )
            else:
                q, u = linear[0, j], linear[1, j]
                add_wing(axis[j], place[one], outer[j], wing[one], noise[j], derived[j], q, u, sums, tilt[owner[j]])
        if n_core:
            own, q, u = derived[n_wing + j], linear[0, j], linear[1, j]
            add_core(axis[j], place[one], inner[j], core[one], noise[n_wing + j], own, q, u, sums)
        j += 2 if twice else 1


@inner_loop
def _work_on(samples, edges, axis, products, half, lines, parts, modes, noise, numbers, memory):
    """The quadratics of pixels whose samples have been read; see `look_at`."""
    even, odd, even_v, odd_v, even_back, odd_back = products
    window, derivatives = lines[2], parts[1] + parts[3]
    derived, mode_data, back, tilt, sums, work = memory
    n, zero = len(axis), sums.dtype.type(0)
    folded = half < n
    light, circular = samples[0], samples[3]
    for p in range(COUNTED * TILE):
        sums[p] = zero
    tilt[:] = zero
    for matrix, which, places in (even, odd):
        multiply(matrix, light, which, derived, places)
    for matrix, which, places in (even_v, odd_v):
        multiply(matrix, circular, which, mode_data, places)
    add_longitudinal(derived[derivatives + 2 * len(window) :], mode_data, modes, numbers[0], sums)
    if folded:
        for k in range(0, derivatives, n):
            _fold(derived[k : k + n], half)
    _add_transverse(samples[1:3], noise, axis, lines, parts, derived, edges, sums, tilt, work)
    for k in range(len(window)):
        at = derivatives + k
        _move_centers(tilt[k], derived[at], derived[at + len(window)], window[k])
    if folded:
        for k in range(0, derivatives, n):
            _fold(derived[k : k + n], half)
    for matrix, which, places in (even_back, odd_back):
        multiply(matrix, derived, which, back, places)
    add_squares(back, sums)
    finish(sums, numbers)


@inner_loop
def _put(target, sums, begin):
    for p in range(len(target)):
        target[p] = sums[begin + p]


@inner_loop
def _write(found, begin, end, sums):
    """The quadratic."""
    constant, matrix, vector, valid, _ = found
    _put(constant[begin:end], sums, CONSTANT)
    for row, what in ((0, VV), (2, QQ), (4, QU), (5, UU)):
        _put(matrix[row, begin:end], sums, what)
    matrix[1, begin:end] = 0
    matrix[3, begin:end] = 0
    for row, what in ((0, V), (1, Q), (2, U)):
        _put(vector[row, begin:end], sums, what)
    own_valid = valid[begin:end]
    for p in range(len(own_valid)):
        # By way of integers half as long, for which there are vector instructions.
        own_valid[p] = np.int64(np.int32(sums[VALID + p]))


@loop
def look_at(
    begin,
    end,
    start,
    spectra,
    bits,
    mask,
    steps,
    scale,
    center,
    axis,
    limit,
    products,
    half,
    lines,
    parts,
    modes,
    noise,
    numbers,
    found,
):
    """The quadratics of some pixels, from their samples where these lie.

    Parameters
    ----------
    begin, end : int
        Which pixels.
    start : int
        The pixel whose numbers are the first of those found.
    spectra, bits : tuple of `numpy.ndarray`
        I and the other three: one-dimensional, from their first number to their last; and the same as integers.
    mask : int
        The bits of a number but for its sign.
    steps : tuple of int
        How far apart samples and pixels of I lie there, and Stokes parameters, samples and pixels of the others.
    scale : tuple of number
        What to multiply I, and the others, by.
    center : tuple of (`numpy.ndarray`, `numpy.ndarray`, `numpy.ndarray`, number, number)
        The lines' centres, where the wing begins and how far the core reaches, ``(1 or n, pixels)`` all; the origin to
        subtract from the first, and what to multiply by.
    axis : `numpy.ndarray`
        ``(n,)``.
    limit : number
        What no sample in the internal frame exceeds.
    products : tuple of (`numpy.ndarray`, `numpy.ndarray`, `numpy.ndarray`)
        What takes the even and the odd part of I to its derivatives, what gives the centre of each line, and the shape
        of V among its modes; of V, to its modes; and what is pulled back from the first of these to both parts of I.
        Matrices, which rows each is for, and which it gives.
    half : int
        Rows of the even part: all where the wavelengths have no symmetry.
    lines : tuple of `numpy.ndarray`
        The line of each sample, whether it is one of those fitted, and how far from its middle a line's centre may be.
    parts : tuple
        Factor of the wing (times the distance from the centre), and how many of the derivatives' rows it has; that of
        the core, and how many rows.
    modes, noise : `numpy.ndarray`
        The variance of each mode of the shape of V; of each sample of the derivatives, their factors left out.
    numbers : tuple of number
        The weight of Q, U and V, the variance of I, the signs of Q, U and V, how many samples V has.
    found : tuple of `numpy.ndarray`
        To be filled: constant, matrix, vector, valid, and whether all samples are numbers.

    Returns
    -------
    number
        The size of the largest sample of Q, U and V in pixels whose samples are all numbers.
    """
    light, others = spectra
    sample_step, pixel_step, stokes_step, other_sample, other_pixel = steps
    middles, begins, reaches, origin, shrink = center
    kind, n, lined = noise.dtype, len(axis), len(lines[2])
    # What is derived, V's modes, what is pulled back, a tilt for each line, sums, and room to work in.
    derivatives = parts[1] + parts[3]
    memory = (
        np.zeros((derivatives + 2 * lined + len(modes), TILE), kind),
        np.zeros((len(modes), TILE), kind),
        np.zeros((n, TILE), kind),
        np.zeros((lined, TILE), kind),
        np.zeros(ROWS * TILE, kind),
        np.zeros(2 * TILE, kind),
    )
    place, wing, core = (
        np.zeros((len(middles), TILE), kind),
        np.zeros((len(middles), TILE), kind),
        np.zeros((len(middles), TILE), kind),
    )
    samples, folded, largest = np.zeros((_TILES, 4, n, TILE), kind), half < n, kind.type(0)
    regular, most = found[-1], np.zeros(2, bits[0].dtype)
    sizes = most.view(light.dtype)
    for first in range(begin, end, READ):
        pixels = min(READ, end - first)
        most[:] = 0
        at = first * pixel_step
        most[0] = take(light, bits[0], at, sample_step, pixel_step, scale[0], pixels, samples, 0, folded, mask, 0)
        for s in range(3):
            at, own = s * stokes_step + first * other_pixel, folded & (s == 2)
            most[1] = take(
                others, bits[1], at, other_sample, other_pixel, scale[1], pixels, samples, s + 1, own, mask, most[1]
            )
        own_largest = scale[1] * sizes[1]
        if (scale[0] * sizes[0] <= limit) & (own_largest <= limit):
            regular[first - start : first - start + pixels] = True
        else:
            own_largest = look_closer(spectra, steps, scale, first, pixels, n, limit, regular[first - start :])
        largest = own_largest if own_largest > largest else largest
        for tile in range((pixels + TILE - 1) // TILE):
            here = first + tile * TILE
            number = min(TILE, end - here)
            _place(place, middles, origin, shrink, here, number)
            if parts[1]:
                _place(wing, begins, 0.0, shrink, here, number)
            if parts[3]:
                _place(core, reaches, 0.0, shrink, here, number)
            edges = place, wing, core
            _work_on(samples[tile], edges, axis, products, half, lines, parts, modes, noise, numbers, memory)
            _write(found, here - start, here - start + number, memory[4])
    return largest


@loop
def flag(begin, end, fields, errors, strongest, limits, bits, found):
    """Status bits of each pixel; `WeakField.flag` says what they mean.

    Parameters
    ----------
    begin, end : int
        Which pixels.
    fields, errors : tuple of `numpy.ndarray`
        b_los, b_q and b_u, and their standard deviations, ``(pixels,)``.
    strongest : `numpy.ndarray`
        The strongest field whose splitting is small, ``(pixels,)``.
    limits : tuple of number
        How many sigma squared make a linear signal, and any; of b_los; the error of b_los above which there is no line.
    bits : tuple of int
        AMBIGUOUS, NO_LINEAR_SIGNAL, STRONG_FIELD, NO_POLARIZATION, FLAT_PROFILE.
    found : `numpy.ndarray`
        int32 ``(pixels,)``, to be filled.
    """
    linear, detected, detected_los, flat = limits
    # Numbers as long as those to be filled: only so does the compiler take several pixels at a time.
    ambiguous, none, strong = np.int32(bits[0]), np.int32(bits[1]), np.int32(bits[2])
    absent, no_line, nothing = np.int32(bits[3]), np.int32(bits[4]), np.int32(0)
    los, q, u = fields[0][begin:end], fields[1][begin:end], fields[2][begin:end]
    sigma, sigma_q, sigma_u = errors[0][begin:end], errors[1][begin:end], errors[2][begin:end]
    most, status = strongest[begin:end], found[begin:end]
    for p in range(len(status)):
        of_q, of_u = q[p] / sigma_q[p], u[p] / sigma_u[p]
        of_q, of_u = of_q * of_q, of_u * of_u
        # Zero where nothing is known.
        signal = (of_q if of_q == of_q else 0.0) + (of_u if of_u == of_u else 0.0)
        seen = signal >= linear
        across = np.sqrt(q[p] * q[p] + u[p] * u[p])
        squared = los[p] * los[p] + (across if seen else 0.0)
        own = ambiguous if seen else none
        own = own + (strong if squared > most[p] * most[p] else nothing)
        own = own + (absent if (abs(los[p]) < detected_los * sigma[p]) & (signal < detected) else nothing)
        own = own + (no_line if sigma[p] > flat else nothing)
        status[p] = own
