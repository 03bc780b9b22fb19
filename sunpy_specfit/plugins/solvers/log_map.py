"""Vectors of all pixels whose logarithms have a Gaussian prior, each pixel by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch

from ...core.gaussian import BoundGaussian
from ...numerics import data_space
from ...numerics.threads import side_by_side
from .log_system import LogSystem
from .penalty_rows import PenaltyRows

__all__ = ["LogMap", "LogSolution"]

# Pixels worked on at a time, so that their numbers stay in the processor's cache.
_PIXELS = 4096
# Where of many pixels no more than this part has still to converge, those of all pieces go on together: steps take as
# long for a hundred pixels as for a thousand.
_LEFT = 8


@dataclass(frozen=True)
class LogSolution:
    """What was found, and errors and misfit there.

    Attributes
    ----------
    free : `torch.Tensor`
        The vectors, ``(k, pixels)``.
    chi2, leverage : `torch.Tensor`
        ``(pixels,)``.
    converged : `torch.Tensor`
        bool, ``(pixels,)``.
    roots : `torch.Tensor`
        Of the weights of penalties, ``(rows, pixels)``.
    iterations : int
        The most that a pixel took.
    """

    free: torch.Tensor
    chi2: torch.Tensor
    leverage: torch.Tensor
    converged: torch.Tensor
    roots: torch.Tensor
    iterations: int


class LogMap:
    """The vectors exp(mean + B z) of all pixels, z ~ N(0, 1).

    Parameters
    ----------
    prior : `~sunpy_specfit.core.gaussian.BoundGaussian`
        Of the mean and the root B.
    response : `torch.Tensor`
        What a unit of each number adds to each datum, ``(m, k)``, float64.
    data, weight : `torch.Tensor`
        ``(m, pixels)``, float64 the first.
    penalties : `PenaltyRows`, optional
        Of all pixels.
    """

    def __init__(self, prior: BoundGaussian, response, data, weight, penalties: PenaltyRows | None):
        self.prior, self.response, self.data, self.weight, self.penalties = prior, response, data, weight, penalties
        # In units of the prior's typical contribution nothing is beyond single precision.
        self.level = float(prior.mean.amax())
        self.parts = [slice(first, first + _PIXELS) for first in range(0, data.shape[1], _PIXELS)]

    def minimise(self, begin: torch.Tensor, max_iterations: int, tolerance: float) -> LogSolution:
        """The most probable vectors.

        Parameters
        ----------
        begin : `torch.Tensor`
            Where to begin, ``(k, pixels)``; where some are not above zero, the data are asked in place of it.
        max_iterations : int
            Steps, at the most.
        tolerance : float
            Converged where the step is shorter than this many sigma.
        """
        pixels = self.data.shape[1]
        single, converged = torch.empty((2, pixels), dtype=torch.bool)
        taken = torch.empty(pixels, dtype=torch.int32)
        z = torch.empty((self.prior.root.shape[1], pixels), dtype=torch.float64)

        def search(part: slice) -> None:
            single[part] = data_space.single_is_enough(self.data[:, part], self.weight[:, part])
            system = self._system(part, single[part])
            leave = len(single[part]) // _LEFT if len(self.parts) > 1 else 0
            own = self._numbers(begin[:, part], system)
            z[:, part], steps, converged[part] = system.minimise(max_iterations, tolerance, own, leave=leave)
            taken[part] = steps

        side_by_side(search, self.parts)

        # Those that have not converged go on, pixels of all pieces together.
        def go_on(index: torch.Tensor, leave: int) -> None:
            system = self._system(index, single[index])
            # With those that have the fewest steps behind them, so that every pixel may take as many as alone.
            own, begun = z[:, index].to(system.mean), int(taken[index].min())
            own, steps, converged[index] = system.minimise(max_iterations, tolerance, own, begun, leave)
            z[:, index] = own.double()
            taken[index] = (taken[index] + steps - begun).clamp_max(max_iterations).to(taken)

        for kind in (single, ~single):
            before = None
            while len(left := (kind & ~converged & (taken < max_iterations)).nonzero()[:, 0]):
                if before is not None and len(left) == before and before <= _PIXELS:
                    break  # these are stuck
                before, pieces = len(left), left.split(_PIXELS)
                side_by_side(partial(go_on, leave=_PIXELS // _LEFT if len(pieces) > 1 else 0), pieces)
        return self._ended(z, single, converged, int(taken.max()) if pixels else 0)

    def _ended(self, z, single, converged, iterations: int) -> LogSolution:
        pixels, rows = z.shape[1], 0 if self.penalties is None else len(self.penalties.response)
        free = torch.empty((len(self.prior.mean), pixels), dtype=torch.float64)
        chi2, leverage = torch.empty((2, pixels), dtype=torch.float64)
        kept = torch.empty((rows, pixels), dtype=torch.float64)
        m = len(self.response)

        def end(part: slice) -> None:
            system = self._system(part, single[part])
            own = z[:, part].to(system.mean)
            x = system.mean[:, None] + system.root @ own
            free[:, part] = (x.double() + self.level).exp()
            light = self.response @ free[:, part]
            chi2[part] = ((self.data[:, part] - light).square() * self.weight[:, part]).sum(0)
            _, _, roots = system.objective(own, x.exp())
            lower = data_space.factorize(system.jacobian(x.exp(), roots))
            leverage[part] = (m - data_space.diagonal_inverse(lower)[:m].sum(0)).double()
            kept[:, part] = roots[m:].double()

        side_by_side(end, self.parts)
        return LogSolution(free, chi2, leverage, converged, kept, iterations)

    def _system(self, pixels, single: torch.Tensor) -> LogSystem:
        """Of some pixels, in single precision where that is enough for all of them."""
        dtype = torch.float32 if bool(single.all()) else torch.float64
        penalties = None
        if self.penalties is not None:
            penalties = PenaltyRows(self.penalties.select(pixels).priors, math.exp(self.level))
        whitening = self.weight[:, pixels].sqrt()
        return LogSystem(
            (self.prior.mean - self.level).to(dtype),
            self.prior.root.to(dtype),
            (self.response * math.exp(self.level)).to(dtype),
            (whitening * self.data[:, pixels]).to(dtype),
            whitening.to(dtype),
            penalties,
        )

    def _numbers(self, begin: torch.Tensor, system: LogSystem) -> torch.Tensor | None:
        """z where the vectors are these; None where that cannot be said."""
        if not bool((begin > 0).all()):
            return None
        z = torch.linalg.pinv(self.prior.root) @ (begin.log() - self.prior.mean[:, None])
        return z.to(system.mean)
