"""A power of the differences' square, between whole orders."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...numerics.cosine_transform import (
    cosine_squares,
    cosine_transform,
    inverse_cosine_transform,
    laplacian_eigenvalues,
)

__all__ = ["FractionalLaplacian"]


class FractionalLaplacian:
    """L to a power, where qᵀ L q is the sum of squared differences of neighbours: exact in the cosine basis.

    Parameters
    ----------
    shape : tuple of int
        The shape of the map.
    axes : tuple of int
        Array axes that L takes differences along.
    power : float
        Positive.

    References
    ----------
    Fractional powers of the Laplacian by its eigenvectors: Lischke et al. (2020),
    https://doi.org/10.1016/j.jcp.2019.109009; cosines as eigenvectors: Strang (1999),
    https://doi.org/10.1137/S0036144598336745
    """

    def __init__(self, shape: Sequence[int], axes: Sequence[int], power: float):
        self.shape = tuple(shape)
        self.dims = tuple(axis - len(self.shape) for axis in axes)
        self.spectrum = laplacian_eigenvalues(self.shape, self.dims) ** power
        self._diagonal = self.spectrum
        for dim in self.dims:
            squares = cosine_squares(self.shape[dim])
            self._diagonal = torch.tensordot(self._diagonal, squares, ([dim], [0])).movedim(-1, dim)

    def _cosines(self, maps: torch.Tensor) -> torch.Tensor:
        image = maps.reshape(*maps.shape[:-1], *self.shape)
        # The mean counts for nothing, and what it leaves of rounding would.
        return cosine_transform(image - image.detach().mean(self.dims, keepdim=True), self.dims)

    def energy(self, maps: torch.Tensor) -> torch.Tensor:
        """qᵀ L^power q, summed over all maps ``(..., pixels)``."""
        return (self.spectrum.to(maps) * self._cosines(maps).square()).sum()

    def product(self, maps: torch.Tensor, factor: float = 1.0, out: torch.Tensor | None = None) -> torch.Tensor:
        """L^power q, ``(..., pixels)``, times a factor; added to ``out``, of the same shape, where that is given."""
        found = inverse_cosine_transform(self.spectrum.to(maps) * self._cosines(maps), self.dims).reshape(maps.shape)
        found = found if factor == 1.0 else factor * found
        return found if out is None else out.add_(found)

    def noise(self, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Noise whose covariance is L^power, shaped as maps."""
        shape = (*like.shape[:-1], *self.shape)
        white = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return inverse_cosine_transform(self.spectrum.sqrt().to(like) * white, self.dims).reshape(like.shape)

    def diagonal(self, like: torch.Tensor) -> torch.Tensor:
        """The diagonal of L^power, ``(pixels,)``."""
        return self._diagonal.reshape(-1).to(like)

    def eigenvalues(self, like: torch.Tensor) -> torch.Tensor:
        """What each cosine along the axes is multiplied by, ``(pixels,)``."""
        return self.spectrum.reshape(-1).to(like)
