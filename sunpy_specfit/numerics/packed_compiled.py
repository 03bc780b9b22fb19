"""Which packed systems go to the compiled loops of `packed_loops`, and how they get there."""

from __future__ import annotations

from types import ModuleType

import torch

from .compiled import arrays, compiled
from .memory import room_like
from .threads import over_pixels

__all__ = ["UNROLLED", "by_loops", "invert_by_loops"]

# Systems of more unknowns are LAPACK's.
UNROLLED = 9
# Fewer pixels are not worth waiting for a compiler, or for what it left on the disk.
_WORTH_COMPILING = 2**13
# Fewer are not worth a thread: the loops over them take no longer than it takes to begin.
_A_THREAD, _A_THREAD_INVERTS = 2**16, 256
_LOOPS = f"{__package__}.packed_loops"


def by_loops(name: str, packed: torch.Tensor, *rows: torch.Tensor) -> list | None:
    """Run one of `packed_loops`, which may fill the last of the rows; None where nothing is compiled.

    Parameters
    ----------
    name : str
    packed : `torch.Tensor`
        Packed matrices, ``(k (k + 1) / 2, pixels)``.
    *rows : `torch.Tensor`
        What else it takes, of the same precision and as many pixels.

    Returns
    -------
    list or None
        What it returned for each part of the pixels.
    """
    if not _suits(packed):
        return None
    if any(own.dtype != packed.dtype or own.shape[1:] != packed.shape[1:] for own in rows):
        return None
    found = arrays(packed, *rows)
    if found is None:
        return None

    def run(loops: ModuleType) -> list:
        loop = getattr(loops, name)
        return over_pixels(lambda begin, end: loop(begin, end, *found), packed.shape[-1], _A_THREAD)

    return compiled(_LOOPS, run)


def invert_by_loops(
    packed: torch.Tensor, vector: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """Inverses, solutions, both in double, and which pixels' are in doubt; None where nothing is compiled."""
    if not _suits(packed) or packed.device.type != "cpu" or packed.requires_grad:
        return None
    inverse, solution = (room_like(v, torch.float64) for v in (packed, vector))
    weak = torch.empty(packed.shape[-1], dtype=torch.bool)
    given = packed.numpy(), vector.numpy(), inverse.numpy(), solution.numpy(), weak.numpy()

    def run(loops: ModuleType) -> tuple:
        over_pixels(lambda begin, end: loops.invert(begin, end, *given), packed.shape[-1], _A_THREAD_INVERTS)
        return inverse, solution, weak

    return compiled(_LOOPS, run)


def _suits(packed: torch.Tensor) -> bool:
    return packed.shape[-1] >= _WORTH_COMPILING and packed.shape[0] <= UNROLLED * (UNROLLED + 1) // 2
