"""What a large symmetric matrix makes of a vector, as a sum over few eigenvalues: Gauss quadrature by Lanczos."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal

__all__ = ["LanczosRule"]


class LanczosRule:
    """vᵀ f(M) v for any function f, from products with M alone, which serve for all functions.

    The vector's rows fall into groups that M does not join, and each group has a sum of its own.

    Parameters
    ----------
    product : callable
        M v, for v ``(rows, n)``; M is symmetric and positive semi-definite.
    start : `torch.Tensor`
        v, ``(rows, n)``.
    groups : sequence of sequence of int
        The rows of each group.

    Attributes
    ----------
    steps : int
        Products so far.

    References
    ----------
    Golub & Welsch (1969), https://doi.org/10.1090/S0025-5718-69-99647-1; Golub & Meurant (2010), Matrices, Moments and
    Quadrature with Applications

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.numerics.lanczos import LanczosRule
    >>> rule = LanczosRule(lambda v: torch.tensor([1.0, 2.0, 4.0]) * v, torch.ones((1, 3)), [[0]])
    >>> rule.extend(3)
    >>> round(rule.sum(0, lambda eigenvalues: 1 / eigenvalues), 4)
    1.75
    """

    def __init__(
        self, product: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, groups: Sequence[Sequence[int]]
    ):
        self._product, self._groups = product, [list(rows) for rows in groups]
        self._size = self._norms(start)
        self._now, self._before = start * self._inverse(self._size), torch.zeros_like(start)
        self._diagonal: list[torch.Tensor] = []
        self._beside: list[torch.Tensor] = []
        self._known: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    @property
    def steps(self) -> int:
        return len(self._diagonal)

    def extend(self, steps: int) -> None:
        """So many more products, after which as many more eigenvalues stand for all."""
        for _ in range(steps):
            self._known.clear()
            moved = self._product(self._now)
            self._diagonal.append(self._dots(self._now, moved))
            moved = moved.addcmul_(self._by_row(self._diagonal[-1]), self._now, value=-1)
            if self._beside:
                moved = moved.addcmul_(self._by_row(self._beside[-1]), self._before, value=-1)
            self._beside.append(self._norms(moved))
            self._before, self._now = self._now, moved.mul_(self._inverse(self._beside[-1]))

    def sum(self, group: int, function: Callable[[np.ndarray], np.ndarray]) -> float:
        """vᵀ f(M) v of one group; ``function`` takes eigenvalues. NaN where the products were not finite."""
        values, first, _ = self._eigen(group)
        return float(self._size[group]) ** 2 * float(first**2 @ function(values))

    def largest(self, group: int) -> float:
        """The largest eigenvalue that was found in a group."""
        return float(self._eigen(group)[0][-1])

    def residual(self, group: int, factor: float) -> float:
        """The length of v - (1 + factor · M) x for the best x so far: it bounds the error of vᵀ (1 + factor · M)⁻¹ v.

        That is no larger than its square.
        """
        values, first, last = self._eigen(group)
        reached = float(first @ (last / (1 + factor * values)))
        return factor * float(self._size[group] * self._beside[-1][group]) * abs(reached)

    def _eigen(self, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvalues, and their vectors' first and last components."""
        if group not in self._known:
            diagonal = np.array([float(own[group]) for own in self._diagonal])
            beside = np.array([float(own[group]) for own in self._beside[:-1]])
            if np.isfinite(diagonal).all() and np.isfinite(beside).all():
                values, vectors = eigh_tridiagonal(diagonal, beside)
            else:
                values, vectors = np.full_like(diagonal, np.nan), np.full((len(diagonal), len(diagonal)), np.nan)
            self._known[group] = values.clip(0.0), vectors[0], vectors[-1]
        return self._known[group]

    def _dots(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        own = torch.stack([torch.dot(one, other) for one, other in zip(a, b, strict=True)])
        return torch.stack([own[rows].sum() for rows in self._groups])

    def _norms(self, v: torch.Tensor) -> torch.Tensor:
        return self._dots(v, v).sqrt()

    def _by_row(self, amounts: torch.Tensor) -> torch.Tensor:
        rows = torch.zeros(sum(map(len, self._groups)), 1, dtype=amounts.dtype, device=amounts.device)
        for own, amount in zip(self._groups, amounts, strict=True):
            rows[own] = amount
        return rows

    def _inverse(self, norms: torch.Tensor) -> torch.Tensor:
        # All that can be seen from the start has been seen where the norm is zero.
        return self._by_row(torch.where(norms > 0, 1 / norms, 0.0))
