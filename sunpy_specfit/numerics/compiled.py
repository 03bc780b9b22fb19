"""Loops in compiled code (Numba, an extra) where they are to be had, with plain code as the alternative."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TypeVar

import numpy as np
import torch
from torch.autograd import forward_ad

__all__ = ["arrays", "compiled", "suit_loops"]

Found = TypeVar("Found")
# Why compiled loops are not to be had: what went wrong with the first that were run.
_failures: list[Exception] = []


def compiled(module: str, work: Callable[[ModuleType], Found]) -> Found | None:
    """What a function of a module of loops returns; None where there is no Numba.

    Whatever a compiler or its cache stumbles over, such as a file that was cut short, the plain code remains: None
    then too, after one warning.

    Parameters
    ----------
    module : str
        Its whole name.
    work : callable
    """
    if _failures or (loops := _module(module)) is None:
        return None
    try:
        return work(loops)
    except Exception as error:  # noqa: BLE001 - see above
        _failures.append(error)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        warnings.warn(f"Numba's loops cannot be used, so the plain code is: {reason}", RuntimeWarning, stacklevel=3)
        return None


def arrays(*tensors: torch.Tensor) -> list[np.ndarray] | None:
    """The numbers of tensors, for loops to read or to fill; None where they lie elsewhere or derivatives are taken."""
    return [tensor.numpy() for tensor in tensors] if suit_loops(*tensors) else None


def suit_loops(*tensors: torch.Tensor) -> bool:
    """Whether `arrays` has them: in one piece on the processor, and no part of a derivative or a transform."""
    for tensor in tensors:
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        if wrapped or tensor.requires_grad or tensor.device.type != "cpu" or not tensor.is_contiguous():
            return False
        if forward_ad.unpack_dual(tensor).tangent is not None:
            return False
    return True


@cache
def _module(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except Exception:  # noqa: BLE001 - not installed, or no place to keep its code: there is another way
        return None
