"""Some pixels of a problem as tensors: samples, weights, what models take as given, and what is held fixed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .pixels import PixelBlock, TermData
from .quantities import Quantities
from .samples import with_light_error
from .status import Status

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["bare_block", "read_pixels"]


def read_pixels(
    problem: Problem, index: slice | np.ndarray, dtype: torch.dtype, *, compressed: bool = False
) -> PixelBlock:
    """Some pixels with all their samples, and the priors that do not couple them.

    Parameters
    ----------
    problem : `Problem`
    index : slice or `numpy.ndarray`
        Flat pixel numbers.
    dtype : `torch.dtype`
    compressed : bool
        Whether quadratics are to be made of them: these want the data's own weights, not the models'.
    """
    data, loaded_terms, flags = [], [], None
    for term in problem.terms:
        frame = term.frame
        loaded = term.observation.block(
            index,
            dtype=dtype,
            device=problem.device,
            origin=frame.origin,
            scale=frame.scale,
            data_scale=frame.data_scale,
        )
        auxiliary = [term.auxiliary_of(i, index, dtype, problem.device) for i in range(len(term.auxiliary))]
        loaded_terms.append((term, loaded, auxiliary))
        flags = loaded.flags if flags is None else flags | loaded.flags
    base = problem.base if problem.base.shape[-1] == 1 else problem.base[..., index]
    base = base.to(dtype=dtype, device=problem.device)
    # What is held fixed, and what models take as given, must be known for a pixel to be fitted.
    inputs = [value for _, _, own in loaded_terms for one in own for value in one.values()]
    unknown = [bad for value in (base, *inputs) if (bad := _unknown(value, len(flags))) is not None]
    if unknown:
        unknown = torch.stack(unknown).any(0)
        flags = torch.where(unknown, flags | int(Status.BAD_DATA), flags)
        base = _mended(base, len(flags))
    for term, loaded, auxiliary in loaded_terms:
        if torch.is_tensor(unknown):
            auxiliary = [{name: _mended(value, len(flags)) for name, value in one.items()} for one in auxiliary]
            loaded = replace(loaded, weight=torch.where(unknown, 0.0, loaded.weight))
        weight = loaded.weight
        for component, own in zip(term.model.components, auxiliary, strict=True):
            if component.weigh is not None and not compressed:
                weight = component.weigh(loaded.x, weight, **own)
        if term.light_error:
            weight = with_light_error(weight, loaded.data, term.light_error)
        usable = None if term.observation.noise is None else (weight > 0).to(weight)
        data.append(TermData(term, loaded.x, loaded.data, weight, usable, auxiliary))
    return bare_block(problem, index, dtype, flags, base, data)


def bare_block(
    problem: Problem, index: slice | np.ndarray, dtype: torch.dtype, flags: torch.Tensor, base: torch.Tensor, terms=()
) -> PixelBlock:
    """Some pixels with their flags and what is held fixed, and the samples of terms where there are any."""
    priors = [
        (prior.select(index), Quantities(problem.layout, names, problem.physical_auxiliary).select(index))
        for prior, names in problem.priors
        if not prior.couples_pixels
    ]
    return PixelBlock(
        terms=list(terms),
        transform=problem.transform.to(dtype),
        base=base,
        lower=problem.lower.to(dtype),
        upper=problem.upper.to(dtype),
        flags=flags,
        loss=problem.loss_name,
        priors=priors,
        simple=problem.simple,
        angles=problem.layout.angles(),
        memo=problem.memo,
    )


def _unknown(value: torch.Tensor, pixels: int) -> torch.Tensor | None:
    """Which pixels lack some number of a map ``(..., pixels)``; None if none does, or if several pixels share it."""
    if value.shape[-1] < pixels or bool(torch.isfinite(value.sum())):
        return None
    return ~torch.isfinite(value).reshape(-1, value.shape[-1]).all(0)


def _mended(value: torch.Tensor, pixels: int) -> torch.Tensor:
    """A map with the median in place of what is not finite, so that models and their derivatives stay so."""
    if _unknown(value, pixels) is None:
        return value
    known = torch.where(torch.isfinite(value), value, torch.nan)
    return torch.where(torch.isfinite(value), value, known.nanmedian(-1, keepdim=True).values.nan_to_num())
