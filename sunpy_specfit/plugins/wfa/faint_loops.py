"""B_t, azimuth and their errors in compiled code (Numba): one look at each pixel, in the innermost cache."""

from __future__ import annotations

import numpy as np

from ...numerics.loops import inner_loop, loop

__all__ = ["AT_ONCE", "transverse"]

# Pixels at a time.
AT_ONCE = 512
# Where rows of numbers begin that lie in one piece of memory, by which the compiler knows that they do not overlap:
# what is faint, what the table is good for, where a pixel stands in it, half the excess of variance along the signal,
# √noise, and E|b|^½, E|b| and the length of the mean direction for unit noise.
_FAINT, _KNOWN, _PLACE, _HALF, _ROOT, _SIZE, _LENGTH, _DIRECTION, _EXPONENT = (k * AT_ONCE for k in range(9))
_ROWS = 9
_DEGREES = 180.0 / np.pi
# The largest deviation of an angle that may be anything from 0 to 180 degrees.
_ANY = 180.0 / np.sqrt(12.0)


@inner_loop
def _directions(q, u, turn, azimuth, pixels):
    """½ atan2(u, q) in degrees and turned, 0 to 180, by the rational function of the Cephes library (S. L. Moshier).

    A library's own function goes pixel by pixel; this one takes four at a time.
    """
    for p in range(pixels):
        a, b = abs(q[p]), abs(u[p])
        high, low = max(a, b), min(a, b)
        steep = low > 0.41421356237309503 * high
        t = (low - high if steep else low) / (low + high if steep else high)
        z = t * t
        above = -8.750608600031904122785e-1
        above = above * z - 1.615753718733365076637e1
        above = above * z - 7.500855792314704667340e1
        above = above * z - 1.228866684490136173410e2
        above = above * z - 6.485021904942025371773e1
        below = z + 2.485846490142306297962e1
        below = below * z + 1.650270098316988542046e2
        below = below * z + 4.328810604912902668951e2
        below = below * z + 4.853903996359136964868e2
        below = below * z + 1.945506571482613964425e2
        angle = t + t * (z * above / below) + (0.25 * np.pi if steep else 0.0)
        angle = 0.5 * np.pi - angle if b > a else angle
        angle = np.pi - angle if q[p] < 0.0 else angle
        angle = -angle if u[p] < 0.0 else angle
        degrees = 0.5 * _DEGREES * angle + turn
        azimuth[p] = degrees - 180.0 * np.floor(degrees / 180.0)


@inner_loop
def _first_order(q, u, var_q, var_u, cov, limit, field, spread, angle, work, settled, pixels):
    """B_t, and both errors to first order; where these will not do; and where all numbers are such."""
    for p in range(pixels):
        a, b = q[p], u[p]
        q2, u2, qu = a * a, b * b, a * b
        vq, vu, c = np.float64(var_q[p]), np.float64(var_u[p]), np.float64(cov[p])
        squared = q2 + u2
        size = np.sqrt(squared)
        inverse = 1.0 / squared
        field[p] = np.sqrt(size)
        along = (q2 * vq + u2 * vu + 2.0 * qu * c) * inverse
        across = (u2 * vq + q2 * vu - 2.0 * qu * c) * inverse * inverse
        spread[p] = 0.5 * np.sqrt(max(along, 0.0) / size)
        angle[p] = 0.5 * _DEGREES * np.sqrt(max(across, 0.0))
        work[_FAINT + p] = 1.0 if q2 * vu + u2 * vq < limit * (vq * vu) else 0.0
        # Infinite variances and what is no number go the general way.
        settled[p] = (squared > 0.0) & (squared < np.inf) & (vq > 0.0) & (vu > 0.0) & (vq + vu + abs(c) < np.inf)


@inner_loop
def _find_places(q, u, var_q, var_u, cov, scale, work, pixels):
    """Where pixels stand in the table."""
    step, highest, most_unequal = scale
    last = (highest - step) / step
    for p in range(pixels):
        a, b, vq, vu, c = q[p], u[p], np.float64(var_q[p]), np.float64(var_u[p]), np.float64(cov[p])
        noise = 0.5 * (vq + vu)
        squared = a * a + b * b
        apart = 0.5 * (vq - vu)
        along = (apart * (a * a - b * b) + 2.0 * c * a * b) / (squared * noise)
        at = np.sqrt(squared / noise) / step
        good = (at < last) & (apart * apart + c * c < most_unequal * most_unequal * noise * noise)
        work[_KNOWN + p] = 1.0 if good else 0.0
        work[_PLACE + p] = at if good else 0.0
        work[_HALF + p] = 0.5 * along
        work[_ROOT + p] = np.sqrt(noise)


