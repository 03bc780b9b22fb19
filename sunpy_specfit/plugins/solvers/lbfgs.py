"""L-BFGS: steps along the gradient, corrected by the curvature that the last steps met."""

from __future__ import annotations

import torch

from ...core.solver import Solution, Solver
from .whitened import Whitened

__all__ = ["LBFGS"]

# How often arriving calls for another look.
_RENEWALS = 2


class LBFGS(Solver):
    """Quasi-Newton descent with line searches, for anything that PyTorch can differentiate.

    Each pixel's numbers are rotated and stretched first, so that curvatures are about one, and limits are kept by a
    change of variables. All pixels share one line search.

    Parameters
    ----------
    max_iterations : int
        Line searches, at the most.
    tolerance : float
        Converged where every pixel's gradient says that less than this many sigma remain.
    history : int
        Steps remembered.

    References
    ----------
    Liu & Nocedal (1989), https://doi.org/10.1007/BF01589116

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    >>> result = specfit.fit(gaussian_cube((2, 3)), model, solver="lbfgs")
    >>> result.meta["solver"]
    'LBFGS()'
    """

    name = "lbfgs"
    references = ("10.1007/BF01589116",)
    preference = 5

    def __init__(self, *, max_iterations: int = 300, tolerance: float = 1e-2, history: int = 20):
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.history = history

    def solve(self, problem, start: torch.Tensor) -> Solution:
        state = Whitened(problem, start[0])
        parameters = [state.numbers, *state.leaves()]
        iterations, stalled, renewals = 0, 0, 0
        # Ten line searches at a time, then a look at who has arrived; a restart forgets a misleading history.
        optimizer = self._optimizer(parameters)

        def closure():
            optimizer.zero_grad()
            loss = state.loss()
            loss.backward()
            state.numbers.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            return loss

        last = torch.inf
        while True:
            loss = float(closure().detach())
            if bool((state.distance() <= self.tolerance).all()) and len(parameters) == 1:
                if renewals == _RENEWALS:
                    break
                # Sigma was that of the start: whether this is the end, the curvature here must tell.
                renewals, last = renewals + 1, torch.inf
                state = Whitened(problem, state.free().detach())
                parameters = [state.numbers]
                optimizer = self._optimizer(parameters)
                continue
            stalled = stalled + 1 if not loss < last - 1e-10 * abs(last) else 0
            if iterations >= self.max_iterations or stalled == 2:
                break
            if stalled:
                optimizer = self._optimizer(parameters)
            last = loss
            optimizer.step(closure)
            iterations += 10
        return state.solution(self.tolerance, iterations)

    def _optimizer(self, parameters):
        return torch.optim.LBFGS(
            parameters,
            lr=1.0,
            max_iter=10,
            history_size=self.history,
            tolerance_grad=1e-12,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
