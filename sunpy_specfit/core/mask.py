"""Masks of any of the shapes that a user may have at hand."""

from __future__ import annotations

import numpy as np
from ndcube import NDCube

from .axes import Axes

__all__ = ["read_mask"]


def read_mask(mask, cube: NDCube, axes: Axes) -> np.ndarray | None:
    """A mask broadcast to the cube's shape, True = do not use; None where nothing is masked.

    Parameters
    ----------
    mask : bool, or array of bool or int, or None
        Shaped as the cube, the map, or the spectral axis; of integers (quality flags) all but zero is masked.

    Raises
    ------
    TypeError
        If it holds neither booleans nor integers: a NaN or a word would count as True.
    ValueError
        If its shape does not fit, or fits the map and the spectral axis alike.
    """
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.dtype.kind not in "biu":
        raise TypeError(
            f"a mask is an array of bool, True where a sample must not be used; found dtype {mask.dtype}. "
            "Compare first, as in np.isnan(values), and of an NDCube take its .data"
        )
    if mask.ndim == 0 and not mask:
        return None
    mask = mask.astype(bool, copy=False)
    shape = cube.data.shape
    grid = tuple(shape[i] for i in axes.grid)
    if mask.shape == shape or mask.ndim == 0:
        return np.broadcast_to(mask, shape)
    if axes.sample is not None and mask.shape == grid == (shape[axes.sample],):
        raise ValueError(
            f"a mask of shape {mask.shape} fits the map and the spectral axis alike: "
            f"give one of the data's shape {shape}"
        )
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
