"""The data as small quadratics, one a pixel: what a coupled solver needs to know of the spectra."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..numerics import packed

__all__ = ["DenseBlocks", "FactoredBlocks"]


@dataclass(frozen=True)
class DenseBlocks:
    """Per-pixel curvature matrices, as packed triangles.

    Attributes
    ----------
    matrix : `torch.Tensor`
        ``(k (k + 1) / 2, pixels)``, see `sunpy_specfit.numerics.packed`.
    """

    matrix: torch.Tensor

    def matvec(self, vector: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """A v, ``(k, pixels)``, in ``out`` where that is given."""
        return packed.matvec(self.matrix, vector, out)

    def solve(self, vector: torch.Tensor, extra: torch.Tensor | float = 0.0) -> torch.Tensor:
        """(A + diag(extra))⁻¹ v."""
        return packed.solve(_with_diagonal(self.matrix, extra, vector.shape[0]), vector)

    def diagonal(self) -> torch.Tensor:
        """The diagonal, ``(k, pixels)``."""
        return self.matrix[packed.diagonal_index(packed.size(self.matrix.shape[0]))]

    def trace(self, extra: torch.Tensor | float = 0.0) -> torch.Tensor:
        """tr((A + diag(extra))⁻¹ A) of each pixel, ``(pixels,)``: the degrees of freedom the data spend."""
        k = packed.size(self.matrix.shape[0])
        inverse, _ = packed.inverse(_with_diagonal(self.matrix, extra, k))
        inverse = torch.where(torch.isfinite(inverse), inverse, 0.0)
        total = torch.zeros_like(inverse[0])
        for i in range(k):
            for j in range(k):
                total += inverse[packed.index(i, j)] * self.matrix[packed.index(i, j)]
        return total


def _with_diagonal(matrix: torch.Tensor, extra, k: int) -> torch.Tensor:
    if not torch.is_tensor(extra) and extra == 0.0:
        return matrix
    matrix = matrix.clone()
    matrix[packed.diagonal_index(k)] += extra
    return matrix


@dataclass(frozen=True)
class FactoredBlocks:
    """Curvature JᵀJ kept as its whitened factor, for more unknowns than data (a DEM).

    Attributes
    ----------
    factor : `torch.Tensor`
        W^½ J, ``(m, k, pixels)`` with m < k.
    """

    factor: torch.Tensor

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """JᵀJ v, ``(k, pixels)``."""
        return torch.einsum("mkp,mp->kp", self.factor, torch.einsum("mkp,kp->mp", self.factor, vector))

    def solve(self, vector: torch.Tensor, extra: torch.Tensor | float) -> torch.Tensor:
        """(JᵀJ + diag(extra))⁻¹ v through an m by m system (Woodbury); extra must be positive."""
        inner, lowered, extra = self._inner(vector, extra)
        right = torch.einsum("mkp,kp->pm", self.factor, vector / extra)
        weights = torch.linalg.solve(inner, right[..., None])[..., 0]
        return vector / extra - torch.einsum("mkp,pm->kp", lowered, weights)

    def diagonal(self) -> torch.Tensor:
        """The diagonal of JᵀJ, ``(k, pixels)``."""
        return self.factor.square().sum(0)

    def trace(self, extra: torch.Tensor | float) -> torch.Tensor:
        """tr((JᵀJ + diag(extra))⁻¹ JᵀJ) of each pixel."""
        inner, _, _ = self._inner(self.factor[0], extra)
        eye = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
        return torch.linalg.solve(inner, inner - eye).diagonal(dim1=-2, dim2=-1).sum(-1)

    def _inner(self, like: torch.Tensor, extra):
        extra = torch.as_tensor(extra, dtype=like.dtype, device=like.device).expand_as(like)
        if not bool((extra > 0).all()):
            raise ValueError(
                "data-space blocks have more unknowns than data: they need a positive diagonal from a prior"
            )
        lowered = self.factor / extra
        inner = torch.einsum("mkp,nkp->pmn", self.factor, lowered)
        return inner + torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device), lowered, extra
