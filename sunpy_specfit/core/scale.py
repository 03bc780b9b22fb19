"""Scales of priors chosen from the data, by data thinning.

Gaussian data of known noise fall into two independent halves: y + a σ ε and y - σ ε / a, with ε drawn from a standard
normal distribution. What is fitted to the first is tested on the second, and no truth is needed. The data enter as
each pixel's Gauss-Newton quadratic at a smooth first solution, in which splitting is as exact as in the samples
themselves and a trial of a scale costs one system of equations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from warnings import warn

import astropy.units as u
import numpy as np
import torch

from ..numerics import packed
from .blocks import DenseBlocks
from .curvature import Curvature
from .engine import neighbourly_start, pixel_solution
from .model import Model
from .prior import Prior
from .problem import Problem
from .quantities import Quantities
from .setup import bind_prior, smooth_names
from .solver import Solver
from .warnings import SpecfitWarning

__all__ = ["choose_scales"]

# Of the information, this part goes to fitting and the rest to testing.
_KEPT = 0.8
# Splits: their mean is what is minimised.
_SPLITS = 4
# A direction of a pixel's quadratic below this part of its size is rounding.
_SOUND = 1e-5
# Steps of a scale in the search: coarse, then fine (factors).
_COARSE, _FINE = 10**0.5, 10**0.125
_ROUNDS = 2


@dataclass
class Scales:
    """The scales of all automatic priors under search.

    Attributes
    ----------
    priors : list of Prior
    names : list of (int, str)
        For each scale the prior's number and the quantity.
    units : list of Unit
    values : list of float
    """

    priors: Sequence[Prior]
    names: list[tuple[int, str]]
    units: list[u.UnitBase]
    values: list[float]

    def bound(self, problem: Problem, models, values: Sequence[float] | None = None):
        """Priors with their scales, and bound to the problem."""
        given: list[dict[str, u.Quantity]] = [{} for _ in self.priors]
        for (number, name), unit, value in zip(self.names, self.units, values or self.values, strict=True):
            given[number][name] = value * unit
        priors = [prior.with_scales(own) for prior, own in zip(self.priors, given, strict=True)]
        return priors, [bind_prior(prior, problem.layout, problem.grid, models) for prior in priors]


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
        For each quantity what was chosen, and the curve of the criterion over the scales that were tried.

    Raises
    ------
    ValueError
        Where an operator mixes pixels: the data are no per-pixel quadratics then.

    References
    ----------
    Neufeld et al. (2024), Journal of Machine Learning Research 25, 57 (data thinning); Oliveira et al. (2021),
    https://arxiv.org/abs/2111.09447 (the error of prediction from noised copies)
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
    scales = _first_guess(problem, automatic, models, free, known)
    for _ in range(_ROUNDS):
        # The quadratics are taken where the smooth maps are: at low signal a pixel's own solution may be anywhere.
        _, bound = scales.bound(problem, models)
        trial = problem.with_priors([*problem.priors, *bound])
        free = coupled(trial).solve(trial, neighbourly_start(trial, free)[None]).free
        problem.renew_weights(free)
        curves = _Splits(problem, free, models, scales).search()
    priors, _ = scales.bound(problem, models)
    info = {}
    for (number, name), unit, value, curve in zip(scales.names, scales.units, scales.values, curves, strict=True):
        info[f"{automatic[number].name}:{name}"] = {
            "scale": float(value),
            "unit": unit.to_string(),
            "chosen_by": "data thinning",
            "tried": [s for s, _ in sorted(curve.items())],
            "error_of_prediction": [e for _, e in sorted(curve.items())],
        }
    return priors, info


class _Splits:
    """Several splits of the data's quadratics at one place: how well a trial of scales foretells the parts left out."""

    def __init__(self, problem: Problem, free: torch.Tensor, models, scales: Scales):
        self.problem, self.free, self.models, self.scales = problem, free, models, scales
        _, blocks, vector = problem.linearize(free, priors=False)
        sound = _sound(blocks.matrix)
        blocks, vector = DenseBlocks(torch.where(sound, blocks.matrix, 0.0)), torch.where(sound, vector, 0.0)
        self.blocks, self.train, self.test, self.last = blocks, [], [], [None] * _SPLITS
        generator = torch.Generator().manual_seed(problem.seed)
        spread = ((1 - _KEPT) / _KEPT) ** 0.5
        root = packed.cholesky(blocks.matrix)
        for _ in range(_SPLITS):
            noise = torch.randn(vector.shape, generator=generator, dtype=torch.float64).to(vector)
            noise = packed.lower_product(root, noise)
            self.train.append(_KEPT * (vector + spread * noise))
            self.test.append(vector - noise / spread)
        self.known: dict[tuple[float, ...], float] = {}

    def error(self, values: Sequence[float]) -> float:
        """The misfit of the test parts, up to a constant, in units of chi² of the whole data."""
        key = tuple(values)
        if key not in self.known:
            _, bound = self.scales.bound(self.problem, self.models, values)
            trial = self.problem.with_priors([*self.problem.priors, *bound])
            precondition, total = None, 0.0
            for number, (train, test) in enumerate(zip(self.train, self.test, strict=True)):
                data = (torch.zeros_like(train[0]), DenseBlocks(_KEPT * self.blocks.matrix), train)
                curvature = Curvature(trial, self.free, data=data)
                precondition = precondition or curvature.preconditioner()
                solved = curvature.solve(
                    -curvature.gradient, tolerance=1e-3, precondition=precondition, start=self.last[number]
                )
                self.last[number] = solved.x
                step = trial.unflatten(solved.x)
                total += float((step * (self.blocks.matvec(step) - 2 * test)).double().sum())
            self.known[key] = total / _SPLITS
        return self.known[key]

    def search(self) -> list[dict[float, float]]:
        """Improve one scale after the other, coarsely and then finely; the curve of each about the place chosen."""
        values = self.scales.values
        for factor in (_COARSE, _FINE):
            for _ in range(2 if len(values) > 1 else 1):
                for i in range(len(values)):
                    self._descend(i, factor)
        curves = []
        for i in range(len(values)):
            near = (values[i] * _FINE**n for n in (-8, -4, -2, -1, 0, 1, 2, 4, 8))
            curves.append({s: self.error([*values[:i], s, *values[i + 1 :]]) for s in near})
        return curves

    def _descend(self, i: int, factor: float) -> None:
        values = self.scales.values

        def at(s):
            return self.error([*values[:i], s, *values[i + 1 :]])

        begin, best = values[i], values[i]
        for direction in (factor, 1 / factor):
            moved = False
            while 1e-4 < best * direction / begin < 1e4 and at(best * direction) < at(best):
                best, moved = best * direction, True
            if moved:
                break
        values[i] = best


