"""Pixels that all know the same of themselves, coupled among cosines: how well they are known, and who counts for them.

A pixel whose neighbours know different amounts is taken to be in such a medium, that of their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from ..numerics import packed
from ..numerics.compiled import arrays, compiled
from ..numerics.cosine_transform import (
    cosine_series,
    cosine_transform,
    inverse_cosine_transform,
    near_cosine_series,
    series_of_near,
)

__all__ = ["Medium"]

# So far do neighbours count at first, in pixels; and they count no further where they do by less than this part.
_REACHES, _UNSEEN = (32, 128), 1e-4
# Eigenvalues of what pixels know of some maps, over the largest.
_THINNEST = 1e-12
# Halvings of the precision after which a medium is as good as empty.
_HALVINGS = 70
# How neighbours count changes little from one medium to another of a precision so many times halved.
_OCTAVES = 2
# Whether one of so few levels is empty is not worth a look.
_FEW_LEVELS = 4
# Fewer pixels are not worth waiting for a compiler, or for what it left on the disk.
_WORTH_COMPILING = 2**13
_LOOPS = f"{__package__}.even_medium_loops"


class Medium:
    """Maps coupled by a curvature that is diagonal among cosines, over pixels that know the same of themselves.

    Parameters
    ----------
    eigenvalues : `torch.Tensor`
        Of the coupling, of the map's shape.

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.core.even_medium import Medium
    >>> from sunpy_specfit.numerics.cosine_transform import laplacian_eigenvalues
    >>> medium = Medium(laplacian_eigenvalues((50,), [0]))
    >>> # In an endless row with precision 1 and steps of variance 1 the variance is 1 / √5.
    >>> round(float(medium.variance(torch.zeros(50))[25] ** -2), 3)
    5.0
    """

    def __init__(self, eigenvalues: torch.Tensor):
        self.eigenvalues = eigenvalues.double()
        self.shape = tuple(eigenvalues.shape)
        self._axes = tuple(range(-len(self.shape), 0))
        # No map has the cosine that follows the last, and with it the covariance fades as neighbours' distance grows.
        self._extended = self.eigenvalues
        for axis, n in enumerate(self.shape):
            self._extended = torch.cat([self._extended, self._extended.narrow(axis, n - 1, 1)], axis)
        self._distant: dict[int, torch.Tensor] = {}
        self._transfers: dict[int, torch.Tensor] = {}

    def _covariance(self, number: int) -> torch.Tensor:
        """Of pixels at some distance, in a medium of precision 2^number that is twice as long along each axis."""
        if number not in self._distant:
            self._distant[number] = self._near(number)
        return self._distant[number]

    def _transfer(self, number: int) -> torch.Tensor:
        """How neighbours count in a medium of precision 2^number, among cosines."""
        if number not in self._transfers:
            counts = self._covariance(number).square()
            near = counts.shape[0] <= self.shape[0]
            counts = (
                series_of_near(counts, self.shape)
                if near
                else cosine_series(counts)[tuple(slice(n) for n in self.shape)]
            )
            self._transfers[number] = counts / counts.flatten()[0]
        return self._transfers[number]

    def _variances(self, numbers: Sequence[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Variances in media of some precisions, and where each pixel's are, for it is only near the edges that they
        differ: logarithms ``(media, places...)``, and the place along each axis."""
        distant, axes = [self._covariance(number) for number in numbers], range(len(self.shape))
        reach = [max(own.shape[axis] for own in distant) for axis in axes]
        tables = []
        for variance in distant:
            # Mirrored at the edges a pixel's variance is the covariance of two, 1, 3, 5, ... pixels apart.
            for axis in axes:
                mirrored = variance[(slice(None),) * axis + (slice(1, None, 2),)]
                missing = reach[axis] // 2 + 1 - mirrored.shape[axis]
                beyond = torch.zeros_like(mirrored.narrow(axis, 0, 1)).repeat_interleave(missing, axis)
                variance = 0.5 * (torch.cat([mirrored, beyond], axis) + variance.narrow(axis, 0, 1))
            tables.append(variance.log())
        places = []
        for axis, n in enumerate(self.shape):
            number = torch.arange(n)
            places.append(torch.minimum(number, n - 1 - number).clamp_max(reach[axis] // 2))
        return torch.stack(tables), places

    def _spectrum(self, number: int, steps: Sequence[int]) -> torch.Tensor:
        """The covariance of a medium of precision 2^number among cosines, single, one longer than the map each way.

        Of some cosines only, so many steps apart.
        """
        precision, chosen = 2.0**number, self._extended[tuple(slice(None, None, step) for step in steps)]
        single = chosen.float() if precision > torch.finfo(torch.float32).smallest_normal else chosen
        return single.add(precision).reciprocal_().float()

    def _near(self, number: int) -> torch.Tensor:
        """The mean of `cosine_series` of the spectrum, as far as there is something to be seen."""
        for reach in _REACHES:
            if reach > min(self.shape) // 4:
                break
            # What fades so soon is the same in a smaller map, which has fewer cosines.
            steps = [_largest_divisor(n, n // (4 * reach)) for n in self.shape]
            coefficients = self._spectrum(number, steps)
            found = near_cosine_series(coefficients, reach)
            edge = max(float(found.select(axis, reach).abs().max()) for axis in range(found.ndim))
            if edge < _UNSEEN * float(found.flatten()[0]):
                return found / math.prod(n // step for n, step in zip(self.shape, steps, strict=True))
        # In small maps the missing cosine is better missed.
        coefficients = self._spectrum(number, [1] * len(self.shape))
        for axis in range(coefficients.ndim):
            coefficients.select(axis, -1).zero_()
        return cosine_series(coefficients) / math.prod(self.shape)

    def _smoothed(self, cosines: torch.Tensor, number: int) -> torch.Tensor:
        return inverse_cosine_transform(cosines * self._transfer(number), self._axes).reshape(-1)

    def _cosines(self, own: torch.Tensor) -> torch.Tensor:
        return cosine_transform(own.float().reshape(self.shape), self._axes)

    def mean_precision(self, own: torch.Tensor) -> torch.Tensor:
        """The logarithm to base 2 of the precision L of the medium that each pixel's neighbourhood is in the mean.

        L is what neighbours know, weighed as they count in a medium of just that precision. ``(pixels,)``.
        """
        cosines = self._cosines(own)
        top = int(torch.log2(own.amax()).ceil())
        least = max(2.0 ** (top - 2 * _HALVINGS), torch.finfo(cosines.dtype).tiny)
        found, above = torch.full_like(own, torch.nan, dtype=cosines.dtype), None
        for number in range(top, top - _HALVINGS, -_OCTAVES):
            smoothed = self._smoothed(cosines, number)
            if _cross(smoothed, above, number, least, found) == 0:
                break
            above = smoothed
        return found.nan_to_num_(nan=float(top - _HALVINGS))

    def along(self, own: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Another map, averaged over the neighbours as they count in a medium of precision 2^place for each pixel."""
        cosines = self._cosines(own)
        return self._between(place, lambda number: self._smoothed(cosines, number))

    def variance(self, place: torch.Tensor) -> torch.Tensor:
        """Of each pixel in a medium of precision 2^place of its own, ``(pixels,)``."""
        lowest, rows, table, outer, inner = self._looked_up(place)
        step = place.reshape(len(outer), len(inner))
        below = step.floor()
        at, where = rows[(below - lowest).long()], outer[:, None] + inner
        low, high = table[at, where], table[at + 1, where]
        return torch.lerp(low, high, (step - below).to(low)).exp_().reshape(-1).to(place)

    def _looked_up(self, place: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The lowest of the media that pixels lie above, the row of each medium in the table from there on, the
        logarithms of variances, and what a pixel's place in the map adds to its column: all but the last axis, and it.
        """
        found = _whole_numbers(place)
        numbers = sorted({*found, *(number + 1 for number in found)})
        rows = torch.zeros(numbers[-1] - numbers[0] + 1, dtype=torch.long)
        rows[torch.tensor(numbers) - numbers[0]] = torch.arange(len(numbers))
        table, places = self._variances(numbers)
        columns = places[0]
        for axis, own in enumerate(places[1:], 1):
            columns = (
                (columns[:, None] * table.shape[axis + 1] + own).reshape(-1) if axis < len(places) - 1 else columns
            )
        outer = columns * table.shape[-1] if len(places) > 1 else torch.zeros(1, dtype=torch.long)
        return numbers[0], rows, table.flatten(1), outer, places[-1]

    @staticmethod
    def _between(place: torch.Tensor, at) -> torch.Tensor:
        found = torch.empty_like(place)
        upper: tuple[int, torch.Tensor] | None = None
        for number in _whole_numbers(place):
            high = upper[1] if upper is not None and upper[0] == number + 1 else at(number + 1)
            below = at(number)
            _interpolate(place, number, below, high, found)
            upper = number, below
        return found

    def field(self, precision: torch.Tensor) -> torch.Tensor:
        """X for pixels that know ``precision`` of some maps, both packed ``(m (m + 1) / 2, pixels)``."""
        m = packed.size(len(precision))
        places = [self.mean_precision(precision[packed.index(i, i)]) for i in range(m)]
        if m == 1:
            return self._from_neighbours(places[0])[None]
        mean = torch.empty_like(precision)
        for i in range(m):
            mean[packed.index(i, i)] = torch.exp2(places[i])
            for j in range(i):
                common = 0.5 * (places[i] + places[j])
                limit = 0.999 * torch.exp2(common)
                mean[packed.index(i, j)] = self.along(precision[packed.index(i, j)], common).clamp(-limit, limit)
        return _function_of(mean, lambda values: self._from_neighbours(values.log2().float()))

    def _from_neighbours(self, place: torch.Tensor) -> torch.Tensor:
        """X of one map in a medium of precision 2^place for each pixel."""
        found = torch.empty(place.shape, dtype=torch.float64)
        rows = _rows(place, found)

        def run(loops) -> bool:
            lowest, *given = self._looked_up(place)
            loops.from_neighbours(rows[0], lowest, *(own.numpy() for own in given), rows[1])
            return True

        if rows is not None and compiled(_LOOPS, run):
            return found
        return (1 / self.variance(place).double()).sub_(torch.exp2(place)).clamp_min_(0)


def _function_of(matrix: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A function of positive matrices by their eigenvalues, packed."""
    if len(matrix) > 3:
        values, vectors = torch.linalg.eigh(packed.unpack(matrix))
        values = values.clamp_min(_THINNEST * values.amax(-1, keepdim=True))
        own = torch.stack([function(v) for v in values.T], -1).to(vectors)
        return packed.pack((vectors * own[:, None, :]) @ vectors.mT)
    middle, apart = 0.5 * (matrix[0] + matrix[2]), 0.5 * (matrix[0] - matrix[2])
    radius = torch.hypot(apart, matrix[1])
    high = middle + radius
    # The product of both is the determinant: so the lower keeps its digits.
    low = torch.maximum((matrix[0] * matrix[2] - matrix[1].square()) / high, _THINNEST * high)
    of_high, of_low = function(high), function(low)
    slope = torch.where(radius > 0, 0.5 * (of_high - of_low) / radius.clamp_min(torch.finfo(radius.dtype).tiny), 0.0)
    level = 0.5 * (of_high + of_low)
    return torch.stack([level + slope * apart, slope * matrix[1], level - slope * apart])


def _whole_numbers(place: torch.Tensor) -> list[int]:
    """The integers below some numbers, from the highest."""
    low = place.floor()
    numbers = range(int(low.amax()), int(low.amin()) - 1, -1)
    return [number for number in numbers if len(numbers) < _FEW_LEVELS or bool((low == number).any())]


def _largest_divisor(n: int, most: int) -> int:
    """Of a number, no larger than another; one at the least."""
    return max((step for step in range(1, most + 1) if n % step == 0), default=1)


def _cross(smoothed: torch.Tensor, above: torch.Tensor | None, number: int, least: float, found: torch.Tensor) -> int:
    """`even_medium_loops.cross`."""
    before = smoothed if above is None else above
    rows = _rows(smoothed, before, found)
    left = None
    if rows is not None:
        floor = rows[1].dtype.type(least)
        left = compiled(_LOOPS, lambda loops: loops.cross(*rows[:2], number, _OCTAVES, floor, above is None, rows[2]))
    if left is not None:
        return int(left)
    crossing = found.isnan() & (smoothed >= 2.0**number)
    if above is None:
        found[crossing] = number
    else:
        excess = smoothed.clamp_min(least).log2_().sub_(number)
        before = above.clamp_min(least).log2_().sub_(number + _OCTAVES)
        found.copy_(torch.where(crossing, number - _OCTAVES * excess / (before - excess), found))
    return int(found.isnan().count_nonzero())


def _interpolate(place: torch.Tensor, number: int, below: torch.Tensor, high: torch.Tensor, found: torch.Tensor):
    """`even_medium_loops.interpolate`."""
    rows = _rows(place, below, high, found)

    def run(loops) -> bool:
        loops.interpolate(rows[0], number, *rows[1:])
        return True

    if rows is None or not compiled(_LOOPS, run):
        found.copy_(torch.where(place.floor() == number, below + (place - number) * (high - below), found))


def _rows(*maps: torch.Tensor):
    return arrays(*maps) if maps[0].numel() >= _WORTH_COMPILING else None
