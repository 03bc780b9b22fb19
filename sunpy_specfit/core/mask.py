"""Masks of any of the shapes that a user may have at hand."""

from __future__ import annotations

import numpy as np
from ndcube import NDCube

from .axes import Axes

__all__ = ["read_mask"]


def read_mask(mask, cube: NDCube, axes: Axes) -> np.ndarray | None:
    if mask is None or mask is False or (np.ndim(mask) == 0 and not bool(mask)):
        return None
    mask = np.asarray(mask, bool)
    shape = cube.data.shape
    grid = tuple(shape[i] for i in axes.grid)
    if mask.shape == shape or mask.ndim == 0:
        return np.broadcast_to(mask, shape)
    if mask.shape == grid and grid:
        full = mask.reshape(*grid, *[1] * (len(shape) - len(grid)))
        return np.broadcast_to(full.transpose(np.argsort(axes.order)), shape)
    if axes.sample is not None and mask.shape == (shape[axes.sample],):
        full = mask.reshape([-1 if i == axes.sample else 1 for i in range(len(shape))])
        return np.broadcast_to(full, shape)
    raise ValueError(
        f"the mask has shape {mask.shape}; expected that of the data {shape}, of the map {grid}, "
        "or of the spectral axis"
    )
