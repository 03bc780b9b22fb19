"""Loops over pixels in compiled code (Numba), for `compiled`: each spectrum is read once, where it lies in the cube.

Rows of numbers that the loops add to lie in one piece of memory with fixed distances, by which the compiler knows that
they do not overlap: only so does it take eight pixels at a time.
"""

from __future__ import annotations

import numba
import numpy as np

from .attenuation import MOST

__all__ = ["AT_ONCE", "READ", "ROWS", "flag", "look_at"]

# Pixels that are read at a time, for memory is quick where much of it is read in a row; and worked on at a time, so
# that their samples and sums stay in the inner caches.
READ = 512
AT_ONCE = 256
# Where the rows of sums begin: the shape's squares and its products with Q and U; Q² + U², how many samples count, the
# noise of the shape, what is pulled back to I; the same of V; and the quadratic made of these.
_SHAPE2, _SHAPE_Q, _SHAPE_U, _TOTAL, _COUNT, _SPREAD, _SQUARES = (k * AT_ONCE for k in range(7))
_V_SHAPE, _V_BOTH, _V_DATA, _V_NOISE, _SIZE = (k * AT_ONCE for k in range(7, 12))
_CONSTANT, _QQ, _QU, _UU, _Q, _U, _VV, _V, _VALID = (k * AT_ONCE for k in range(12, 21))
ROWS = 21
# Rounding may differ from one machine to another; what is no number stays none.
_compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})


@_compiled
def _take(own, largest, source, begin, step, scale, pixels):
    """One sample of some pixels out of the cube, multiplied; and the largest size so far, which is NaN where one is."""
    if step == 1:
        here = source[begin : begin + pixels]
        for p in range(pixels):
            value = scale * here[p]
            own[p] = value
            largest[p] = np.maximum(largest[p], abs(value))
    else:
        for p in range(pixels):
            own[p] = scale * source[begin + p * step]
        for p in range(pixels):
            largest[p] = np.maximum(largest[p], abs(own[p]))


@_compiled
def _fold(rows, half, begin, pixels):
    """Sums of what is at equal distances from the middle, and differences below them, in place of the samples."""
    n, end = len(rows), begin + pixels
    for k in range(n - half):
        one, other = rows[k, begin:end], rows[n - 1 - k, begin:end]
        for p in range(pixels):
            a, b = one[p], other[p]
            one[p] = a + b
            other[p] = a - b


@_compiled
def _add_eight(out, rows, which, at, factors, begin, pixels, fresh):
    end = begin + pixels
    a, b = rows[which[at], begin:end], rows[which[at + 1], begin:end]
    c, d = rows[which[at + 2], begin:end], rows[which[at + 3], begin:end]
    e, f = rows[which[at + 4], begin:end], rows[which[at + 5], begin:end]
    g, h = rows[which[at + 6], begin:end], rows[which[at + 7], begin:end]
    fa, fb, fc, fd = factors[at], factors[at + 1], factors[at + 2], factors[at + 3]
    fe, ff, fg, fh = factors[at + 4], factors[at + 5], factors[at + 6], factors[at + 7]
    if fresh:
        for p in range(pixels):
            out[p] = fa * a[p] + fb * b[p] + fc * c[p] + fd * d[p] + fe * e[p] + ff * f[p] + fg * g[p] + fh * h[p]
    else:
        for p in range(pixels):
            out[p] += fa * a[p] + fb * b[p] + fc * c[p] + fd * d[p] + fe * e[p] + ff * f[p] + fg * g[p] + fh * h[p]


@_compiled
def _add_four(out, rows, which, at, factors, begin, pixels):
    end = begin + pixels
    a, b = rows[which[at], begin:end], rows[which[at + 1], begin:end]
    c, d = rows[which[at + 2], begin:end], rows[which[at + 3], begin:end]
    fa, fb, fc, fd = factors[at], factors[at + 1], factors[at + 2], factors[at + 3]
    for p in range(pixels):
        out[p] += fa * a[p] + fb * b[p] + fc * c[p] + fd * d[p]


@_compiled
def _add_one(out, row, factor, pixels):
    for p in range(pixels):
        out[p] += factor * row[p]


