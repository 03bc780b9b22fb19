"""Scales of priors chosen from the data.

A scale is good where the maps that it makes foretell data that they have not seen. How well they do is known without
the truth (`sunpy_specfit.core.risk`): by SURE where the noise is Gaussian and known, each pixel determines its numbers
and the priors are quadratics or at least convex, else by data thinning. The data enter as each pixel's Gauss-Newton
quadratic at a smooth first solution, less what is noise of its own, so that a trial of a scale costs a few systems of
equations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from warnings import warn

import astropy.units as u
import numpy as np
import torch

from ..numerics import packed
from .coupling import Coupling
from .engine import neighbourly_start, pixel_solution
from .model import Model
from .prior import Prior
from .problem import Problem
from .quantities import Quantities
from .risk import Quadratics, Sure, Thinning
from .risk_curve import Unsettled
from .scale_evidence import most_probable, neighbours_apart
from .scale_search import search
from .setup import bind_prior, smooth_names
from .shrinkage import shrink
from .solver import Solver
from .warnings import SpecfitWarning

__all__ = ["choose_scales"]

# Where the quadratics are taken again at the maps of the scales found: rounds at the most, and by what factor a scale
# may change in the last.
_ROUNDS, _SAME = 4, 1.4
# So few pixels, of a map that has none in most, tell next to nothing of a scale.
_FEWEST = 32


@dataclass
class Scales:
    """The scales of all automatic priors under search.

    Attributes
    ----------
    priors : list of Prior
    names : list of (int, tuple of str)
        For each scale the prior's number and the quantities: one, or all parts of a vector.
    units : list of Unit
    values : list of float
    """

    priors: Sequence[Prior]
    names: list[tuple[int, tuple[str, ...]]]
    units: list[u.UnitBase]
    values: list[float]

    @property
    def largest(self) -> list[float]:
        """The largest that each may be."""
        return [self.priors[number].largest_scale for number, _ in self.names]

    def join(self, first: int) -> None:
        """Make one scale of those from a number on, if they are of one unit: which way a vector points is no matter."""
        if len(set(self.units[first:])) != 1:
            return
        names = tuple(name for _, own in self.names[first:] for name in own)
        self.names[first:] = [(self.names[first][0], names)]
        self.values[first:] = [float(np.exp(np.mean(np.log(self.values[first:]))))]
        del self.units[first + 1 :]

    def bound(self, problem: Problem, models, values: Sequence[float] | None = None):
        """Priors with their scales, and bound to the problem."""
        given: list[dict[str, u.Quantity]] = [{} for _ in self.priors]
        for (number, names), unit, value in zip(self.names, self.units, values or self.values, strict=True):
            given[number] |= dict.fromkeys(names, value * unit)
        priors = [prior.with_scales(own) for prior, own in zip(self.priors, given, strict=True)]
        return priors, [bind_prior(prior, problem.layout, problem.grid, models) for prior in priors]

    def problem(self, problem: Problem, models, values: Sequence[float] | None = None) -> Problem:
        """The problem with all priors."""
        return problem.with_priors([*problem.priors, *self.bound(problem, models, values)[1]])

    @classmethod
    def named(cls, problem: Problem, priors: Sequence[Prior], value: Callable[[str, bool], float]) -> Scales:
        """All that are to be chosen; ``value`` tells where to begin, by name and whether of the logarithm."""
        scales = cls(priors, [], [], [])
        for number, prior in enumerate(priors):
            first = len(scales.names)
            for name in prior.quantities or smooth_names(problem.layout):
                if not isinstance(prior.given_scale(name), str):
                    continue
                key = problem.layout.resolve(name)
                unit = problem.layout.units.get(key, problem.layout.derived.get(key))
                scales.names.append((number, (name,)))
                scales.units.append(prior.scale_unit(unit))
                scales.values.append(prior.first_scale or value(name, getattr(prior, "logarithm", False)))
            if getattr(prior, "joint", False):
                scales.join(first)
        return scales

    def told(self, curves: Sequence[Mapping[float, float]], chosen_by: str, criterion: str) -> dict[str, dict]:
        """What was chosen, and the criterion at each scale that was tried, by prior and quantity."""
        info: dict[str, dict] = {}
        for (number, names), unit, value, curve in zip(self.names, self.units, self.values, curves, strict=True):
            for name in names:
                key = f"{self.priors[number].name}:{name}"
                same = sum(k == key or k.startswith(key + ":") for k in info)
                info[f"{key}:{same + 1}" if same else key] = {
                    "scale": float(value),
                    "unit": unit.to_string(),
                    "chosen_by": chosen_by,
                    "tried": [s for s, _ in sorted(curve.items())],
                    criterion: [e for _, e in sorted(curve.items())],
                }
        return info


def choose_scales(
    problem: Problem,
    automatic: Sequence[Prior],
    models: Sequence[Model],
    init: Mapping[str, np.ndarray],
    local: Solver,
    coupled: Callable[[Problem], Solver],
) -> tuple[list[Prior], dict]:
    """Choose every automatic scale.

    Parameters
    ----------
    problem : `Problem`
        With all priors whose scale is known.
    automatic : sequence of `Prior`
        Those whose scale is to be chosen.
    models : sequence of `Model`
    init : mapping
        Start values by key, internal.
    local : `Solver`
        One that fits pixel by pixel.
    coupled : callable
        Returns a solver for a problem whose pixels are coupled.

    Returns
    -------
    priors : list of `Prior`
        The automatic ones, with their scales.
    info : dict
        For each prior and quantity ("smooth:velocity"; "smooth:velocity:2" for a second prior of that kind on it) what
        was chosen, and the curve of the criterion over the scales that were tried.

    Raises
    ------
    ValueError
        Where an operator mixes pixels: the data are no per-pixel quadratics then.
    """
    if problem.mixes_pixels:
        raise ValueError(
            "scale='auto' is found from per-pixel quadratics, and an operator mixes the pixels here: give the scale"
        )
    if any(term.observation.noise_origin == "estimated" for term in problem.terms):
        warn(
            "the prior's scale is chosen by the noise, and the noise of these data is itself an estimate: give "
            "uncertainty= for a scale to rely on",
            SpecfitWarning,
            stacklevel=4,
        )
    free, known = pixel_solution(problem, local, init)
    problem.renew_weights(free)
    scales = _by_evidence(problem, automatic, models, free, known, coupled)
    if scales is not None:
        return scales
    scales = _first_guess(problem, automatic, models, free, known)
    # A number that all pixels share is one from here on: steps move all of it.
    free = problem.unflatten(problem.flatten(free)) if bool(problem.shared.any()) else free
    earlier, curves = None, []
    for _ in range(_ROUNDS):
        trial = scales.problem(problem, models)
        # The quadratics are taken where the smooth maps are: at low signal a pixel's own solution may be anywhere.
        # Where all is linear they are the same everywhere.
        if not trial.is_quadratic:
            free = _maps(trial, coupled(trial), free, init)
        problem.renew_weights(free)
        quadratics = Quadratics(problem, shrink(problem, free))
        if earlier is not None and quadratics.equal(earlier):
            break  # the model is linear: nothing would change
        earlier = quadratics
        risk = _criterion(trial, quadratics, lambda values: scales.problem(problem, models, values), coupled)
        groups = _groups(scales, trial, free, quadratics)
        before = scales.values
        scales.values, curves = _search(risk, groups, before)
        if trial.is_quadratic or all(
            1 / _SAME < new / old < _SAME for new, old in zip(scales.values, before, strict=True)
        ):
            break
    return scales.bound(problem, models)[0], scales.told(curves, risk.name, "error_of_prediction")


def _by_evidence(problem, automatic, models, free, known, coupled) -> tuple[list[Prior], dict] | None:
    """The most probable scales, where the solver knows how probable they make the data; without data the first."""
    theta = problem.whole().theta(free)

    def value(name, logarithm):
        quantities = Quantities(problem.layout, (name,), problem.physical_auxiliary)
        return neighbours_apart(problem, quantities.linearize(theta, problem.transform)[0][name], logarithm)

    scales = Scales.named(problem, automatic, value)
    trial = scales.problem(problem, models)
    if not coupled(trial).tells_evidence(trial):
        return None
    curves: list[dict[float, float]] = [{} for _ in scales.values]
    if bool(known.any()):
        if int(known.sum()) < min(_FEWEST, known.numel() / 2):
            warn(
                f"only {int(known.sum())} of {known.numel()} pixels have data, too few to tell how maps vary: what was "
                f"chosen for {' and '.join(type(prior).__name__ for prior in automatic)} is little more than a guess. "
                "Give the scale or the length",
                SpecfitWarning,
                stacklevel=5,
            )
        scales.values, curves = most_probable(
            scales.values, scales.largest, lambda values: scales.problem(problem, models, values), coupled, free
        )
    return scales.bound(problem, models)[0], scales.told(curves, "evidence", "evidence")


def _maps(trial: Problem, solver: Solver, free: torch.Tensor, init: Mapping[str, np.ndarray]) -> torch.Tensor:
    """The solution with all priors, from that of the pixels alone."""
    if not solver.whole_map:
        return pixel_solution(trial, solver, init)[0]
    return solver.solve(trial, neighbourly_start(trial, free)[None]).free


def _criterion(trial: Problem, quadratics: Quadratics, with_scales, coupled) -> Sure | Thinning:
    """SURE where its assumptions hold."""
    if coupled(trial).uses_proximal:
        return Thinning(quadratics, with_scales, coupled)
    known = not any(term.observation.noise_origin == "estimated" for term in trial.terms)
    coupling = [prior for prior, _ in trial.priors if prior.couples_pixels]
    # What is a quadratic about one place need not be one at other scales: priors must say so of themselves.
    linear = all(prior.is_quadratic for prior in coupling)
    convex = all(prior.is_quadratic or prior.is_convex for prior in coupling)
    if trial.loss_name == "gaussian" and known and quadratics.well_posed and convex:
        if not linear or trial.is_quadratic or quadratics.linear(trial):
            return Sure(quadratics, with_scales, linear=linear)
    return Thinning(quadratics, with_scales)


def _search(risk: Sure | Thinning, groups, values: list[float]) -> tuple[list[float], list[dict[float, float]]]:
    """The best scales from some on: along curves that are known at once, where they are, else by trials."""
    numbers, errors = [own for own, _ in groups], _by_group(risk, [rows for _, rows in groups])
    if isinstance(risk, Sure):
        risk.search_among(groups, values)
        with suppress(Unsettled):
            return search(values, numbers, errors)
    return search(values, numbers, errors)


def _by_group(risk: Sure | Thinning, rows: Sequence[Sequence[int]]):
    """The error of each group of free numbers."""

    def errors(values):
        parts = risk.errors(values)
        return [float(parts[own].sum()) for own in rows]

    return errors


def _groups(scales: Scales, trial: Problem, free, quadratics: Quadratics) -> list[tuple[list[int], list[int]]]:
    """Scales that must be searched together, each set with the free numbers that they bear on."""
    theta, found = trial.whole().theta(free), []
    joined = quadratics.groups(Coupling(trial, free).joined)
    for rows in joined:
        found.append(([], rows))
    for i, (_, (name, *_)) in enumerate(scales.names):
        _, columns = Quantities(trial.layout, (name,), trial.physical_auxiliary).linearize(theta, trial.transform)
        bears = [j for j, column in enumerate(columns) if bool((column[name] != 0).any())]
        number = next((n for n, rows in enumerate(joined) if bears and bears[0] in rows), 0)
        found[number][0].append(i)
    return [(numbers, rows) for numbers, rows in found if numbers]


def _first_guess(problem, automatic, models, free, known) -> Scales:
    """From the spread of neighbours' differences beyond that of the noise."""
    covariance, undetermined = packed.inverse(problem.linearize(free)[1].matrix)
    usable = known & ~undetermined.any(0)

    def value(name, logarithm):
        return _spread(problem, name, free, covariance, usable, logarithm)

    return Scales.named(problem, automatic, value)


