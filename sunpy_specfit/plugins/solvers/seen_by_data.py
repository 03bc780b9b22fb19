"""How the data of each pixel see the numbers z of unit prior variance, of which the logarithm is mean + B z."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from ...numerics.threads import side_by_side

__all__ = ["SeenByData"]

Found = TypeVar("Found")
# Pixels worked on at a time.
_PIXELS = 2048


@dataclass(frozen=True)
class SeenByData:
    """H = W^½ R D B ``(m, r, pixels)``, made piece by piece where it is asked for, in the root's type.

    Attributes
    ----------
    root : `torch.Tensor`
        B, of the prior's covariance, ``(k, r)``.
    response : `torch.Tensor`
        R, ``(m, k)``.
    free : `torch.Tensor`
        D, the vector itself, ``(k, pixels)``.
    weight : `torch.Tensor`
        W, ``(m, pixels)``.
    """

    root: torch.Tensor
    response: torch.Tensor
    free: torch.Tensor
    weight: torch.Tensor

    def __iter__(self) -> Iterator[tuple[slice, torch.Tensor]]:
        return map(self._piece, self._parts())

    def each(self, work: Callable[[slice, torch.Tensor], Found]) -> list[Found]:
        """What ``work`` returns for each piece and its H; several are worked on side by side."""
        return side_by_side(lambda part: work(*self._piece(part)), self._parts())

    def _parts(self) -> list[slice]:
        return [slice(first, first + _PIXELS) for first in range(0, self.free.shape[1], _PIXELS)]

    def _piece(self, part: slice) -> tuple[slice, torch.Tensor]:
        moved = self.response[:, :, None].to(self.root) * self.free[:, part].to(self.root)
        seen = torch.matmul(self.root.T, moved)
        return part, seen.mul_(self.weight[:, part].sqrt().to(self.root)[:, None])
