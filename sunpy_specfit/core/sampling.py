"""Draws from what is known of every pixel after a fit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats.qmc import Sobol

from .covariance import Propagation, packed_row
from .factored import FactoredCovariance
from .metropolis import Metropolis

__all__ = ["derived_draws", "displaced", "draw", "spread_of_draws"]

# Points that tell a standard deviation to two per cent.
_POINTS = 64
# Draws outside the bounds are drawn again this often; what is outside even then is moved onto the bound.
_ROUNDS = 200
# Pixels times draws that are derived at once.
_BATCH = 2**18


def draw(
    propagation: Propagation,
    lower: np.ndarray,
    upper: np.ndarray,
    n: int,
    seed: int,
    sampler: Metropolis | None = None,
    unlike: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Draws of all parameters: from the Gaussian of each pixel, cut off at the bounds, or from the posterior itself.

    Parameters
    ----------
    propagation : `Propagation`
    lower, upper : `numpy.ndarray`
        Physical bounds of the free numbers, ``(free,)``.
    n : int
        How many.
    seed : int
        The same seed gives the same draws.
    sampler : `Metropolis`, optional
        Draws from the posterior itself.
    unlike : `numpy.ndarray`, optional
        Pixels whose posterior is not like a Gaussian, bool ``(pixels,)``: the sampler draws for these, where the
        covariance knows all of their numbers.

    Returns
    -------
    dict
        Key -> ``(n, [k,] pixels)``. Draws of a number that the data do not determine are uniform between its
        bounds, and NaN if it has not both.
    """
    layout, transform = propagation.layout, propagation.transform
    n_free, pixels = transform.shape[1], propagation.n_pixels
    mean = np.concatenate(
        [np.atleast_2d(propagation.values[key]) for key in layout.free_keys] or [np.empty((0, pixels))]
    ).astype(float)
    rng = np.random.default_rng(seed)
    if isinstance(propagation.covariance_rows, FactoredCovariance):
        draws = propagation.covariance_rows.draws(n, rng, mean)
        draws = np.clip(draws, lower[:, None], upper[:, None])
        return _moved(propagation, draws - mean)
    # Shared numbers come first: their draws then do not depend on the pixel.
    order = np.argsort(~layout.shared, kind="stable")
    n_shared = int(layout.shared.sum())
    factor, unknown = _factor(propagation.covariance_rows, order, n_free, pixels)
    low, high = lower[order, None], upper[order, None]
    # A start on a bound, give or take round-off, is not outside.
    center = np.clip(mean[order], low, high)
    draws = np.empty((n, n_free, pixels))
    for number in range(n):
        one = _truncated(rng, factor, center, low, high, n_shared)
        if unknown.any():
            bounded = np.isfinite(low) & np.isfinite(high)
            with np.errstate(invalid="ignore"):
                flat = low + (high - low) * rng.random((n_free, pixels))
            one = np.where(unknown, np.where(bounded, flat, np.nan), one)
        draws[number, order] = one
    if sampler is not None:
        known = ~unknown.any(0) & np.isfinite(factor).all((0, 1)) & np.isfinite(mean).all(0)
        index = np.flatnonzero(unlike & known)
        draws[..., index] = sampler.draw(n, rng, index, mean[:, index], factor[..., index])
    return _moved(propagation, draws - mean)


