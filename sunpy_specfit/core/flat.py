"""All free numbers of a map as one vector, in which a number that all pixels share stands once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["FlatVector"]


@dataclass(frozen=True)
class FlatVector:
    """Goes between free numbers ``(k, pixels)`` and one vector: each pixel's own, then the shared ones.

    Attributes
    ----------
    shared : `torch.Tensor`
        Which of the free numbers all pixels share, bool ``(k,)``.
    n_pixels : int
    """

    shared: torch.Tensor
    n_pixels: int

    @property
    def _plain(self) -> bool:
        return not self.shared.any()

    def unflatten(self, flat: torch.Tensor) -> torch.Tensor:
        """Free numbers ``(k, pixels)`` from the vector; differentiable."""
        if self._plain:
            return flat.reshape(len(self.shared), self.n_pixels)
        n_own = int((~self.shared).sum())
        own = iter(flat[: n_own * self.n_pixels].reshape(n_own, self.n_pixels))
        common = iter(flat[n_own * self.n_pixels :])
        return torch.stack([next(common).expand(self.n_pixels) if one else next(own) for one in self.shared.tolist()])

    def flatten(self, free: torch.Tensor) -> torch.Tensor:
        """The vector of free numbers; a shared one starts from the median over pixels."""
        if self._plain:
            return free.reshape(-1).clone()
        return torch.cat([free[~self.shared].reshape(-1), free[self.shared].median(-1).values])

    def reduce(self, gradient: torch.Tensor) -> torch.Tensor:
        """The transpose of `unflatten`: a shared number collects what all pixels say."""
        if self._plain:
            return gradient.reshape(-1)
        return torch.cat([gradient[~self.shared].reshape(-1), gradient[self.shared].sum(-1)])

    def spread(self, limits: torch.Tensor) -> torch.Tensor:
        """The vector of what is the same in every pixel, such as bounds, from ``(k, 1)``."""
        own = limits[~self.shared].expand(-1, self.n_pixels)
        return torch.cat([own.reshape(-1), limits[self.shared].reshape(-1)])
