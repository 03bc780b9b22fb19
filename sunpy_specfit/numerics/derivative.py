"""Derivatives of sampled functions as matrices."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

__all__ = ["derivative_matrix"]


def derivative_matrix(x: np.ndarray, *, order: int = 1, method: str = "spline") -> np.ndarray:
    """The matrix D that takes samples at ``x`` to the derivative there: f' = D f.

    Parameters
    ----------
    x : `numpy.ndarray`
        ``(n,)``, in any order and with any spacing, no place twice.
    order : {1, 2}
        First or second derivative.
    method : {"spline", "three_point"}
        A cubic spline through all samples (not-a-knot at the ends), or the parabola through each sample and its two
        neighbours. Fewer than four samples have no spline and take the parabola.

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
    if method == "spline" and len(x) > 3:
        matrix = CubicSpline(ordered, np.eye(len(x)))(ordered, order)
    elif method in ("spline", "three_point"):
        matrix = _parabolas(ordered, order)
    else:
        raise ValueError(f"method is 'spline' or 'three_point', found {method!r}")
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
