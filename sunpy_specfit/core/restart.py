"""Other starts for pixels whose fit is poor."""

from __future__ import annotations

import torch

from .pixels import PixelBlock
from .solver import Solution, Solver

__all__ = ["restart"]

# Poor is a chi-squared so many sigma above what noise alone leaves.
_POOR = 4.0
# Starts at the most, and how many in a row may come to nothing.
_ROUNDS, _IDLE = 8, 2


def restart(solver: Solver, block: PixelBlock, solution: Solution, seed: int, put) -> Solution:
    """Solve again from what the models offer in `Model.restart_values`, where chi-squared is poor, and keep the best.

    The draws are the same for all pixels, so that no pixel's answer depends on which others are fitted beside it.

    Parameters
    ----------
    solver : `Solver`
    block : `PixelBlock`
    solution : `Solution`
        Changed in place; without its quadratic nothing is known of chi-squared, and nothing is done.
    seed : int
    put : callable
        ``put(solution, index, other, which)`` replaces some pixels of a solution.
    """
    if solution.quadratic is None or not any(
        component.restart_values is not None for data in block.terms for component in data.term.model.components
    ):
        return solution
    generator = torch.Generator().manual_seed(seed)
    freedom = (block.n_valid - block.n_free).clamp_min(1)
    limit = 0.5 * (freedom + _POOR * (2.0 * freedom).sqrt()).to(solution.free)
    idle = torch.zeros_like(freedom)
    for attempt in range(_ROUNDS):
        objective = solution.quadratic[0]
        index = ((objective > limit) & (idle < _IDLE)).nonzero()[:, 0]
        if not len(index):
            break
        part = block.select(index)
        start = _offered(part, solution.free[:, index], attempt, generator)
        again = solver.solve(part, start[None])
        before, after = objective[index], again.quadratic[0]
        better = after < before - 1e-4 * before.abs()
        idle[index] = torch.where(better, 0, idle[index] + 1)
        put(solution, index[better], again, better)
    return solution


def _offered(block: PixelBlock, free: torch.Tensor, attempt: int, generator: torch.Generator) -> torch.Tensor:
    """Free numbers ``(k, pixels)``: the models' offers, and what they say nothing of as it is."""
    start, theta = free.clone(), block.theta(free)
    for data in block.terms:
        layout = data.term.layout
        for number, index in enumerate(data.term.component_indices):
            component, keys = layout.components[index], layout.keys[index]
            if component.restart_values is None:
                continue
            draws = torch.rand(len(component.parameters), generator=generator, dtype=torch.float64).tolist()
            values = data.term.inputs(theta, number)
            offers = component.restart_values(
                data.x, data.data, data.weight, values, attempt, draws, **data.auxiliary[number]
            )
            for name, value in offers.items():
                columns = layout.columns.get(keys[name])
                if columns is not None:
                    start[columns] = value.reshape(columns.stop - columns.start, -1).to(start)
    return start
