"""Loops over pixels in several threads, as many as torch uses: compiled loops let go of Python's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["over_pixels"]

Found = TypeVar("Found")
# Fewer pixels are not worth a thread of their own.
_WORTH_A_THREAD = 2**13


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
