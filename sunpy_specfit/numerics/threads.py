"""Work on pixels in several threads, as many as torch uses: compiled loops and torch let go of Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

__all__ = ["copied", "in_pieces", "over_pixels", "side_by_side"]

Part = TypeVar("Part")
Found = TypeVar("Found")
# Fewer pixels are not worth a thread of their own.
_WORTH_A_THREAD = 2**13
# Pixels whose numbers stay in the inner caches between steps.
_PIECE = 2**14


def over_pixels(work: Callable[[int, int], Found], pixels: int, together: int = 1) -> list[Found]:
    """Work on all pixels, in parts of almost the same size, one for each of ``torch.get_num_threads()`` threads.

    Parameters
    ----------
    work : callable
        Of the first pixel and the one after the last; what it does for one pixel must not depend on the others.
    pixels : int
    together : int
        Parts begin at multiples of so many pixels.

    Returns
    -------
    list
        What ``work`` returned for each part.

    Examples
    --------
    >>> from sunpy_specfit.numerics.threads import over_pixels
    >>> sum(over_pixels(lambda begin, end: end - begin, 100_000, together=512))
    100000
    """
    number = max(1, min(torch.get_num_threads(), pixels // max(_WORTH_A_THREAD, together)))
    units = -(-pixels // together)
    ends = [min(units * (k + 1) // number * together, pixels) for k in range(number)]
    parts = list(zip([0, *ends[:-1]], ends, strict=True))
    if number == 1:
        return [work(*parts[0])]
    # A pool of its own each time: threads do not survive where a process forks.
    with ThreadPoolExecutor(number - 1) as pool:
        others = [pool.submit(work, *part) for part in parts[1:]]
        return [work(*parts[0]), *(other.result() for other in others)]


def side_by_side(work: Callable[[Part], Found], parts: Iterable[Part]) -> list[Found]:
    """Work on parts of a map, several at a time: each in a thread of its own, in which torch uses no others.

    For chains of many small steps, whose numbers stay in the processor's cache: several threads at each step would
    wait for each other more than they work.

    Parameters
    ----------
    work : callable
        Of a part. What it does must not depend on the other parts.
    parts : iterable

    Returns
    -------
    list
        What ``work`` returned for each part, in their order.

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.numerics.threads import side_by_side
    >>> side_by_side(lambda part: float(torch.ones(4)[part].sum()), [slice(0, 3), slice(3, 4)])
    [3.0, 1.0]
    """
    parts, threads = list(parts), torch.get_num_threads()
    if threads == 1 or len(parts) <= 1:
        return [work(part) for part in parts]
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def alone(part: Part) -> Found:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return work(part)

    # New threads begin with what is set for all. It is set back when they are done.
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(threads, len(parts))) as pool:
            return list(pool.map(alone, parts))
    finally:
        torch.set_num_threads(threads)


def in_pieces(work: Callable[[slice], object], pixels: int) -> None:
    """Work on all pixels by pieces whose numbers stay in the inner caches, in threads as `over_pixels` has them.

    Parameters
    ----------
    work : callable
        Of a slice of pixels, such as some calls of numpy, which lets go of Python's lock.
    pixels : int

    Examples
    --------
    >>> import numpy as np
    >>> from sunpy_specfit.numerics.threads import in_pieces
    >>> numbers = np.ones(100_000)
    >>> in_pieces(lambda part: numbers.__setitem__(part, 2 * numbers[part]), 100_000)
    >>> float(numbers.sum())
    200000.0
    """

    def through(begin: int, end: int) -> None:
        for first in range(begin, end, _PIECE):
            work(slice(first, min(first + _PIECE, end)))

    over_pixels(through, pixels, _PIECE)


def copied(numbers: np.ndarray) -> np.ndarray:
    """A copy of ``(..., pixels)`` numbers, in C order: fresh memory is slow, but may be so in all threads at once."""
    target = np.empty(numbers.shape, numbers.dtype)
    in_pieces(lambda part: np.copyto(target[..., part], numbers[..., part]), numbers.shape[-1])
    return target
