"""Errors of coupled maps without solving for them: each pixel in the mean field of its neighbours.

What neighbours say about a pixel's maps acts as a prior of its own, of some precision X. Where all pixels know the same
of themselves, D, the coupled maps' covariance G(D) is a sum over cosines, and X = G⁻¹ - D. Elsewhere each pixel has the
X of a medium that is everywhere as its neighbourhood is in the mean, weighed as neighbours count for the pixel's
variance: by the squares of the medium's own covariances. That is the coherent-potential approximation of alloys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..numerics import packed
from ..numerics.cosine_transform import cosine_series, cosine_transform, inverse_cosine_transform
from .coupling import CosineMap, in_units, own_numbers
from .curvature import Curvature

__all__ = ["Medium", "medium_inverse"]

# So that no pixel is without: this part of what pixels know of themselves in the mean, or of what couples them where
# that is less, as in maps of weak coupling. Where no pixel knows anything, the least part of what couples them.
_LIFT, _LEAST = 1e-6, 1e-20
# Maps that correlate by less, or in no more than this part of the pixels, have media of their own.
_RELATED, _FEW = 0.05, 0.01
# Halvings of the precision after which a medium is as good as empty.
_HALVINGS = 70


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
    blocks = curvature.blocks.matrix.double().cpu()
    maps = [CosineMap({j: c.double().cpu() for j, c in own.columns.items()}, own.eigenvalues.cpu()) for own in maps]
    precision = _own_precision(blocks, maps)
    if precision is None:
        return None
    field = _mean_field(precision, maps, problem.grid.shape)
    if field is None:
        return None
    total = blocks.clone()
    for a, one in enumerate(maps):
        for b, other in enumerate(maps):
            share = field[packed.index(a, b)]
            for i, left in one.columns.items():
                for j, right in other.columns.items():
                    if j <= i:
                        total[packed.index(i, j)] += share * left * right
    covariance, undetermined = packed.inverse(total)
    k = packed.size(len(blocks))
    data, known = curvature.data.matrix.double().cpu(), covariance.nan_to_num(posinf=0.0)
    leverage = sum(known[packed.index(i, j)] * data[packed.index(i, j)] for i in range(k) for j in range(k))
    device = curvature.free.device
    return covariance.to(device), leverage.clamp(0.0, k).to(device), undetermined.to(device)


def _own_precision(blocks: torch.Tensor, maps: Sequence[CosineMap]) -> torch.Tensor | None:
    """What each pixel alone knows of its maps, packed; None where they do not vary freely of each other."""
    k, m = packed.size(len(blocks)), len(maps)
    lifted = blocks.clone()
    for own in maps:
        stiffness = float(own.eigenvalues.double().mean())
        for j, column in own.columns.items():
            square = column.square()
            known = float(blocks[packed.index(j, j)].mean() / square.mean().clamp_min(torch.finfo(square.dtype).tiny))
            lifted[packed.index(j, j)] += max(_LIFT * min(stiffness, known), _LEAST * stiffness) * square
    units = own_numbers(maps, k)
    if units is not None:
        return in_units(lifted, units)
    solve = packed.factorize(lifted)
    moved = []
    for own in maps:
        right = torch.zeros((k, blocks.shape[-1]), dtype=blocks.dtype)
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


def _mean_field(precision: torch.Tensor, maps: Sequence[CosineMap], shape: tuple[int, ...]) -> torch.Tensor | None:
    """X, packed ``(m (m + 1) / 2, pixels)``; None where related maps are coupled by different cosines."""
    m = len(maps)
    stiffness = torch.stack([own.eigenvalues.double().mean() for own in maps])
    if not bool((stiffness > 0).all()):
        return None
    scale = stiffness.rsqrt()[:, None].expand(-1, precision.shape[-1])
    scaled = packed.scale_both(precision, scale)
    field = torch.zeros_like(precision)
    media: list[Medium] = []
    for group in _groups(scaled, m):
        spectra = [(maps[j].eigenvalues.double() / stiffness[j]).reshape(shape) for j in group]
        if any(not torch.allclose(own, spectra[0], rtol=1e-3, atol=1e-6) for own in spectra[1:]):
            return None
        # Maps of one prior are coupled alike, and share what is worked out once.
        alike = (one for one in media if torch.allclose(one.eigenvalues, spectra[0], rtol=1e-9, atol=1e-12))
        medium = next(alike, None) or Medium(spectra[0])
        media.append(medium)
        rows = [packed.index(i, j) for a, i in enumerate(group) for j in group[: a + 1]]
        field[rows] = medium.field(scaled[rows])
    return packed.scale_both(field, 1 / scale)


def _groups(precision: torch.Tensor, m: int) -> list[list[int]]:
    """Maps that correlate, together."""
    label = list(range(m))
    size = precision[packed.diagonal_index(m)].sqrt()
    for i in range(m):
        for j in range(i):
            related = precision[packed.index(i, j)].abs() > _RELATED * size[i] * size[j]
            if float(related.double().mean()) > _FEW:
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
    >>> round(float(medium.variance(torch.ones(50))[25] ** -2), 3)
    5.0
    """

    def __init__(self, eigenvalues: torch.Tensor):
        self.eigenvalues = eigenvalues.double()
        self.shape = tuple(eigenvalues.shape)
        self._axes = tuple(range(-len(self.shape), 0))
        self._levels: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def _level(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a medium of precision 2^number: the logarithm of the variance, and how neighbours count, among cosines."""
        if number not in self._levels:
            ones = [n + 1 for n in self.shape]
            inverse = torch.zeros(ones)
            inverse[tuple(slice(n) for n in self.shape)] = (1 / (2.0**number + self.eigenvalues)).float()
            # The covariance at a distance, twice over for each axis; mirrored at the edges it is that of two pixels.
            distant = cosine_series(inverse) / math.prod(self.shape)
            variance = distant
            for axis, n in enumerate(self.shape):
                odd = 2 * torch.arange(n) + 1
                mirrored = variance.index_select(axis, torch.where(odd > n, 2 * n - odd, odd))
                variance = 0.5 * (mirrored + variance.narrow(axis, 0, 1))
            counts = cosine_series(distant.square())
            transfer = counts[tuple(slice(n) for n in self.shape)] / counts.flatten()[0]
            self._levels[number] = variance.reshape(-1).log(), transfer
        return self._levels[number]

    def _smoothed(self, cosines: torch.Tensor, number: int) -> torch.Tensor:
        return inverse_cosine_transform(cosines * self._level(number)[1], self._axes).reshape(-1)

    def _cosines(self, own: torch.Tensor) -> torch.Tensor:
        return cosine_transform(own.float().reshape(self.shape), self._axes)

    def mean_precision(self, own: torch.Tensor) -> torch.Tensor:
        """The precision L of the medium that each pixel's neighbourhood is in the mean, ``(pixels,)``.

        It is what neighbours know, weighed as they count in a medium of just that precision.
        """
        cosines = self._cosines(own)
        top = int(torch.log2(own.amax()).ceil())
        least = max(2.0 ** (top - 2 * _HALVINGS), torch.finfo(cosines.dtype).tiny)
        found, above = torch.full_like(own, torch.nan, dtype=cosines.dtype), None
        for number in range(top, top - _HALVINGS, -1):
            # Excess of the neighbours' precision, in powers of two.
            excess = self._smoothed(cosines, number).clamp_min_(least).log2_().sub_(number)
            here = (excess >= 0) & found.isnan()
            if above is None:
                found[here] = number
            else:
                found = torch.where(here, number - excess / (above - excess), found)
            if not bool(found.isnan().any()):
                break
            above = excess
        return torch.exp2(found.nan_to_num(nan=float(top - _HALVINGS)).to(own))

    def along(self, own: torch.Tensor, precision: torch.Tensor) -> torch.Tensor:
        """Another map, averaged over the neighbours as they count in a medium of some precision a pixel."""
        cosines = self._cosines(own)
        return self._between(precision, lambda number: self._smoothed(cosines, number)).to(precision)

    def variance(self, precision: torch.Tensor) -> torch.Tensor:
        """Of each pixel in a medium of its own precision, ``(pixels,)``."""
        return self._between(precision, lambda number: self._level(number)[0]).to(precision).exp()

    @staticmethod
    def _between(precision: torch.Tensor, at) -> torch.Tensor:
        place = torch.log2(precision).float()
        low = place.floor()
        found = torch.empty_like(place)
        upper: tuple[int, torch.Tensor] | None = None
        for number in sorted({int(v) for v in low.unique()}, reverse=True):
            high = upper[1] if upper is not None and upper[0] == number + 1 else at(number + 1)
            below = at(number)
            found = torch.where(low == number, below + (place - number) * (high - below), found)
            upper = number, below
        return found

    def field(self, precision: torch.Tensor) -> torch.Tensor:
        """X for pixels that know ``precision`` of some maps, both packed ``(m (m + 1) / 2, pixels)``."""
        m = packed.size(len(precision))
        means = [self.mean_precision(precision[packed.index(i, i)]) for i in range(m)]
        if m == 1:
            return (1 / self.variance(means[0]) - means[0]).clamp_min(0)[None]
        mean = torch.empty_like(precision)
        for i in range(m):
            mean[packed.index(i, i)] = means[i]
            for j in range(i):
                common = (means[i] * means[j]).sqrt()
                limit = 0.999 * common
                mean[packed.index(i, j)] = self.along(precision[packed.index(i, j)], common).clamp(-limit, limit)
        values, vectors = torch.linalg.eigh(packed.unpack(mean))
        values = values.clamp_min(1e-12 * values.amax(-1, keepdim=True))
        own = torch.stack([(1 / self.variance(v) - v).clamp_min(0) for v in values.T], -1)
        return packed.pack((vectors * own[:, None, :]) @ vectors.mT)
