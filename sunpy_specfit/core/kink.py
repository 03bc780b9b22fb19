"""Pixels whose best fit is a vector that vanishes, of whose length the light knows: there the objective has a kink."""

from __future__ import annotations

import torch

from ..numerics import packed
from .chart import BoundChart
from .curvature import Curvature

__all__ = ["rest_at_kinks"]

# A kink is looked for not further away than this (sigma).
_NEAR = 1.0


def rest_at_kinks(here: Curvature, suspects: torch.Tensor) -> tuple[Curvature, torch.Tensor]:
    """Put to rest those of some pixels that a kink holds, the vector pointing where all but the kink would have it.

    With the length's slope k, and g that of the rest of the objective by the components, a vector that vanishes
    is the best one where |g| ≤ k: no linearisation tells this, for its slope is g ± k on either side. Two of them,
    on opposite sides, do.

    Parameters
    ----------
    here : `Curvature`
        Not of a problem that mixes pixels.
    suspects : `torch.Tensor`
        bool ``(pixels,)``.

    Returns
    -------
    there : `Curvature`
        ``here`` where nothing is held.
    held : `torch.Tensor`
        bool ``(k, pixels)``: the numbers that have no say.
    """
    held = torch.zeros_like(here.free, dtype=torch.bool)
    for chart in here.problem.charts:
        index = suspects.nonzero()[:, 0] if chart.chart.vector else suspects.nonzero()[:0, 0]
        if not len(index):
            continue
        found, rests = _at_rest(here, chart, index)
        if bool(rests.any()):
            index = index[rests]
            here = here.elsewhere(index, found[:, rests])
            held[torch.as_tensor(chart.pointing, device=index.device)[:, None], index] = True
    return here, held


def _at_rest(here: Curvature, chart: BoundChart, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers ``(k, some)`` with the vector vanishing, and whether the pixel rests there."""
    problem, vector = here.problem, list(chart.chart.vector)
    block, free = problem.whole().select(index), here.free[:, index]
    numbers = torch.stack(chart.forward(*free[chart.columns]))

    def pointing(direction) -> torch.Tensor:
        own = numbers.clone()
        own[vector] = chart.chart.shortest * direction
        return chart.replaced(free, chart.inverse(*own))

    def slope(place, gradient) -> torch.Tensor:
        """By the vector's components, of a gradient by the free numbers."""
        matrix = chart.slopes(place).permute(2, 1, 0)
        return torch.linalg.solve(matrix, gradient[chart.columns].T[..., None])[..., 0].T[vector].to(free)

    length = numbers[vector].square().sum(0).sqrt()
    direction = numbers[vector] / length.clamp_min(torch.finfo(free.dtype).tiny)
    sides = [slope(place, -block.linearize(place)[2]) for place in (pointing(direction), pointing(-direction))]
    kink = 0.5 * ((sides[0] - sides[1]) * direction).sum(0)
    rest = 0.5 * (sides[0] + sides[1]) + slope(free, here.coupling.gradient[:, index])
    size = rest.square().sum(0).sqrt()
    found = pointing(-rest / size.clamp_min(torch.finfo(free.dtype).tiny))
    step = torch.zeros_like(free)
    step[chart.columns] = chart.step_between(free, found)
    matrix = here.block_matrix()[:, index]
    near = (step * packed.matvec(matrix, step)).sum(0) < _NEAR**2
    return found, (size > 0) & (size <= kink) & (near | (length <= 2 * chart.chart.shortest))
