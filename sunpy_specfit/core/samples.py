"""Samples of some pixels as tensors: memory laid out anew, errors turned into weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .uncertainty import Sigma

__all__ = ["Block", "as_it_is", "as_tensor", "pixel_last", "to_weight", "with_light_error"]


@dataclass(frozen=True)
class Block:
    """The samples of some pixels.

    Attributes
    ----------
    data, weight : `torch.Tensor`
        ``([stokes,] n, pixels)``; weight is 1/sigma², 0 (and data 0) where a sample cannot be used.
    x : `torch.Tensor`
        ``(n, 1)`` or ``(n, pixels)``.
    flags : `torch.Tensor`
        Status bits that the data alone give, int32 ``(pixels,)``.
    """

    data: torch.Tensor
    weight: torch.Tensor
    x: torch.Tensor
    flags: torch.Tensor


def pixel_last(part: np.ndarray, dtype: torch.dtype, device, *, scale: float = 1.0) -> torch.Tensor:
    """A fresh tensor ``(..., pixels)`` from ``(pixels, ...)``, multiplied; the input is never shared nor changed."""
    if not part.dtype.isnative:
        part = part.astype(part.dtype.newbyteorder("="))
    if part.dtype.kind == "u" and part.dtype.itemsize > 1:
        part = part.astype(np.int64 if part.dtype.itemsize < 8 else np.float64)
    if part.dtype.kind == "f" and part.dtype.itemsize > 8:  # torch knows no longer floats than these
        part = part.astype(np.float64)
    if not part.flags.writeable or any(s < 0 for s in part.strides):
        part = part.copy()  # torch would warn of (or refuse) memory that it must not, or cannot, walk
    source = torch.from_numpy(part).movedim(0, -1)
    fresh = torch.empty(source.shape, dtype=dtype, device=device)
    if scale == 1.0:
        return fresh.copy_(source)
    # In one go where memory is laid out alike, or numbers are too large or small to be held before they are scaled;
    # elsewhere copying is what turns memory fastest. Products have the precision of the source, whatever they go to.
    at_once = source.stride(-1) == 1 and torch.promote_types(source.dtype, dtype) == source.dtype
    at_once |= not 1e-15 < abs(scale) < 1e15
    at_once &= source.is_floating_point() and source.device == fresh.device
    return torch.mul(source, scale, out=fresh) if at_once else fresh.copy_(source).mul_(scale)


def to_weight(values: torch.Tensor, sigma: Sigma, data_scale: float) -> torch.Tensor:
    """1/sigma² in the internal frame; not positive or not finite where sigma says nothing."""
    if sigma.power == -2:
        return values.mul_(sigma.factor * data_scale**2)
    if sigma.power == 2:
        return values.mul_(sigma.factor / data_scale**2).reciprocal_()
    values.mul_(sigma.factor / data_scale)
    # The sign survives: a negative sigma is an invalid one (eispac marks missing samples so).
    return values.mul_(values.abs()).reciprocal_()


def with_light_error(weight: torch.Tensor, data: torch.Tensor, error: float) -> torch.Tensor:
    """1/sigma² where the light may be off by a part of itself, beside the noise."""
    return weight / (1 + (error * data.clamp_min(0)).square() * weight)


def as_tensor(part: np.ndarray) -> torch.Tensor:
    """``(pixels, ...)`` as ``(..., pixels)`` in floating point, without a copy wherever torch can do without."""
    if not as_it_is(part):
        single = part.dtype.kind == "f" and part.dtype.itemsize <= 4
        part = np.array(part, np.float32 if single else np.float64, order="C")
    return torch.from_numpy(part).movedim(0, -1)


def as_it_is(part: np.ndarray) -> bool:
    """Whether torch takes such an array as it lies in memory."""
    known = part.dtype.kind == "f" and part.dtype.isnative and part.dtype.itemsize in (4, 8)
    return known and part.flags.writeable and all(stride >= 0 for stride in part.strides)
