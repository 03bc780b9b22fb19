"""The grid of the maps: what is left of a cube without its data axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .names import unknown_name

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """Shape and meaning of the axes of a map.

    Attributes
    ----------
    shape : tuple of int
        The map's shape in array order; ``(1,)`` for a single spectrum.
    kinds : tuple of str
        For each axis ``"space"``, ``"time"`` or ``"other"``. The scan axis of a raster is space.
    """

    shape: tuple[int, ...]
    kinds: tuple[str, ...]

    def __post_init__(self):
        if len(self.shape) != len(self.kinds):
            raise ValueError(f"a grid of shape {self.shape} needs {len(self.shape)} kinds, found {self.kinds}")

    @property
    def size(self) -> int:
        """The number of pixels."""
        return int(np.prod(self.shape, dtype=int))

    def axes(self, names) -> tuple[int, ...]:
        """The array axes meant by ``"space"``, ``"time"``, ``"all"``, a number, or a tuple of these."""
        if isinstance(names, (str, int)):
            names = (names,)
        axes = []
        for name in names:
            if isinstance(name, int):
                if not -len(self.shape) <= name < len(self.shape):
                    raise ValueError(f"axis {name} does not exist on a map of shape {self.shape}")
                axes.append(name % len(self.shape))
            elif name == "all":
                axes += range(len(self.shape))
            elif name in ("space", "time", "other"):
                found = [i for i, kind in enumerate(self.kinds) if kind == name]
                if not found:
                    raise ValueError(f"this map has no {name} axis; its axes are {', '.join(self.kinds)}")
                axes += found
            else:
                raise unknown_name(name, ["space", "time", "other", "all"], kind="axis")
        return tuple(dict.fromkeys(axes))
