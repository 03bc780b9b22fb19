"""How the bins of a curve resemble each other."""

from __future__ import annotations

import numpy as np

__all__ = ["correlation"]


def correlation(places: np.ndarray, length: float, order) -> np.ndarray:
    """Correlations ``(k, k)`` of a stationary random curve at some places.

    A Gaussian process whose energy penalises the curve alone (order 0: white), it and its slope (1: exp(-d/l)), or also
    its second derivative (2: (1 + √3 d/l) exp(-√3 d/l), Matérn's of order 3/2); "gaussian" is exp(-d²/2l²).

    Raises
    ------
    ValueError
        If there is no such order.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, section 4.2
    """
    d = np.abs(places[:, None] - places) / length
    if order == 0:
        return np.eye(len(places))
    if order == 1:
        return np.exp(-d)
    if order == 2:
        return (1 + np.sqrt(3) * d) * np.exp(-np.sqrt(3) * d)
    if order == "gaussian":
        return np.exp(-0.5 * d**2)
    raise ValueError(f"order is 0, 1, 2 or 'gaussian', found {order!r}")
