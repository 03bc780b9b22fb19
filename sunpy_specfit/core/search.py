"""The search for lines among candidates of their places and forms, for thousands of pixels at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..numerics import packed
from .pixels import PixelBlock
from .profiles import Unit
from .tables import Joint, Table, Tables

__all__ = ["Found", "Samples", "Search", "State"]

_SPIKE = 6.0
# Of several components of one line, at how many places the first is tried.
_FIRSTS = 10
# Numbers worked on at a time, to stay in the processor's cache.
_CHUNK = 2**19


@dataclass(frozen=True)
class Samples:
    """All samples of a block, ``(samples, pixels)``: weight, weight times data, and data."""

    weight: torch.Tensor
    weighted: torch.Tensor
    data: torch.Tensor

    @classmethod
    def of(cls, block: PixelBlock, reach: int = 1) -> Samples:
        """The samples of a block; under a loss that bears outliers without those far from ``reach`` neighbours."""
        weights, values = [], []
        for term in block.terms:
            weight, data = term.weight, term.data
            if block.loss != "gaussian" and data.shape[-2] > 2 * reach:
                weight = torch.where(_is_spike(data, weight, reach), 0.0, weight)
            weights.append(weight.reshape(-1, block.n_pixels))
            values.append(data.reshape(-1, block.n_pixels))
        weight, data = torch.cat(weights), torch.cat(values)
        return cls(weight, weight * data, data)


def _is_spike(data: torch.Tensor, weight: torch.Tensor, reach: int) -> torch.Tensor:
    """Samples far from the median of their neighbours, which a loss that bears outliers would not let pull."""
    n = data.shape[-2]
    ends = [data[..., 1 : reach + 1, :].flip(-2), data, data[..., n - reach - 1 : n - 1, :].flip(-2)]
    padded = torch.cat(ends, dim=-2)
    middle = torch.stack([padded[..., i : i + n, :] for i in range(2 * reach + 1)]).median(0).values
    return (data - middle).square() * weight > _SPIKE**2


@dataclass(frozen=True)
class Found:
    """Free numbers ``(free, pixels)`` and how much they lower chi², ``(pixels,)``."""

    free: torch.Tensor
    gain: torch.Tensor

    def better(self, other: Found) -> Found:
        """The better of the two, pixel by pixel."""
        wins = other.gain > self.gain
        return Found(torch.where(wins, other.free, self.free), torch.where(wins, other.gain, self.gain))


class Search:
    """The search among the units of a sketch, with the numbers that they have in common held.

    Parameters
    ----------
    tables : `Tables`
    samples : `Samples`
    """

    def __init__(self, tables: Tables, samples: Samples):
        self.tables, self.samples = tables, samples
        self.sketch, self.lines = tables.sketch, tables.lines

    def run(self, n_starts: int) -> list[Found]:
        """Different starts, the most plausible first."""
        leaders, followers = self.tables.leaders, self.tables.followers
        if len(leaders) == 1:
            return self._pairs(leaders[0], followers, n_starts)
        joint = self.tables.joint
        picks = self._scan(joint, 1 if not leaders else (n_starts + 1) // 2)
        states = [self._state(joint, pick) for pick in picks]
        if not self.lines or bool((joint.rest != 0).any()):
            return [self._finish(state) for state in states]
        found = []
        for number, state in enumerate(states):
            sweeps = 2 if len(self.lines) > 1 else 0
            found.append(self._finish(self._rearrange(state, followers, sweeps=sweeps)))
            if number == 0 and leaders:
                found.append(self._finish(state))
        if n_starts > len(found) and len(self.lines) > 1:
            bare = states[0].without(self.lines)
            found.append(self._finish(self._rearrange(bare, self.lines, ordered=False)))
        return found[:n_starts]

    def _pairs(self, first: Unit, followers: list[Unit], n_starts: int) -> list[Found]:
        """Components of one line: what the best alone would take may be the light of two.

        The first is tried where it does well alone, not only where it does best, and the second sought for each.
        """
        others = self.tables.joint
        pixels = self.samples.data.shape[1]
        bare = State(others.free.expand(-1, pixels), others.shapes, others.rest, {})
        alone, table = self._gains(bare, first, *self._set_aside(bare, first)), self.tables.of(first)
        found = []
        for pick in alone.topk(min(_FIRSTS, len(alone)), 0).indices:
            state = State(bare.free.clone(), dict(bare.shapes), bare.rest, {})
            state.shapes[first.linear[0]] = table.shape.index_select(1, pick)
            state.tangents[first.linear[0]] = tuple(table.tangents.index_select(-1, pick))
            state.free[list(first.columns)] = table.values[:, pick]
            for line in followers:
                self._place(state, line, ordered=False)
            found.append(self._finish(state))
        gains = torch.stack([one.gain for one in found])
        order = gains.topk(min(n_starts, len(found)), 0).indices
        free = torch.stack([one.free for one in found])
        pixels = torch.arange(gains.shape[1], device=gains.device)
        return [Found(free[pick, :, pixels].T, gains[pick, pixels]) for pick in order]

    # -- all lines together ----------------------------------------------------------------------

    def _scan(self, joint: Joint, count: int) -> list[torch.Tensor]:
        """The best candidates of each pixel, ``(pixels,)`` each; no two of them near each other."""
        candidates, shapes, pixels = joint.free.shape[1], joint.shapes, self.samples.data.shape[1]
        if candidates == 1:
            return [torch.zeros(pixels, dtype=torch.long, device=joint.free.device)]
        pieces = max(1, -(-candidates * pixels * max(len(shapes), 1) ** 2 // _CHUNK))
        gain = torch.cat([self._gain(*part) for part in _pieces(shapes, joint.rest, candidates, pieces)])
        gain = gain.nan_to_num_(nan=-torch.inf, posinf=-torch.inf)
        picks = [gain.argmax(0)]
        for _ in range(count - 1):
            gain = gain.masked_fill_(joint.near[picks[-1]].T, -torch.inf)
            picks.append(gain.argmax(0))
        return picks

    def _gain(self, shapes: dict[int, torch.Tensor], rest: torch.Tensor) -> torch.Tensor:
        """How much each candidate lowers chi², ``(candidates, pixels)``."""
        weight, weighted = self.samples.weight, self.samples.weighted
        columns = list(shapes)
        gain = 0.0
        if bool((rest != 0).any()):
            gain = 2 * (rest.T @ weighted) - rest.square().T @ weight
        if not columns:
            return gain
        candidates = max([s.shape[1] for s in shapes.values()] + [rest.shape[1] if rest.ndim else 1])
        size = (candidates, weight.shape[1])
        matrix, right = [], []
        for i, a in enumerate(columns):
            projection = shapes[a].T @ weighted
            if bool((rest != 0).any()):
                projection = projection - (shapes[a] * rest).T @ weight
            right.append(projection.expand(size).reshape(-1))
            for b in columns[: i + 1]:
                matrix.append(((shapes[a] * shapes[b]).T @ weight).expand(size).reshape(-1))
        _, solved = self._solve(torch.stack(matrix), torch.stack(right), columns)
        return gain + solved.reshape(size)

    def _solve(self, matrix, right, columns) -> tuple[torch.Tensor, torch.Tensor]:
        """Linear numbers within their bounds, and how much they lower chi²."""
        block = self.sketch.block
        lower, upper = block.lower[columns], block.upper[columns]
        free = packed.solve(matrix, right)
        inside = free.clamp(lower, upper)
        k = len(columns)
        if k > 1 and bool((inside != free).any()):
            for i in [*range(k), *range(k)]:
                total = right[i].clone()
                for j in range(k):
                    if j != i:
                        total.addcmul_(matrix[packed.index(i, j)], inside[j], value=-1)
                diagonal = matrix[packed.index(i, i)]
                new = torch.where(diagonal > 0, total / diagonal, 0.0).clamp(lower[i], upper[i])
                inside[i] = new
        gain = (inside * (2 * right - packed.matvec(matrix, inside))).sum(0)
        return inside, gain

    # -- one line after the other ----------------------------------------------------------------

    def _state(self, joint: Joint, pick: torch.Tensor) -> State:
        present = {column: s.index_select(1, pick) if s.shape[1] > 1 else s for column, s in joint.shapes.items()}
        light = joint.rest[:, pick] if joint.rest.ndim and joint.rest.shape[1] > 1 else joint.rest
        tangents = {column: tuple(all_of_them.index_select(-1, pick)) for column, all_of_them in joint.tangents.items()}
        return State(joint.free[:, pick], present, light, tangents)

    def _rearrange(self, state: State, first: list[Unit], *, ordered: bool = True, sweeps: int = 2) -> State:
        """Give every line in turn its best place and width, with the others where they are."""
        state = State(state.free.clone(), dict(state.shapes), state.rest, dict(state.tangents))
        for line in [*first, *(self.lines * sweeps)]:
            self._place(state, line, ordered)
        return state

    def _place(self, state: State, line: Unit, ordered: bool) -> None:
        table = self.tables.of(line)
        weight, column = self.samples.weight, line.linear[0]
        residual, others = self._set_aside(state, line)
        best, index, values = self._best_candidate(state, line, residual, others, ordered)
        shape, tangents = table.shape.index_select(1, index), ()
        if len(self.lines) > 1:
            tangents = table.tangents.index_select(-1, index)
        now = state.shapes.get(column)
        if now is not None:
            norm = (weight * now.square()).sum(0)
            left = norm - sum((weight * other * now).sum(0).square() for other in others)
            better = best > 1.0001 * _gain_of((weight * now * residual).sum(0), left, norm, line.sign)
            shape = torch.where(better, shape, now)
            values = torch.where(better, values, state.free[list(line.columns)])
            if len(self.lines) > 1:
                tangents = torch.where(better, tangents, torch.stack(state.tangents[column]))
        state.shapes[column], state.tangents[column] = shape, tuple(tangents)
        state.free[list(line.columns)] = values

    def replaced(self, state: State, line: Unit) -> tuple[torch.Tensor, torch.Tensor]:
        """The free numbers with one line where it fits best, ``(free, pixels)``, and how much that promises to gain."""
        weight, column, now = self.samples.weight, line.linear[0], state.shapes[line.linear[0]]
        residual, others = self._set_aside(state, line)
        best, index, values = self._best_candidate(state, line, residual, others, ordered=True)
        left = _dot(now.square(), weight) - sum(_dot(now, weight * other).square() for other in others)
        gain = best - _gain_of(_dot(now, weight * residual), left, _dot(now.square(), weight), line.sign)
        moved = State(state.free.clone(), dict(state.shapes), state.rest, {})
        moved.free[list(line.columns)] = values
        moved.shapes[column] = self.tables.of(line).shape.index_select(1, index)
        return self._finish(moved).free, gain

    def exchanges(self, state: State) -> list[tuple[State, Unit, Unit]]:
        """States in which two lines have changed roles, the one of them to seek anew, and the one to keep."""
        found = []
        for line in self.lines:
            for other in self.lines:
                if other is line or len(other.columns) != len(line.columns):
                    continue
                free, a, b = state.free.clone(), line.linear[0], other.linear[0]
                free[[*line.columns, a]] = state.free[[*other.columns, b]]
                free[[*other.columns, b]] = state.free[[*line.columns, a]]
                shapes = state.shapes | {a: state.shapes[b], b: state.shapes[a]}
                tangents = state.tangents | {a: state.tangents[b], b: state.tangents[a]}
                found.append((State(free, shapes, state.rest, tangents, state.common), line, other))
        return found

    def _set_aside(self, state: State, line: Unit) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The data without what everything else explains, and the shapes of that, orthogonal and of unit length."""
        weight, residual, others = self.samples.weight, self.samples.data, []
        for shape in self._others(state, line):
            full = _dot(shape.square(), weight)
            for other in others:
                shape = shape - other * _dot(shape, weight * other)
            norm = _dot(shape.square(), weight) if others else full
            others.append(shape * torch.where(norm > 1e-4 * full, norm.clamp_min(1e-30).rsqrt(), 0.0))
            residual = residual - others[-1] * _dot(residual, weight * others[-1])
        return residual, others

    def _best_candidate(self, state, line: Unit, residual, others, ordered: bool):
        """For each pixel how much the best candidate of a line lowers chi², its number, and its place and form."""
        table, weight = self.tables.of(line), self.samples.weight
        best, index = torch.empty_like(weight[0]), torch.empty(weight.shape[1], dtype=torch.long, device=weight.device)
        around = []
        size = max(1, (_CHUNK if weight.device.type == "cpu" else weight.numel()) // (4 * table.shape.shape[1]))
        for start in range(0, weight.shape[1], size):
            part = slice(start, start + size)
            gain = self._gains(state, line, residual, others, part)
            if ordered and len(self.lines) > 1:
                gain.masked_fill_(~self._allowed(state, line, table, part), 0.0)
            torch.max(gain, 0, out=(best[part], index[part]))
            if len(self.lines) == 1:
                around.append(table.around(gain, index[part]))
        # A lone line needs no shape at hand to set others against: its place may lie between candidates.
        values = table.between(index, best, torch.cat(around, -1)) if around else table.values.index_select(1, index)
        return best, index, values

    def _gains(self, state: State, line: Unit, residual, others, part: slice = slice(None)) -> torch.Tensor:
        """How much each candidate of a line lowers chi² beside everything else, ``(candidates, pixels)``."""
        table, weight = self.tables.of(line), self.samples.weight[:, part]
        norm = table.square.T @ weight
        left = norm
        for other in others:
            shared = table.shape.T @ (weight * other[:, part])
            left = torch.addcmul(left, shared, shared, value=-1)
        return _gain_of(table.shape.T @ (weight * residual[:, part]), left, norm, line.sign)

    def _others(self, state: State, line: Unit):
        """The shapes of everything else, and how the other lines would change if they moved or widened a little.

        Without the latter, what a grid leaves of a strong line would hide a weak one.
        """
        for column, shape in state.shapes.items():
            if column != line.linear[0]:
                yield shape
                yield from state.tangents.get(column, ())
        yield from state.common

    def _allowed(self, state: State, line: Unit, table: Table, part: slice) -> torch.Tensor:
        """Candidates between the neighbours: lines keep the order of their rest wavelengths."""
        place = table.values[0][:, None]
        free = state.free[:, part]
        allowed = torch.ones((place.shape[0], free.shape[1]), dtype=torch.bool, device=place.device)
        for other in self.lines:
            where = free[other.columns[0]]
            if other.reference < line.reference - self.tables.step:
                allowed &= place > where
            elif other.reference > line.reference + self.tables.step:
                allowed &= place < where
        return allowed

    def _finish(self, state: State) -> Found:
        """Solve for the linear numbers of a state."""
        weight, columns = self.samples.weight, list(state.shapes)
        free = state.free.clone()
        residual, gain = self.samples.data, 0.0
        if bool((state.rest != 0).any()):
            residual = residual - state.rest
            gain = (weight * (self.samples.data.square() - residual.square())).sum(0)
        if columns:
            shapes = [state.shapes[j] for j in columns]
            weighted = [weight * shape for shape in shapes]
            matrix = [_dot(b, a) for i, a in enumerate(weighted) for b in shapes[: i + 1]]
            right = [_dot(residual, a) for a in weighted]
            free[columns], solved = self._solve(torch.stack(matrix), torch.stack(right), columns)
            gain = gain + solved
        return Found(free, gain if torch.is_tensor(gain) else torch.zeros_like(weight[0]))


@dataclass
class State:
    """Where a search stands.

    Attributes
    ----------
    free : `torch.Tensor`
        All free numbers, ``(free, pixels)``.
    shapes : dict
        What each linear number multiplies, ``(samples, pixels)``.
    rest : `torch.Tensor`
        The light without these.
    tangents : dict
        For the linear number of each line how its shape changes when it moves and widens.
    common : tuple of `torch.Tensor`
        How the light changes with the numbers that lines share.
    """

    free: torch.Tensor
    shapes: dict[int, torch.Tensor]
    rest: torch.Tensor
    tangents: dict[int, tuple[torch.Tensor, ...]]
    common: tuple[torch.Tensor, ...] = ()

    def without(self, lines: list[Unit]) -> State:
        """The same with some lines taken away."""
        gone = {line.linear[0] for line in lines}
        return State(self.free, {j: s for j, s in self.shapes.items() if j not in gone}, self.rest, {})


def _dot(shape: torch.Tensor, weighted: torch.Tensor) -> torch.Tensor:
    """Σ over the samples of a shape, ``(samples, pixels or 1)``, times ``(samples, pixels)``."""
    return (shape.T @ weighted)[0] if shape.shape[1] == 1 else (shape * weighted).sum(0)


def _gain_of(projection: torch.Tensor, left: torch.Tensor, norm: torch.Tensor, sign: int) -> torch.Tensor:
    """How much a shape lowers chi²; nothing if the others span it, or if it would need the wrong sign."""
    if sign:
        projection = (sign * projection).clamp_min_(0.0)
    return (projection * projection).div_(left).masked_fill_(left <= 1e-3 * norm, 0.0)


def _pieces(shapes, rest, candidates: int, pieces: int):
    """Shapes and rest of some candidates at a time."""
    size = -(-candidates // pieces)
    for i in range(0, candidates, size):
        part = slice(i, i + size)
        yield (
            {column: s[:, part] if s.shape[1] > 1 else s for column, s in shapes.items()},
            rest[:, part] if rest.ndim and rest.shape[1] > 1 else rest,
        )
