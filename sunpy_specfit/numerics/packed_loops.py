"""The sums of `packed` in compiled code (Numba): pixels few enough for the innermost cache go through all steps."""

from __future__ import annotations

import numpy as np

from .loops import inner_loop, loop

__all__ = ["copy_some", "factorize", "invert", "invert_some", "least_pivot", "multiply", "room_to_invert", "substitute"]

# Pixels at a time; where steps are in registers, so many that the beginnings of loops cost nothing.
_AT_ONCE, _WIDE = 256, 1024
# Of a matrix with a unit diagonal: a direction with a smaller pivot is as good as free.
_FREE = 1e-10


@inner_loop
def _set_product(out, a, b, pixels):
    for p in range(pixels):
        out[p] = a[p] * b[p]


@inner_loop
def _add_product(out, a, b, pixels):
    for p in range(pixels):
        out[p] += a[p] * b[p]


@inner_loop
def _subtract_product(out, a, b, pixels):
    for p in range(pixels):
        out[p] -= a[p] * b[p]


@inner_loop
def _multiply(out, a, pixels):
    for p in range(pixels):
        out[p] *= a[p]


@inner_loop
def _scale_of(diagonal, out, weak, pixels):
    """1 / √ of a diagonal; 1 where there is none."""
    for p in range(pixels):
        value = diagonal[p]
        good = (value > 0.0) & (value < np.inf)
        weak[p] += 0.0 if good else 1.0
        out[p] = 1.0 / np.sqrt(value if good else 1.0)


@inner_loop
def _pivot(entry, weak, pixels):
    """The reciprocal of a factor's diagonal, in its place."""
    for p in range(pixels):
        value = entry[p]
        good = value >= _FREE
        weak[p] += 0.0 if good else 1.0
        entry[p] = 1.0 / np.sqrt(value if good else 1.0)


