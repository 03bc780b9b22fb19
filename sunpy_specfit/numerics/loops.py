"""How Numba compiles loops over pixels: those that Python calls, and those that only other loops call."""

from __future__ import annotations

from functools import partial

import numba

__all__ = ["inner_loop", "loop"]

# Rounding may differ from one machine to another; what is no number stays none.
_compile = partial(numba.njit, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})


def loop(function):
    """Compile what Python calls, at its first call with numbers of some kind; the code is kept on the disk."""
    return _compile(cache=True)(function)


def inner_loop(function):
    """Compile what only other loops call: it becomes a part of their code, and nothing of it is kept.

    That takes two thirds of the time of `loop`. Python must never call it: there is no code for that, and the process
    would end.
    """
    return _compile(no_cpython_wrapper=True)(function)
