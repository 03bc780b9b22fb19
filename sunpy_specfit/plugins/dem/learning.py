"""What a map says of its prior: the level of its DEMs, and by how much they differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...core import registry
from ...core.gaussian import BoundGaussian
from ...core.quantities import Quantities
from ...core.samples import with_light_error
from ...numerics import data_space, packed

__all__ = ["End", "Evidence", "sample_pixels"]

# So many pixels are asked; half of them for the forms without logarithm, of which less is learned.
_PIXELS = 1024
# From fewer pixels than these no common mean is learned: it would be made of each pixel's own data.
_FEWEST = 32
# Light is not taken to be known better than to this part of itself: of more, rounding would be all that is learned.
_KNOWN = 1e-5
# What is learned needs no more exact solutions.
_ITERATIONS, _TOLERANCE = 30, 0.1
# A mean has settled where a step gains no more than this, -2 ln of the evidence of all pixels; steps, at the most.
_SETTLED, _MEAN_STEPS = 0.1, 20
# Parts of a step towards a better mean that are tried.
_PARTS = (1.0, 0.4, 0.1)
# Scales are sought in steps of this factor, between these.
_STEP, _LEAST, _MOST = 2**0.5, 0.15, 6.0
# So often in turn: how bins scatter, their mean, and the error of the light. (Not until nothing changes: what few
# channels tell of many bins then grows too sure of itself.)
_SCATTER_STEPS = 8
# The usual scatter counts as much as half so many pixels a bin, and where that of the pixels is far from it, as so
# many. Of 2 and 4, tried on maps of four families (seeds 101 to 116), 4 kept log T of isothermal plasma better.
_USUAL = 4
# The least eigenvalue of that scatter, in parts of the mean of its diagonal.
_FIRM = 1e-6
# Relative errors of the light that are tried.
_ERRORS = (0.0, *(0.004 * 2 ** (n / 4) for n in range(33)))
# No step changes the logarithm of a mean by more than this.
_LONGEST = 2.0


def sample_pixels(problem, *, logarithm: bool) -> np.ndarray:
    """Some pixels, evenly spread over the map."""
    n = problem.n_pixels
    return np.unique(np.linspace(0, n - 1, min(n, _PIXELS if logarithm else _PIXELS // 2)).astype(int))


@dataclass(frozen=True)
class End:
    """What was learned of how bins scatter, and all that with it.

    ``badness`` is -2 ln of the evidence, ``departure`` the same of the scatter's own prior, each up to a constant.
    """

    badness: float
    departure: float
    mean: torch.Tensor
    uncertain: torch.Tensor
    scatter: torch.Tensor
    light_error: float


class Evidence:
    """Some pixels of a problem, asked how well a prior explains them.

    Parameters
    ----------
    problem : `~sunpy_specfit.core.problem.Problem`
    pixels : `numpy.ndarray`
    """

    def __init__(self, problem, pixels: np.ndarray):
        self.problem = problem
        block = problem.spectra(pixels, torch.float64)
        worth = block.terms[0].weight.sum(0) > 0
        self.pixels = torch.as_tensor(pixels)[worth.cpu()]
        self.block = block.select(worth.nonzero()[:, 0])
        # Small systems, for which the processor is as quick as anything.
        term = self.block.terms[0]
        self.data, self.light_error = term.data.cpu(), 0.0
        self.noise = self.weight = with_light_error(term.weight.cpu(), self.data, _KNOWN)
        self.block = replace(self.block, terms=[replace(term, weight=self.weight.to(term.weight))])
        one = problem.block(slice(0, 1), torch.float64)
        _, columns = one.jacobian(one.nothing()[0])
        self._last: torch.Tensor | None = None
        self._solved: tuple | None = None
        self._factors: list | None = None
        self.response = torch.stack([column[:, 0] for column in columns], 1).cpu()

    def forget(self) -> None:
        """Start from nothing when next asked."""
        self._last = self._solved = None

    def own(self, levels: torch.Tensor) -> torch.Tensor:
        """Of numbers for all pixels those of the sample."""
        return levels[self.pixels]

    def level(self, shape: np.ndarray) -> float:
        """By what a DEM of this shape must be multiplied to give the light of the typical pixel.

        Where no pixel has any: to give as much as the noise could hide, in the channel that would show it first.
        """
        levels = _levels(self.data, self.weight, self.response, shape)
        known = levels[torch.isfinite(levels) & (levels > 0)]
        if not len(known):
            expected = (self.response @ torch.as_tensor(shape))[:, None]
            known = 1 / (expected * self.weight.sqrt()).amax(0)
            known = known[torch.isfinite(known)]
        return float(known.median()) if len(known) else 1.0

    def pixel_level(self, shape: np.ndarray, typical: float) -> torch.Tensor:
        """The same for every pixel of the problem, ``(pixels,)``."""
        out = torch.full((self.problem.n_pixels,), typical, dtype=torch.float64)
        for part in self.problem.slices():
            term = self.problem.spectra(part, torch.float64).terms[0]
            levels = _levels(term.data.cpu(), term.weight.cpu(), self.response, shape)
            out[part] = torch.where(torch.isfinite(levels) & (levels > 0), levels, typical)
        return out

    def admit(self, error: float) -> None:
        """Let the light be off by this part of itself, beside the noise."""
        if error != self.light_error:
            term, self.light_error, self._solved = self.block.terms[0], error, None
            self.weight = with_light_error(self.noise, self.data, error)
            self.block = replace(self.block, terms=[replace(term, weight=self.weight.to(term.weight))])

    def misfit(self, prior) -> float:
        """By what part of itself the light is off, beside the noise: the most probable number given all pixels.

        In units of the noise the data depart from what the prior's mean predicts with the covariance 1 + J C Jᵀ, and
        e² diag(light²) more. Pixels are linearised about their solutions.
        """
        solution = self.solve(prior)
        free, deviation = solution.free.cpu(), self.noise.sqrt()
        light, m = self.response @ free, len(self.response)
        jacobian = self.response[:, :, None] * free * deviation[:, None]
        innovation = deviation * (self.data - light) + data_space.apply(jacobian, free.log() - prior.mean[:, None])
        moved = torch.matmul(prior.covariance, jacobian)
        told = torch.cat([(jacobian[i] * moved[: i + 1]).sum(1) for i in range(m)])
        told[packed.diagonal_index(m)] += 1
        # All errors at once: pixels last, as those of one map.
        errors = torch.tensor(_ERRORS, dtype=told.dtype)[:, None]
        relative = self.data.clamp_min(0).square() * self.noise
        told = told[:, None].expand(-1, len(errors), -1).clone()
        told[packed.diagonal_index(m)] += errors.square() * relative[:, None]
        lower = data_space.cholesky(told.flatten(1))
        left = data_space.whiten(lower, innovation.repeat(1, len(errors))).square().sum(0)
        badness = left - 2 * lower[packed.diagonal_index(m)].log().sum(0)
        return _ERRORS[int(badness.unflatten(0, (len(errors), -1)).sum(1).argmin())]

    @property
    def tells_mean(self) -> bool:
        """Whether there are pixels enough to learn from."""
        return len(self.pixels) >= _FEWEST

    def solve(self, prior):
        """The sample's pixels with some prior, from where the last ones ended."""
        known = self._solved
        if known is not None and known[0].logarithm == prior.logarithm and _same(known[0], prior):
            return known[1]
        self._factors = None
        solver = registry.get("solver", "data_space")(max_iterations=_ITERATIONS, tolerance=_TOLERANCE)
        block = _with_prior(self.block, prior, self.problem)
        start = block.nothing() if self._last is None else self._last[None]
        solution = solver.solve(block, start)
        self._last, self._solved = solution.free, (prior, solution)
        return solution

    def mean(self, prior, first: torch.Tensor, spread: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A step towards the most probable mean of a prior on logarithms, and the covariance of that mean.

        The mean's own prior is N(first, spread). The step is Newton's on the evidence of all pixels, with Fisher's
        information. Its slope is exact: what a mean changes in the width of each pixel's posterior counts as well.
        Without that a channel that holds nothing but noise would pull the mean up, for its upward fluctuations have
        steeper logarithms than its downward ones.
        """
        solution = self.solve(prior)
        known = torch.linalg.inv(spread)
        information, slope = known, -known @ (prior.mean - first)
        for part, jacobian, lower in self._linearised(solution):
            light = self.response @ solution.free[:, part].cpu()
            residual = self.weight[:, part].sqrt() * (self.data[:, part] - light)
            slope = slope + torch.einsum("mkp,mp->k", jacobian, residual)
            slope = slope - _leaning(jacobian, lower, prior.covariance).sum(1)
            seen = data_space.whiten(lower, jacobian)
            information = information + torch.einsum("mkp,mlp->kl", seen, seen)
        uncertain = torch.linalg.inv(information)
        step = uncertain @ slope
        step = step * min(1.0, _LONGEST / max(float(step.abs().max()), 1e-30))
        mean, before = prior.mean, self.badness(prior, first, known)
        for part in _PARTS:
            trial = BoundGaussian(prior.quantity, prior.mean + part * step, prior.covariance, logarithm=True)
            if self.badness(trial, first, known) < before:
                mean = trial.mean
                break
        return mean, 0.5 * (uncertain + uncertain.T)

    def settled_mean(
        self, prior, first: torch.Tensor, spread: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, float]:
        """The most probable mean near that of a prior, its covariance, and twice the logarithm of its evidence.

        The evidence is that of all means nearby, up to a constant.
        """
        known = torch.linalg.inv(spread)
        now = self.badness(prior, first, known)
        for _ in range(_MEAN_STEPS):
            mean, uncertain = self.mean(prior, first, spread)
            prior, before = BoundGaussian(prior.quantity, mean, prior.covariance, logarithm=True), now
            now = self.badness(prior, first, known)
            if before - now < _SETTLED:
                break
        return prior.mean, uncertain, float(torch.logdet(uncertain)) - now

    def badness(self, prior, first: torch.Tensor, known: torch.Tensor) -> float:
        """-2 ln of the evidence of all pixels, the mean's own prior with it, N(first, known⁻¹), up to a constant."""
        away = prior.mean - first
        return len(self.pixels) * self.criterion(prior, "evidence") + float(away @ known @ away)

    def scatter(self, prior) -> torch.Tensor:
        """The covariance of the pixels' logarithms about a prior's mean, their own uncertainty with it.

        A step of expectation maximisation, each pixel at the mean of its posterior (which leans to low values).
        """
        solution = self.solve(prior)
        total = torch.zeros_like(prior.covariance)
        for part, jacobian, lower in self._linearised(solution):
            away = solution.free[:, part].cpu().log() - prior.mean[:, None]
            lean = prior.covariance @ _leaning(jacobian, lower, prior.covariance)
            seen = prior.covariance @ data_space.whiten(lower, jacobian).permute(1, 0, 2).flatten(1)
            cross = lean @ away.T
            total = total + away @ away.T - cross - cross.T + away.shape[1] * prior.covariance - seen @ seen.T
        values, vectors = torch.linalg.eigh(total / len(self.pixels))
        return (vectors * values.clamp_min(1e-6)) @ vectors.T

    def settle(
        self,
        prior,
        first: torch.Tensor,
        spread: torch.Tensor,
        tells_error: bool,
        rival: End | None = None,
    ) -> End | None:
        """How each bin scatters, with which others, the mean, and the light's error, in turn from some prior.

        What pixels say of their own scatter counts by their number, and about the prior's covariance it has a
        matrix-F prior, whose -2 ln is the departure: an inverse Wishart's with a scale that is itself drawn about that
        covariance. It pulls at most twice as hard where the scatter is a hundredth of that as where it is a third; a
        fixed scale, which adds the same to all, pulls fifty times as hard (Mulder & Pericchi 2018,
        https://doi.org/10.1214/17-BA1092). None where it is seen to end behind a rival: each step gains less than the
        one before.
        """
        trust = len(self.pixels) / (len(self.pixels) + _USUAL * len(prior.mean))
        # So that curves smooth in all derivatives have a determinant.
        smooth = prior.covariance
        smooth = smooth + _FIRM * smooth.diagonal().mean() * torch.eye(len(smooth)).to(smooth)
        scatter, known, before = prior.covariance, torch.linalg.inv(spread), math.inf
        for left in reversed(range(_SCATTER_STEPS)):
            # Of the scale the mean, where scatter and ``smooth`` are what is known of it.
            scale = 2 * scatter @ torch.linalg.solve(scatter + smooth, smooth)
            scatter = trust * self.scatter(prior) + (1 - trust) * 0.5 * (scale + scale.T)
            prior = BoundGaussian(prior.quantity, prior.mean, scatter, logarithm=True)
            if rival is not None:
                now = self.badness(prior, first, known) + _departure(scatter, smooth)
                if now - (left + 1) * (before - now) > rival.badness + rival.departure:
                    return None
                before = now
            mean, uncertain = self.mean(prior, first, spread)
            prior = BoundGaussian(prior.quantity, mean, scatter, logarithm=True)
            if tells_error:
                self.admit(self.misfit(prior))
        badness = self.badness(prior, first, known)
        return End(badness, _departure(scatter, smooth), mean, uncertain, scatter, self.light_error)

    def _linearised(self, solution):
        """Pixels in pieces, their Jacobians in logarithms and in sigma, and the Cholesky factors of 1 + J C Jᵀ."""
        for part, scale, lower in self._factors_of(solution):
            yield part, self.response[:, :, None] * scale * self.weight[:, part].sqrt()[:, None], lower

    def _factors_of(self, solution) -> list[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Pixels in pieces, the scales of the last solution, and the Cholesky factors of 1 + H Hᵀ."""
        if self._factors is None:
            covariance = solution.covariance
            self._factors = [(part, *covariance.at(part)[::2]) for part in covariance.pieces()]
        return self._factors

    def criterion(self, prior, kind: str) -> float:
        """How badly a prior explains the sample, a pixel."""
        solution = self.solve(prior)
        chi2, free = solution.chi2.cpu(), solution.free.cpu()
        if kind == "sure":
            return float((chi2 + 2 * solution.leverage.cpu()).mean())
        if kind == "discrepancy":
            return float(chi2.sum() / (self.weight > 0).sum())
        energy = prior.energy({prior.quantity: free})
        wider = torch.where(self.noise > 0, self.noise / self.weight, 1.0).log().sum(0)
        volume = torch.cat([_log_determinant(lower) for *_, lower in self._factors_of(solution)])
        return float((chi2 + 2 * energy + volume + wider).mean())

    def choose(self, bound: Callable, first: float, kind: str) -> tuple[float, dict[float, float]]:
        """The scale of a prior that the pixels ask for, and the criterion at each that was tried (less is better).

        Sought from ``first`` in steps of a factor; the discrepancy principle takes the smallest that is good enough.
        """
        if not len(self.pixels):
            return first, {}
        curve: dict[int, float] = {}

        def ask(n: int) -> float:
            if n not in curve:
                value = self.criterion(bound(first * _STEP**n), kind)
                # Up to the noise, then the smaller the better.
                curve[n] = value if kind != "discrepancy" else (value if value > 1 else -1 / (first * _STEP**n))
            return curve[n]

        best = 0
        for direction in (-1, 1):
            while _LEAST < first * _STEP ** (best + direction) < _MOST and ask(best + direction) < ask(best):
                best += direction
            if best:
                break
        found = float(best)
        if kind != "discrepancy" and {best - 1, best + 1} <= set(curve):
            down, here, up = (curve[best + n] for n in (-1, 0, 1))
            bend = down - 2 * here + up
            found += 0.5 * (down - up) / bend if bend > 0 else 0.0
        return first * _STEP**found, {first * _STEP**n: value for n, value in sorted(curve.items())}


def _departure(scatter: torch.Tensor, smooth: torch.Tensor) -> float:
    middle, own, usual = (_log_determinant_of(m) for m in (0.5 * (scatter + smooth), scatter, smooth))
    return _USUAL * len(smooth) * (2 * middle - own - usual)


def _log_determinant_of(matrix: torch.Tensor) -> float:
    return 2 * float(torch.linalg.cholesky(matrix).diagonal().log().sum())


def _with_prior(block, prior, problem):
    quantities = Quantities(problem.layout, (prior.quantity,), problem.physical_auxiliary)
    return replace(block, priors=[(prior, quantities)])


def _same(prior, other) -> bool:
    if (prior.level is None) != (other.level is None):
        return False
    pairs = [(prior.mean, other.mean), (prior.covariance, other.covariance)]
    pairs += [(prior.level, other.level)] if prior.level is not None else []
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def _log_determinant(lower: torch.Tensor) -> torch.Tensor:
    """ln det (1 + H Hᵀ) of each pixel, from its Cholesky factor."""
    return -2 * lower[packed.diagonal_index(packed.size(len(lower)))].log().sum(0)


def _leaning(jacobian, lower, covariance) -> torch.Tensor:
    """The slope of ½ ln det (1 + J C Jᵀ) with the prior's mean, each pixel's solution moving along, ``(k, pixels)``."""
    seen = data_space.whiten(lower, jacobian)
    told = torch.matmul(covariance, seen)
    own = (seen * told).sum(0)
    return own - torch.einsum("mkp,mp->kp", seen, (told * own).sum(1))


def _levels(data, weight, response, shape: np.ndarray) -> torch.Tensor:
    """The geometric mean over channels of data over prediction, by how far each stands above its noise."""
    expected = (response @ torch.as_tensor(shape))[:, None]
    signal = data * weight.sqrt()
    good = (signal > 0) & (expected > 0)
    trust = torch.where(good, signal.square() / (9 + signal.square()), 0.0)
    ratio = torch.where(good, data, 1.0).log() - torch.where(expected > 0, expected, 1.0).log()
    return ((trust * ratio).sum(0) / trust.sum(0)).exp()
