"""Sums over the samples of some pixels in compiled code (Numba), and the quadratics made of them.

All loops go over as many pixels, so few that their rows stay in the inner caches. Rows that are added to lie in one
piece of memory with fixed distances, by which the compiler knows that they do not overlap: only so does it take eight
pixels at a time.
"""

from __future__ import annotations

from ...numerics.loops import inner_loop
from .attenuation import MOST

__all__ = [
    "COUNTED",
    "ROWS",
    "TILE",
    "add_core",
    "add_longitudinal",
    "add_squares",
    "add_wing",
    "add_wing_twice",
    "finish",
]

# Pixels that are worked on at a time: with fewer the beginnings of loops cost more than the innermost cache saves.
TILE = 256
# Where the rows of sums begin: the shape's squares and its products with Q and U; Q² + U², how many samples count, the
# noise of the shape, what is pulled back to I; the same of V; and, no sums, the quadratic made of these.
SHAPE2, SHAPE_Q, SHAPE_U, TOTAL, COUNT, SPREAD, SQUARES = (k * TILE for k in range(7))
V_SHAPE, V_BOTH, V_DATA, V_NOISE = (k * TILE for k in range(7, 11))
CONSTANT, QQ, QU, UU, Q, U, VV, V, VALID, SIZE = (k * TILE for k in range(11, 21))
COUNTED, ROWS = 11, 21


@inner_loop
def add_wing(place, middle, c, begins, own, d, q, u, sums, tilt):
    """What one sample adds where the wing's formula may hold; d becomes its factor times the shape."""
    one, zero = d.dtype.type(1), d.dtype.type(0)
    for p in range(TILE):
        away = place - middle[p]
        far = abs(away) > begins[p]
        nearness = one / away if far else zero
        f = c * nearness
        s = f * d[p]
        s2 = s * s
        tilt[p] += s2 * nearness
        sums[SHAPE2 + p] += s2
        sums[SHAPE_Q + p] += s * q[p]
        sums[SHAPE_U + p] += s * u[p]
        sums[TOTAL + p] += q[p] * q[p] + u[p] * u[p] if far else zero
        sums[COUNT + p] += one if far else zero
        sums[SPREAD + p] += own * f * f
        d[p] = f * s


@inner_loop
def add_wing_twice(places, middle, factors, begins, noises, d, e, q, r, u, v, sums, tilt):
    """The same of two samples of one line, whose sums are fetched once."""
    one, zero = d.dtype.type(1), d.dtype.type(0)
    place_d, place_e = places
    c_d, c_e = factors
    own_d, own_e = noises
    for p in range(TILE):
        away_d, away_e = place_d - middle[p], place_e - middle[p]
        far_d, far_e = abs(away_d) > begins[p], abs(away_e) > begins[p]
        near_d, near_e = one / away_d if far_d else zero, one / away_e if far_e else zero
        f_d, f_e = c_d * near_d, c_e * near_e
        s_d, s_e = f_d * d[p], f_e * e[p]
        tilt[p] += s_d * s_d * near_d + s_e * s_e * near_e
        sums[SHAPE2 + p] += s_d * s_d + s_e * s_e
        sums[SHAPE_Q + p] += s_d * q[p] + s_e * r[p]
        sums[SHAPE_U + p] += s_d * u[p] + s_e * v[p]
        sums[TOTAL + p] += (q[p] * q[p] + u[p] * u[p] if far_d else zero) + (
            r[p] * r[p] + v[p] * v[p] if far_e else zero
        )
        sums[COUNT + p] += (one if far_d else zero) + (one if far_e else zero)
        sums[SPREAD + p] += own_d * f_d * f_d + own_e * f_e * f_e
        d[p] = f_d * s_d
        e[p] = f_e * s_e


@inner_loop
def add_core(place, middle, e, reaches, own, d, q, u, sums):
    """What one sample adds where the core's formula may hold; d becomes its factor times the shape."""
    one, zero = d.dtype.type(1), d.dtype.type(0)
    for p in range(TILE):
        near = abs(place - middle[p]) < reaches[p]
        kept = one if near else zero
        f = e * kept
        s = f * d[p]
        sums[SHAPE2 + p] += s * s
        sums[SHAPE_Q + p] += s * q[p]
        sums[SHAPE_U + p] += s * u[p]
        sums[TOTAL + p] += kept * (q[p] * q[p] + u[p] * u[p])
        sums[COUNT + p] += kept
        sums[SPREAD + p] += own * f * f
        d[p] = f * s


