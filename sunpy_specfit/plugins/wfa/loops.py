"""Loops over pixels in compiled code (Numba), for `even_noise`: sums that look at every number once, in the cache."""

from __future__ import annotations

import numba
import numpy as np

from .attenuation import MOST

__all__ = ["add_up", "put_together"]

# Pixels at a time, whose sums stay in the innermost cache.
_AT_ONCE = 512
# Rounding may differ from one machine to another; what is no number stays none.
_compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})


@_compiled
def add_up(
    start,
    derived,
    mode_data,
    light,
    x,
    center,
    outer,
    wing,
    inner,
    core,
    own,
    owner,
    window,
    noise,
    mode_noise,
    weight,
    sums,
):
    """Sums over the samples of some pixels, and in place of their derivatives what is to be pulled back to I.

    Parameters
    ----------
    start : int
        Where they begin among the pixels of ``light`` and ``center``.
    derived : `numpy.ndarray`
        The derivatives of I in use, the first where there is a wing, ``(n or 2 n, some)``, the sums that give the
        centre of each line, ``(2 lines, some)``, and below them the shape of V among its modes, ``(m, some)``.
        The derivatives are overwritten by their factor times the shape, the sums by what moves with the centre.
    mode_data : `numpy.ndarray`
        V among these modes, ``(m, some)``.
    light : `numpy.ndarray`
        Q, U and V, ``(3, n, pixels)``.
    x, center : `numpy.ndarray`
        ``(n,)`` and ``(1 or n, pixels)``.
    outer, inner : `numpy.ndarray`
        ``(n,)``: the factor of the wing (times the distance from the centre) and that of the core.
    wing, core : `numpy.ndarray`
        Where the one begins and how far the other reaches, ``(1 or n, pixels)``.
    own, owner, window : `numpy.ndarray`
        Which samples are of the lines that are fitted (1, others 0), ``(n,)``, the line of each, and how far from its
        middle a line's centre may be, ``(lines,)``.
    noise : `numpy.ndarray`
        The variance of each sample of the derivatives, its factor left out.
    mode_noise : `numpy.ndarray`
        ``(m,)``: the variance of each mode of the shape of V.
    weight : number
    sums : `numpy.ndarray`
        ``(10, some or more)``, to be filled: shape², shape · Q, shape · U, Q² + U², the samples, and the noise of the
        shape; shape², shape · data, data² and noise of V, each mode with the share of its weight that it deserves.
    """
    n, modes, pixels = len(x), len(mode_noise), derived.shape[1]
    lines = len(window)
    parts = len(derived) - modes - 2 * lines
    behind = parts + 2 * lines
    moved = np.empty((lines, _AT_ONCE), light.dtype)
    size = np.empty(_AT_ONCE, light.dtype)
    zero, one = light.dtype.type(0), light.dtype.type(1)
    for first in range(0, pixels, _AT_ONCE):
        last = min(first + _AT_ONCE, pixels)
        # One by one: only of rows that are cut out so does the compiler know that they are contiguous.
        shape2, shape_q, shape_u = sums[0, first:last], sums[1, first:last], sums[2, first:last]
        total, count, spread = sums[3, first:last], sums[4, first:last], sums[5, first:last]
        v_shape, v_both = sums[6, first:last], sums[7, first:last]
        v_data, v_noise = sums[8, first:last], sums[9, first:last]
        for row in (shape2, shape_q, shape_u, total, count, spread, v_shape, v_both, v_data, v_noise):
            row[:] = zero
        # With all modes alike for a first amplitude, then with the weight that each deserves.
        for mode in range(modes):
            s, v = derived[behind + mode, first:last], mode_data[mode, first:last]
            for p in range(last - first):
                v_shape[p] += s[p] * s[p]
                v_both[p] += s[p] * v[p]
        for p in range(last - first):
            amplitude = v_both[p] / v_shape[p] if v_shape[p] > zero else zero
            size[p] = amplitude * amplitude * weight
            v_shape[p] = zero
            v_both[p] = zero
        for mode in range(modes):
            s, v = derived[behind + mode, first:last], mode_data[mode, first:last]
            level = mode_noise[mode]
            for p in range(last - first):
                share = one / (one + level * size[p])
                v_shape[p] += share * s[p] * s[p]
                v_both[p] += share * s[p] * v[p]
                v_data[p] += share * v[p] * v[p]
                v_noise[p] += share * level
        moved[:] = zero
        for j in range(n):
            middle = center[j if len(center) > 1 else 0, start + first : start + last]
            q, u = light[0, j, start + first : start + last], light[1, j, start + first : start + last]
            d = derived[j, first:last]
            tilt = moved[owner[j], : last - first]
            begin = wing[j if len(wing) > 1 else 0, start + first : start + last]
            reach = core[j if len(core) > 1 else 0, start + first : start + last]
            place, c, e, known, level = x[j], outer[j], inner[j], own[j], noise[j]
            if parts > n:
                d2, level2 = derived[n + j, first:last], noise[n + j]
                for p in range(last - first):
                    away = place - middle[p]
                    far, near = abs(away) > begin[p], abs(away) < reach[p]
                    near_center = one / away if far else zero
                    f = c * near_center
                    f2 = e if near else zero
                    kept = known if far | near else zero
                    s = f * d[p] + f2 * d2[p]
                    tilt[p] += s * s * near_center
                    shape2[p] += s * s
                    shape_q[p] += s * q[p]
                    shape_u[p] += s * u[p]
                    total[p] += kept * (q[p] * q[p] + u[p] * u[p])
                    count[p] += kept
                    spread[p] += f * f * level + f2 * f2 * level2
                    d[p] = f * s
                    d2[p] = f2 * s
                continue
            for p in range(last - first):
                away = place - middle[p]
                far, near = abs(away) > begin[p], abs(away) < reach[p]
                near_center = one / away if far else zero
                f = c * near_center if far else (e if near else zero)
                kept = known if far | near else zero
                s = f * d[p]
                tilt[p] += s * s * near_center
                shape2[p] += s * s
                shape_q[p] += s * q[p]
                shape_u[p] += s * u[p]
                total[p] += kept * (q[p] * q[p] + u[p] * u[p])
                count[p] += kept
                spread[p] += f * f * level
                d[p] = f * s
        for k in range(lines):
            tilt = moved[k, : last - first]
            moment, depth = derived[parts + k, first:last], derived[parts + lines + k, first:last]
            for p in range(last - first):
                middle_of = moment[p] / depth[p]
                inside = abs(middle_of) <= window[k]
                moment[p] = tilt[p] / depth[p] if inside else zero
                depth[p] = -moment[p] * middle_of if inside else zero


