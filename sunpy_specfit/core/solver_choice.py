"""Which solver to take: the user's where it accepts the problem, else the best of those installed."""

from __future__ import annotations

from . import registry
from .gaussian import BoundGaussian
from .problem import Problem
from .solver import Solver

__all__ = ["accepting_solver", "choose_solver", "local_solver"]


def accepting_solver(solver: Solver | None, problem: Problem) -> Solver:
    """The user's solver if it accepts the problem, or the best that does."""
    if solver is None:
        return choose_solver(problem)
    reason = solver.accepts(problem)
    if reason is not None:
        raise ValueError(reason)
    return solver


def choose_solver(problem: Problem) -> Solver:
    """The registered solver of highest preference that accepts the problem."""
    found, reasons = [], []
    for name in registry.available("solver"):
        try:
            solver = registry.get("solver", name)()
        except TypeError:
            continue  # one that needs arguments cannot be chosen automatically
        reason = solver.accepts(problem)
        if reason is None:
            found.append(solver)
        else:
            reasons.append(f"{name}: {reason}")
    if not found:
        raise ValueError("no installed solver accepts this problem. " + " ".join(reasons))
    return max(found, key=lambda solver: solver.preference)


def local_solver(problem: Problem) -> Solver | None:
    """A per-pixel solver to start a whole-map one from, if there is one."""
    if problem.mixes_pixels:
        return None
    classes = [registry.get("solver", name) for name in registry.available("solver")]
    local = [solver for solver in (cls() for cls in classes if not cls.whole_map) if solver.suits(problem) is None]
    own = [pair for pair in problem.priors if isinstance(pair[0], BoundGaussian)]
    if not local and 0 < len(own) < len(problem.priors):  # a start need not know of the others
        return local_solver(problem.with_priors(own))
    return max(local, key=lambda solver: solver.preference, default=None)