def _sound(matrix: torch.Tensor) -> torch.Tensor:
    """Pixels whose quadratic is more than rounding in every direction.

    One pixel in a far degenerate place, such as a line as broad as the window over a negative continuum, would outvote
    all others.
    """
    k = packed.size(matrix.shape[0])
    rows = packed.diagonal_index(k)
    left = packed.cholesky(matrix)[rows].square() / matrix[rows].clamp_min(torch.finfo(matrix.dtype).tiny)
    sound = torch.where(matrix[rows] > 0, left, 1.0).amin(0) > _SOUND
    return sound if bool(sound.any()) else torch.ones_like(sound)


def _first_guess(problem, automatic, models, free, known) -> Scales:
    """From the spread of neighbours' differences beyond that of the noise."""
    scales = Scales(automatic, [], [], [])
    covariance, undetermined = packed.inverse(problem.linearize(free)[1].matrix)
    usable = known & ~undetermined.any(0)
    for number, prior in enumerate(automatic):
        for name in prior.quantities or smooth_names(problem.layout):
            if not isinstance(prior.given_scale(name), str):
                continue
            key = problem.layout.resolve(name)
            logarithm = getattr(prior, "logarithm", False)
            unit = problem.layout.units.get(key, problem.layout.derived.get(key))
            scales.names.append((number, name))
            scales.units.append(u.dimensionless_unscaled if logarithm else unit)
            scales.values.append(_spread(problem, name, free, covariance, usable, logarithm))
    return scales


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