@inner_loop
def _factor(matrix, begin, pixels, row, factor, scale, weak):
    """The Cholesky factor of some matrices, scaled to a unit diagonal; its diagonal holds reciprocals."""
    k = len(scale)
    weak[:] = 0.0
    for i in range(k):
        at = i * (i + 1) // 2
        source = matrix[at + i, begin : begin + pixels]
        for p in range(pixels):
            row[p] = source[p]
        _scale_of(row, scale[i], weak, pixels)
        for j in range(i):
            own, source = factor[at + j], matrix[at + j, begin : begin + pixels]
            for p in range(pixels):
                own[p] = source[p]
            _multiply(own, scale[i], pixels)
            _multiply(own, scale[j], pixels)
        factor[at + i, :] = 1.0
    for j in range(k):
        pivot = factor[j * (j + 1) // 2 + j]
        for m in range(j):
            own = factor[j * (j + 1) // 2 + m]
            _subtract_product(pivot, own, own, pixels)
        _pivot(pivot, weak, pixels)
        for i in range(j + 1, k):
            at = i * (i + 1) // 2
            for m in range(j):
                _subtract_product(factor[at + j], factor[at + m], factor[j * (j + 1) // 2 + m], pixels)
            _multiply(factor[at + j], pivot, pixels)


@inner_loop
def copy_some(source, out, pixels):
    """The first numbers of one row into another, whatever their precisions."""
    for p in range(pixels):
        out[p] = source[p]


@inner_loop
def _invert_three(rows, doubt, pixels):
    """Inverses of matrices of three unknowns in their place: all steps of a pixel without a look at memory.

    Their rows lie in one piece of memory with fixed distances, by which the compiler knows that they do not overlap.
    """
    for p in range(pixels):
        d, e, f = rows[p], rows[2 * _WIDE + p], rows[5 * _WIDE + p]
        good_d, good_e, good_f = (d > 0.0) & (d < np.inf), (e > 0.0) & (e < np.inf), (f > 0.0) & (f < np.inf)
        d, e = 1.0 / np.sqrt(d if good_d else 1.0), 1.0 / np.sqrt(e if good_e else 1.0)
        f = 1.0 / np.sqrt(f if good_f else 1.0)
        # The factor of the matrix with a unit diagonal, of which the first column is the matrix itself.
        de, df, ef = rows[_WIDE + p] * d * e, rows[3 * _WIDE + p] * d * f, rows[4 * _WIDE + p] * e * f
        second = 1.0 - de * de
        firm = second >= _FREE
        second = 1.0 / np.sqrt(second if firm else 1.0)
        ef = (ef - df * de) * second
        third = 1.0 - df * df - ef * ef
        firm_third = third >= _FREE
        third = 1.0 / np.sqrt(third if firm_third else 1.0)
        # Its inverse.
        de = -de * second
        df = -(df + ef * de) * third
        ef = -ef * second * third
        rows[p] = (1.0 + de * de + df * df) * d * d
        rows[_WIDE + p] = (second * de + ef * df) * d * e
        rows[2 * _WIDE + p] = (second * second + ef * ef) * e * e
        rows[3 * _WIDE + p] = third * df * d * f
        rows[4 * _WIDE + p] = third * ef * e * f
        rows[5 * _WIDE + p] = third * third * f * f
        doubt[p] = 0.0 if good_d & good_e & good_f & firm & firm_third else 1.0


@inner_loop
def invert_some(matrix, begin, pixels, inverse, at_pixel, memory):
    """Inverses of as many matrices as there is room for; the last row of the memory is 0 where they are in no doubt.

    Parameters
    ----------
    matrix : `numpy.ndarray`
        Packed, ``(k (k + 1) / 2, pixels)``.
    begin, pixels : int
        The first of them, and how many.
    inverse : `numpy.ndarray`
        Shaped as the matrices.
    at_pixel : int
        Where the first goes.
    memory : tuple of `numpy.ndarray`
        Room to work in, as `room_to_invert` has it.
    """
    factor, lower, scale, row, doubt = memory
    k = len(scale)
    if k == 3:
        for i in range(len(matrix)):
            copy_some(matrix[i, begin : begin + pixels], factor[i], pixels)
        _invert_three(factor.reshape(-1), doubt, pixels)
        for i in range(len(matrix)):
            copy_some(factor[i], inverse[i, at_pixel : at_pixel + pixels], pixels)
        return
    _factor(matrix, begin, pixels, row, factor, scale, doubt)
    for j in range(k):
        lower[j * (j + 1) // 2 + j, :pixels] = factor[j * (j + 1) // 2 + j, :pixels]
        for i in range(j + 1, k):
            at = i * (i + 1) // 2
            own = lower[at + j]
            own[:pixels] = 0.0
            for m in range(j, i):
                _subtract_product(own, factor[at + m], lower[m * (m + 1) // 2 + j], pixels)
            _multiply(own, factor[at + i], pixels)
    for i in range(k):
        for j in range(i + 1):
            out = inverse[i * (i + 1) // 2 + j, at_pixel : at_pixel + pixels]
            _set_product(out, lower[i * (i + 1) // 2 + i], lower[i * (i + 1) // 2 + j], pixels)
            for m in range(i + 1, k):
                _add_product(out, lower[m * (m + 1) // 2 + i], lower[m * (m + 1) // 2 + j], pixels)
            _multiply(out, scale[i], pixels)
            _multiply(out, scale[j], pixels)


@inner_loop
def room_to_invert(rows):
    """Memory for `invert_some`: the factors, their inverses, the scales, a row, and what is in doubt.

    The length of the last is the number of matrices that there is room for.
    """
    k = int(round((np.sqrt(8.0 * rows + 1.0) - 1.0) / 2.0))
    size = _WIDE if k == 3 else _AT_ONCE
    return np.empty((rows, size)), np.empty((rows, size)), np.empty((k, size)), np.empty(size), np.empty(size)


@loop
def invert(first, last, matrix, vector, inverse, solution, weak):
    """Inverses, and their products with vectors, in double; what is in doubt is marked.

    Parameters
    ----------
    first, last : int
        Of which pixels.
    matrix : `numpy.ndarray`
        Packed, ``(k (k + 1) / 2, pixels)``.
    vector : `numpy.ndarray`
        ``(k, pixels)``, or no rows where only inverses are wanted.
    inverse, solution : `numpy.ndarray`
        Shaped as these, to be filled.
    weak : `numpy.ndarray`
        bool ``(pixels,)``, to be filled: where something is not determined, or no number, and the inverse is none.
    """
    memory = room_to_invert(len(matrix))
    row, doubt = memory[3], memory[4]
    k, at_once = len(memory[2]), len(doubt)
    for begin in range(first, last, at_once):
        pixels = min(at_once, last - begin)
        invert_some(matrix, begin, pixels, inverse, begin, memory)
        for i in range(len(vector)):
            right = vector[i, begin : begin + pixels]
            for p in range(pixels):
                row[p] = right[p]
            for j in range(k):
                at = i * (i + 1) // 2 + j if i >= j else j * (j + 1) // 2 + i
                own, out = inverse[at, begin : begin + pixels], solution[j, begin : begin + pixels]
                if i == 0:
                    _set_product(out, own, row, pixels)
                else:
                    _add_product(out, own, row, pixels)
        for p in range(pixels):
            weak[begin + p] = doubt[p] > 0.0


@loop
def multiply(first, last, matrix, vector, out):
    """Matrix times vector for each pixel.

    Parameters
    ----------
    first, last : int
        The pixels to work on: the first, and the one after the last.
    matrix : `numpy.ndarray`
        Packed, ``(k (k + 1) / 2, pixels)``.
    vector, out : `numpy.ndarray`
        ``(k, pixels)``; the second to be filled.
    """
    k = len(vector)
    for begin in range(first, last, _AT_ONCE):
        end = min(begin + _AT_ONCE, last)
        pixels = end - begin
        for i in range(k):
            own = out[i, begin:end]
            _set_product(own, matrix[i * (i + 1) // 2, begin:end], vector[0, begin:end], pixels)
            for j in range(1, k):
                at = i * (i + 1) // 2 + j if i >= j else j * (j + 1) // 2 + i
                _add_product(own, matrix[at, begin:end], vector[j, begin:end], pixels)


@loop
def factorize(first, last, matrix, out):
    """Cholesky factors, whose diagonals hold reciprocals.

    Parameters
    ----------
    first, last : int
        The pixels to work on.
    matrix : `numpy.ndarray`
        Packed, ``(k (k + 1) / 2, pixels)``.
    out : `numpy.ndarray`
        Shaped as the first, to be filled. An unknown that the matrix knows nothing of has zeros.
    """
    rows = len(matrix)
    k = int(round((np.sqrt(8.0 * rows + 1.0) - 1.0) / 2.0))
    kind = matrix.dtype.type
    zero, one = kind(0), kind(1)
    floor = kind(10 * np.finfo(matrix.dtype).eps)  # pivots are kept above round-off
    scale, size = np.empty((k, _AT_ONCE), matrix.dtype), np.empty((k, _AT_ONCE), matrix.dtype)
    for begin in range(first, last, _AT_ONCE):
        end = min(begin + _AT_ONCE, last)
        pixels = end - begin
        for i in range(k):
            at = i * (i + 1) // 2
            source, own, root, pivot = matrix[at + i, begin:end], scale[i], size[i], out[at + i, begin:end]
            for p in range(pixels):
                good = source[p] > zero
                root[p] = np.sqrt(source[p] if good else zero)
                own[p] = one / root[p] if good else zero
                pivot[p] = one
            for j in range(i):
                entry = out[at + j, begin:end]
                _set_product(entry, matrix[at + j, begin:end], own, pixels)
                _multiply(entry, scale[j], pixels)
        for j in range(k):
            at = j * (j + 1) // 2
            pivot = out[at + j, begin:end]
            for m in range(j):
                _subtract_product(pivot, out[at + m, begin:end], out[at + m, begin:end], pixels)
            for p in range(pixels):
                pivot[p] = one / np.sqrt(pivot[p] if pivot[p] > floor else floor)
            for i in range(j + 1, k):
                below = i * (i + 1) // 2
                entry = out[below + j, begin:end]
                for m in range(j):
                    _subtract_product(entry, out[below + m, begin:end], out[at + m, begin:end], pixels)
                _multiply(entry, pivot, pixels)
        # Of the matrix itself in place of the scaled one.
        for i in range(k):
            at = i * (i + 1) // 2
            for j in range(i):
                _multiply(out[at + j, begin:end], size[i], pixels)
            _multiply(out[at + i, begin:end], scale[i], pixels)


@loop
def least_pivot(first, last, matrix):
    """The least part of itself that an unknown is known by while those before it are free; what is zero is left out.

    Parameters
    ----------
    first, last : int
        The pixels to work on.
    matrix : `numpy.ndarray`
        Packed, ``(k (k + 1) / 2, pixels)``.
    """
    factor, _, scale, row, doubt = room_to_invert(len(matrix))
    k, least = len(scale), 1.0
    for begin in range(first, last, len(row)):
        pixels = min(len(row), last - begin)
        _factor(matrix, begin, pixels, row, factor, scale, doubt)
        for i in range(k):
            at = i * (i + 1) // 2 + i
            pivot, source = factor[at], matrix[at, begin : begin + pixels]
            for p in range(pixels):
                least = min(least, 1.0 / (pivot[p] * pivot[p]))
                doubt[p] -= 1.0 if source[p] == 0.0 else 0.0
        for p in range(pixels):
            least = 0.0 if doubt[p] > 0.0 else least
    return least


@loop
def substitute(first, last, factor, vector, out):
    """Solve L Lᵀ x = vector for each pixel.

    Parameters
    ----------
    first, last : int
        The pixels to work on.
    factor : `numpy.ndarray`
        L with reciprocals on its diagonal, packed, ``(k (k + 1) / 2, pixels)``.
    vector, out : `numpy.ndarray`
        ``(k, pixels)``; the second to be filled.
    """
    k = len(vector)
    for begin in range(first, last, _AT_ONCE):
        end = min(begin + _AT_ONCE, last)
        pixels = end - begin
        for i in range(k):
            own, right, at = out[i, begin:end], vector[i, begin:end], i * (i + 1) // 2
            if i == 0:
                _set_product(own, factor[0, begin:end], right, pixels)
                continue
            for p in range(pixels):
                own[p] = right[p]
            for m in range(i):
                _subtract_product(own, factor[at + m, begin:end], out[m, begin:end], pixels)
            _multiply(own, factor[at + i, begin:end], pixels)
        for back in range(k):
            i = k - 1 - back
            own = out[i, begin:end]
            for m in range(i + 1, k):
                _subtract_product(own, factor[m * (m + 1) // 2 + i, begin:end], out[m, begin:end], pixels)
            _multiply(own, factor[i * (i + 1) // 2 + i, begin:end], pixels)
