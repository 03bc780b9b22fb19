"""Maps less their own noise: where each pixel's quadratic is taken, so that it does not know of that pixel's noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.ndimage import uniform_filter

from ..numerics import packed
from .problem import Problem

__all__ = ["shrink"]

# Pixels a side of the neighbourhood.
_SIDE = 5


def shrink(problem: Problem, free: torch.Tensor) -> torch.Tensor:
    """Move each number towards its neighbours' mean by as much as noise explains their scatter.

    A model that is not linear has, where it follows the noise, a curvature that agrees with the noise: a narrow spike
    is a line whose place is known well. Quadratics taken there make noise look like signal. Taken at the mean of the
    neighbourhood, of which a pixel's own noise is a small part, they do not; where neighbours differ by more than noise
    explains, the pixel's own number stays. Angles that wrap have no such mean, and
    stay too, unless the model has a `Chart` for them.

    Parameters
    ----------
    problem : `Problem`
    free : `torch.Tensor`
        ``(k, pixels)``.

    Returns
    -------
    `torch.Tensor`
        ``(k, pixels)``; ``free`` itself where the model is linear, whose curvature is the same everywhere.

    References
    ----------
    Lee (1980), https://doi.org/10.1109/TPAMI.1980.4766994
    """
    if problem.is_linear:
        return free
    shape = problem.grid.shape
    size = [min(n, _SIDE) for n in shape]
    covariance, _ = packed.inverse(problem.linearize(free, priors=False)[1].matrix)
    variances = covariance[packed.diagonal_index(problem.n_free)]
    start, charted = free, [column for chart in problem.charts for column in chart.columns]
    for chart in problem.charts:
        free = chart.settled(free)
        variances[chart.columns] = _variances(chart.slopes(free), chart.columns, covariance)
        free = chart.replaced(free, chart.forward(*free[chart.columns]))
    found = []
    for values, variance in zip(free.cpu().double().numpy(), variances.cpu().double().numpy(), strict=True):
        q, variance = values.reshape(shape), variance.reshape(shape)
        known = np.isfinite(variance) & (variance > 0)
        weight = np.where(known, 1 / np.where(known, variance, 1.0), 0.0)
        total, number = uniform_filter(weight, size), uniform_filter(known.astype(float), size)
        # A running sum leaves rounding where there is nothing.
        some = number > 0.5 / np.prod(size)
        mean = np.where(some, uniform_filter(weight * q, size) / np.where(some, total, 1.0), q)
        scatter = uniform_filter(weight * (q - mean) ** 2, size) / np.where(some, number, 1.0)
        kept = np.where(known, 1 - 1 / np.maximum(scatter, 1.0), 0.0)
        found.append((mean + kept * (q - mean)).reshape(-1))
    moved = torch.as_tensor(np.stack(found)).to(free)
    for column in set(_wrapping(problem)) - set(charted):
        moved[column] = start[column]
    for chart in problem.charts:
        moved = chart.replaced(moved, chart.inverse(*moved[chart.columns]))
    return torch.minimum(torch.maximum(moved, problem.lower), problem.upper)


def _variances(slopes: torch.Tensor, columns: list[int], covariance: torch.Tensor) -> torch.Tensor:
    """Of a chart's numbers, ``(numbers, pixels)``."""
    rows = [[covariance[packed.index(max(i, j), min(i, j))] for j in columns] for i in columns]
    return torch.stack(
        [
            sum(a * b * rows[i][j] for i, a in enumerate(own) for j, b in enumerate(own)).clamp_min(0)
            for own in slopes.to(covariance)
        ]
    )


def _wrapping(problem: Problem) -> Iterator[int]:
    """The columns of angles that wrap."""
    layout = problem.layout
    for component, keys in zip(layout.components, layout.keys, strict=True):
        for name in component.parameters:
            if component.wraps(name):
                columns = layout.columns.get(keys[name], slice(0))
                yield from range(columns.start or 0, columns.stop)
