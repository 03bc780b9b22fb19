"""Arrays as large as a cube, pixel by pixel: views of the cube's own memory wherever that is possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .axes import Axes
from .grid import Grid

__all__ = ["PixelViews"]


class PixelViews:
    """What a cube and arrays of its shape hold of some pixels, those of the map in C order.

    Parameters
    ----------
    arrays : mapping of str to array
        Shaped as the cube, NumPy's or dask's, by any name.
    axes : `~sunpy_specfit.core.axes.Axes`
        Which of the cube's axes is which.
    grid : `~sunpy_specfit.core.grid.Grid`
        The map's.
    stokes_index : sequence of int, optional
        Which places along the Stokes axis are wanted, in order.
    """

    def __init__(self, arrays: Mapping[str, object], axes: Axes, grid: Grid, stokes_index: Sequence[int] | None = None):
        self.axes, self.grid, self.stokes_index = axes, grid, stokes_index
        self._views = {name: self._pixels_first(array) for name, array in arrays.items()}

    def is_view(self, name: str) -> bool:
        """Whether `of` makes no copy of any run of pixels."""
        view, whole = self._views[name], self.stokes_index is None or len(self.stokes_index) == 1
        by_pixel = isinstance(view, np.ndarray) and view.shape[0] == self.grid.size and view.ndim == self._tail + 1
        return by_pixel and (whole or isinstance(_run_of(self.stokes_index), slice))

    @property
    def _tail(self) -> int:
        return sum(axis is not None for axis in (self.axes.stokes, self.axes.sample))

    def of(self, name: str, index: slice | np.ndarray) -> np.ndarray:
        """``(pixels, [stokes,] n)`` of some pixels."""
        view, lead = self._views[name], max(len(self.axes.grid), 1)
        if view.shape[0] == self.grid.size and view.ndim == self._tail + 1:
            part = view[index]
        else:
            numbers = np.arange(self.grid.size)[index] if isinstance(index, slice) else np.asarray(index)
            part = view[np.unravel_index(numbers, view.shape[:lead])]
        part = np.asarray(part)
        if self.stokes_index is not None:
            several = len(self.stokes_index) > 1
            part = part[:, _run_of(self.stokes_index) if several else self.stokes_index[0]]
        return part if self.axes.sample is not None else part[..., None]

    def _pixels_first(self, array):
        """``(pixels, ...)`` where strides allow, else ``(map axes, ...)``."""
        view = array.transpose(self.axes.order) if array.ndim else array
        lead = len(self.axes.grid)
        tail = view.shape[lead:]
        if lead == 0:
            return view[None]
        if lead == 1 or hasattr(view, "dask"):
            return view.reshape(self.grid.size, *tail)
        strides, shape = view.strides, view.shape
        if all(strides[i] == strides[i + 1] * shape[i + 1] for i in range(lead - 1)):
            return view.reshape(self.grid.size, *tail)
        return view


def _run_of(index: Sequence[int]) -> slice | list[int]:
    """Numbers that follow each other as a slice, which makes no copy."""
    first, last = index[0], index[-1]
    return slice(first, last + 1) if list(index) == list(range(first, last + 1)) else list(index)
