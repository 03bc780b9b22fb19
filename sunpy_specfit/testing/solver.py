"""Does a solver keep the rules?"""

from __future__ import annotations

import astropy.units as u
import numpy as np

from ..core.fit import fit
from ..core.setup import build_problem
from ..core.solver import Solver
from ..core.status import Status
from .common import check_configurable, require
from .problems import UNITS, Task, tasks

__all__ = ["check_solver"]


def check_solver(solver: Solver, *, tolerance: float = 0.1, seed: int = 0) -> None:
    """Hold a solver against small problems whose minimum is known.

    They are linear, non-linear, with active bounds, and with neighbours coupled by a prior; one pixel of each has no
    usable sample and one has gaps. The solver may refuse a problem, with a sentence. What it accepts it must solve,
    with a status for every pixel and without raising.

    Parameters
    ----------
    solver : `~sunpy_specfit.Solver`
        An instance.
    tolerance : float
        How far a parameter may be from the minimum, in sigma. The truth varies gently over the map, the minimum follows
        the noise of each pixel: a solver that makes smooth maps by design needs a few sigma.
    seed : int
        For the noise.

    Raises
    ------
    AssertionError
        With a sentence that says what to change.

    Examples
    --------
    >>> from sunpy_specfit import LevenbergMarquardt
    >>> from sunpy_specfit.testing import check_solver
    >>> check_solver(LevenbergMarquardt())
    """
    check_configurable(solver, "solver")
    who = type(solver).__name__
    refusals = {}
    problems = tasks(np.random.default_rng(seed))
    for task in problems:
        reason = solver.accepts(build_problem([task.cube], [task.model], priors=task.priors))
        require(
            reason is None or (isinstance(reason, str) and len(reason.split()) > 3),
            f"{who}.accepts should return None, or a sentence: why not, and what to use instead; found {reason!r}",
        )
        if reason is not None:
            refusals[task.name] = reason
            continue
        _check_task(solver, who, task, tolerance)
    require(len(refusals) < len(problems), f"{who} refuses every problem, even a linear one: {refusals}")


def _check_task(solver: Solver, who: str, task: Task, tolerance: float) -> None:
    try:
        result = fit(task.cube, task.model, task.priors, solver, progress=False)
    except Exception as error:
        raise AssertionError(
            f"{who} raised on the {task.name} problem, {type(error).__name__}: {error}. One of its pixels has no data: "
            "that should give a status"
        ) from error
    status = np.asarray(result.status.data).ravel()
    told = int(Status.CONVERGED | Status.MAX_ITERATIONS | Status.MASKED | Status.FAILED)
    require(
        bool((status & told > 0).all()),
        f"{who} leaves pixels of the {task.name} problem without CONVERGED, MAX_ITERATIONS or FAILED in their status",
    )
    fitted = np.arange(status.size) != 1
    require(
        bool((status[fitted] & int(Status.CONVERGED) > 0).all()),
        f"{who} did not converge on the {task.name} problem: {[Status(int(s)).name for s in status[fitted]]}",
    )
    best, sigma = task.minimum()
    for name, expected in best.items():
        found = u.Quantity(result[name].data, result[name].unit).to_value(UNITS[name]).ravel()
        distance = np.abs(found - expected)[fitted] / sigma[name][fitted]
        require(
            bool((distance <= tolerance).all()),
            f"{who}: on the {task.name} problem {name!r} ends {np.nanmax(distance):.2g} sigma from the minimum, "
            f"and {tolerance} were allowed",
        )
