"""Blocks of quadratics from their minimum to results in one look at each pixel, where loops are compiled."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import torch

from ..numerics.compiled import arrays, compiled
from ..numerics.threads import over_pixels
from .compressed import CompressedBlock
from .finish import Outcome, own_flags
from .layout import Layout
from .status import Status

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["settle"]

# Fewer pixels are not worth waiting for a compiler, or for what it left on the disk.
_WORTH_COMPILING = 2**13
# Threads begin at multiples of so many pixels.
_TOGETHER = 1024


def settle(problem: Problem, block, part: slice, outcome: Outcome) -> torch.Tensor | None:
    """Solve some pixels by their quadratics, and write numbers, errors, misfit and flags to where they belong.

    What `finish_block` makes of an exact solution, for all pixels that are sound.

    Parameters
    ----------
    problem : `Problem`
    block : `PixelBlock`
    part : slice
        Which pixels of the problem these are.
    outcome : `Outcome`
        To be filled.

    Returns
    -------
    `torch.Tensor` or None
        Numbers of the pixels in the block that remain to be solved with more care; None where nothing was done.
    """
    if not _suits(problem, block, outcome):
        return None
    quadratic = arrays(block.constant, block.matrix, block.vector, block.valid)
    flags = arrays(block.flags.to(torch.int32).contiguous())
    if quadratic is None or flags is None or len({one.dtype for one in quadratic[:3]}) > 1:
        return None
    sigma = torch.empty(block.vector.shape, dtype=torch.float64)
    doubt = torch.empty(block.n_pixels, dtype=torch.bool)
    own = sigma.numpy(), doubt.numpy()
    found = outcome.free, outcome.covariance, outcome.chi2, outcome.dof, outcome.status, outcome.n_valid
    given = tuple(quadratic), *flags, int(Status.CONVERGED), part.start, found, own

    def fill(loops: ModuleType) -> bool:
        over_pixels(lambda begin, end: loops.settle(begin, end, *given), block.n_pixels, _TOGETHER)
        return True

    if not compiled(f"{__package__}.settle_loops", fill):
        return None
    if any(component.flag is not None for component in problem.layout.components):
        covariance = torch.from_numpy(outcome.covariance[:, part])
        bits = own_flags(problem, block, torch.from_numpy(outcome.free[:, part]), sigma, covariance, part)
        outcome.status[part] |= bits.numpy()
    return doubt.nonzero()[:, 0] if bool(doubt.any()) else doubt.new_empty(0, dtype=torch.int64)


def _suits(problem: Problem, block, outcome: Outcome) -> bool:
    return (
        isinstance(block, CompressedBlock)
        and block.n_pixels >= _WORTH_COMPILING
        and block.simple
        and not block.priors
        and len(outcome.covariance) == len(block.matrix)
        and not bool((torch.isfinite(block.lower) | torch.isfinite(block.upper)).any())
        and not _has_lines(problem.layout)
    )


def _has_lines(layout: Layout) -> bool:
    """Whether a component has a place, of which nothing is known where its light is faint."""
    return any(parameter.location for parameter in layout.parameters.values())
