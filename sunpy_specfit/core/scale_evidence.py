"""Automatic scales by evidence: those under which the data are most probable."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .problem import Problem

__all__ = ["most_probable", "neighbours_apart"]

# Scales are sought in steps of the first factor, then of the second, within this factor of where the search begins.
_STEPS, _RANGE = (2.0, 2**0.5), 300.0


def neighbours_apart(problem: Problem, q: torch.Tensor, logarithm: bool) -> float:
    """By how much a quantity ``(..., pixels)`` typically differs between neighbours: where a search may begin."""
    q = q.double().clamp_min(1e-15).log() if logarithm else q.double()
    image = q.reshape(*q.shape[:-1], *problem.grid.shape)
    steps = [image.diff(dim=-1 - axis).reshape(-1) for axis in range(len(problem.grid.shape))]
    steps = torch.cat([*steps, q.new_zeros(0)])
    steps = steps[torch.isfinite(steps) & (steps != 0)]
    return float(steps.abs().median() / 0.6745) if len(steps) else 1.0


def most_probable(
    values: list[float], largest: list[float], problem_with: Callable, coupled: Callable, free: torch.Tensor
) -> tuple[list[float], list[dict[float, float]]]:
    """The scales of the greatest evidence, one after the other, and for each what was tried: -2 ln evidence.

    Parameters
    ----------
    values : list of float
        Where to begin.
    largest : list of float
        What none may exceed.
    problem_with : callable
        The problem with priors of some scales.
    coupled : callable
        A solver for it, which knows its evidence.
    free : `torch.Tensor`
        Where to start.

    References
    ----------
    MacKay (1992), https://doi.org/10.1162/neco.1992.4.3.415
    """
    known: dict[tuple[float, ...], float] = {}

    def ask(trial: list[float]) -> float:
        nonlocal free
        if tuple(trial) not in known:
            problem = problem_with(trial)
            known[tuple(trial)], free = coupled(problem).evidence(problem, free[None])
        return known[tuple(trial)]

    values, begin = list(values), list(values)
    for factor in _STEPS:
        for i in range(len(values)):
            for step in (1 / factor, factor):
                moved = False
                while True:
                    trial = [*values[:i], values[i] * step, *values[i + 1 :]]
                    within = 1 / _RANGE < trial[i] / begin[i] < _RANGE and trial[i] <= largest[i]
                    if not (within and ask(trial) < ask(values)):
                        break
                    values, moved = trial, True
                if moved:
                    break
    curves = []
    for i in range(len(values)):
        same = [s for s in known if all(s[j] == values[j] for j in range(len(values)) if j != i)]
        curves.append({s[i]: known[s] for s in same})
    return values, curves
