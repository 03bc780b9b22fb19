"""Least squares with more unknowns than data: systems as large as the data, pixels last.

With a prior z ~ N(0, 1) and data d = H z + noise of unit variance, H ``(m, r, pixels)``, everything follows from the
m by m matrices 1 + H Hᵀ: the posterior mean Hᵀ (1 + H Hᵀ)⁻¹ d and its covariance 1 - Hᵀ (1 + H Hᵀ)⁻¹ H.
(Tarantola 2005, https://doi.org/10.1137/1.9780898717921, section 3.2.)
"""

from __future__ import annotations

import torch

from . import packed

__all__ = ["apply", "gram", "pull", "trace_inverse", "whiten"]


def gram(factor: torch.Tensor, damping: torch.Tensor | float = 0.0) -> torch.Tensor:
    """(1 + damping) 1 + H Hᵀ, packed ``(m (m + 1) / 2, pixels)``."""
    m = factor.shape[0]
    out = factor.new_empty((m * (m + 1) // 2, factor.shape[-1]))
    for i in range(m):
        for j in range(i + 1):
            torch.sum(factor[i] * factor[j], 0, out=out[packed.index(i, j)])
        out[packed.index(i, i)] += 1.0 + damping
    return out


def apply(factor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """H v: ``(m, pixels)`` from ``(r, pixels)``."""
    return torch.stack([(row * vector).sum(0) for row in factor])


def pull(factor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Hᵀ v: ``(r, pixels)`` from ``(m, pixels)``."""
    out = factor[0] * vector[0]
    for row, value in zip(factor[1:], vector[1:], strict=True):
        out.addcmul_(row, value)
    return out


def whiten(lower: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """L⁻¹ times rows ``(m, k, pixels)``, with L the packed Cholesky factor of `gram`."""
    return packed.lower_solve(lower, rows)


def trace_inverse(lower: torch.Tensor) -> torch.Tensor:
    """tr (1 + H Hᵀ)⁻¹ of each pixel, from the packed Cholesky factor of `gram`."""
    m = packed.size(lower.shape[0])
    identity = torch.eye(m, dtype=lower.dtype, device=lower.device)[:, :, None].expand(m, m, lower.shape[-1])
    return whiten(lower, identity).square().sum((0, 1))
