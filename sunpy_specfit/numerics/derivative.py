"""Derivatives of sampled functions as matrices."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import make_interp_spline

__all__ = ["METHODS", "derivative_matrix"]

METHODS = ("spline", "cubic_spline", "three_point")


def derivative_matrix(x: np.ndarray, *, order: int = 1, method: str = "spline") -> np.ndarray:
    """The matrix D that takes samples at ``x`` to the derivative there: f' = D f.

    Parameters
    ----------
    x : `numpy.ndarray`
        ``(n,)``, in any order and with any spacing, no place twice.
    order : {1, 2}
        First or second derivative.
    method : {"spline", "cubic_spline", "three_point"}
        A spline of fifth or third degree through all samples (not-a-knot at the ends), or the parabola through each
        sample and its two neighbours. Too few samples for a spline take the next simpler method.

    Returns
    -------
    `numpy.ndarray`
        ``(n, n)``.

    Raises
    ------
    ValueError
        If there are fewer than three samples, or two at one place.

    Examples
    --------
    >>> import numpy as np
    >>> from sunpy_specfit.numerics.derivative import derivative_matrix
    >>> x = np.array([0.0, 1.0, 2.5, 3.0, 5.0])
    >>> np.allclose(derivative_matrix(x) @ x**3, 3 * x**2)
    True
    """
    x = np.asarray(x, float)
    if x.ndim != 1 or len(x) < 3 or len(np.unique(x)) < len(x):
        raise ValueError(f"a derivative needs three samples or more, at different places; found {x}")
    sorting = np.argsort(x)
    ordered = x[sorting]
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(map(repr, METHODS))}; found {method!r}")
    degree = {"spline": 5 if len(x) > 5 else 3, "cubic_spline": 3}.get(method)
    if degree is not None and len(x) > degree:
        matrix = make_interp_spline(ordered, np.eye(len(x)), k=degree)(ordered, nu=order)
    else:
        matrix = _parabolas(ordered, order)
    found = np.empty_like(matrix)
    found[np.ix_(sorting, sorting)] = matrix
    return found


def _parabolas(x: np.ndarray, order: int) -> np.ndarray:
    matrix = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        first = min(max(i - 1, 0), len(x) - 3)
        a, b, c = x[first : first + 3]
        if order == 1:
            weights = [
                (2 * x[i] - b - c) / ((a - b) * (a - c)),
                (2 * x[i] - a - c) / ((b - a) * (b - c)),
                (2 * x[i] - a - b) / ((c - a) * (c - b)),
            ]
        else:
            weights = [2 / ((a - b) * (a - c)), 2 / ((b - a) * (b - c)), 2 / ((c - a) * (c - b))]
        matrix[i, first : first + 3] = weights
    return matrix
