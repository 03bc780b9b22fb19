"""What the priors that couple pixels say about the free numbers at some place: slope, curvature and its cosines."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..numerics import packed
from ..numerics.memory import room_like
from .chart import Tangent
from .prior import BoundPrior, Quadratic
from .quantities import Quantities

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["CosineMap", "Coupling", "in_units", "own_numbers", "told_once"]


@dataclass
class CosineMap:
    """A map, linear in the free numbers, whose curvature is diagonal among cosines.

    Attributes
    ----------
    columns : dict of int to `torch.Tensor`
        Its derivative with respect to each free number that it depends on, ``(pixels,)``.
    eigenvalues : `torch.Tensor`
        ``(pixels,)``.
    """

    columns: dict[int, torch.Tensor]
    eigenvalues: torch.Tensor


def told_once(column: torch.Tensor) -> torch.Tensor:
    """Without the repetitions of a number that all pixels share."""
    return column[..., :1] if column.stride(-1) == 0 else column


def own_numbers(maps: Sequence[CosineMap], k: int) -> list[tuple[int, torch.Tensor]] | None:
    """For each map the free number that it is made of, and its derivative; None unless these are all k, one each."""
    if any(len(own.columns) != 1 for own in maps):
        return None
    units = [next(iter(own.columns.items())) for own in maps]
    if sorted(number for number, _ in units) != list(range(k)):
        return None
    return units if all(bool((told_once(column) != 0).all()) for _, column in units) else None


def in_units(matrix: torch.Tensor, units: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """Blocks of free numbers, packed, as blocks of the maps that `own_numbers` tells of."""
    rows = [packed.index(i, j) for n, (i, _) in enumerate(units) for j, _ in units[: n + 1]]
    own = matrix if rows == list(range(len(matrix))) else matrix[rows]
    if all(bool((told_once(column) == 1).all()) for _, column in units):
        return own
    return packed.scale_both(own, torch.stack([1 / column for _, column in units]).to(matrix))


class Coupling:
    """The coupled priors' quadratic at some free numbers, pulled back from the quantities that they act on.

    Parameters
    ----------
    problem : `Problem`
    free : `torch.Tensor`
        ``(k, pixels)``.
    tangent : `~sunpy_specfit.core.chart.Tangent`, optional
        Whose steps derivatives are by; by default they are by the free numbers.

    Attributes
    ----------
    gradient, diagonal : `torch.Tensor`
        ``(k, pixels)``.
    cosine_maps : list of `CosineMap` or None
        All that is coupled, where every prior tells its curvature's cosines.
    joined : list of set of int
        Free numbers that are coupled to each other.
    """

    def __init__(self, problem: Problem, free: torch.Tensor, tangent: Tangent | None = None):
        theta = problem.whole().theta(free)
        self.gradient, self.diagonal = room_like(free).zero_(), room_like(free).zero_()
        # For each prior its quadratic, and for each name the free numbers that the quantity depends on.
        self._parts: list[tuple[Quadratic, dict[str, dict[int, torch.Tensor]]]] = []
        # Those of a free number that is the quantity itself.
        self._same: list[dict[str, int]] = []
        self.joined: list[set[int]] = []
        found: dict[object, CosineMap] | None = {}
        for prior, names in problem.coupled_priors():
            quantities = Quantities(problem.layout, names, problem.physical_auxiliary)
            maps, columns = quantities.linearize(theta, problem.transform)
            columns = columns if tangent is None else tangent.columns(columns)
            quadratic = prior.quadratic(maps) or _slope_only(prior, maps)
            slopes = {
                name: {
                    j: column[name] for j, column in enumerate(columns) if bool((told_once(column[name]) != 0).any())
                }
                for name in maps
            }
            same = {name: next(iter(own)) for name, own in slopes.items() if _is_itself(own)}
            for name, own in slopes.items():
                if name in same:
                    self.gradient[same[name]] += quadratic.gradient[name]
                    self.diagonal[same[name]] += quadratic.diagonal[name]
                    continue
                for j, column in own.items():
                    self.gradient[j] += _sum_rows(quadratic.gradient[name] * column)
                    self.diagonal[j] += _sum_rows(quadratic.diagonal[name] * column.square())
            self._parts.append((quadratic, slopes))
            self._same.append(same)
            apart = [set(own) for own in slopes.values()]
            self.joined += apart if quadratic.cosine is not None else [set().union(*apart)]
            found = _gather(found, problem, quadratic, slopes)
        self.cosine_maps = list(found.values()) if found else None

    def product(self, direction: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Curvature times a direction, both ``(k, pixels)``; added to ``out`` where that is given."""
        out = torch.zeros_like(direction) if out is None else out
        for (quadratic, slopes), same in zip(self._parts, self._same, strict=True):
            if quadratic.add_product is not None and len(same) == len(slopes):
                quadratic.add_product(
                    {name: direction[j] for name, j in same.items()}, {name: out[j] for name, j in same.items()}
                )
                continue
            like = quadratic.gradient
            moved = {
                name: direction[same[name]]
                if name in same
                else sum((column * direction[j] for j, column in own.items()), torch.zeros_like(like[name]))
                for name, own in slopes.items()
            }
            pushed = quadratic.matvec(moved)
            for name, own in slopes.items():
                if name in same:
                    out[same[name]] += pushed[name]
                    continue
                for j, column in own.items():
                    out[j] += _sum_rows(pushed[name] * column)
        return out

    def in_single(self) -> Coupling:
        """The same for products and preconditioners in single precision."""
        single = copy(self)
        single.diagonal = self.diagonal.float()
        if self.cosine_maps:
            single.cosine_maps = [
                CosineMap({j: told_once(c).float().expand_as(c) for j, c in own.columns.items()}, own.eigenvalues)
                for own in self.cosine_maps
            ]
        return single

    def noise(self, generator: torch.Generator) -> torch.Tensor | None:
        """Noise ``(k, pixels)`` whose covariance is the curvature; None where some prior does not tell it."""
        out = torch.zeros_like(self.gradient)
        for quadratic, slopes in self._parts:
            if quadratic.noise is None:
                return None
            drawn = quadratic.noise(generator)
            for name, own in slopes.items():
                for j, column in own.items():
                    out[j] += _sum_rows(drawn[name] * column)
        return out