@inner_loop
def _add_modes(shape, data, sums):
    """Squares of the shape of V among its modes, and products with V."""
    for mode in range(0, len(shape) - 1, 2):
        s, v, t, w = shape[mode], data[mode], shape[mode + 1], data[mode + 1]
        for p in range(TILE):
            sums[V_SHAPE + p] += s[p] * s[p] + t[p] * t[p]
            sums[V_BOTH + p] += s[p] * v[p] + t[p] * w[p]
    for mode in range(len(shape) // 2 * 2, len(shape)):
        s, v = shape[mode], data[mode]
        for p in range(TILE):
            sums[V_SHAPE + p] += s[p] * s[p]
            sums[V_BOTH + p] += s[p] * v[p]


@inner_loop
def add_longitudinal(shape, data, noise, weight, sums):
    """Sums over the modes of V: with all modes alike for a first amplitude, then with the weight that each deserves."""
    one, zero = sums.dtype.type(1), sums.dtype.type(0)
    _add_modes(shape, data, sums)
    for p in range(TILE):
        squared = sums[V_SHAPE + p]
        amplitude = sums[V_BOTH + p] / squared
        amplitude = amplitude if squared > zero else zero
        sums[SIZE + p] = amplitude * amplitude * weight
        sums[V_SHAPE + p] = zero
        sums[V_BOTH + p] = zero
    for mode in range(0, len(noise) - 1, 2):
        s, v, t, w = shape[mode], data[mode], shape[mode + 1], data[mode + 1]
        own, other = noise[mode], noise[mode + 1]
        for p in range(TILE):
            share, part = one / (one + own * sums[SIZE + p]), one / (one + other * sums[SIZE + p])
            scaled, turned = share * s[p], part * t[p]
            sums[V_SHAPE + p] += scaled * s[p] + turned * t[p]
            sums[V_BOTH + p] += scaled * v[p] + turned * w[p]
            sums[V_DATA + p] += share * v[p] * v[p] + part * w[p] * w[p]
            sums[V_NOISE + p] += share * own + part * other
    for mode in range(len(noise) // 2 * 2, len(noise)):
        s, v, own = shape[mode], data[mode], noise[mode]
        for p in range(TILE):
            share = one / (one + own * sums[SIZE + p])
            scaled = share * s[p]
            sums[V_SHAPE + p] += scaled * s[p]
            sums[V_BOTH + p] += scaled * v[p]
            sums[V_DATA + p] += share * v[p] * v[p]
            sums[V_NOISE + p] += share * own


@inner_loop
def add_squares(rows, sums):
    """Of what is pulled back to I."""
    for j in range(0, len(rows) - 1, 2):
        one, other = rows[j], rows[j + 1]
        for p in range(TILE):
            sums[SQUARES + p] += one[p] * one[p] + other[p] * other[p]
    for j in range(len(rows) // 2 * 2, len(rows)):
        one = rows[j]
        for p in range(TILE):
            sums[SQUARES + p] += one[p] * one[p]


@inner_loop
def finish(sums, numbers):
    """The quadratic of b_los, b_q and b_u from the sums; `even_noise` has the formulas."""
    weight, variance, signs, samples = numbers
    kind = sums.dtype.type
    zero, one, two, tiny, most = kind(0), kind(1), kind(2), kind(1e-30), kind(MOST)
    sign_q, sign_u, sign_v = signs
    crossed = -sign_q * sign_u
    for p in range(TILE):
        squared, right0, right1 = (
            weight * sums[SHAPE2 + p],
            weight * sums[SHAPE_Q + p],
            weight * sums[SHAPE_U + p],
        )
        inverse = one / squared
        inverse = inverse if squared > zero else zero
        extra = weight * sums[SPREAD + p]
        share = extra * inverse
        share = share if share < most else most
        kept = one - share
        theta0, theta1 = right0 * inverse / kept, right1 * inverse / kept
        length = theta0 * theta0 + theta1 * theta1
        wide = variance * weight * weight * sums[SQUARES + p]
        shrink = one / (one + length * wide * inverse)
        sums[QQ + p] = (squared - wide * theta0 * theta0 * shrink) * kept * kept
        sums[QU + p] = crossed * wide * theta0 * theta1 * shrink * kept * kept
        sums[UU + p] = (squared - wide * theta1 * theta1 * shrink) * kept * kept
        sums[Q + p] = sign_q * right0 * kept * shrink
        sums[U + p] = sign_u * right1 * kept * shrink
        explained = theta0 * right0 + theta1 * right1
        twice = two * sums[COUNT + p]
        left = weight * sums[TOTAL + p] - two * explained + length * squared
        left = left if left > zero else zero
        below = twice + length * extra
        below = below if below > tiny else tiny
        sums[CONSTANT + p] = left * twice / below + explained * kept * shrink
        sums[VALID + p] = samples + twice
    for p in range(TILE):
        squared, right0 = weight * sums[V_SHAPE + p], weight * sums[V_BOTH + p]
        inverse = one / squared
        inverse = inverse if squared > zero else zero
        share = weight * sums[V_NOISE + p] * inverse
        share = share if share < most else most
        kept = one - share
        sums[VV + p] = squared * kept * kept
        sums[V + p] = sign_v * right0 * kept
        back = one / kept - one
        sums[CONSTANT + p] += weight * sums[V_DATA + p] + right0 * right0 * inverse * back * back
