"""Errors of coupled maps without solving for them: each pixel in the mean field of its neighbours.

What neighbours say about a pixel's maps acts as a prior of its own, of some precision X. Where all pixels know the same
of themselves, D, the coupled maps' covariance G(D) is a sum over cosines, and X = G⁻¹ - D. Elsewhere each pixel has the
X of a medium that is everywhere as its neighbourhood is in the mean, weighed as neighbours count for the pixel's
variance: by the squares of the medium's own covariances. That is the coherent-potential approximation of alloys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from ..numerics import packed
from ..numerics.memory import room, room_like
from .coupling import CosineMap, in_units, own_numbers, told_once
from .curvature import Curvature
from .even_medium import Medium

__all__ = ["medium_inverse"]

# So that no pixel is without: this part of what pixels know of themselves in the mean, or of what couples them where
# that is less, as in maps of weak coupling. Where no pixel knows anything, the least part of what couples them.
_LIFT, _LEAST = 1e-6, 1e-20
# Maps that correlate by less, or in no more than this part of the pixels, have media of their own.
_RELATED, _FEW = 0.05, 0.01
# So many pixels tell whether maps do.
_SAMPLE = 2**16
# Pixels that stay in the processor's cache while they are worked on.
_TOGETHER = 2**14


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
    covariance, leverage = (room(*shape, pixels, dtype=torch.float64) for shape in ((len(blocks),), ()))
    undetermined = room(k, pixels, dtype=torch.bool)
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
    lifted = room_like(blocks).copy_(blocks)
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
