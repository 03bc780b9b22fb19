"""Rough inverses of the curvature of coupled maps: pixel by pixel, or among cosines where coupling is strong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from ..numerics import packed
from ..numerics.cosine_transform import cosine_transform, inverse_cosine_transform
from .coupling import CosineMap, in_units, own_numbers

__all__ = ["cosine_preconditioner", "steps_of_blocks"]

# So many steps of blocks take the time of all among cosines. Of three maps a step of blocks takes about 100 ns a pixel
# (140 for order 2, 225 for order 1.5), one among cosines 165 more, whatever the map's size; six of these are enough
# where pixels are alike, and they take 230 more to prepare.
_WORTH = 15.0
# To which part of a sigma maps are found.
_ERROR = 1e-3
# Of what couples a pixel, this part counts as its own, so that no pixel is without data.
_LIFT = 1e-4
# So many pixels tell what is typical of a map.
_SAMPLE = 2**16
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
        Takes and returns ``(k, pixels)``, and as a second argument takes memory that it may use; symmetric and
        positive. None where coupling is so weak that it does not pay.
    """
    k, m, dtype = coupled.shape[0], len(maps), matrix.dtype
    if not m or m > _MOST:
        return None
    stiffness = torch.stack([own.eigenvalues.double().mean() for own in maps])[:, None]
    highest = torch.stack([own.eigenvalues.amax() for own in maps])[:, None]
    units = own_numbers(maps, k)
    if units is not None and not _pays(
        highest, torch.stack([_some(matrix[packed.index(j, j)]) / _some(column).square() for j, column in units])
    ):
        return None
    matrix = matrix.to(torch.float64, copy=True)
    matrix[packed.diagonal_index(k)] += _LIFT * coupled.double()
    axes = _varying(maps, shape)
    if units is not None:
        # Each map is a number of its own: there is nothing to eliminate.
        order = [number for number, _ in units]
        scale = torch.stack([1 / column for _, column in units])
        precision = in_units(matrix, units)
        inner = _coupled_part(maps, precision, stiffness, shape, axes, dtype)
        plain = bool((scale == 1).all()) and order == list(range(k))

        def rescaled(right: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
            if plain:
                return inner(right)
            found = torch.empty_like(right)
            found[order] = scale * inner(scale * right[order])
            return found

        return rescaled
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
    if not _pays(highest, _some(precision)[packed.diagonal_index(m)]):
        return None
    everything = m == k and not bool(unmoved.any())
    coupled_part = _coupled_part(maps, precision, stiffness, shape, axes, dtype)
    solve = packed.factorize(matrix.to(dtype))
    matrix = matrix.to(dtype)
    precision = precision.to(dtype)
    lifted = [own.to(dtype) for own in lifted]
    columns = [own.columns for own in maps]

    def apply(right: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
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


def _varying(maps: Sequence[CosineMap], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes along which some map is coupled, counted from the last."""
    axes = []
    for axis in range(-len(shape), 0):
        spectra = (own.eigenvalues.reshape(shape) for own in maps)
        if any(bool((s != s.narrow(axis, 0, 1)).any()) for s in spectra):
            axes.append(axis)
    return tuple(axes)


def steps_of_blocks(highest: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """How many steps the blocks of pixels take for each map, by Chebyshev's bound: ½ √κ log(2 / error).

    κ = 1 + highest eigenvalue / a pixel's own precision: blocks leave K's eigenvalues from none to the highest.

    Parameters
    ----------
    highest : `torch.Tensor`
        Eigenvalue of K, ``(maps, 1)``.
    own : `torch.Tensor`
        Precision, ``(maps, pixels)``; its median counts.
    """
    condition = 1 + highest / own.median(-1, keepdim=True).values
    return 0.5 * condition.sqrt() * math.log(2 / _ERROR)


def _some(rows: torch.Tensor) -> torch.Tensor:
    """Pixels enough to tell what is typical."""
    return rows[..., :: max(1, rows.shape[-1] // _SAMPLE)]


def _pays(highest: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether the blocks of pixels would take more time."""
    return bool((steps_of_blocks(highest, own) > _WORTH).any())


def _coupled_part(maps: Sequence[CosineMap], precision: torch.Tensor, stiffness, shape, axes, dtype):
    """The inverse of W (mean D + K) W for a D of some precision, packed."""
    m = len(maps)
    mean = precision.mean(-1, keepdim=True)
    modes = mean.expand(-1, precision.shape[-1]).clone()
    for i, own in enumerate(maps):
        modes[packed.index(i, i)] += own.eigenvalues
    modes /= _outer(stiffness, m)  # in units in which each map's coupling is about one
    invert = packed.factorize(modes.to(dtype))
    weight = _weight(precision, mean, stiffness).to(dtype)

    def apply(u: torch.Tensor) -> torch.Tensor:
        image = packed.lower_product(weight, u).reshape(m, *shape)
        found = invert(cosine_transform(image, axes).reshape(m, -1))
        return packed.upper_product(weight, inverse_cosine_transform(found.reshape(m, *shape), axes).reshape(m, -1))

    return apply


def _weight(precision: torch.Tensor, mean: torch.Tensor, stiffness: torch.Tensor) -> torch.Tensor:
    """W⁻ᵀ in units of the coupling, a packed lower triangle, with Wᵀ (mean + stiffness) W = precision + stiffness."""
    m = len(stiffness)
    rows = packed.diagonal_index(m)
    own, typical = precision.clone(), mean.clone()
    own[rows] += stiffness
    typical[rows] += stiffness
    own, typical = packed.cholesky(own), packed.cholesky(typical)
    weight = torch.empty_like(own)
    for j in range(m):
        unit = torch.zeros_like(own[:m])
        unit[j] = 1.0
        column = packed.lower_product(typical, packed.lower_solve(own, unit))
        for i in range(j, m):
            weight[packed.index(i, j)] = column[i] / stiffness[i].sqrt()
    return weight


def _along(columns, vector: torch.Tensor) -> torch.Tensor:
    return sum((column * vector[j] for j, column in columns.items()), torch.zeros_like(vector[0]))


def _combine(lifted: Sequence[torch.Tensor], amounts: torch.Tensor) -> torch.Tensor:
    return sum(own * amount for own, amount in zip(lifted, amounts, strict=True))


def _outer(stiffness: torch.Tensor, m: int) -> torch.Tensor:
    root = stiffness.sqrt()
    return torch.stack([root[i] * root[j] for i in range(m) for j in range(i + 1)])