@_compiled
def put_together(start, sums, pulled_back, weight, variance, signs, samples, constant, matrix, vector, valid):
    """The quadratic of b_los, b_q and b_u from the sums of `add_up`; `even_noise` has the formulas.

    Parameters
    ----------
    start : int
        Where the pixels begin among all.
    sums : `numpy.ndarray`
    pulled_back : `numpy.ndarray`
        What each sample of I adds to the sum of the shape's squares, ``(n, some)``.
    weight, variance : number
        Of Q, U and V, and of I.
    signs : tuple of number
        Of Q, U and V.
    samples : number
        Of V.
    constant, matrix, vector, valid : `numpy.ndarray`
        Of all pixels, to be filled.
    """
    pixels, kind = pulled_back.shape[1], sums.dtype.type
    squares = np.empty(_AT_ONCE, sums.dtype)
    zero, one, two, tiny, most = kind(0), kind(1), kind(2), kind(1e-30), kind(MOST)
    sign_q, sign_u, sign_v = signs
    for first in range(0, pixels, _AT_ONCE):
        last = min(first + _AT_ONCE, pixels)
        for p in range(last - first):
            squares[p] = zero
        for j in range(len(pulled_back)):
            row = pulled_back[j, first:last]
            for p in range(last - first):
                squares[p] += row[p] * row[p]
        shape2, shape_q, shape_u = sums[0, first:last], sums[1, first:last], sums[2, first:last]
        total, count, spread = sums[3, first:last], sums[4, first:last], sums[5, first:last]
        v_shape, v_both = sums[6, first:last], sums[7, first:last]
        v_data, v_noise = sums[8, first:last], sums[9, first:last]
        begin, end = start + first, start + last
        los, lq, qq = matrix[0, begin:end], matrix[1, begin:end], matrix[2, begin:end]
        lu, qu, uu = matrix[3, begin:end], matrix[4, begin:end], matrix[5, begin:end]
        right_v, right_q, right_u = vector[0, begin:end], vector[1, begin:end], vector[2, begin:end]
        lowest, used = constant[begin:end], valid[begin:end]
        for p in range(last - first):
            squared, right0, right1 = weight * shape2[p], weight * shape_q[p], weight * shape_u[p]
            inverse = one / squared if squared > zero else zero
            extra = weight * spread[p]
            kept = one - min(extra * inverse, most)
            theta0, theta1 = right0 * inverse / kept, right1 * inverse / kept
            length = theta0 * theta0 + theta1 * theta1
            wide = variance * weight * weight * squares[p]
            shrink = one / (one + length * wide * inverse)
            qq[p] = (squared - wide * theta0 * theta0 * shrink) * kept * kept
            qu[p] = -sign_q * sign_u * wide * theta0 * theta1 * shrink * kept * kept
            uu[p] = (squared - wide * theta1 * theta1 * shrink) * kept * kept
            right_q[p], right_u[p] = sign_q * right0 * kept * shrink, sign_u * right1 * kept * shrink
            explained = theta0 * right0 + theta1 * right1
            twice = two * count[p]
            left = max(weight * total[p] - two * explained + length * squared, zero)
            found = left * twice / max(twice + length * extra, tiny) + explained * kept * shrink
            squared, right0 = weight * v_shape[p], weight * v_both[p]
            inverse = one / squared if squared > zero else zero
            kept = one - min(weight * v_noise[p] * inverse, most)
            los[p], right_v[p] = squared * kept * kept, sign_v * right0 * kept
            back = one / kept - one
            lowest[p] = found + weight * v_data[p] + right0 * right0 * inverse * back * back
            used[p] = np.int64(samples + twice)
            lq[p], lu[p] = zero, zero
