"""Rough inverses of the curvature of coupled maps: pixel by pixel, or among cosines where coupling is strong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..numerics import packed
from ..numerics.cosine_transform import cosine_transform, inverse_cosine_transform
from .coupling import CosineMap

__all__ = ["cosine_preconditioner"]

# Measured on maps of 256²: where neighbours say less than so many times what a pixel's own data do, its own block
# takes more steps but less time.
_STRONG = 4.0
# Of what couples a pixel, this part counts as its own, so that no pixel is without data.
_LIFT = 1e-4
# More maps than these are too many for a matrix at each wave number.
_MOST = 12
_RIDGE = 1e-6


def cosine_preconditioner(
    matrix: torch.Tensor, coupled: torch.Tensor, maps: Sequence[CosineMap], shape: tuple[int, ...]
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The inverse of A + Jᵀ K J, for blocks A of pixels and a K that is diagonal among cosines.

    What is not coupled is eliminated pixel by pixel, which is exact. It leaves D + K for the maps, with D the precision
    of each pixel's own maps. D changes from pixel to pixel; the inverse is taken of W (mean D + K) W instead, with W
    such that the blocks on the diagonal are right. So it is exact where all pixels are alike, and goes over into
    the inverse of each pixel's block where coupling is weak.

    Parameters
    ----------
    matrix : `torch.Tensor`
        A, packed ``(k (k + 1) / 2, pixels)``.
    coupled : `torch.Tensor`
        The diagonal of Jᵀ K J, ``(k, pixels)``.
    maps : sequence of `CosineMap`
    shape : tuple of int
        Of the map.

    Returns
    -------
    callable or None
        Takes and returns ``(k, pixels)``; symmetric and positive. None where coupling is so weak that it does not pay.
    """
    k, m, dtype = coupled.shape[0], len(maps), matrix.dtype
    if not m or m > _MOST:
        return None
    stiffness = torch.stack([own.eigenvalues.double().mean() for own in maps])[:, None]
    matrix = matrix.double()
    matrix[packed.diagonal_index(k)] += _LIFT * coupled.double()
    solve = packed.factorize(matrix)
    # V = A⁻¹ Jᵀ, and J V is the covariance of a pixel's own maps.
    columns = [{j: column.double() for j, column in own.columns.items()} for own in maps]
    lifted = []
    for own in columns:
        right = torch.zeros_like(coupled, dtype=torch.float64)
        for j, column in own.items():
            right[j] = column
        lifted.append(solve(right))
    covariance = torch.stack([_along(columns[i], lifted[j]) for i in range(m) for j in range(i + 1)])
    covariance[packed.diagonal_index(m)] *= 1 + _RIDGE
    precision, unmoved = packed.inverse(covariance)
    precision = torch.where(torch.isfinite(precision), precision, 0.0)
    own_precision = precision[packed.diagonal_index(m)]
    if not bool((stiffness > _STRONG * own_precision.median(-1, keepdim=True).values).any()):
        return None
    everything = m == k and not bool(unmoved.any())
    mean = precision.mean(-1, keepdim=True)
    modes = mean.expand(-1, precision.shape[-1]).clone()
    for i, own in enumerate(maps):
        modes[packed.index(i, i)] += own.eigenvalues.double()
    modes = modes / _outer(stiffness, m)  # in units in which each map's coupling is about one
    invert = packed.factorize(modes.to(dtype))
    weight = _Weight(precision, mean, stiffness, dtype)
    axes = tuple(range(-len(shape), 0))
    solve = packed.factorize(matrix.to(dtype))
    matrix = matrix.to(dtype)
    precision, stiffness = precision.to(dtype), stiffness.to(dtype)
    lifted = [own.to(dtype) for own in lifted]
    columns = [own.columns for own in maps]
    unit = stiffness.sqrt()

    def coupled_part(u: torch.Tensor) -> torch.Tensor:
        image = (weight.transposed(u) / unit).reshape(m, *shape)
        found = invert(cosine_transform(image, axes).reshape(m, -1))
        return weight.forward(inverse_cosine_transform(found.reshape(m, *shape), axes).reshape(m, -1) / unit)

    def apply(right: torch.Tensor) -> torch.Tensor:
        u = packed.matvec(precision, torch.stack([(own * right).sum(0) for own in lifted]))
        move = packed.matvec(precision, coupled_part(u))
        if everything:
            return _combine(lifted, move)
        # What is left with the maps held, as Q A⁻¹ Qᵀ: never negative, whatever rounding does.
        rest = right.clone()
        for i, own in enumerate(columns):
            for j, column in own.items():
                rest[j] -= column * u[i]
        rest = solve(rest)
        held = packed.matvec(precision, torch.stack([_along(own, rest) for own in columns]))
        return rest + _combine(lifted, move - held)

    return apply


class _Weight:
    """W⁻¹ and its transpose, with Wᵀ (mean + stiffness) W = precision + stiffness in each pixel."""

    def __init__(self, precision, mean, stiffness, dtype):
        m = stiffness.shape[0]
        rows = packed.diagonal_index(m)
        own, typical = precision.clone(), mean.clone()
        own[rows] += stiffness
        typical[rows] += stiffness
        self.own, self.typical = packed.cholesky(own).to(dtype), packed.cholesky(typical).to(dtype)

    def transposed(self, u: torch.Tensor) -> torch.Tensor:
        return packed.lower_product(self.typical, packed.lower_solve(self.own, u))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return packed.lower_solve(self.own, packed.upper_product(self.typical, x), transposed=True)


def _along(columns, vector: torch.Tensor) -> torch.Tensor:
    return sum((column * vector[j] for j, column in columns.items()), torch.zeros_like(vector[0]))


def _combine(lifted: Sequence[torch.Tensor], amounts: torch.Tensor) -> torch.Tensor:
    return sum(own * amount for own, amount in zip(lifted, amounts, strict=True))


def _outer(stiffness: torch.Tensor, m: int) -> torch.Tensor:
    root = stiffness.sqrt()
    return torch.stack([root[i] * root[j] for i in range(m) for j in range(i + 1)])
