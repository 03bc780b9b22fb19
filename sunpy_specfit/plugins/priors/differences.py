"""Differences of neighbouring pixels along axes of a map, their transpose, and the diagonal of their square."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from ...numerics.compiled import arrays, compiled
from ...numerics.cosine_transform import laplacian_eigenvalues
from ...numerics.threads import over_pixels

__all__ = ["Differences"]

# Fewer numbers are not worth waiting for a compiler, or for what it left on the disk.
_WORTH_COMPILING = 2**13
# Fewer pixels are not worth a thread.
_A_THREAD = 2**16


class Differences:
    """The linear operator D that takes a map to differences of neighbours.

    For order 2 the mixed differences of each pair of axes are among them (twice, as in the thin plate), so that a
    map's bending counts the same in any direction.

    Parameters
    ----------
    shape : tuple of int
        The shape of the map.
    axes : tuple of int
        Array axes to take differences along.
    order : {1, 2}
        1 for steps between neighbours, 2 for steps between steps.
    """

    def __init__(self, shape: Sequence[int], axes: Sequence[int], order: int):
        self.shape, self.order = tuple(shape), order
        # Each part: a weight, and how often to take the difference along each axis (counted from the last).
        self.dims = dims = [axis - len(self.shape) for axis in axes]
        parts: list[tuple[float, tuple[int, ...]]] = [(1.0, (dim,) * order) for dim in dims]
        if order == 2:
            parts += [(2**0.5, (a, b)) for i, a in enumerate(dims) for b in dims[i + 1 :]]
        # An axis that is too short has no such difference; where all are, nothing stands in for them.
        self.parts = [part for part in parts if all(self.shape[d] > part[1].count(d) for d in part[1])] or [(0.0, ())]

    def forward(self, maps: torch.Tensor) -> list[torch.Tensor]:
        """D q for maps ``(..., pixels)``: one tensor a part, ``(..., *shape)`` less what differences cost."""
        image = maps.reshape(*maps.shape[:-1], *self.shape)
        found = []
        for weight, dims in self.parts:
            part = image
            for dim in dims:
                part = part.diff(dim=dim)
            found.append(part if weight == 1.0 else weight * part)
        return found

    def transpose(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Dᵀ d, ``(..., pixels)``."""
        lead = parts[0].shape[: parts[0].ndim - len(self.shape)]
        total = parts[0].new_zeros((*lead, *self.shape))
        for (weight, dims), part in zip(self.parts, parts, strict=True):
            for dim in reversed(dims[1:]):
                part = _add_transposed(part, dim, None)
            part = part if weight == 1.0 else weight * part
            if dims:
                _add_transposed(part, dims[0], total)
            else:
                total += part
        return total.reshape(*lead, -1)

    def energy(self, maps: torch.Tensor) -> torch.Tensor:
        """|D q|², summed over all maps."""
        return sum((part.square().sum() for part in self.forward(maps)), maps.new_zeros(()))

    def product(self, maps: torch.Tensor, factor: float = 1.0, out: torch.Tensor | None = None) -> torch.Tensor:
        """Dᵀ D q, times a factor; added to ``out``, of the same shape, where that is given."""
        first = self.order == 1 and bool(self.parts[0][1])
        if first and (added := self._by_loops(maps, factor, out)) is not None:
            return added
        total = self._first_product(maps) if first else self.transpose(self.forward(maps))
        total = total if factor == 1.0 else total.mul_(factor)
        return total if out is None else out.add_(total)

    def _first_product(self, maps: torch.Tensor) -> torch.Tensor:
        # Each pixel so many times as it has neighbours, less these: nothing is held in fresh memory but the answer.
        image = maps.reshape(*maps.shape[:-1], *self.shape)
        total = 2 * len(self.parts) * image
        for _, (dim,) in self.parts:
            n = self.shape[dim]
            for end, start, other in ((0, 1, 0), (n - 1, 0, 1)):
                total.narrow(dim, end, 1).sub_(image.narrow(dim, end, 1))
                total.narrow(dim, start, n - 1).sub_(image.narrow(dim, other, n - 1))
        return total.reshape(maps.shape)

    def _by_loops(self, maps: torch.Tensor, factor: float, out: torch.Tensor | None) -> torch.Tensor | None:
        """`product` along one axis or the last two, in one look at the maps; None where nothing is compiled."""
        along = sorted(dim for _, (dim,) in self.parts)
        if maps.numel() < _WORTH_COMPILING or along not in ([along[0]], [-2, -1]):
            return None
        out = torch.zeros_like(maps) if out is None else out
        found = arrays(maps, out)
        if found is None or out.dtype != maps.dtype:
            return None
        first = along[0]
        rows = 1 if along == [-1] else self.shape[first]
        columns = math.prod(self.shape[first:]) // rows
        images = [array.reshape(-1, rows, columns) for array in found]

        given = images[0], along != [-1], -1 in along, images[0].dtype.type(factor), images[1]

        def run(loops) -> torch.Tensor:
            over_pixels(
                lambda begin, end: loops.add_product(begin // columns, end // columns, *given),
                rows * columns,
                -(-_A_THREAD // columns) * columns,
            )
            return out

        return compiled(f"{__package__}.difference_loops", run)

    def noise(self, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Noise whose covariance is Dᵀ D, shaped as maps."""
        parts = [
            torch.randn(part.shape, generator=generator, dtype=part.dtype, device=part.device)
            for part in self.forward(like)
        ]
        return self.transpose(parts)

    def eigenvalues(self, like: torch.Tensor) -> torch.Tensor:
        """What Dᵀ D multiplies each cosine with, ``(pixels,)``; for order 2 as if the edges were like the inside."""
        return torch.as_tensor(self._eigenvalues).to(like)

    @cached_property
    def _eigenvalues(self) -> np.ndarray:
        return (laplacian_eigenvalues(self.shape, self.dims) ** self.order).reshape(-1).numpy()

    def diagonal(self, like: torch.Tensor) -> torch.Tensor:
        """The diagonal of Dᵀ D, ``(pixels,)``; not to be changed in place."""
        return torch.as_tensor(self._diagonal).to(like)

    @cached_property
    def _diagonal(self) -> np.ndarray:
        # An array: what is kept must not belong to the transform under which it was first asked for.
        total = np.zeros(self.shape)
        for weight, dims in self.parts:
            part = np.full(self.shape, weight**2)
            for dim in set(dims):
                n, times = self.shape[dim], dims.count(dim)
                factors = np.square(np.diff(np.eye(times + 1), n=times, axis=0)[0])
                own = np.convolve(np.ones(n - times), factors) if n > times else np.zeros(n)
                part = part * own.reshape([-1 if i == len(self.shape) + dim else 1 for i in range(len(self.shape))])
            total += part
        return total.reshape(-1)


def _add_transposed(part: torch.Tensor, dim: int, total: torch.Tensor | None) -> torch.Tensor:
    """Add the transpose of a difference along one axis, in place: what fresh memory costs is more than the sums."""
    n = part.shape[dim]
    if total is None:
        total = part.new_zeros([n + 1 if i == part.ndim + dim else size for i, size in enumerate(part.shape)])
    total.narrow(dim, 1, n).add_(part)
    total.narrow(dim, 0, n).sub_(part)
    return total
