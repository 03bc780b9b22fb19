"""What multiplies the derivatives of I in the weak-field formulas, and the derivatives themselves."""

from __future__ import annotations

import torch
from torch.nn.functional import hardshrink

__all__ = ["constants_of", "factors_of", "times"]


def constants_of(linear: str, squared_splitting, own, core, wing):
    """The factors of `factors_of` without the distance from the centre, and where they hold.

    Returns
    -------
    wing, core : tuple of `torch.Tensor`
        What stands over the distance, zero for other lines' samples, ``(n, 1)``, and where it begins,
        ``(1 or n, 1 or pixels)``; the factor, and how far it reaches. What is not used begins at infinity, or reaches
        nowhere.
    """
    begins = wing if linear != "core" else torch.full_like(wing, torch.inf)
    reaches = core if linear != "wing" else torch.full_like(core, -1.0)
    return (0.75 * squared_splitting * own, begins), (-0.25 * squared_splitting * own, reaches)


def factors_of(linear: str, x, center, squared_splitting, own, core, wing):
    """What multiplies the first and the second derivative for Q and U, and where there is one of them.

    Parameters
    ----------
    linear : {"wing", "core", "both"}
    x, center : `torch.Tensor`
        Wavelengths and the line's centre, ``(n, 1 or pixels)`` and ``(1 or n, pixels)``.
    squared_splitting, own : `torch.Tensor`
        C² G, and which samples belong to the lines that are fitted (1) or to others (0), ``(n, 1)``.
    core, wing : `torch.Tensor`
        How far the core's formula reaches and where the wing's begins, ``(1 or n, 1 or pixels)``.

    Returns
    -------
    outer, inner : `torch.Tensor` or None
        ``(n, pixels)``: of the wing and of the core, zero outside their parts.
    kept : `torch.Tensor`
        ``(n, pixels)``: 1 where one of them holds, else 0.
    """
    away = x - center
    outer = inner = kept = None
    if linear != "core":
        # Nothing within the core, where the formula has a pole; without a comparison, which costs more.
        scaled = away / wing
        outer = own * hardshrink(scaled, 1.0) / scaled.square().clamp_min(1.0)
        kept = outer.sign().square()
        outer = outer * (0.75 * squared_splitting / wing)
    if linear != "wing":
        inside = own * (away.abs() < core).to(away)
        inner = -0.25 * squared_splitting * inside
        kept = inside if kept is None else kept + inside
    return outer, inner, kept


def times(matrix: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A matrix ``(n, n[, 1 or pixels])`` times samples ``(n[, pixels])``."""
    if matrix.ndim == 2:
        return matrix @ values
    if matrix.shape[-1] == 1:
        return matrix[..., 0] @ values
    return torch.einsum("ijp,jp->ip", matrix, values)