@_compiled
def _multiply(product, rows, begin, out, pixels):
    """Some of the rows times a matrix, into some of the rows of ``out``; eight terms at a time."""
    matrix, which, places = product
    n = len(which)
    for i in range(len(places)):
        own, factors, at = out[places[i]], matrix[i], 0
        if n >= 8:
            _add_eight(own, rows, which, 0, factors, begin, pixels, True)
            at = 8
        else:
            own[:pixels] = 0
        while at + 8 <= n:
            _add_eight(own, rows, which, at, factors, begin, pixels, False)
            at += 8
        if at + 4 <= n:
            _add_four(own, rows, which, at, factors, begin, pixels)
            at += 4
        while at < n:
            _add_one(own, rows[which[at], begin : begin + pixels], factors[at], pixels)
            at += 1


@_compiled
def _place(target, maps, origin, shrink, begin, pixels):
    """Some pixels of maps in the frame of the samples."""
    for j in range(len(maps)):
        own, here = target[j], maps[j, begin : begin + pixels]
        for p in range(pixels):
            own[p] = (here[p] - origin) * shrink


@_compiled
def _range(row, pixels):
    """The least and the largest of some numbers."""
    least, most = row[0], row[0]
    for p in range(1, pixels):
        least = min(least, row[p])
        most = max(most, row[p])
    return least, most


@_compiled
def _add_wing(place, middle, c, begins, own, d, q, u, sums, tilt, pixels):
    """What one sample adds where the wing's formula may hold; d becomes its factor times the shape."""
    one = d.dtype.type(1)
    zero = d.dtype.type(0)
    for p in range(pixels):
        away = place - middle[p]
        far = abs(away) > begins[p]
        nearness = one / away if far else zero
        kept = one if far else zero
        f = c * nearness
        s = f * d[p]
        s2 = s * s
        tilt[p] += s2 * nearness
        sums[_SHAPE2 + p] += s2
        sums[_SHAPE_Q + p] += s * q[p]
        sums[_SHAPE_U + p] += s * u[p]
        sums[_TOTAL + p] += kept * (q[p] * q[p] + u[p] * u[p])
        sums[_COUNT + p] += kept
        sums[_SPREAD + p] += own * f * f
        d[p] = f * s


@_compiled
def _add_core(place, middle, e, reaches, own, d, q, u, sums, pixels):
    """What one sample adds where the core's formula may hold; d becomes its factor times the shape."""
    one = d.dtype.type(1)
    zero = d.dtype.type(0)
    for p in range(pixels):
        near = abs(place - middle[p]) < reaches[p]
        kept = one if near else zero
        f = e * kept
        s = f * d[p]
        sums[_SHAPE2 + p] += s * s
        sums[_SHAPE_Q + p] += s * q[p]
        sums[_SHAPE_U + p] += s * u[p]
        sums[_TOTAL + p] += kept * (q[p] * q[p] + u[p] * u[p])
        sums[_COUNT + p] += kept
        sums[_SPREAD + p] += own * f * f
        d[p] = f * s


@_compiled
def _move_centers(tilt, moment, depth, window, pixels):
    """What the sums that give a line's centre are to be pulled back with, in their place."""
    zero = tilt.dtype.type(0)
    for p in range(pixels):
        middle = moment[p] / depth[p]
        moved = tilt[p] / depth[p]
        inside = abs(middle) <= window
        moved = moved if inside else zero
        middle = middle if inside else zero
        moment[p] = moved
        depth[p] = -moved * middle


@_compiled
def _add_longitudinal(shape, data, noise, weight, sums, pixels):
    """Sums over the modes of V: with all modes alike for a first amplitude, then with the weight that each deserves."""
    one, zero = sums.dtype.type(1), sums.dtype.type(0)
    for mode in range(len(noise)):
        s, v = shape[mode], data[mode]
        for p in range(pixels):
            sums[_V_SHAPE + p] += s[p] * s[p]
            sums[_V_BOTH + p] += s[p] * v[p]
    for p in range(pixels):
        squared = sums[_V_SHAPE + p]
        amplitude = sums[_V_BOTH + p] / squared
        amplitude = amplitude if squared > zero else zero
        sums[_SIZE + p] = amplitude * amplitude * weight
        sums[_V_SHAPE + p] = zero
        sums[_V_BOTH + p] = zero
    for mode in range(len(noise)):
        s, v, own = shape[mode], data[mode], noise[mode]
        for p in range(pixels):
            share = one / (one + own * sums[_SIZE + p])
            scaled = share * s[p]
            sums[_V_SHAPE + p] += scaled * s[p]
            sums[_V_BOTH + p] += scaled * v[p]
            sums[_V_DATA + p] += share * v[p] * v[p]
            sums[_V_NOISE + p] += share * own


