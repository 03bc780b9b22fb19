"""What may be fitted: a cube, several, or a container of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from ndcube import NDCollection, NDCube, NDCubeSequence

__all__ = ["as_cubes", "check_cube"]


def as_cubes(data):
    """The members of a sequence or a collection of cubes; anything else is returned as it is.

    Parameters
    ----------
    data : `~ndcube.NDCube`, `~ndcube.NDCubeSequence`, `~ndcube.NDCollection` or list

    Returns
    -------
    list for a sequence, dict for a collection
    """
    if isinstance(data, NDCubeSequence):
        return list(data.data)
    if isinstance(data, NDCollection):
        return {key: data[key] for key in data}
    if isinstance(data, Mapping):
        raise TypeError(
            "a mapping of cubes has no order of its own here; pass a list to fit jointly, or an NDCollection"
        )
    return data


def check_cube(cube) -> None:
    if not isinstance(cube, NDCube):
        raise TypeError(
            f"data must be an NDCube (or several), found {type(cube).__name__}; wrap arrays in NDCube(data, wcs)"
        )
    if torch.is_tensor(cube.data):
        raise TypeError("the NDCube holds a torch tensor; NDCube needs numpy (or dask) arrays: use tensor.numpy()")
    if not hasattr(cube.data, "shape") or np.dtype(cube.data.dtype).kind not in "iuf":
        raise TypeError(
            f"the NDCube must hold real numbers, found dtype {getattr(cube.data, 'dtype', type(cube.data))}"
        )
    if cube.data.size == 0:
        raise ValueError(f"the NDCube holds no data: its shape is {cube.data.shape}")
