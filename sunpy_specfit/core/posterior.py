"""Errors of coupled maps: each pixel's block of the inverse curvature, found by probing."""

from __future__ import annotations

import torch
from tqdm.auto import tqdm

from ..numerics import packed
from .curvature import Curvature

__all__ = ["probe_inverse"]

# Probes for each parameter: pixels of one probe are this many apart in all (6 by 6 pixels of an image).
_COLOURS = 36
# Solved to this fraction: the probes' own noise is larger.
_TOLERANCE = 1e-3
_ITERATIONS = 200


def probe_inverse(
    curvature: Curvature, *, seed: int = 0, progress: bool | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The blocks of the inverse curvature on its diagonal, and the degrees of freedom that the data spend.

    Pixels some distance apart hardly know of each other. So one solution of H x = z, with z random signs on pixels of
    a coarse lattice, holds a column of each of their blocks; what leaks from one to the next averages out by the signs.

    Parameters
    ----------
    curvature : `Curvature`
        At the solution.
    seed : int
        For the signs.
    progress : bool, optional
        Whether to show a bar.

    Returns
    -------
    covariance : `torch.Tensor`
        Packed ``(k (k + 1) / 2, pixels)``, float64; infinite variance where nothing determines a number.
    leverage : `torch.Tensor`
        ``(pixels,)``: each pixel's part of tr(H⁻¹ A), between 0 and its number of free numbers.
    undetermined : `torch.Tensor`
        bool ``(k, pixels)``.

    References
    ----------
    Tang & Saad (2012), https://doi.org/10.1002/nla.779; Hutchinson (1990), https://doi.org/10.1080/03610919008812866
    """
    problem = curvature.problem
    shared, k, pixels = problem.shared, problem.n_free, problem.n_pixels
    like = curvature.free
    precondition = curvature.preconditioner()
    own = [j for j in range(k) if not shared[j]]
    alone, undetermined = _with_the_others_held(curvature.block_matrix(), own, k)
    covariance = alone.new_zeros((k * (k + 1) // 2, pixels))
    leverage = torch.zeros_like(covariance[0])
    generator = torch.Generator().manual_seed(seed)
    colours = _colours(problem.grid.shape).to(like.device)
    n_shared = k - len(own)
    total = len(own) * (int(colours.max()) + 1) + n_shared
    bar = tqdm(total=total, desc="errors", unit="solve", leave=False, disable=_hidden(progress, total * pixels))

    def solve(right, tolerance=_TOLERANCE):
        bar.update()
        return curvature.solve(right, tolerance=tolerance, max_iterations=_ITERATIONS, precondition=precondition).x

    for j in own:
        for colour in range(int(colours.max()) + 1):
            signs = (torch.randint(2, (pixels,), generator=generator) * 2 - 1).to(like)
            signs = torch.where(colours == colour, signs, 0.0)
            unit = torch.zeros_like(like)
            unit[j] = signs
            x = problem.unflatten(solve(problem.reduce(unit)))
            for i in own:
                share = (0.5 if i != j else 1.0) * signs * x[i]
                covariance[packed.index(i, j)] += share.double()
            leverage += (signs * curvature.data_product(x)[j]).double()
    shared_rows = [j for j in range(k) if shared[j]]
    n_own = len(own) * pixels
    for number, j in enumerate(shared_rows):
        unit = problem.flatten(torch.zeros_like(like))
        unit[n_own + number] = 1.0
        # One number that all pixels pull at: few solutions, worth more care.
        flat = solve(unit, 1e-3 * _TOLERANCE)
        x = problem.unflatten(flat)
        for i in range(k):
            if i in own or i <= j:
                covariance[packed.index(i, j)] = x[i].double()
        leverage += float(curvature.data_product(x)[j].sum()) / pixels
    bar.close()
    # A pixel cannot spend less than nothing nor more than it has, whatever a singular system makes of the probes.
    leverage = leverage.nan_to_num(nan=float(k), posinf=float(k), neginf=0.0).clamp(0.0, k)
    return _tidy(covariance, alone, undetermined, own), leverage, undetermined


def _with_the_others_held(blocks, own, k) -> tuple[torch.Tensor, torch.Tensor]:
    """Variances of a pixel's own numbers with its neighbours and the shared numbers held; what nothing determines."""
    pixels = blocks.shape[-1]
    undetermined = torch.zeros((k, pixels), dtype=torch.bool, device=blocks.device)
    for j in set(range(k)) - set(own):
        undetermined[j] = not bool((blocks[packed.index(j, j)] > 0).any())
    if not own:
        return blocks.new_zeros((0, pixels), dtype=torch.float64), undetermined
    inverse, lost = packed.inverse(torch.stack([blocks[packed.index(i, j)] for i in own for j in own if j <= i]))
    undetermined[own] = lost
    return inverse[packed.diagonal_index(len(own))], undetermined


def _tidy(covariance, alone, undetermined, own) -> torch.Tensor:
    """Keep what probing got wrong within what any covariance obeys."""
    k = undetermined.shape[0]
    rows = packed.diagonal_index(k)
    for held, i in zip(alone, own, strict=True):
        # With the others held the variance is smaller than when they are free, up to the blocks' own singularity.
        variance = torch.maximum(covariance[rows[i]], held.nan_to_num(posinf=0.0))
        covariance[rows[i]] = torch.where(undetermined[i], torch.inf, variance)
    for i in range(k):
        for j in range(i):
            lost = undetermined[i] | undetermined[j]
            limit = 0.999 * (covariance[rows[i]] * covariance[rows[j]]).sqrt()
            entry = covariance[packed.index(i, j)]
            entry = torch.minimum(torch.maximum(entry, -limit), limit)
            covariance[packed.index(i, j)] = torch.where(lost, 0.0, entry)
    return covariance


def _colours(shape: tuple[int, ...]) -> torch.Tensor:
    """A number for each pixel, ``(pixels,)``: pixels of one number stand on a lattice."""
    axes = [n for n in shape if n > 1]
    spacing = max(2, round(_COLOURS ** (1 / max(len(axes), 1))))
    colour = torch.zeros(shape, dtype=torch.int64)
    for axis, n in enumerate(shape):
        step = min(spacing, n)
        place = torch.arange(n) % step
        colour = colour * step + place.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return colour.reshape(-1)


def _hidden(progress: bool | None, work: int) -> bool | None:
    return {True: False, False: True, None: True if work < 5_000_000 else None}[progress]
