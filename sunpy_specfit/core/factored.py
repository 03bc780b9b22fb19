"""Covariances of many unknowns and few data, kept as what they are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..numerics import data_space
from ..numerics.threads import side_by_side

__all__ = ["LARGEST_MOVE", "FactoredCovariance"]

# Pixels worked on at a time, so that their numbers stay in the processor's cache.
_PIXELS = 4096
# No draw is further from the solution than this, a natural logarithm.
LARGEST_MOVE = 200.0


@dataclass(frozen=True)
class FactoredCovariance:
    """C = D (B (1 - Hᵀ (1 + H Hᵀ)⁻¹ H) Bᵀ + S Sᵀ) D of each pixel, with H = W^½ R D B.

    A DEM of 32 bins has 528 covariances a pixel, and all of them follow from the few numbers kept here.

    Attributes
    ----------
    response : `numpy.ndarray`
        R ``(m, k)``: what a unit of each unknown adds to each datum.
    root : `numpy.ndarray`
        B ``(k, r)``, a square root of the prior's covariance.
    scale : `numpy.ndarray`
        D ``(k or 1, pixels)``: the unknown per unit of what the prior is about; of a logarithm, the unknown itself.
    weight : `numpy.ndarray`
        W ``(m, pixels)``: 1/sigma² of the data.
    logarithm : bool
        Whether the prior is about logarithms: draws are then positive.
    common : `numpy.ndarray`, optional
        S ``(k, q, pixels)``: by how much a pixel follows each of a few numbers that all pixels share.
    """

    response: np.ndarray
    root: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    logarithm: bool
    common: np.ndarray | None = None

    @property
    def n_pixels(self) -> int:
        """How many pixels there are."""
        return self.weight.shape[-1]

    def __getitem__(self, index) -> FactoredCovariance:
        """Some of the pixels, ``covariance[..., pixels]``."""
        pixels = index[-1] if isinstance(index, tuple) else index
        common = None if self.common is None else self.common[..., pixels]
        return replace(self, scale=self.scale[:, pixels], weight=self.weight[:, pixels], common=common)

    @classmethod
    def spread(cls, n_pixels: int, parts: Sequence[tuple[np.ndarray, FactoredCovariance]]) -> FactoredCovariance:
        """Parts of a map, with the pixels that each is of, as one; NaN where there is none."""
        first = parts[0][1]
        if len(parts) == 1 and len(parts[0][0]) == n_pixels:
            return first
        scale = np.full((len(first.scale), n_pixels), np.nan, first.scale.dtype)
        weight = np.full((len(first.weight), n_pixels), np.nan, first.weight.dtype)
        for index, part in parts:
            scale[:, index], weight[:, index] = part.scale, part.weight
        return replace(first, scale=scale, weight=weight)

    # -- what follows from it --------------------------------------------------------------------

    def pieces(self) -> Iterator[slice]:
        """Pixels to be worked on together."""
        for first in range(0, self.n_pixels, _PIXELS):
            yield slice(first, min(first + _PIXELS, self.n_pixels))

    def at(self, part: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """D, H and the Cholesky factor of 1 + H Hᵀ of some pixels."""
        scale = torch.as_tensor(self.scale[:, part], dtype=torch.float64)
        weight = torch.as_tensor(self.weight[:, part], dtype=torch.float64)
        response, root = torch.as_tensor(self.response), torch.as_tensor(self.root)
        if len(scale) == 1:
            factor = (response @ root)[:, :, None] * (weight.sqrt() * scale)[:, None]
        else:
            factor = torch.matmul(root.T, response[:, :, None] * scale).mul_(weight.sqrt()[:, None])
        return scale, factor, data_space.factorize(factor)

    def deviation(self) -> np.ndarray:
        """The standard deviation of every unknown, ``(k, pixels)``."""
        root = torch.as_tensor(self.root)
        prior = root.square().sum(1)[:, None]
        out = np.empty((len(root), self.n_pixels))

        def fill(part: slice) -> None:
            scale, factor, lower = self.at(part)
            told = data_space.squares(lower, torch.matmul(root, factor))
            variance = (prior - told).clamp_min(0)
            if self.common is not None:
                variance = variance + torch.as_tensor(self.common[..., part]).square().sum(1)
            out[:, part] = (scale * variance.sqrt()).numpy()

        side_by_side(fill, self.pieces())
        return out

    def between(self, left: np.ndarray, right: np.ndarray, *, diagonal: bool) -> np.ndarray:
        """Σ left C right: ``(a, b, pixels)``, or ``(a, pixels)`` where only i-th with i-th is asked for.

        Parameters
        ----------
        left, right : `numpy.ndarray`
            Gradients, ``(a, k, pixels or 1)`` and ``(b, k, pixels or 1)``.
        """
        lead = (len(left),) if diagonal else (len(left), len(right))
        out = np.empty((*lead, self.n_pixels))
        root = torch.as_tensor(self.root)

        def fill(part: slice) -> None:
            scale, factor, lower = self.at(part)
            sides = []
            for gradient in (left, right):
                own = torch.as_tensor(gradient if gradient.shape[-1] == 1 else gradient[..., part])
                own = own * scale
                latent = torch.einsum("kr,akp->rap", root, own)
                seen = data_space.whiten(lower, torch.einsum("mrp,rap->map", factor, latent))
                shared = self._shared(own, part)
                sides.append((latent, seen, shared))
                if right is left:
                    sides.append(sides[0])
                    break
            (a, sa, ca), (b, sb, cb) = sides
            if diagonal:
                value = (a * b).sum(0) - (sa * sb).sum(0) + (ca * cb).sum(0)
            else:
                value = torch.einsum("rap,rbp->abp", a, b) - torch.einsum("map,mbp->abp", sa, sb)
                value += torch.einsum("qap,qbp->abp", ca, cb)
            out[..., part] = value.numpy()

        side_by_side(fill, self.pieces())
        return out

    def _shared(self, gradient: torch.Tensor, part: slice) -> torch.Tensor:
        """What gradients ``(a, k, pixels)`` make of S, ``(q, a, pixels)``."""
        if self.common is None:
            return gradient.new_zeros((1, len(gradient), 1))
        return torch.einsum("kqp,akp->qap", torch.as_tensor(self.common[..., part]).double(), gradient)

    def resolution(self, places: np.ndarray) -> np.ndarray:
        """How wide the answer at each place is smeared, the full width at half maximum in the places' unit.

        The rows of the averaging kernel A = B Hᵀ (1 + H Hᵀ)⁻¹ W^½ R D tell which truth each number follows. Of a row
        the width is that of a Gaussian about its own place with the same second moment of A²: a number that follows
        what lies elsewhere is wide too.

        Returns
        -------
        `numpy.ndarray`
            ``(k, pixels)``.
        """
        root, response = torch.as_tensor(self.root), torch.as_tensor(self.response)
        away = torch.as_tensor((places[:, None] - places) ** 2)
        out = np.empty((len(root), self.n_pixels))

        def fill(part: slice) -> None:
            scale, factor, lower = self.at(part)
            weight = torch.as_tensor(self.weight[:, part], dtype=torch.float64)
            seen = data_space.whiten(lower, torch.matmul(root, factor))
            told = data_space.whiten(lower, response[:, :, None] * scale * weight.sqrt()[:, None])
            for first in range(0, told.shape[-1], 256):
                few = slice(first, first + 256)
                kernel = torch.einsum("mip,mjp->ijp", seen[..., few], told[..., few]).square_()
                spread = (kernel * away[:, :, None]).sum(1) / kernel.sum(1).clamp_min(1e-300)
                out[:, part][:, few] = (2 * spread).sqrt().numpy() * np.sqrt(8 * np.log(2))

        side_by_side(fill, self.pieces())
        return out

    def draws(self, n: int, rng: np.random.Generator, mean: np.ndarray) -> np.ndarray:
        """Draws about the solution ``mean`` ``(k, pixels)``: ``(n, k, pixels)``.

        Each pixel by itself, but for what all share: a draw from the prior, corrected by what the data, with noise
        drawn too, say against it (Matheron's rule).
        """
        root = torch.as_tensor(self.root)
        out = np.empty((n, *mean.shape))
        shared = None if self.common is None else rng.standard_normal((n, self.common.shape[1]))
        for part in self.pieces():
            scale, factor, lower = self.at(part)
            for number in range(n):
                free = torch.as_tensor(rng.standard_normal((factor.shape[1], factor.shape[2])))
                noise = torch.as_tensor(rng.standard_normal((factor.shape[0], factor.shape[2])))
                told = data_space.solve(lower, data_space.apply(factor, free) + noise)
                away = (root @ (free - data_space.pull(factor, told))).numpy()
                if shared is not None:
                    away += np.einsum("kqp,q->kp", self.common[..., part], shared[number])
                if self.logarithm:
                    out[number, :, part] = mean[:, part] * np.exp(np.minimum(away, LARGEST_MOVE))
                else:
                    out[number, :, part] = mean[:, part] + scale.numpy() * away
        return out

    # -- files -----------------------------------------------------------------------------------

    def to_plain(self) -> dict:
        """Arrays by name, for a file."""
        arrays = {name: getattr(self, name) for name in ("response", "root", "scale", "weight", "common")}
        return {name: array for name, array in arrays.items() if array is not None} | {
            "logarithm": bool(self.logarithm)
        }

    @classmethod
    def from_plain(cls, plain: Mapping) -> FactoredCovariance:
        """What `to_plain` gave."""
        names = ("response", "root", "scale", "weight", "common")
        arrays = {name: np.array(plain[name]) for name in names if name in plain}
        return cls(**arrays, logarithm=bool(plain["logarithm"]))
