"""Fresh memory for large maps."""

from __future__ import annotations

import numpy as np
import torch

from .compiled import suit_loops

__all__ = ["room", "room_like"]


def room(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Memory on the processor with nothing in it yet, in large pages where the system has them.

    NumPy asks for such pages, PyTorch does not: on Linux the first look at 48 MB in small ones takes four times as
    long, longer than the sums that fill them.

    Parameters
    ----------
    *shape : int
    dtype : `torch.dtype`

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.numerics.memory import room
    >>> room(2, 3, dtype=torch.float32).shape
    torch.Size([2, 3])
    """
    return torch.from_numpy(np.empty(shape, torch.empty((), dtype=dtype, device="cpu").numpy().dtype))


def room_like(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """As much room as a tensor takes, where it lies; in another precision, if that is given.

    PyTorch's own where derivatives are taken, or a transform is at work, or NumPy has no such numbers.
    """
    dtype = dtype or tensor.dtype
    if dtype == torch.bfloat16 or not suit_loops(tensor):
        return torch.empty_like(tensor, dtype=dtype)
    return room(*tensor.shape, dtype=dtype)
