"""Numbers whose range has no end: beyond its bounds an angle comes in again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

__all__ = ["Angle", "fold"]


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


def fold(free: torch.Tensor, angles: Sequence[Angle]) -> torch.Tensor:
    """The same light at numbers inside the bounds; ``free`` is ``(k, pixels)`` and stays as it is."""
    if not angles:
        return free
    free = free.clone()
    for angle in angles:
        span = angle.upper - angle.lower
        away = torch.remainder(free[angle.column] - angle.lower, 2 * span if angle.reflects else span)
        free[angle.column] = angle.lower + (torch.minimum(away, 2 * span - away) if angle.reflects else away)
    return free
