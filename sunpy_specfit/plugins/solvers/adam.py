"""Adam: steps along the gradient, each as long as the gradient is steady."""

from __future__ import annotations

import torch

from ...core.solver import Solution, Solver
from .whitened import Whitened

__all__ = ["Adam"]


class Adam(Solver):
    """Gradient descent on the one number that is to become small, for anything that PyTorch can differentiate.

    Each pixel's numbers are rotated and stretched first, so that a step of one is about one sigma, and limits are kept
    by a change of variables. It learns the weights of operators along with the maps.

    Parameters
    ----------
    max_iterations : int
        Steps, at the most; in the second half of them the learning rate falls to a thousandth.
    learning_rate : float
        The first steps' length, in sigma.
    tolerance : float
        Converged where every pixel's gradient says that less than this many sigma remain.

    References
    ----------
    Kingma & Ba (2015), https://arxiv.org/abs/1412.6980

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    >>> result = specfit.fit(gaussian_cube((2, 3)), model, solver=specfit.Adam(max_iterations=300))
    >>> result.meta["solver"]
    'Adam(max_iterations=300)'
    """

    name = "adam"
    references = ("arXiv:1412.6980",)
    preference = 10

    def __init__(self, *, max_iterations: int = 1000, learning_rate: float = 0.2, tolerance: float = 1e-2):
        self.max_iterations = max_iterations
        self.learning_rate = learning_rate
        self.tolerance = tolerance

    def solve(self, problem, start: torch.Tensor) -> Solution:
        state = Whitened(problem, start[0])
        groups = [{"params": [state.numbers], "lr": self.learning_rate}]
        for weight in state.leaves():
            size = float(weight.detach().abs().mean())
            # Nobody knows their errors: steps of some per cent of their size.
            groups.append({"params": [weight], "lr": 0.02 * self.learning_rate * (size if size > 0 else 1.0)})
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        half = max(self.max_iterations, 2) / 2
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1e-3 ** max(t / half - 1, 0))
        learns = len(groups) > 1
        iterations = 0
        while True:
            optimizer.zero_grad()
            state.loss().backward()
            # A pixel whose light is not finite stays where it is; it does not spoil the others.
            state.numbers.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            if iterations >= self.max_iterations:
                break
            if not learns and bool((state.distance() <= self.tolerance).all()):
                break
            optimizer.step()
            schedule.step()
            iterations += 1
        return state.solution(self.tolerance, iterations)