def _gather(found, problem: Problem, quadratic: Quadratic, slopes):
    """Add one prior's cosines to those of the others; None once there is one that has none."""
    if found is None or quadratic.cosine is None or set(quadratic.cosine) != set(slopes):
        return None
    for name, own in slopes.items():
        curvature = quadratic.cosine[name]
        vector = quadratic.gradient[name].ndim > 1
        for row in range(quadratic.gradient[name].shape[0] if vector else 1):
            columns = {j: column[row] if vector else column for j, column in own.items()}
            columns = {j: column for j, column in columns.items() if bool((told_once(column) != 0).any())}
            if curvature.slope is not None:
                slope = curvature.slope[row] if vector else curvature.slope
                columns = {j: slope * column for j, column in columns.items()}
            if not columns:
                continue
            # Priors along space and along time on the same quantity are one curvature.
            key = (problem.layout.resolve(name), row, object() if curvature.slope is not None else None)
            if key in found:
                found[key].eigenvalues = found[key].eigenvalues + curvature.eigenvalues
            else:
                found[key] = CosineMap(columns, curvature.eigenvalues)
    return found


def _slope_only(prior: BoundPrior, maps) -> Quadratic:
    """The gradient of an energy of which no curvature is known; none is better than a wrong one."""
    names = list(maps)
    slope = torch.func.grad(lambda values: prior.energy(dict(zip(names, values, strict=True))).sum())
    gradient = slope(tuple(maps[name] for name in names))
    return Quadratic(
        gradient=dict(zip(names, gradient, strict=True)),
        matvec=lambda v: {name: torch.zeros_like(v[name]) for name in names},
        diagonal={name: torch.zeros_like(maps[name]) for name in names},
    )


def _is_itself(own: dict[int, torch.Tensor]) -> bool:
    """Whether the quantity is one free number, and no other."""
    return len(own) == 1 and all(column.ndim == 1 and bool((told_once(column) == 1).all()) for column in own.values())


def _sum_rows(value: torch.Tensor) -> torch.Tensor:
    return value.sum(0) if value.ndim > 1 else value
