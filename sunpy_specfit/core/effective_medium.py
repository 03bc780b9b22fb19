"""Errors of coupled maps without solving for them: each pixel in the mean field of its neighbours.

What neighbours say about a pixel's maps acts as a prior of its own, of some precision X. Where all pixels know the same
of themselves, D, the coupled maps' covariance G(D) is a sum over cosines, and X = G⁻¹ - D. Elsewhere each pixel has the
X of a medium that is everywhere as its neighbourhood is in the mean, weighed as neighbours count for the pixel's
variance: by the squares of the medium's own covariances. That is the coherent-potential approximation of alloys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

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
from .coupling import CosineMap, in_units, own_numbers, told_once
from .curvature import Curvature

__all__ = ["Medium", "medium_inverse"]

# So that no pixel is without: this part of what pixels know of themselves in the mean, or of what couples them where
# that is less, as in maps of weak coupling. Where no pixel knows anything, the least part of what couples them.
_LIFT, _LEAST = 1e-6, 1e-20
# Maps that correlate by less, or in no more than this part of the pixels, have media of their own.
_RELATED, _FEW = 0.05, 0.01
# So many pixels tell whether maps do.
_SAMPLE = 2**16
# So far do neighbours count at first, in pixels; and they count no further where they do by less than this part.
_REACHES, _UNSEEN = (32, 128), 1e-4
# Eigenvalues of what pixels know of some maps, over the largest.
_THINNEST = 1e-12
# Pixels that stay in the processor's cache while they are worked on.
_TOGETHER = 2**14
# Halvings of the precision after which a medium is as good as empty.
_HALVINGS = 70
# How neighbours count changes little from one medium to another of a precision so many times halved.
_OCTAVES = 2
# Whether one of so few levels is empty is not worth a look.
_FEW_LEVELS = 4
# Fewer pixels are not worth waiting for a compiler, or for what it left on the disk.
_WORTH_COMPILING = 2**13
_LOOPS = f"{__package__}.effective_medium_loops"


def medium_inverse(curvature: Curvature) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """The blocks of the inverse curvature on its diagonal, and the degrees of freedom that the data spend.

    Within one to three per cent of sigma for noise that varies from pixel to pixel or smoothly, holes of a few pixels
    included; along an edge where the precision jumps twentyfold, and coupling is strong, up to ten per cent. In the
    middle of holes wider than neighbours resemble each other it is too small, by up to a fifth for order 1 and two
    fifths for order 1.5: draws of whole maps know better there.

    Parameters
    ----------
    curvature : `Curvature`
        At the solution.

    Returns
    -------
    tuple or None
        As `~sunpy_specfit.core.posterior.probe_inverse` returns them; None where that must do it, as where a prior's
        curvature has no cosines, or a parameter is shared.

    References
    ----------
    Soven (1967), https://doi.org/10.1103/PhysRev.156.809
    """
    problem, maps = curvature.problem, curvature.coupling.cosine_maps
    if not maps or problem.mixes_pixels or bool(problem.shared.any()):
        return None
    blocks, data = curvature.blocks.matrix.cpu(), curvature.data.matrix.cpu()
    maps = [CosineMap({j: c.cpu() for j, c in own.columns.items()}, own.eigenvalues.cpu()) for own in maps]
    precision = _own_precision(blocks, maps)
    if precision is None:
        return None
    field = _mean_field(precision, maps, problem.grid.shape)
    if field is None:
        return None
    k, pixels = packed.size(len(blocks)), blocks.shape[-1]
    covariance = torch.empty(blocks.shape, dtype=torch.float64)
    leverage, undetermined = torch.empty(pixels, dtype=torch.float64), torch.empty((k, pixels), dtype=torch.bool)
    for first in range(0, pixels, _TOGETHER):
        part = slice(first, first + _TOGETHER)
        own, free = packed.inverse(_in_field(blocks[:, part].to(torch.float64, copy=True), field, maps, part))
        covariance[:, part], undetermined[:, part] = own, free
        own = own.nan_to_num_(posinf=0.0) if bool(free.any()) else own
        spent = leverage[part].zero_()
        for i in range(k):
            for j in range(i + 1):
                # Entries off the diagonal count for both sides of it.
                row = packed.index(i, j)
                spent.addcmul_(own[row], data[row, part].to(own), value=1 if i == j else 2)
    device = curvature.free.device
    return covariance.to(device), leverage.clamp_(0.0, k).to(device), undetermined.to(device)


def _in_field(
    total: torch.Tensor, field: Mapping[int, torch.Tensor], maps: Sequence[CosineMap], part: slice
) -> torch.Tensor:
    """Some pixels' blocks with what neighbours say of the maps, in their place."""
    for a, one in enumerate(maps):
        for b, other in enumerate(maps):
            if packed.index(a, b) not in field:
                continue
            share = field[packed.index(a, b)][part]
            for i, left in one.columns.items():
                for j, right in other.columns.items():
                    if j <= i:
                        total[packed.index(i, j)] += share * (left[part] * right[part]).double()
    return total