def displaced(
    propagation: Propagation, moves: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> dict[str, np.ndarray]:
    """Draws of all parameters from moves of the free numbers, physical, ``(n, free, pixels)``.

    What would leave the bounds stays on them; numbers that nothing determines have no draws.
    """
    layout = propagation.layout
    mean = np.concatenate([np.atleast_2d(propagation.values[key]) for key in layout.free_keys]).astype(float)
    moves = np.clip(mean + moves, lower[:, None], upper[:, None]) - mean
    if not isinstance(propagation.covariance_rows, FactoredCovariance):  # behind which a prior tells all numbers
        variances = [propagation.covariance_rows[packed_row(j, j)] for j in range(len(mean))]
        moves = np.where(np.isinf(np.stack(variances)), np.nan, moves)
    return _moved(propagation, moves)


def _moved(propagation: Propagation, moves: np.ndarray) -> dict[str, np.ndarray]:
    """Every parameter where the free numbers have moved: key -> ``(n, [k,] pixels)``."""
    found = {}
    for key, value in propagation.values.items():
        part = propagation.transform[propagation.layout.rows[key]]
        own = np.abs(part).sum(0) > 0  # zero times what is not known is zero
        moved = np.atleast_2d(value) + np.einsum("rf,nfp->nrp", part[:, own], moves[:, own])
        found[key] = moved if value.ndim > 1 else moved[:, 0]
    return found


def _truncated(rng, factor, center, low, high, n_shared) -> np.ndarray:
    """One draw for each pixel: drawn again where it falls outside, as often as it takes (almost)."""
    n_free, pixels = center.shape
    common = _common(rng, factor, center, low, high, n_shared)
    draw = np.empty_like(center)
    todo = np.arange(pixels)
    for _ in range(_ROUNDS):
        z = rng.standard_normal((n_free, len(todo)))
        z[:n_shared] = common[:, None]
        draw[:, todo] = center[:, todo] + np.einsum("ijp,jp->ip", factor[..., todo], z)
        with np.errstate(invalid="ignore"):
            outside = ((draw[:, todo] < low) | (draw[:, todo] > high)).any(0)
        todo = todo[outside]
        if not len(todo):
            break
    return np.clip(draw, low, high)


def _common(rng, factor, center, low, high, n_shared) -> np.ndarray:
    """The standard normal numbers behind parameters that all pixels share."""
    good = np.flatnonzero(np.isfinite(center).all(0) & np.isfinite(factor).all((0, 1)))
    for _ in range(_ROUNDS):
        z = rng.standard_normal(n_shared)
        if not n_shared or not len(good):
            break
        first = good[0]
        value = center[:n_shared, first] + factor[:n_shared, :n_shared, first] @ z
        if np.all((value >= low[:n_shared, 0]) & (value <= high[:n_shared, 0])):
            break
    return z


def _factor(rows: np.ndarray | None, order: np.ndarray, n_free: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """A square root L of each pixel's covariance, ``(free, free, pixels)``, and which numbers it says nothing of."""
    if rows is None:
        raise ValueError("this result holds no covariance to draw from: its solver gave none")
    full = np.empty((pixels, n_free, n_free))
    for i in range(n_free):
        for j in range(n_free):
            full[:, i, j] = rows[packed_row(int(order[i]), int(order[j]))]
    diagonal = np.einsum("pii->pi", full)
    unknown = np.isinf(diagonal)
    lost = ~np.isfinite(np.where(unknown, 0.0, diagonal)).all(1)
    full[unknown[:, :, None] | unknown[:, None, :] | lost[:, None, None]] = 0.0
    scale = np.sqrt(np.maximum(diagonal, 0.0))
    scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
    correlation = full / (scale[:, :, None] * scale[:, None, :])
    # Lifted by round-off, so that a direction without any spread does not stop the factorisation.
    lifted = correlation + 1e-12 * np.eye(n_free)
    try:
        root = np.linalg.cholesky(lifted)
    except np.linalg.LinAlgError:
        root = _nearest_root(correlation)
    root = root * scale[:, :, None]
    root[lost] = np.nan
    root[unknown] = 0.0
    return np.moveaxis(root, 0, -1), unknown.T


def _nearest_root(matrix: np.ndarray) -> np.ndarray:
    """A lower triangular root of the nearest matrices without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    half = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    return np.swapaxes(np.linalg.qr(np.swapaxes(half, -1, -2), mode="r"), -1, -2)


def derived_draws(propagation: Propagation, draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every derived quantity of every draw: key -> ``(n, [k,] pixels)``."""
    layout, found = propagation.layout, {}
    for index, keys in enumerate(layout.keys):
        if not layout.components[index].derived:
            continue
        parts: dict[str, list[np.ndarray]] = {name: [] for name in layout.components[index].derived}
        _, auxiliary = propagation.inputs(index, layout.components[index].derive)
        for numbers in _batches(len(next(iter(draws.values()))), propagation.n_pixels):
            count = numbers.stop - numbers.start
            inputs = {
                name: _flat(torch.as_tensor(draws[keys[name]][numbers])) for name in layout.components[index].parameters
            }
            tiled = {k: v if v.shape[-1] == 1 else v.repeat(*[1] * (v.ndim - 1), count) for k, v in auxiliary.items()}
            for name, value in propagation.derive(index, inputs, tiled).items():
                value = value.detach().expand(*value.shape[:-1], count * propagation.n_pixels)
                value = value.reshape(*value.shape[:-1], count, propagation.n_pixels).movedim(-2, 0)
                parts[name].append(value.numpy())
        found |= {keys[name]: np.concatenate(part) for name, part in parts.items()}
    return found


def spread_of_draws(propagation: Propagation, index: int) -> dict[str, np.ndarray]:
    """The standard deviation of a component's derived quantities within the errors: key -> ``([k,] pixels)``.

    Over evenly spread points of the Gaussian of the free numbers, the same for all pixels (a scrambled Sobol sequence),
    which tell a standard deviation to two per cent. Of an angle it is the circular one, σ = P / 2π √(-2 ln R), with R
    the length of the mean direction; at the most that of an angle of which nothing is known, P / √12. Where some number
    is not known at all, that is what an angle has, and other quantities an infinite one.
    """
    layout = propagation.layout
    component, keys = layout.components[index], layout.keys[index]
    points = torch.as_tensor(ndtri(Sobol(layout.n_free, rng=0).random(_POINTS)).T)
    found = {keys[name]: [] for name in component.derived}
    for first in range(0, propagation.n_pixels, _BATCH // _POINTS):
        part = propagation.select(slice(first, first + _BATCH // _POINTS))
        for name, value in _derived_at(part, index, points).items():
            found[keys[name]].append(_spread(value, component.periods.get(name)))
    return {key: torch.cat(parts, -1).numpy() for key, parts in found.items()}


def _derived_at(propagation: Propagation, index: int, points: torch.Tensor) -> dict[str, torch.Tensor]:
    """Derived quantities at points ``(free, n)`` of each pixel's Gaussian, ``([k,] n, pixels)``."""
    layout, pixels = propagation.layout, propagation.n_pixels
    component, keys = layout.components[index], layout.keys[index]
    factor, unknown = _factor(propagation.covariance_rows, np.arange(layout.n_free), layout.n_free, pixels)
    away = torch.einsum("ijp,jn->inp", torch.as_tensor(factor), points)
    if unknown.any():
        away[torch.as_tensor(unknown)[:, None].expand_as(away)] = torch.nan
    inputs, auxiliary = propagation.inputs(index, component.derive)
    for name in inputs:
        value, rows = inputs[name], torch.as_tensor(propagation.transform[layout.rows[keys[name]]])
        own = rows.abs().sum(0) > 0
        moved = torch.einsum("rf,fnp->rnp", rows[:, own], away[own])
        inputs[name] = (value[..., None, :] + (moved if value.ndim > 1 else moved[0])).flatten(-2)
    n = points.shape[-1]
    tiled = {k: v if v.shape[-1] == 1 else v.repeat(*[1] * (v.ndim - 1), n) for k, v in auxiliary.items()}
    return {
        name: value.detach().expand(*value.shape[:-1], n * pixels).unflatten(-1, (n, pixels))
        for name, value in propagation.derive(index, inputs, tiled).items()
    }


def _spread(values: torch.Tensor, period: float | None) -> torch.Tensor:
    """The standard deviation over the second last axis."""
    if period is None:
        return values.std(-2, correction=0).nan_to_num(nan=torch.inf)
    turns = values * (2 * np.pi / period)
    length = torch.hypot(turns.cos().mean(-2), turns.sin().mean(-2))
    spread = period / (2 * np.pi) * (-2 * length.clamp(1e-9, 1.0).log()).sqrt()
    return spread.nan_to_num(nan=torch.inf).clamp_max(period / np.sqrt(12))


def _flat(value: torch.Tensor) -> torch.Tensor:
    """``(n, [k,] pixels)`` to ``([k,] n · pixels)``."""
    return value.movedim(0, -2).flatten(-2)


def _batches(n: int, pixels: int) -> Iterator[slice]:
    size = max(1, _BATCH // max(pixels, 1))
    for first in range(0, n, size):
        yield slice(first, min(first + size, n))
