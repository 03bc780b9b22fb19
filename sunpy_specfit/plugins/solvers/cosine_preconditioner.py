"""The inverse of (pixels' own curvature + the same coupling for all their numbers), nearly."""

from __future__ import annotations

import math

import torch

from ...numerics import data_space, packed
from ...numerics.cosine_transform import cosine_transform, inverse_cosine_transform
from ...numerics.threads import side_by_side
from .seen_by_data import SeenByData

__all__ = ["CosinePreconditioner"]


class CosinePreconditioner:
    """R Cᵀ (mean + q) / (mean + waves) C R, with R = (Hᵀ H + q)^(-1/2) of each pixel and C the cosine transform.

    Where all pixels' data tell the same it is exact. Else R makes pixels alike before the cosines are taken; the
    symmetric root, because that changes from pixel to pixel only as what the data tell does. With q the geometric mean
    of the waves' precisions a few iterations suffice, however long the correlation.

    Parameters
    ----------
    shape : tuple of int
        Of the map.
    waves : `torch.Tensor`
        The precision of each cosine, ``(pixels,)``.
    factors : `SeenByData`
        H ``(m, r, pixels)``.
    """

    def __init__(self, shape, waves: torch.Tensor, factors: SeenByData):
        middle = float(waves.log().mean().exp())
        self.shape = tuple(shape)

        def prepare(part, factor):
            values, vectors = torch.linalg.eigh(packed.unpack(data_space.gram(factor, -1.0)))
            values = values.clamp_min(0)
            size = (values + middle).sqrt()
            rotated = torch.einsum("pmn,mrp->nrp", vectors, factor)
            piece = part, factor, rotated, (1 / (size * (size + middle**0.5))).T.contiguous()
            return piece, factor.square().sum((0, 2))

        self._pieces, squares = zip(*factors.each(prepare), strict=True)
        mean = (sum(squares) / math.prod(self.shape))[:, None]
        self._share = ((mean + middle) / (mean + waves.to(mean)) / middle).reshape(-1, *self.shape)
        self._dims = tuple(range(-len(self.shape), 0))

    def data_product(self, v: torch.Tensor) -> torch.Tensor:
        """Hᵀ H v of each pixel, ``(r, pixels)``."""
        out = torch.empty_like(v)

        def fill(piece) -> None:
            part, factor, *_ = piece
            out[:, part] = data_space.pull(factor, data_space.apply(factor, v[:, part]))

        side_by_side(fill, self._pieces)
        return out

    def __call__(self, v: torch.Tensor) -> torch.Tensor:
        coefficients = cosine_transform(self._root(v).reshape(-1, *self.shape), self._dims).mul_(self._share)
        return self._root(inverse_cosine_transform(coefficients, self._dims).reshape(v.shape))

    def _root(self, v: torch.Tensor) -> torch.Tensor:
        """√q R v."""
        out = torch.empty_like(v)

        def fill(piece) -> None:
            part, _, rotated, share = piece
            told = data_space.apply(rotated, v[:, part]).mul_(share)
            torch.sub(v[:, part], data_space.pull(rotated, told), out=out[:, part])

        side_by_side(fill, self._pieces)
        return out
