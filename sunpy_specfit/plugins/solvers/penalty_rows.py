"""Priors beside a Gaussian one, on what is linear in a vector: as if they were data."""

from __future__ import annotations

import torch

from ...core.prior import BoundPrior
from ...core.quantities import Quantities

__all__ = ["PenaltyRows", "linear_rows"]

# Gradients that differ by more than this part between two places are not those of a linear quantity.
_SAME = 1e-9


def linear_rows(quantities: Quantities, transform: torch.Tensor) -> torch.Tensor | None:
    """The matrix ``(rows, k)`` that makes the first of some quantities of the free numbers; None if none does.

    Parameters
    ----------
    quantities : `~sunpy_specfit.core.quantities.Quantities`
    transform : `torch.Tensor`
        dθ/dfree, ``(k, k)``.
    """
    k = transform.shape[1]
    generator = torch.Generator().manual_seed(0)
    places = 0.5 + torch.rand((k, 3), generator=generator, dtype=torch.float64)
    maps, columns = quantities.linearize(places, transform.double().cpu())
    name = quantities.names[0]
    found = maps[name] if maps[name].ndim > 1 else maps[name][None]
    rows = torch.stack([column[name].expand_as(maps[name]).reshape(found.shape) for column in columns], 1)
    size = rows.abs().amax().clamp_min(1e-300)
    if len(quantities.names) > 1 or bool(((rows - rows[..., :1]).abs() > _SAME * size).any()):
        return None
    rows = rows[..., 0]
    off = (rows @ places - found).abs()  # a quantity may have a constant beside
    return rows if bool((off <= _SAME * found.abs().amax()).all()) else None


class PenaltyRows:
    """Separable priors on quantities q = Q · vector, as quadratics about some place.

    Parameters
    ----------
    priors : list of (BoundPrior, str, `torch.Tensor`)
        Each with the name of its quantity, and Q ``(rows, k)``.
    level : float
        The vector is given in units of this.

    Attributes
    ----------
    response : `torch.Tensor`
        All Q, in these units.
    """

    def __init__(self, priors: list[tuple[BoundPrior, str, torch.Tensor]], level: float = 1.0):
        self.priors, self.level = priors, level
        self.response = torch.cat([rows for *_, rows in priors]) * level

    def select(self, index) -> PenaltyRows:
        return PenaltyRows([(prior.select(index), name, rows) for prior, name, rows in self.priors], self.level)

    def at(self, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Energy ``(pixels,)``, what is still asked for, in sigma, and the roots of the weights, ``(rows, pixels)``."""
        energy, asked, roots = 0.0, [], []
        for prior, name, rows in self.priors:
            q = rows @ (self.level * vector.double())
            maps = {name: q if len(q) > 1 else q[0]}
            quadratic = prior.quadratic(maps)
            slope, bend = (value.reshape(q.shape) for value in (quadratic.gradient[name], quadratic.diagonal[name]))
            # A slope without curvature moves nothing: it has as much as the slope over the quantity itself.
            bend = torch.where((bend > 0) | (slope == 0), bend, slope.abs() / q.abs().clamp_min(1e-300))
            root = bend.sqrt()
            energy = energy + prior.energy(maps)
            asked.append(torch.where(bend > 0, -slope / root, 0.0))
            roots.append(root)
        return energy, torch.cat(asked), torch.cat(roots)
