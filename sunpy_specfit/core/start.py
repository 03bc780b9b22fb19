"""Start values, found in the data.

Variable projection (Golub & Pereyra 1973, https://doi.org/10.1137/0710036) over a grid: for every combination of
candidates of the numbers that shape the light, the numbers that multiply the shapes follow from linear least squares,
weighted and within their bounds. Shapes are the same for all pixels, so that a block of thousands of them costs a few
matrix products.
"""

from __future__ import annotations

import torch

from ..numerics import packed
from .pixels import PixelBlock
from .profiles import Sketch, product
from .search import Found, Samples, Search, State

__all__ = ["find_again", "find_starts"]

_COMMON = 48
# A second look must promise to lower chi² by this part of it.
_WORTH = 0.005


def find_starts(block: PixelBlock, n_starts: int = 1) -> torch.Tensor:
    """Start values for the free numbers of each pixel.

    Parameters
    ----------
    block : `PixelBlock`
    n_starts : int
        How many different starts are wanted.

    Returns
    -------
    `torch.Tensor`
        ``(starts, free, pixels)``, the most plausible first, inside the bounds. There may be fewer than asked for.

    Notes
    -----
    Where a model offers `Model.start_values`, these are taken. All other numbers are sought: the candidates are
    those of `Model.start_grid`, or 15 places over the axis, widths from the sampling to a third of it, and a
    parameter's default or the middle of its bounds.

    Lines of a sum are first moved together, at their rest distances and with one width, and then one after the other.
    """
    offered = _offered(block)
    if len(offered) == block.n_free:
        count = max(value.shape[0] for value in offered.values())
        rows = [offered[j].expand(count, block.n_pixels) for j in range(block.n_free)]
        return _clip(block, torch.stack(rows, dim=1))
    sketch = Sketch(block)
    samples = Samples.of(block)
    best: list[Found] = []
    for common in product(sketch.common_values, _COMMON).T:
        default = sketch.default.clone()
        default[list(sketch.common)] = common.to(default)
        found = Search(sketch, default, samples).run(n_starts)
        best = [a.better(b) for a, b in zip(best, found, strict=True)] if best else found
    free = torch.stack([f.free for f in best])
    _move_to_own_axis(block, sketch, free)
    if offered:
        for column, value in offered.items():
            free[:, column] = value[torch.arange(len(free), device=free.device).clamp_max(len(value) - 1)]
        rest = [j for j in sorted(sketch.linear) if j not in offered]
        free = torch.stack([_solve_linear(block, one, rest) for one in _clip(block, free)])
    return _clip(block, free)


def find_again(block: PixelBlock, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Another start for pixels in which a line looks misplaced, given where the others ended.

    A sum of lines has many minima. From one of them each line in turn is taken out and sought anew, while the others
    may move and widen a little. Where that promises to lower chi², the best such move is a start that the first search,
    on its grid, could not see.

    Parameters
    ----------
    block : `PixelBlock`
    free : `torch.Tensor`
        A solution, ``(free, pixels)``.

    Returns
    -------
    start : `torch.Tensor`
        ``(free, pixels)``.
    promising : `torch.Tensor`
        bool ``(pixels,)``.
    """
    nothing = free, torch.zeros(block.n_pixels, dtype=torch.bool, device=free.device)
    sketch = Sketch(block)
    if sum(unit.is_line for unit in sketch.units) < 2 or sketch.common:
        return nothing
    samples = Samples.of(block)
    search = Search(sketch, sketch.default, samples)
    light, columns = block.jacobian(free)
    shapes = {j: columns[j].expand_as(samples.data) for unit in sketch.units for j in unit.linear}
    rest = light - sum(free[j] * shape for j, shape in shapes.items())
    if bool((rest.abs().amax(0) > 1e-4 * light.abs().amax(0)).any()):
        return nothing  # parts that no linear number multiplies
    tangents = {
        line.linear[0]: tuple(columns[j].expand_as(samples.data) for j in line.columns) for line in search.lines
    }
    state = State(free, shapes, light.new_zeros(()), tangents)
    worth = _WORTH * (samples.weight * (samples.data - light).square()).sum(0)
    best, promise = free.clone(), worth.clone()
    for line in search.lines:
        moved, gain = search.replaced(state, line)
        _move_to_own_axis(block, sketch, moved[None], line.columns[:1])
        better = gain > promise
        best, promise = torch.where(better, moved, best), torch.where(better, gain, promise)
    return _clip(block, best), promise > worth


def _move_to_own_axis(block: PixelBlock, sketch: Sketch, free: torch.Tensor, columns=None) -> None:
    """Places were found on the mean axis of the map; each pixel's own may be shifted."""
    for column in range(block.n_free) if columns is None else columns:
        number = sketch.axis_of(column)
        if number is not None and block.terms[number].x.shape[1] > 1:
            free[:, column] += (block.terms[number].x - sketch.axes[number].to(free)).mean(0)


def _offered(block: PixelBlock) -> dict[int, torch.Tensor]:
    """Start values that the models themselves offer: free number -> ``(starts, pixels)``."""
    offered = {}
    for data in block.terms:
        layout = data.term.layout
        for number, index in enumerate(data.term.component_indices):
            component, keys = layout.components[index], layout.keys[index]
            if component.start_values is None:
                continue
            for name, value in component.start_values(data.x, data.data, data.weight, **data.auxiliary[number]).items():
                columns = layout.columns.get(keys[name])
                if columns is None:
                    continue
                rows = value.reshape(-1, columns.stop - columns.start, value.shape[-1])
                for row, column in enumerate(range(columns.start, columns.stop)):
                    offered.setdefault(column, rows[:, row].to(block.transform))
    return offered


def _solve_linear(block: PixelBlock, free: torch.Tensor, columns: list[int]) -> torch.Tensor:
    """The free numbers with some of them replaced by their linear least-squares solution."""
    if not columns:
        return free
    _, matrix, vector = block.linearize(free)
    chosen = [packed.index(i, j) for n, i in enumerate(columns) for j in columns[: n + 1]]
    free = free.clone()
    free[columns] += packed.solve(matrix[chosen], vector[columns])
    return free


def _clip(block: PixelBlock, free: torch.Tensor) -> torch.Tensor:
    return torch.minimum(torch.maximum(free.nan_to_num(0.0), block.lower), block.upper)
