"""Which line is which: lines of a sum that could stand for each other keep the order of their rest wavelengths."""

from __future__ import annotations

from itertools import combinations

from ..numerics import packed
from .layout import Layout
from .pixels import PixelBlock
from .solver import Solution

__all__ = ["settle_roles"]

# Two components that change places leave the misfit as it is, up to rounding.
_SAME = 1e-5


def settle_roles(block: PixelBlock, solution: Solution) -> None:
    """Let lines that have crossed change places, in place, where the light stays the same.

    A sum of two Gaussians does not know which of them is which: chi² is the same when they change places. Of the two
    answers the one is taken in which the lines stand in the order of their rest wavelengths; in the other, both
    velocities would be off by the distance of the lines.

    Parameters
    ----------
    block : `PixelBlock`
    solution : `Solution`
        Its free numbers, and its quadratic where there is one, are changed.
    """
    if solution.covariance is not None or block.priors:
        return
    layout = block.terms[0].term.layout
    lines = [line for line in (_line(layout, i) for i in range(len(layout.components))) if line is not None]
    # As often as there are lines: what bubbles up by one place at a time has then arrived.
    for _ in range(len(lines) - 1):
        moved = False
        for (kind, rest, columns), (other_kind, other_rest, other_columns) in combinations(lines, 2):
            if kind is other_kind and rest != other_rest:
                moved |= _exchange(block, solution, columns, other_columns, rest < other_rest)
        if not moved:
            return


def _line(layout: Layout, index: int) -> tuple[type, float, list[int]] | None:
    """Class, rest wavelength and free numbers (its place first) of a line that no tie or fixed value binds."""
    component, keys = layout.components[index], layout.keys[index]
    rest = getattr(component, "rest_wavelength", None)
    places = [name for name, parameter in component.parameters.items() if parameter.location]
    if rest is None or len(places) != 1:
        return None
    columns = []
    for name in sorted(component.parameters, key=lambda name: name not in places):
        own = layout.columns.get(keys[name])
        if own is None or own.stop - own.start != 1 or layout.shared[own.start]:
            return None
        columns.append(own.start)
    if (layout.transform[:, columns] != 0).sum() != len(columns):
        return None
    return type(component), float(layout.to_internal(keys[places[0]], rest)), columns


def _exchange(block: PixelBlock, solution: Solution, a: list[int], b: list[int], ascending: bool) -> bool:
    place, other = solution.free[a[0]], solution.free[b[0]]
    index = ((place > other) if ascending else (place < other)).nonzero()[:, 0]
    if not len(index):
        return False
    order = list(range(block.n_free))
    for i, j in zip(a, b, strict=True):
        order[i], order[j] = j, i
    free = solution.free[:, index][order]
    part = block.select(index)
    allowed = ((free >= block.lower) & (free <= block.upper)).all(0)
    allowed &= part.objective(free) <= (1 + _SAME) * part.objective(solution.free[:, index])
    index, free = index[allowed], free[:, allowed]
    if not len(index):
        return False
    solution.free[:, index] = free
    if solution.quadratic is not None:
        _, matrix, vector = solution.quadratic
        rows = [packed.index(order[i], order[j]) for i in range(len(order)) for j in range(i + 1)]
        matrix[:, index] = matrix[:, index][rows]
        vector[:, index] = vector[:, index][order]
    return True
