"""Least squares with more unknowns than data: systems as large as the data, pixels last.

With a prior z ~ N(0, 1) and data d = H z + noise of unit variance, H ``(m, r, pixels)``, everything follows from the
m by m matrices 1 + H Hᵀ: the posterior mean Hᵀ (1 + H Hᵀ)⁻¹ d and its covariance 1 - Hᵀ (1 + H Hᵀ)⁻¹ H.
(Tarantola 2005, https://doi.org/10.1137/1.9780898717921, section 3.2.)
"""

from __future__ import annotations

import torch

from . import packed

__all__ = ["apply", "cholesky", "diagonal_inverse", "gram", "pull", "solve", "trace_inverse", "whiten"]

# From so many data on, LAPACK is quicker than an unrolled factorisation.
_UNROLLED = 16
# Pixels worked on at a time.
_PIXELS = 4096


def gram(factor: torch.Tensor, damping: torch.Tensor | float = 0.0) -> torch.Tensor:
    """(1 + damping) 1 + H Hᵀ, packed ``(m (m + 1) / 2, pixels)``."""
    m = factor.shape[0]
    out = factor.new_empty((m * (m + 1) // 2, factor.shape[-1]))
    for part in _parts(factor.shape[-1]):
        here, there = factor[..., part], out[:, part]
        for i in range(m):
            first = packed.index(i, 0)
            there[first : first + i + 1] = (here[i] * here[: i + 1]).sum(1)
    for i in range(m):
        out[packed.index(i, i)] += 1.0 + damping
    return out


def _parts(pixels: int) -> list[slice]:
    """Pieces of a map whose numbers stay in the processor's cache."""
    return [slice(i, i + _PIXELS) for i in range(0, pixels, _PIXELS)]


def cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """The packed lower factor L of `gram`, in place, for `solve` and `whiten`; its diagonal holds reciprocals."""
    m = packed.size(matrix.shape[0])
    if m <= _UNROLLED:
        return packed.cholesky_in_place(matrix)
    lower = packed.pack(torch.linalg.cholesky_ex(packed.unpack(matrix))[0])
    lower[packed.diagonal_index(m)] = 1 / lower[packed.diagonal_index(m)]
    return lower


def solve(lower: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """(L Lᵀ)⁻¹ v, in place: ``(m, pixels)``."""
    return packed.substitute(lower, vector)


def apply(factor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """H v: ``(m, pixels)`` from ``(r, pixels)``."""
    out = factor[:, 0] * vector[0]
    for number in range(1, len(vector)):
        out.addcmul_(factor[:, number], vector[number])
    return out


def pull(factor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Hᵀ v: ``(r, pixels)`` from ``(m, pixels)``."""
    out = factor[0] * vector[0]
    for row, value in zip(factor[1:], vector[1:], strict=True):
        out.addcmul_(row, value)
    return out


def whiten(lower: torch.Tensor, rows: torch.Tensor, *, transposed: bool = False) -> torch.Tensor:
    """L⁻¹ (or L⁻ᵀ) times rows ``(m, [k,] pixels)``."""
    m = len(rows)
    out = rows.clone()
    for i in reversed(range(m)) if transposed else range(m):
        for j in range(i + 1, m) if transposed else range(i):
            out[i].addcmul_(lower[packed.index(j, i)], out[j], value=-1)
        out[i].mul_(lower[packed.index(i, i)])
    return out


def trace_inverse(lower: torch.Tensor) -> torch.Tensor:
    """tr (1 + H Hᵀ)⁻¹ of each pixel."""
    return diagonal_inverse(lower).sum(0)


def diagonal_inverse(lower: torch.Tensor) -> torch.Tensor:
    """The diagonal of (1 + H Hᵀ)⁻¹, ``(m, pixels)``."""
    m = packed.size(lower.shape[0])
    identity = torch.eye(m, dtype=lower.dtype, device=lower.device)[:, :, None].expand(m, m, lower.shape[-1])
    return whiten(lower, identity).square().sum(0)