@_compiled
def _finish(sums, weight, variance, signs, samples, pixels):
    """The quadratic of b_los, b_q and b_u from the sums; `even_noise` has the formulas."""
    kind = sums.dtype.type
    zero, one, two, tiny, most = kind(0), kind(1), kind(2), kind(1e-30), kind(MOST)
    sign_q, sign_u, sign_v = signs
    crossed = -sign_q * sign_u
    for p in range(pixels):
        squared, right0, right1 = (
            weight * sums[_SHAPE2 + p],
            weight * sums[_SHAPE_Q + p],
            weight * sums[_SHAPE_U + p],
        )
        inverse = one / squared
        inverse = inverse if squared > zero else zero
        extra = weight * sums[_SPREAD + p]
        share = extra * inverse
        share = share if share < most else most
        kept = one - share
        theta0, theta1 = right0 * inverse / kept, right1 * inverse / kept
        length = theta0 * theta0 + theta1 * theta1
        wide = variance * weight * weight * sums[_SQUARES + p]
        shrink = one / (one + length * wide * inverse)
        sums[_QQ + p] = (squared - wide * theta0 * theta0 * shrink) * kept * kept
        sums[_QU + p] = crossed * wide * theta0 * theta1 * shrink * kept * kept
        sums[_UU + p] = (squared - wide * theta1 * theta1 * shrink) * kept * kept
        sums[_Q + p] = sign_q * right0 * kept * shrink
        sums[_U + p] = sign_u * right1 * kept * shrink
        explained = theta0 * right0 + theta1 * right1
        twice = two * sums[_COUNT + p]
        left = weight * sums[_TOTAL + p] - two * explained + length * squared
        left = left if left > zero else zero
        below = twice + length * extra
        below = below if below > tiny else tiny
        sums[_CONSTANT + p] = left * twice / below + explained * kept * shrink
        sums[_VALID + p] = samples + twice
    for p in range(pixels):
        squared, right0 = weight * sums[_V_SHAPE + p], weight * sums[_V_BOTH + p]
        inverse = one / squared
        inverse = inverse if squared > zero else zero
        share = weight * sums[_V_NOISE + p] * inverse
        share = share if share < most else most
        kept = one - share
        sums[_VV + p] = squared * kept * kept
        sums[_V + p] = sign_v * right0 * kept
        back = one / kept - one
        sums[_CONSTANT + p] += weight * sums[_V_DATA + p] + right0 * right0 * inverse * back * back


@_compiled
def _put(target, sums, begin, pixels):
    for p in range(pixels):
        target[p] = sums[begin + p]


@_compiled
def _work_on(first, start, pixels, center, axis, products, half, lines, parts, modes, noise, numbers, memory, found):
    """The quadratics of pixels whose samples have been read; see `look_at`."""
    middles, begins, reaches, origin, shrink = center
    even, odd, even_v, odd_v, even_back, odd_back = products
    owner, known, window = lines
    outer, n_wing, inner, n_core = parts
    weight, variance, signs, samples = numbers
    rows, largest, derived, mode_data, back, tilt, place, wing, core, sums = memory
    constant, matrix, vector, valid, peak, regular = found
    n, derivatives = len(axis), n_wing + n_core
    kind, folded = sums.dtype.type, half < n
    light, circular = rows[0], rows[3]
    begin, end = first + start, first + start + pixels
    sums[:] = kind(0)
    tilt[:] = kind(0)
    _place(place, middles, origin, shrink, begin, pixels)
    if n_wing:
        _place(wing, begins, 0.0, shrink, begin, pixels)
    if n_core:
        _place(core, reaches, 0.0, shrink, begin, pixels)
    if folded:
        _fold(light, half, start, pixels)
        _fold(circular, half, start, pixels)
        _multiply(odd, light, start, derived, pixels)
        _multiply(odd_v, circular, start, mode_data, pixels)
    _multiply(even, light, start, derived, pixels)
    _multiply(even_v, circular, start, mode_data, pixels)
    _add_longitudinal(derived[derivatives + 2 * len(window) :], mode_data, modes, weight, sums, pixels)
    if folded:
        for k in range(0, derivatives, n):
            _fold(derived[k : k + n], half, 0, pixels)
    alone = len(middles) == 1
    least, most = _range(place[0], pixels)
    nearest, _ = _range(wing[0], pixels)
    for j in range(n):
        one = 0 if alone else j
        middle = place[one]
        q, u = rows[1, j, start : start + pixels], rows[2, j, start : start + pixels]
        if known[j] == 0:
            for k in range(j, derivatives, n):
                derived[k, :pixels] = kind(0)
            continue
        if n_wing and alone and axis[j] - least <= nearest and most - axis[j] <= nearest:
            # No pixel's wing reaches here.
            derived[j, :pixels] = kind(0)
        elif n_wing:
            own = derived[j]
            _add_wing(axis[j], middle, outer[j], wing[one], noise[j], own, q, u, sums, tilt[owner[j]], pixels)
        if n_core:
            own = derived[n_wing + j]
            _add_core(axis[j], middle, inner[j], core[one], noise[n_wing + j], own, q, u, sums, pixels)
    for k in range(len(window)):
        at = derivatives + k
        _move_centers(tilt[k], derived[at], derived[at + len(window)], window[k], pixels)
    if folded:
        for k in range(0, derivatives, n):
            _fold(derived[k : k + n], half, 0, pixels)
        _multiply(odd_back, derived, 0, back, pixels)
    _multiply(even_back, derived, 0, back, pixels)
    for j in range(n):
        own = back[j]
        for p in range(pixels):
            sums[_SQUARES + p] += own[p] * own[p]
    _finish(sums, weight, variance, signs, samples, pixels)
    _put(constant[begin:end], sums, _CONSTANT, pixels)
    for row, what in ((0, _VV), (2, _QQ), (4, _QU), (5, _UU)):
        _put(matrix[row, begin:end], sums, what, pixels)
    matrix[1, begin:end] = kind(0)
    matrix[3, begin:end] = kind(0)
    for row, what in ((0, _V), (1, _Q), (2, _U)):
        _put(vector[row, begin:end], sums, what, pixels)
    _put(valid[begin:end], sums, _VALID, pixels)


