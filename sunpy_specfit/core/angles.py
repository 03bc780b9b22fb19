"""Numbers whose range has no end: beyond its bounds an angle comes in again, and a radius on the other side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

__all__ = ["Angle", "Radius", "fold"]


class Angle(NamedTuple):
    """A free number that wraps or is reflected at its bounds, in the internal frame."""

    column: int
    lower: float
    upper: float
    reflects: bool

    @property
    def longest(self) -> float:
        """No step should be longer: beyond a quarter of the range the other way round may be the shorter one."""
        return 0.25 * (self.upper - self.lower)

    def fold(self, free: torch.Tensor) -> None:
        """Bring the number back between its bounds, in place."""
        span = self.upper - self.lower
        away = torch.remainder(free[self.column] - self.lower, 2 * span if self.reflects else span)
        free[self.column] = self.lower + (torch.minimum(away, 2 * span - away) if self.reflects else away)


class Radius(NamedTuple):
    """A free number below whose lower bound lies the other side: itself mirrored, and the angle ``total`` - angle."""

    column: int
    lower: float
    angle: int
    total: float

    longest = float("inf")

    def fold(self, free: torch.Tensor) -> None:
        """Bring the number back above its bound, in place."""
        across = free[self.column] < self.lower
        free[self.column] = torch.where(across, 2 * self.lower - free[self.column], free[self.column])
        free[self.angle] = torch.where(across, self.total - free[self.angle], free[self.angle])


def fold(free: torch.Tensor, angles: Sequence[Angle | Radius]) -> torch.Tensor:
    """The same light at numbers inside the bounds; ``free`` is ``(k, pixels)`` and stays as it is."""
    if not angles:
        return free
    free = free.clone()
    for angle in angles:
        angle.fold(free)
    return free
