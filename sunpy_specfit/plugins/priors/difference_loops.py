"""The product of `differences` in compiled code (Numba): each number of a map is read once."""

from __future__ import annotations

from ...numerics.loops import inner_loop, loop

__all__ = ["add_product"]


@inner_loop
def _add_steps(out, own, other, factor, n):
    for p in range(n):
        out[p] += factor * (own[p] - other[p])


@inner_loop
def _add_bends(out, before, own, after, factor, n):
    for p in range(n):
        out[p] += factor * ((own[p] - before[p]) + (own[p] - after[p]))


@loop
def add_product(first, last, maps, along_rows, along_columns, factor, out):
    """Add Dᵀ D of some maps, times a factor.

    Parameters
    ----------
    first, last : int
        The rows to work on: the first, and the one after the last.
    maps, out : `numpy.ndarray`
        ``(maps, rows, columns)``; the second is added to.
    along_rows, along_columns : bool
        Whether D takes differences from row to row, and from column to column.
    factor : number
    """
    number, rows, columns = maps.shape
    for m in range(number):
        for i in range(first, last):
            own, here = out[m, i], maps[m, i]
            if along_rows and rows > 1:
                if i == 0:
                    _add_steps(own, here, maps[m, 1], factor, columns)
                elif i == rows - 1:
                    _add_steps(own, here, maps[m, i - 1], factor, columns)
                else:
                    _add_bends(own, maps[m, i - 1], here, maps[m, i + 1], factor, columns)
            if along_columns and columns > 1:
                own[0] += factor * (here[0] - here[1])
                own[columns - 1] += factor * (here[columns - 1] - here[columns - 2])
                if columns > 2:
                    inside = columns - 2
                    _add_bends(own[1:-1], here[:inside], here[1:-1], here[2:], factor, inside)
