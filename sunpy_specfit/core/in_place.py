"""Numbers where they lie in the cube, for models that read them without a copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["InPlace"]


@dataclass(frozen=True)
class InPlace:
    """Numbers of some pixels as they lie in memory; in the internal frame they are ``(value - offset) / factor``.

    Attributes
    ----------
    values : `torch.Tensor`
        ``(..., pixels)``, in the data's own precision and order. Not to be changed.
    offset, factor : float
    """

    values: torch.Tensor
    offset: float = 0.0
    factor: float = 1.0

    def flat(self) -> tuple[np.ndarray, tuple[int, ...]] | None:
        """All memory from the first number to the last as one row, and how far apart numbers lie in it along each axis.

        None where an axis runs backwards.
        """
        array = self.values.numpy()
        if not array.size or any(stride < 0 for stride in array.strides):
            return None
        size = array.itemsize
        steps = tuple(stride // size for stride in array.strides)
        length = 1 + sum((n - 1) * step for n, step in zip(array.shape, steps, strict=True))
        row = np.lib.stride_tricks.as_strided(array, (length,), (size,), writeable=False)
        return row, steps
