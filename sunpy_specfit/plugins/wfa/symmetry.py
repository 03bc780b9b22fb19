"""Wavelengths that lie symmetrically about their middle: even and odd parts of spectra go their own ways."""

from __future__ import annotations

import numpy as np

__all__ = ["eigenvectors", "fold", "is_symmetric"]

# Where the mirror image of a covariance differs by less than this part, its modes are either even or odd.
_ALIKE = 1e-8


def fold(rows: np.ndarray) -> np.ndarray:
    """Half the sum of each row and its mirror image, below these half the differences; the middle row as it is.

    The transpose of what takes ``(even, odd)`` parts to a spectrum, and its inverse but for the factor: sums and
    differences of the result are the rows again.

    Parameters
    ----------
    rows : `numpy.ndarray`
        ``(n, ...)``.
    """
    n = len(rows)
    found = 0.5 * (rows + rows[::-1])
    below = np.arange(n) >= (n + 1) // 2
    found[below] = 0.5 * (rows[::-1] - rows)[below]
    return found


def is_symmetric(matrix: np.ndarray, half: int, within: float) -> bool:
    """Whether each row of a matrix in folded columns sees the even part alone, or the odd part.

    What is within a part of the largest number is nothing.
    """
    even, odd = (np.abs(part).max(1, initial=0.0) for part in (matrix[:, :half], matrix[:, half:]))
    return bool((np.minimum(even, odd) <= within * np.abs(matrix).max(initial=0.0)).all())


def eigenvectors(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors (columns) of a symmetric matrix; each even or odd where its mirror image is itself.

    Parameters
    ----------
    matrix : `numpy.ndarray`
        ``(n, n)``.
    """
    n = len(matrix)
    half, length = (n + 1) // 2, np.where(2 * np.arange(n) == n - 1, 1.0, np.sqrt(2.0))
    turn = fold(np.eye(n)) * length[:, None]
    turned = turn @ matrix @ turn.T
    if np.abs(turned[:half, half:]).max(initial=0.0) > _ALIKE * np.abs(turned).max(initial=0.0):
        return np.linalg.eigh(matrix)
    values, vectors = zip(*(np.linalg.eigh(turned[part, part]) for part in (np.s_[:half], np.s_[half:])), strict=True)
    return np.concatenate(values), np.concatenate([turn[:half].T @ vectors[0], turn[half:].T @ vectors[1]], 1)