def _spread(problem, name: str, free, covariance, usable, logarithm: bool) -> float:
    quantities = Quantities(problem.layout, (name,), problem.physical_auxiliary)
    maps, columns = quantities.linearize(problem.whole().theta(free), problem.transform)
    q = maps[name].double()
    slopes = torch.stack([column[name].double() for column in columns])
    finite = torch.where(torch.isfinite(covariance), covariance, 0.0)
    if q.ndim > 1:
        q, slopes = q[q.shape[0] // 2], slopes[:, q.shape[0] // 2]
    variance = (slopes * packed.matvec(finite, slopes)).sum(0)
    if logarithm:
        q, variance = q.abs().clamp_min(1e-15).log(), variance / q.square().clamp_min(1e-30)
    q = torch.where(usable, q, torch.nan).reshape(problem.grid.shape)
    variance = variance.reshape(problem.grid.shape)
    steps, noises = [], []
    for dim in range(q.ndim):
        steps.append(q.diff(dim=dim).reshape(-1))
        noises.append(2 * variance.narrow(dim, 0, max(q.shape[dim] - 1, 0)).reshape(-1))
    steps, noises = torch.cat(steps), torch.cat(noises)
    good = torch.isfinite(steps)
    if not bool(good.any()):
        return 1.0
    total = float(steps[good].abs().median() / 0.6745) ** 2
    noise = float(noises[good].median())
    guess = max(total - noise, 0.1 * total, 0.01 * noise) ** 0.5
    return guess if guess > 0 else 1.0
