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
from .tables import Tables

__all__ = ["find_again", "find_starts"]

_COMMON = 48
# A second look must promise to lower chi² by this part of it.
_WORTH = 0.001
# How many such starts are tried.
_OFFERS = 3


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
    sketch, tables = _sketch(block)
    # Two spikes side by side look like a line to their next neighbours, a narrow line like a spike to farther ones.
    reaches = (1,) if block.loss == "gaussian" else (1, 2)
    found = [
        torch.cat([_search(tables, Samples.of(piece, reach), n_starts) for _, piece in block.pieces], -1)
        for reach in reaches
    ]
    free = torch.cat(found)
    _move_to_own_axis(block, sketch, free)
    if offered:
        for column, value in offered.items():
            free[:, column] = value[torch.arange(len(free), device=free.device).clamp_max(len(value) - 1)]
        rest = [j for j in sorted(sketch.linear) if j not in offered]
        free = torch.stack([_solve_linear(block, one, rest) for one in _clip(block, free)])
    return _clip(block, free)


def _sketch(block: PixelBlock) -> tuple[Sketch, list[Tables]]:
    """The model's shapes, and candidates for each of the numbers that lines may have in common.

    They are the same for all blocks of a problem, unless a fixed parameter or a model's auxiliary input is a map.
    """
    key = (block.dtype, *(id(data.term) for data in block.terms))
    inputs = [value for data in block.terms for own in data.auxiliary for value in own.values()]
    same = all(value.shape[-1] == 1 for value in [block.base, *inputs])
    if same and key in block.memo:
        return block.memo[key]
    sketch, tables = Sketch(block), []
    for common in product(sketch.common_values, _COMMON).T:
        default = sketch.default.clone()
        default[list(sketch.common)] = common.to(default)
        tables.append(Tables(sketch, default, block.dtype))
    if same:
        # The sketch holds the terms, so that no other can have their place in memory.
        block.memo[key] = sketch, tables
    return sketch, tables


def _search(tables: list[Tables], samples: Samples, n_starts: int) -> torch.Tensor:
    """``(starts, free, pixels)``: for each start what is best among the numbers that lines may have in common."""
    best: list[Found] = []
    for one in tables:
        found = Search(one, samples).run(n_starts)
        best = [a.better(b) for a, b in zip(best, found, strict=True)] if best else found
    return torch.stack([found.free for found in best])


def find_again(block: PixelBlock, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Other starts for pixels in which a line looks misplaced, given where the first ones ended.

    A sum of lines has many minima. From one of them each line in turn is taken out and sought anew, while the others
    may move and widen a little; and so after two lines have changed roles, which tells whether the one that is seen is
    the other one. Where that promises to lower chi², it is a start that the first search, on its grid, could not see.

    Parameters
    ----------
    block : `PixelBlock`
    free : `torch.Tensor`
        A solution, ``(free, pixels)``.

    Returns
    -------
    starts : `torch.Tensor`
        ``(starts, free, pixels)``, the most promising first.
    promising : `torch.Tensor`
        bool ``(starts, pixels)``.
    """
    starts = free.repeat(_OFFERS, 1, 1)
    promising = torch.zeros((_OFFERS, block.n_pixels), dtype=torch.bool, device=free.device)
    sketch = Sketch(block)
    if sum(unit.is_line for unit in sketch.units) < 2:
        return starts, promising
    # Shapes are tabulated for some values of the numbers that lines share: each pixel goes with the nearest.
    common = product(sketch.common_values, _COMMON).T.to(free)
    spread = (common.amax(0) - common.amin(0)).clamp_min(1e-30)
    nearest = torch.cdist((free[list(sketch.common)] / spread[:, None]).T, common / spread).argmin(1)
    for number, values in enumerate(common):
        index = (nearest == number).nonzero()[:, 0]
        if len(index):
            default = sketch.default.clone()
            default[list(sketch.common)] = values.to(default)
            part = block if len(index) == block.n_pixels else block.select(index)
            starts[..., index], promising[:, index] = _moves(part, sketch, default, free[:, index])
    return starts, promising


def _moves(block: PixelBlock, sketch: Sketch, default, free) -> tuple[torch.Tensor, torch.Tensor]:
    """`find_again` for pixels whose common numbers are about those of ``default``."""
    samples = Samples.of(block)
    search = Search(Tables(sketch, default, block.dtype), samples)
    light, columns = block.jacobian(free)
    columns = [column.expand_as(light) for column in columns]
    state = State(
        free,
        shapes={j: columns[j] for unit in sketch.units for j in unit.linear},
        rest=light.new_zeros(()),
        tangents={line.linear[0]: tuple(columns[j] for j in line.columns) for line in search.lines},
        common=tuple(columns[j] for j in sketch.common),
    )
    places, gains = [], []
    for changed, line, kept in [(state, line, line) for line in search.lines] + search.exchanges(state):
        place, gain = search.replaced(changed, line)
        _move_to_own_axis(block, sketch, place[None], line.columns[:1])
        stays, own = list(kept.columns), changed.free[list(kept.columns)]
        inside = ((own >= block.lower[stays]) & (own <= block.upper[stays])).all(0)
        places.append(_clip(block, place))
        gains.append(torch.where(inside, gain, -torch.inf))
    gains, order = torch.stack(gains).sort(0, descending=True)
    places, pixels = torch.stack(places), torch.arange(block.n_pixels, device=free.device)
    starts = torch.stack([places[pick, :, pixels].T for pick in order[:_OFFERS]])
    # Light that no linear number multiplies would pass for something to be explained.
    unexplained = light - sum(free[column] * shape for column, shape in state.shapes.items())
    known = unexplained.abs().amax(0) <= 1e-4 * light.abs().amax(0)
    worth = _WORTH * (samples.weight * (samples.data - light).square()).sum(0)
    promising = (gains[:_OFFERS] > worth) & known
    missing = _OFFERS - len(starts)
    if missing > 0:
        starts = torch.cat([starts, starts[:1].expand(missing, -1, -1)])
        promising = torch.cat([promising, torch.zeros_like(promising[:1]).expand(missing, -1)])
    return starts, promising


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
