"""A sample of a large map: tiles from all over it, which tell a prior's scale as well as the whole does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from .grid import Grid
from .prior import Prior
from .problem import Problem

__all__ = ["mosaic"]

# Tiles of so many pixels a side, and so many of them along either axis: 65536 pixels in all.
_SIDE, _NUMBER = 64, 4


def mosaic(
    problem: Problem, priors: Sequence[Prior], init: Mapping[str, np.ndarray]
) -> tuple[Problem, dict[str, np.ndarray]]:
    """The problem on some tiles of its map, one behind the other along a further axis, and start values for it.

    The problem itself where its map is not much larger, or where priors do not act along two axes of space alone.

    Parameters
    ----------
    problem : `Problem`
    priors : sequence of `Prior`
        Those that are to act on it.
    init : mapping
        Start values by key, internal.
    """
    index = _tiles(problem.grid)
    apart = all(getattr(prior, "axes", None) == "space" for prior in priors)
    if index is None or not apart or problem.couples_pixels:
        return problem, dict(init)
    if not bool((problem.whole().n_valid[torch.as_tensor(index)] > 0).any()):
        return problem, dict(init)
    grid = Grid((_NUMBER**2, _SIDE, _SIDE), ("other", *problem.grid.kinds))
    size = problem.n_pixels
    own = {key: value[..., index] if np.shape(value)[-1:] == (size,) else value for key, value in init.items()}
    return problem.part(index, grid), own


def _tiles(grid: Grid) -> np.ndarray | None:
    """Flat numbers of the tiles' pixels, evenly spread; None where there is no need of them."""
    if (
        grid.kinds != ("space", "space")
        or min(grid.shape) < _NUMBER * _SIDE
        or grid.size < 1.5 * (_NUMBER * _SIDE) ** 2
    ):
        return None
    number = np.arange(grid.size).reshape(grid.shape)
    first = [np.linspace(0, n - _SIDE, _NUMBER).round().astype(int) for n in grid.shape]
    tiles = [number[y : y + _SIDE, x : x + _SIDE].reshape(-1) for y in first[0] for x in first[1]]
    return np.concatenate(tiles)