def _own_precision(blocks: torch.Tensor, maps: Sequence[CosineMap]) -> torch.Tensor | None:
    """What each pixel alone knows of its maps, packed; None where they do not vary freely of each other."""
    k, m = packed.size(len(blocks)), len(maps)
    lifted = blocks.clone()
    for own in maps:
        stiffness = float(own.eigenvalues.double().mean())
        for j, column in own.columns.items():
            square = told_once(column).double().square()
            tiny = torch.finfo(square.dtype).tiny
            known = float(blocks[packed.index(j, j)].double().mean() / square.mean().clamp_min(tiny))
            lifted[packed.index(j, j)] += max(_LIFT * min(stiffness, known), _LEAST * stiffness) * square
    units = own_numbers(maps, k)
    if units is not None:
        return in_units(lifted, units)
    solve = packed.factorize(lifted.double())
    moved = []
    for own in maps:
        right = torch.zeros((k, blocks.shape[-1]), dtype=torch.float64)
        for j, column in own.columns.items():
            right[j] = column
        moved.append(solve(right))
    covariance = torch.stack(
        [sum(column * moved[b][j] for j, column in maps[a].columns.items()) for a in range(m) for b in range(a + 1)]
    )
    precision, unknown = packed.inverse(covariance)
    if bool(unknown.any()) or not bool(torch.isfinite(precision).all()):
        return None
    return precision


def _mean_field(
    precision: torch.Tensor, maps: Sequence[CosineMap], shape: tuple[int, ...]
) -> dict[int, torch.Tensor] | None:
    """The packed rows of X that are not zero, ``(pixels,)``; None where related maps have different cosines."""
    stiffness = [float(own.eigenvalues.double().mean()) for own in maps]
    if not all(value > 0 for value in stiffness):
        return None
    field: dict[int, torch.Tensor] = {}
    media: list[Medium] = []
    for group in _groups(precision, len(maps)):
        spectra = [(maps[j].eigenvalues.double() / stiffness[j]).reshape(shape) for j in group]
        if any(not _alike(own, spectra[0], 1e-3) for own in spectra[1:]):
            return None
        # Maps of one prior are coupled alike, and share what is worked out once.
        alike = (one for one in media if _alike(one.eigenvalues, spectra[0], 1e-9))
        medium = next(alike, None) or Medium(spectra[0])
        media.append(medium)
        pairs = [(i, j) for a, i in enumerate(group) for j in group[: a + 1]]
        # In units in which each map's coupling is about one.
        units = [math.sqrt(stiffness[i] * stiffness[j]) for i, j in pairs]
        rows = [packed.index(i, j) for i, j in pairs]
        found = medium.field(torch.stack([precision[row] / unit for row, unit in zip(rows, units, strict=True)]))
        field |= {row: own.mul_(unit) for row, unit, own in zip(rows, units, found, strict=True)}
    return field


def _alike(own: torch.Tensor, other: torch.Tensor, within: float) -> bool:
    """Whether eigenvalues, one in the mean, are the same but for a part of each, or of very little."""
    return not bool(((own - other).abs_() > (other * within).add_(1e-3 * within)).any())


def _groups(precision: torch.Tensor, m: int) -> list[list[int]]:
    """Maps that correlate, together."""
    label = list(range(m))
    precision = precision[:, :: max(1, precision.shape[-1] // _SAMPLE)]
    size = precision[packed.diagonal_index(m)].sqrt_()
    for i in range(m):
        for j in range(i):
            related = precision[packed.index(i, j)].abs() > (size[i] * size[j]).mul_(_RELATED)
            if int(related.count_nonzero()) > _FEW * related.numel():
                label = [label[j] if number == label[i] else number for number in label]
    return [[j for j in range(m) if label[j] == number] for number in dict.fromkeys(label)]


class Medium:
    """Maps coupled by a curvature that is diagonal among cosines, over pixels that know the same of themselves.

    Parameters
    ----------
    eigenvalues : `torch.Tensor`
        Of the coupling, of the map's shape.

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.core.effective_medium import Medium
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
    """`effective_medium_loops.cross`."""
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
    """`effective_medium_loops.interpolate`."""
    rows = _rows(place, below, high, found)

    def run(loops) -> bool:
        loops.interpolate(rows[0], number, *rows[1:])
        return True

    if rows is None or not compiled(_LOOPS, run):
        found.copy_(torch.where(place.floor() == number, below + (place - number) * (high - below), found))


def _rows(*maps: torch.Tensor):
    return arrays(*maps) if maps[0].numel() >= _WORTH_COMPILING else None
