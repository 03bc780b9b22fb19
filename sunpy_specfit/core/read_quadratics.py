"""Quadratics of some pixels of a problem, from the spectra, or from the cube itself where a model reads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from .compressed import CompressedBlock, compress, in_free_numbers
from .in_place import InPlace
from .read_pixels import bare_block, read_pixels
from .term import Term, internal_auxiliary

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["is_read_in_place", "precision_of", "read_quadratics"]

# Spectra that a model does not read are held so many samples at a time.
_SAMPLES = 2**23


def read_quadratics(problem: Problem, index: slice | np.ndarray, dtype: torch.dtype) -> CompressedBlock:
    """What the data say of some pixels.

    Parameters
    ----------
    problem : `Problem`
        A compressible one.
    index : slice or `numpy.ndarray`
        Flat pixel numbers.
    dtype : `torch.dtype`
    """
    found = _read_in_place(problem, index, dtype)
    if found is None:
        return compress(read_pixels(problem, index, dtype, compressed=True))
    block, regular = found
    if bool(regular.all()):
        return block
    # What has samples that are no measurements is looked at again with more care.
    rest = (~regular).nonzero()[:, 0]
    numbers = np.arange(problem.n_pixels)[index] if isinstance(index, slice) else np.asarray(index)
    at_once = max(_SAMPLES // math.prod(problem.terms[0].observation.sample_shape), 1)
    pieces = [numbers[some.numpy()] for some in rest.split(at_once)]
    own = [compress(read_pixels(problem, piece, dtype, compressed=True)) for piece in pieces]
    return block.with_pixels(rest, CompressedBlock.join(own))


def precision_of(problem: Problem, dtype: torch.dtype) -> torch.dtype:
    """What quadratics are read in first: in the scaled frame float32 holds all that weights and signals say."""
    return torch.float32 if all(not term.frame.is_identity for term in problem.terms) else dtype


def is_read_in_place(problem: Problem) -> bool:
    """Whether a model reads the quadratics of whole blocks off the cube, where it is."""
    return _reader_of_all(problem, precision_of(problem, problem.dtype)) is not None


def _reader_of_all(problem: Problem, dtype: torch.dtype):
    """The reader of all pixels; None also where it would hold a copy of the cube."""
    if not problem.terms[0].observation.lies_in_memory:
        return None
    key = "reader", dtype
    if key not in problem.memo:
        problem.memo[key] = _reader(problem, slice(None), dtype)
    return problem.memo[key]


def _read_in_place(problem: Problem, index, dtype: torch.dtype) -> tuple[CompressedBlock, torch.Tensor] | None:
    """The quadratics as the model reads them off the cube, and of which pixels; None where it does not."""
    if isinstance(index, slice) and index.step not in (None, 1):
        index = np.arange(problem.n_pixels)[index]
    if isinstance(index, slice):
        begin, end, _ = index.indices(problem.n_pixels)
        reader = _reader_of_all(problem, dtype)
    else:
        begin, end, reader = 0, len(index), None
    if reader is None:
        begin, end, reader = 0, end - begin, _reader(problem, index, dtype)
    found = None if reader is None else reader[0](begin, end)
    if found is None:
        return None
    *quadratic, peak, regular = found
    pixels = len(regular)
    flags = torch.zeros(pixels, dtype=torch.int32)
    bare = bare_block(problem, index, dtype, flags, problem.base.to(dtype))
    constant, matrix, vector, valid = in_free_numbers(problem.terms[0], bare, *quadratic)
    # The largest of any sample, as where all have the same noise.
    peak = torch.tensor(peak * reader[1] ** 0.5, dtype=dtype).expand(pixels)
    block = CompressedBlock.of(bare, constant=constant, matrix=matrix, vector=vector, valid=valid, peak=peak)
    return block, regular


def _reader(problem: Problem, index, dtype: torch.dtype):
    """What the model reads the quadratics of some pixels with, and the weight of each sample; None if it does not."""
    term = problem.terms[0]
    if len(problem.terms) > 1 or term.model.components[0].quadratic_in_place is None:
        return None
    if problem.device.type != "cpu" or problem.base.shape[-1] > 1 or not bool(torch.isfinite(problem.base).all()):
        return None
    observation, frame = term.observation, term.frame
    if observation.x.ndim > 1 or problem.n_pixels == 1:  # where inputs of each pixel look like those of all
        return None
    given = observation.in_place(index, data_scale=frame.data_scale)
    if given is None:
        return None
    samples, weight, largest = given
    x = torch.as_tensor((observation.x - frame.origin) / frame.scale)[:, None]
    model = term.model.components[0]
    read = model.quadratic_in_place(x, samples, weight, largest, dtype, **_inputs(term, index))
    return None if read is None else (read, float(weight))


def _inputs(term: Term, index) -> dict[str, torch.Tensor | InPlace]:
    """Auxiliary inputs of a term's one component: those of each pixel in place, the others in the internal frame."""
    component, frame = term.model.components[0], term.frame
    small, maps = {}, {}
    for name, value in term.auxiliary[0].items():
        if value.shape[-1] == 1:
            small[name] = value
            continue
        declared = component.auxiliaries.get(name)
        moved = () if declared is None else (frame.offset(declared), frame.factor(declared))
        maps[name] = InPlace(value[..., index], *moved)
    return internal_auxiliary(component, small, frame) | maps
