"""The loop over pixels of `settle` in compiled code (Numba): from quadratics to results, in the innermost cache."""

from __future__ import annotations

import numpy as np

from ..numerics.loops import inner_loop, loop
from ..numerics.packed_loops import copy_some, invert_some, room_to_invert

__all__ = ["settle"]


@inner_loop
def _find_minimum(inverse, vector, begin, constant, free, chi2, pixels):
    """The inverse times the vector, and chi² there."""
    k = len(vector)
    for j in range(k):
        for i in range(k):
            at = i * (i + 1) // 2 + j if i >= j else j * (j + 1) // 2 + i
            own, entry, right = free[j], inverse[at], vector[i, begin : begin + pixels]
            if i == 0:
                for p in range(pixels):
                    own[p] = entry[p] * right[p]
            else:
                for p in range(pixels):
                    own[p] += entry[p] * right[p]
    for p in range(pixels):
        chi2[p] = constant[p]
    for i in range(k):
        own, right = free[i], vector[i, begin : begin + pixels]
        for p in range(pixels):
            chi2[p] -= own[p] * right[p]


@inner_loop
def _deviation(variance, sigma, pixels):
    for p in range(pixels):
        sigma[p] = np.sqrt(max(variance[p], 0.0))


@inner_loop
def _count(valid, k, n_valid, dof, pixels):
    # By way of integers half as long, for which there are vector instructions.
    for p in range(pixels):
        n_valid[p] = np.int32(valid[p])
        dof[p] = np.float64(np.int32(valid[p]) - np.int32(k))


@inner_loop
def _state(flags, converged, status, pixels):
    for p in range(pixels):
        status[p] = flags[p] | converged


@inner_loop
def _judge(weak, chi2, valid, k, doubt, pixels):
    for p in range(pixels):
        # A number among the free ones that is none makes none of chi², too.
        doubt[p] = (weak[p] > 0.0) | (np.int32(valid[p]) < np.int32(k)) | ~(abs(chi2[p]) < np.inf)


@loop
def settle(first, last, quadratic, flags, converged, start, found, own):
    """Where quadratics are least, their inverses, chi² there, and what is counted.

    Parameters
    ----------
    first, last : int
        Of which pixels.
    quadratic : tuple of `numpy.ndarray`
        Constant ``(pixels,)``, matrix, packed ``(k (k + 1) / 2, pixels)``, vector ``(k, pixels)``, and how many samples
        there are, int64 ``(pixels,)``.
    flags : `numpy.ndarray`
        Bits to add to the status, int32 ``(pixels,)``.
    converged : int
        The status of what is solved.
    start : int
        Which of all pixels the first of these is.
    found : tuple of `numpy.ndarray`
        Of all pixels, to be filled: the free numbers ``(k, all)``, their covariance, packed, chi2, degrees of freedom,
        status and number of samples.
    own : tuple of `numpy.ndarray`
        Of these pixels, to be filled: standard deviations, float64 ``(k, pixels)``, and where these are no answer for
        want of samples or of what determines something, bool ``(pixels,)``.
    """
    constant, matrix, vector, valid = quadratic
    free, covariance, chi2, dof, status, n_valid = found
    sigma, doubt = own
    rows, k = len(matrix), len(vector)
    memory = room_to_invert(rows)
    at_once = len(memory[4])
    inverse, minimum, misfit = np.empty((rows, at_once)), np.empty((k, at_once)), np.empty(at_once)
    for begin in range(first, last, at_once):
        pixels = min(at_once, last - begin)
        here, there = slice(begin, begin + pixels), slice(start + begin, start + begin + pixels)
        invert_some(matrix, begin, pixels, inverse, 0, memory)
        _find_minimum(inverse, vector, begin, constant[here], minimum, misfit, pixels)
        for i in range(k):
            copy_some(minimum[i], free[i, there], pixels)
            _deviation(inverse[i * (i + 1) // 2 + i], sigma[i, here], pixels)
        for row in range(rows):
            copy_some(inverse[row], covariance[row, there], pixels)
        copy_some(misfit, chi2[there], pixels)
        _count(valid[here], k, n_valid[there], dof[there], pixels)
        _state(flags[here], converged, status[there], pixels)
        _judge(memory[4], misfit, valid[here], k, doubt[here], pixels)