@inner_loop
def _look_up(table, work, pixels):
    """The three numbers of the table there, between its nodes."""
    for p in range(pixels):
        cell = int(work[_PLACE + p])
        part, half = work[_PLACE + p] - cell, work[_HALF + p]
        low, high = table[cell], table[cell + 1]
        work[_SIZE + p] = low[0] + part * (high[0] - low[0]) + half * (low[3] + part * (high[3] - low[3]))
        work[_LENGTH + p] = low[1] + part * (high[1] - low[1]) + half * (low[4] + part * (high[4] - low[4]))
        work[_DIRECTION + p] = low[2] + part * (high[2] - low[2]) + half * (low[5] + part * (high[5] - low[5]))


@inner_loop
def _split(work, bits, pixels):
    """The mean directions' exponents, and what is left without them."""
    for p in range(pixels):
        direction = work[_DIRECTION + p]
        direction = direction if direction < 1.0 else 1.0
        work[_DIRECTION + p] = direction if direction > 1e-9 else 1e-9
    for p in range(pixels):
        own = bits[_DIRECTION + p]
        # The bits of 2⁵² with an integer in its last places are those of 2⁵² plus that integer.
        bits[_EXPONENT + p] = (own >> np.uint64(52)) | np.uint64(0x4330000000000000)
        bits[_DIRECTION + p] = (own & np.uint64(0x000FFFFFFFFFFFFF)) | np.uint64(0x3FF0000000000000)


@inner_loop
def _logarithm(number, exponent):
    """By the series of artanh, from what `_split` leaves; a library's own goes pixel by pixel."""
    large = number > 1.4142135623730951
    power = exponent - (4503599627370496.0 + 1023.0) + (1.0 if large else 0.0)
    number = 0.5 * number if large else number
    s = (number - 1.0) / (number + 1.0)
    z = s * s
    series = 1.0 / 21.0
    for k in (19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0):
        series = series * z + 1.0 / k
    return power * 0.6931471805599453 + 2.0 * s * series


@inner_loop
def _deviations(work, spread, angle, settled, pixels):
    """Both errors by Rice's law where the signal is faint."""
    for p in range(pixels):
        faint, size = work[_FAINT + p] > 0.0, work[_SIZE + p]
        rest = work[_LENGTH + p] - size * size
        rice = np.sqrt(work[_ROOT + p] * (rest if rest > 0.0 else 0.0))
        below = -2.0 * _logarithm(work[_DIRECTION + p], work[_EXPONENT + p])
        turned = 0.5 * _DEGREES * np.sqrt(below if below > 0.0 else 0.0)
        turned = turned if turned < _ANY else _ANY
        spread[p] = rice if faint else spread[p]
        angle[p] = turned if faint else angle[p]
    for p in range(pixels):
        settled[p] &= (work[_FAINT + p] == 0.0) | (work[_KNOWN + p] > 0.0)


@loop
def transverse(first, last, fields, covariance, turn, limit, table, scale, found, settled):
    """B_t, azimuth and their deviations, those below a limit of significance by Rice's law.

    Parameters
    ----------
    first, last : int
        Which pixels.
    fields : tuple of `numpy.ndarray`
        b_q and b_u, float64 ``(pixels,)``.
    covariance : tuple of `numpy.ndarray`
        Of b_q, of b_u, and between them, ``(pixels,)``.
    turn : float
        What to add to the azimuth, in degrees.
    limit : float
        How many sigma squared make a signal whose errors are Gaussian.
    table : `numpy.ndarray`
        Of `faint`, ``(nodes, 6)``.
    scale : tuple of float
        Its step, where it ends, and the asymmetry that it is good for.
    found : tuple of `numpy.ndarray`
        B_t, azimuth, and the deviations of both, float64 ``(pixels,)``, to be filled.
    settled : `numpy.ndarray`
        bool ``(pixels,)``, to be filled: false where these are no answer.
    """
    work = np.zeros(_ROWS * AT_ONCE)
    bits = work.view(np.uint64)
    for begin in range(first, last, AT_ONCE):
        end = min(begin + AT_ONCE, last)
        pixels = end - begin
        q, u = fields[0][begin:end], fields[1][begin:end]
        var_q, var_u, cov = covariance[0][begin:end], covariance[1][begin:end], covariance[2][begin:end]
        spread, angle, own = found[2][begin:end], found[3][begin:end], settled[begin:end]
        _directions(q, u, turn, found[1][begin:end], pixels)
        _first_order(q, u, var_q, var_u, cov, limit, found[0][begin:end], spread, angle, work, own, pixels)
        _find_places(q, u, var_q, var_u, cov, scale, work, pixels)
        _look_up(table, work, pixels)
        _split(work, bits, pixels)
        _deviations(work, spread, angle, own, pixels)
