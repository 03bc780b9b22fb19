"""`data_space` in compiled code (Numba): pixels few enough for the innermost cache go through all steps."""

from __future__ import annotations

import numpy as np

from .loops import inner_loop, loop

__all__ = ["depart", "factorize", "newton", "project", "told"]

# Pixels at a time.
_AT_ONCE = 256


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
def _pivot(entry, floor, pixels):
    for p in range(pixels):
        entry[p] = 1 / np.sqrt(max(entry[p], floor))


@inner_loop
def _lower(factor, begin, pixels, damping, floor, lower):
    """The Cholesky factor of (1 + damping) 1 + H Hᵀ; its diagonal holds reciprocals."""
    m, r = factor.shape[:2]
    for i in range(m):
        for j in range(i + 1):
            entry = lower[i * (i + 1) // 2 + j]
            entry[:] = 0
            for n in range(r):
                a, b = factor[i, n, begin : begin + pixels], factor[j, n, begin : begin + pixels]
                _add_product(entry, a, b, pixels)
        diagonal, damp = lower[i * (i + 1) // 2 + i], damping[begin : begin + pixels]
        for p in range(pixels):
            diagonal[p] += 1 + damp[p]
    for j in range(m):
        pivot = lower[j * (j + 1) // 2 + j]
        for n in range(j):
            own = lower[j * (j + 1) // 2 + n]
            _subtract_product(pivot, own, own, pixels)
        _pivot(pivot, floor, pixels)
        for i in range(j + 1, m):
            at = i * (i + 1) // 2
            for n in range(j):
                _subtract_product(lower[at + j], lower[at + n], lower[j * (j + 1) // 2 + n], pixels)
            _multiply(lower[at + j], pivot, pixels)


@inner_loop
def _substitute(lower, vector, pixels):
    """(L Lᵀ)⁻¹ v, in place."""
    m = len(vector)
    for i in range(m):
        for n in range(i):
            _subtract_product(vector[i], lower[i * (i + 1) // 2 + n], vector[n], pixels)
        _multiply(vector[i], lower[i * (i + 1) // 2 + i], pixels)
    for i in range(m - 1, -1, -1):
        for n in range(i + 1, m):
            _subtract_product(vector[i], lower[n * (n + 1) // 2 + i], vector[n], pixels)
        _multiply(vector[i], lower[i * (i + 1) // 2 + i], pixels)


@loop
def factorize(factor, damping, floor, out):
    """The packed Cholesky factors ``out`` of (1 + damping) 1 + H Hᵀ, for H ``(m, r, pixels)``."""
    total = factor.shape[2]
    lower = np.empty((len(out), _AT_ONCE), factor.dtype)
    for begin in range(0, total, _AT_ONCE):
        pixels = min(_AT_ONCE, total - begin)
        _lower(factor, begin, pixels, damping, floor, lower)
        out[:, begin : begin + pixels] = lower[:, :pixels]


@loop
def newton(factor, slope, damping, floor, out):
    """((1 + damping) 1 + Hᵀ H)⁻¹ slope, ``(r, pixels)``."""
    m, r, total = factor.shape
    lower = np.empty((m * (m + 1) // 2, _AT_ONCE), factor.dtype)
    told = np.empty((m, _AT_ONCE), factor.dtype)
    for begin in range(0, total, _AT_ONCE):
        pixels = min(_AT_ONCE, total - begin)
        end = begin + pixels
        _lower(factor, begin, pixels, damping, floor, lower)
        told[:] = 0
        for i in range(m):
            for n in range(r):
                _add_product(told[i], factor[i, n, begin:end], slope[n, begin:end], pixels)
        _substitute(lower, told, pixels)
        damp = damping[begin:end]
        for n in range(r):
            own = out[n, begin:end]
            own[:] = slope[n, begin:end]
            for i in range(m):
                _subtract_product(own, factor[i, n, begin:end], told[i], pixels)
            for p in range(pixels):
                own[p] /= 1 + damp[p]


@loop
def project(factor, vector, first):
    """v - Kᵀ K v, in place, for the pixels of ``vector`` ``(r, all pixels)`` that K ``(m, r, pixels)`` is of."""
    m, r, total = factor.shape
    told = np.empty((m, _AT_ONCE), factor.dtype)
    for begin in range(0, total, _AT_ONCE):
        pixels = min(_AT_ONCE, total - begin)
        here, end = first + begin, begin + pixels
        told[:] = 0
        for i in range(m):
            for n in range(r):
                _add_product(told[i], factor[i, n, begin:end], vector[n, here : here + pixels], pixels)
        for n in range(r):
            own = vector[n, here : here + pixels]
            for i in range(m):
                _subtract_product(own, factor[i, n, begin:end], told[i], pixels)


@loop
def told(lower, rows, out):
    """Σ (L⁻¹ rows)² over the data, for rows ``(m, k, pixels)``: ``(k, pixels)``."""
    m, k, total = rows.shape
    white = np.empty((m, _AT_ONCE), rows.dtype)
    for begin in range(0, total, _AT_ONCE):
        pixels = min(_AT_ONCE, total - begin)
        end = begin + pixels
        for n in range(k):
            own = out[n, begin:end]
            own[:] = 0
            for i in range(m):
                at = i * (i + 1) // 2
                white[i, :pixels] = rows[i, n, begin:end]
                for j in range(i):
                    _subtract_product(white[i], lower[at + j, begin:end], white[j], pixels)
                _multiply(white[i], lower[at + i, begin:end], pixels)
                _add_product(own, white[i], white[i], pixels)


@loop
def depart(means, toward, told, first, found, squares):
    """Means ``(k, q)`` less Σ toward · told, of some pixels of ``found`` ``(k, q, all pixels)``, and Σ squares of q."""
    m, k, total = toward.shape
    q = told.shape[1]
    value = np.empty(_AT_ONCE, toward.dtype)
    for begin in range(0, total, _AT_ONCE):
        pixels = min(_AT_ONCE, total - begin)
        here, end = first + begin, begin + pixels
        for n in range(k):
            size = squares[n, here : here + pixels]
            size[:] = 0
            for j in range(q):
                value[:] = means[n, j]
                for i in range(m):
                    _subtract_product(value, toward[i, n, begin:end], told[i, j, begin:end], pixels)
                found[n, j, here : here + pixels] = value[:pixels]
                _add_product(size, value, value, pixels)
