"""A vector quantity with a Gaussian prior of given mean and covariance, as numbers."""

from __future__ import annotations

from functools import cached_property

import torch

from .prior import BoundPrior, Quadratic

__all__ = ["BoundGaussian"]

# Directions that together hold less than this part of the variance are left out.
_LEAST = 1e-4
# Of what pixels share, less than this part.
_LEAST_SHARED = 0.001
# The smallest number that a logarithm is taken of.
_FLOOR = 1e-300


class BoundGaussian(BoundPrior):
    """½ (g - mean)ᵀ covariance⁻¹ (g - mean), with g = q / level, or g = ln q, of a vector quantity q.

    Solvers that know it (``data_space``) never form the inverse: they work with `root`.

    Parameters
    ----------
    quantity : str
    mean : `torch.Tensor`
        ``(k,)``, float64.
    covariance : `torch.Tensor`
        ``(k, k)``.
    logarithm : bool
        Whether it is the natural logarithm of the quantity that is Gaussian; the quantity is then positive.
    level : `torch.Tensor`, optional
        ``(pixels,)``: the size of the quantity in each pixel, in its unit.
    shared : `torch.Tensor`, optional
        ``(k, k)``: that part of the covariance which is the error of the mean, and the same in all pixels. Pixels by
        themselves do not know the difference; maps do, for no averaging over pixels makes it smaller.
    """

    def __init__(
        self,
        quantity: str,
        mean: torch.Tensor,
        covariance: torch.Tensor,
        *,
        logarithm: bool = False,
        level: torch.Tensor | None = None,
        shared: torch.Tensor | None = None,
    ):
        self.quantity, self.mean, self.covariance = quantity, mean, covariance
        self.logarithm, self.level, self.shared = logarithm, level, shared

    def select(self, index) -> BoundGaussian:
        if self.level is None:
            return self
        index = index.to(self.level.device) if torch.is_tensor(index) else index
        part = BoundGaussian(
            self.quantity, self.mean, self.covariance, logarithm=self.logarithm, level=self.level[index]
        )
        part._eigen = self._eigen
        return part

    @cached_property
    def _eigen(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Eigenvalues from small to large, vectors, and how many of the smallest hold next to no variance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        values = values.clamp_min(0)
        dropped = int((values.cumsum(0) < _LEAST * values.sum()).sum())
        return values, vectors, dropped

    @cached_property
    def root(self) -> torch.Tensor:
        """B with B Bᵀ the covariance, ``(k, r)``; directions of next to no variance are left out."""
        values, vectors, dropped = self._eigen
        return (vectors[:, dropped:] * values[dropped:].sqrt()).contiguous()

    @cached_property
    def own_root(self) -> torch.Tensor:
        """As `root`, of what pixels do not share."""
        if self.shared is None:
            return self.root
        return BoundGaussian(self.quantity, self.mean, self.covariance - self.shared).root

    @cached_property
    def shared_root(self) -> torch.Tensor | None:
        """A root of what pixels share, ``(k, q)``, of few columns; None where there is nothing."""
        if self.shared is None:
            return None
        # By bins alike, however much larger the error is where no data tell.
        size = self.shared.diagonal().clamp_min(1e-300).sqrt()
        values, vectors = torch.linalg.eigh(self.shared / (size[:, None] * size))
        few = values.clamp_min(0).cumsum(0) >= _LEAST_SHARED * values.sum()
        root = vectors[:, few] * values[few].sqrt()
        # What the others had of each bin's error goes to those that are kept.
        return (size[:, None] * root / root.norm(dim=1, keepdim=True).clamp_min(1e-30)).contiguous()

    @cached_property
    def precision(self) -> torch.Tensor:
        """The inverse of the covariance, ``(k, k)``; the directions left out are held at their mean."""
        values, vectors, dropped = self._eigen
        floor = float(values[dropped]) * 1e-3
        return (vectors / torch.where(torch.arange(len(values)) < dropped, floor, values)) @ vectors.T

    def white(self, maps) -> torch.Tensor:
        """Numbers ``(r, pixels)`` of unit variance, by the coordinates of `root`."""
        return torch.linalg.pinv(self.root).to(maps[self.quantity]) @ self._away(maps)

    def _away(self, maps) -> torch.Tensor:
        q = maps[self.quantity]
        mean = self.mean.to(q)[:, None]
        if self.logarithm:
            return q.clamp_min(_FLOOR if q.dtype == torch.float64 else 1e-37).log() - mean
        return (q if self.level is None else q / self.level.to(q)) - mean

    def energy(self, maps) -> torch.Tensor:
        away = self._away(maps)
        return 0.5 * (away * (self.precision.to(away) @ away)).sum(0)

    def quadratic(self, maps) -> Quadratic:
        away = self._away(maps)
        q, precision = maps[self.quantity], self.precision.to(away)
        if self.logarithm:
            slope = 1 / q.clamp_min(_FLOOR if q.dtype == torch.float64 else 1e-37)
        else:
            slope = torch.ones_like(away) if self.level is None else (1 / self.level.to(q)).expand_as(away)
        name = self.quantity
        return Quadratic(
            gradient={name: slope * (precision @ away)},
            matvec=lambda v: {name: slope * (precision @ (slope * v[name]))},
            diagonal={name: precision.diagonal()[:, None] * slope.square()},
            within={name: (slope, precision)},
        )