@_compiled
def look_at(
    spectra, steps, scale, center, axis, limit, products, half, lines, parts, modes, noise, numbers, memory, found
):
    """The quadratics of some pixels, from their samples where these lie.

    Parameters
    ----------
    spectra : tuple of `numpy.ndarray`
        I and the other three: one-dimensional, from their first number to their last.
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
    memory : tuple of `numpy.ndarray`
        Four times the samples and the largest of I, and of the others, of the pixels that are read; what is derived,
        V's modes, what is pulled back, a tilt for each line, centres and edges, and sums of those that are worked on.
    found : tuple of `numpy.ndarray`
        To be filled: constant, matrix, vector, valid, the largest of Q, U and V, and whether all samples are numbers.
    """
    light, others = spectra
    sample_step, pixel_step, stokes_step, other_sample, other_pixel = steps
    rows, largest = memory[0], memory[1]
    n, total, peak, regular = rows.shape[1], len(found[0]), found[4], found[5]
    for first in range(0, total, READ):
        pixels = min(READ, total - first)
        largest[:] = 0
        for j in range(n):
            _take(rows[0, j], largest[0], light, j * sample_step + first * pixel_step, pixel_step, scale[0], pixels)
        for s in range(3):
            for j in range(n):
                begin = s * stokes_step + j * other_sample + first * other_pixel
                _take(rows[s + 1, j], largest[1], others, begin, other_pixel, scale[1], pixels)
        for p in range(pixels):
            peak[first + p] = largest[1, p]
            regular[first + p] = (largest[0, p] <= limit) & (largest[1, p] <= limit)
        for start in range(0, pixels, AT_ONCE):
            _work_on(
                first, start, min(AT_ONCE, pixels - start), center, axis, products, half, lines, parts, modes, noise,
                numbers, memory, found,
            )  # fmt: skip


@_compiled
def flag(fields, errors, strongest, limits, bits, found):
    """Status bits of each pixel; `WeakField.flag` says what they mean.

    Parameters
    ----------
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
    los, q, u = fields
    sigma, sigma_q, sigma_u = errors
    linear, detected, detected_los, flat = limits
    ambiguous, none, strong, absent, no_line = bits
    for p in range(len(found)):
        of_q, of_u = q[p] / sigma_q[p], u[p] / sigma_u[p]
        of_q, of_u = of_q * of_q, of_u * of_u
        # Zero where nothing is known.
        signal = (of_q if of_q == of_q else 0.0) + (of_u if of_u == of_u else 0.0)
        seen = signal >= linear
        across = np.sqrt(q[p] * q[p] + u[p] * u[p])
        squared = los[p] * los[p] + (across if seen else 0.0)
        own = ambiguous if seen else none
        own += strong if squared > strongest[p] * strongest[p] else 0
        own += absent if (abs(los[p]) < detected_los * sigma[p]) & (signal < detected) else 0
        own += no_line if sigma[p] > flat else 0
        found[p] = own
