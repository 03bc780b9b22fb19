"""Whole maps of vectors with fewer data than unknowns, whose pixels priors couple."""

from __future__ import annotations

import torch

from ...core.factored import FactoredCovariance
from ...core.prior import BoundPrior
from ...core.solver import Solution, Solver
from ...core.status import Status
from ...numerics import data_space, packed
from ...numerics.conjugate_gradient import conjugate_gradient
from .data_space import DataSpace
from .neighbours import Neighbours

__all__ = ["DataSpaceMap"]

# No step changes a logarithm by more than this.
_LONGEST = 4.0
# Each step is found to this part of itself; the next ones improve on it.
_EXACT = 0.15
# Where no more than this part of the pixels has still to converge, they take steps by themselves.
_FEW = 0.05
# Each pixel's own solution, where it starts, need be no better than this: steps at the most, sigma.
_START_ITERATIONS, _START_TOLERANCE = 8, 0.3
# Pixels worked on at a time.
_PIXELS = 2048


class DataSpaceMap(Solver):
    """Maps of a positive vector, such as a DEM, with a Gaussian prior on its logarithm and priors that couple pixels.

    Gauss-Newton on the numbers z of unit prior variance, of which the logarithm is m + B z; each step by conjugate
    gradients for the whole map, preconditioned by systems as large as the data, one a pixel. Errors take the neighbours
    as a homogeneous medium: what they add to a pixel's own precision is that of an endless map of average pixels.

    Parameters
    ----------
    max_iterations : int
        Gauss-Newton steps, at the most.
    tolerance : float
        Converged where the step is shorter than this many sigma.

    References
    ----------
    Hestenes & Stiefel (1952), https://doi.org/10.6028/jres.049.044; Rodgers (2000), https://doi.org/10.1142/3171

    Examples
    --------
    >>> from sunpy_specfit import DataSpaceMap
    >>> DataSpaceMap(max_iterations=10)
    DataSpaceMap(max_iterations=10)
    """

    name = "data_space_map"
    references = ("10.6028/jres.049.044", "10.1142/3171")
    preference = 70
    factored = True

    def __init__(self, *, max_iterations: int = 30, tolerance: float = 2e-2):
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def accepts(self, problem) -> str | None:
        reason = DataSpace().suits(problem)
        if reason is not None:
            return reason.replace("data_space", "data_space_map").replace("levenberg_marquardt", "gauss_newton")
        instead = "use solver='gauss_newton'"
        own = [prior for prior, _ in problem.priors if not prior.couples_pixels]
        if not own[0].logarithm:
            return f"data_space_map knows priors on the logarithm only; {instead}"
        if problem.mixes_pixels or bool(problem.shared.any()) or not problem.coupled_priors():
            return f"data_space_map is for maps whose pixels are coupled by priors and nothing else; {instead}"
        quantity = problem.layout.resolve(own[0].quantity)
        for prior, names in problem.coupled_priors():
            if type(prior).quadratic is BoundPrior.quadratic:
                return f"data_space_map needs the curvature of priors, and {type(prior).__name__} has none; {instead}"
            if [problem.layout.resolve(name) for name in names] != [quantity]:
                return f"data_space_map knows priors on {quantity!r} itself only; {instead}"
        return None

    def starter(self, problem) -> Solver:
        # Neighbours move each pixel anyway.
        return DataSpace(max_iterations=_START_ITERATIONS, tolerance=_START_TOLERANCE)

    def tells_evidence(self, problem) -> bool:
        free = torch.ones((problem.n_free, problem.n_pixels), dtype=torch.float64)
        coupled = [prior.quadratic({name: free}) for prior, (name, *_) in problem.coupled_priors()]
        return bool(coupled) and all(one.of_logarithm is not None and one.cosine is not None for one in coupled)

    def evidence(self, problem, start: torch.Tensor) -> tuple[float, torch.Tensor]:
        here = self._search(problem, start[0])[0]
        return 2 * here.energy + here.log_volume(), here.free.to(problem.device)

    def solve(self, problem, start: torch.Tensor) -> Solution:
        here, length, info = self._search(problem, start[0])
        status = torch.full((problem.n_pixels,), int(Status.MAX_ITERATIONS), dtype=torch.int32)
        status[length <= self.tolerance**2] = int(Status.CONVERGED)
        root = here.in_medium()
        leverage = torch.empty_like(length)
        for part, factor in here.factors(root):
            leverage[part] = len(factor) - data_space.trace_inverse(data_space.cholesky(data_space.gram(factor)))
        covariance = FactoredCovariance(
            response=here.response.numpy(),
            root=root.numpy(),
            scale=here.free.numpy(),
            weight=here.weight.numpy(),
            logarithm=True,
        )
        free, status, leverage = (value.to(problem.device) for value in (here.free, status, leverage))
        return Solution(free=free, status=status, covariance=covariance, leverage=leverage, info=info)

    def _search(self, problem, start: torch.Tensor) -> tuple[_Place, torch.Tensor, dict]:
        """The place of the minimum, the square of each pixel's last step in sigma, and what it took."""
        here = _Place.of(problem, start)
        damping, iterations, products = 0.0, 0, 0
        length, few = torch.full_like(here.z[0], torch.inf), None
        while iterations < self.max_iterations:
            iterations += 1
            step, spent = here.step(damping, few)
            products += spent
            longest = (here.root @ step).abs().amax(0)
            step = step * (_LONGEST / longest.clamp_min(1e-30)).clamp_max(1.0)
            there = here.moved(step, few)
            if there.energy <= here.energy + 1e-12 * abs(here.energy):
                moved = step.square().sum(0) + here.seen(step, few).square().sum(0)
                length[slice(None) if few is None else few] = moved
                here, damping = there, damping * 0.2 if damping > 1e-2 else 0.0
                left = (length > self.tolerance**2).nonzero()[:, 0]
                if not len(left):
                    break
                few = left if len(left) <= _FEW * len(length) else None
            else:
                damping, few = max(4 * damping, 0.3), None
                if damping > 1e6:
                    break
        return here, length, {"iterations": iterations, "products": products}


class _Place:
    """The objective, its slope and its curvature at some z ``(r, pixels)``."""

    def __init__(self, problem, neighbours, prior, response, data, weight, z):
        self.problem, self.neighbours, self.prior, self.response = problem, neighbours, prior, response
        self.data, self.weight, self.z = data, weight, z
        self.root = prior.root
        logarithm = torch.addmm(prior.mean[:, None], self.root, z)
        self.free = logarithm.exp()
        self.residual = (data - response @ self.free).mul_(weight)
        coupled, self.slope = neighbours.at(self.free, logarithm)
        misfit = (self.residual.square() / weight.clamp_min(1e-300)).sum()
        self.energy = 0.5 * float(misfit + z.square().sum()) + coupled
        if not self.energy < float("inf"):
            self.energy = float("inf")

    @classmethod
    def of(cls, problem, free) -> _Place:
        prior = next(p for p, _ in problem.priors if not p.couples_pixels)
        term = problem.whole().terms[0]
        _, columns = problem.whole().select(slice(0, 1)).jacobian(free[:, :1])
        response = torch.stack([column[:, 0] for column in columns], 1).double().cpu()
        inverse = torch.linalg.pinv(prior.root)
        free = free.double().cpu()
        z = inverse @ (free.clamp_min(1e-300).log() - prior.mean[:, None])
        data, weight = term.data.double().cpu(), term.weight.double().cpu()
        return cls(problem, Neighbours(problem, free), prior, response, data, weight, z)

    def moved(self, step: torch.Tensor, few: torch.Tensor | None) -> _Place:
        """The place a step away, of all pixels or of a few."""
        known = (self.problem, self.neighbours, self.prior, self.response, self.data, self.weight)
        return _Place(*known, self.z + step if few is None else self.z.index_add(1, few, step))

    def factors(self, root: torch.Tensor, few: torch.Tensor | None = None):
        """H ``(m, r, pixels)`` for some root of the prior's covariance, piece by piece, in the root's precision."""
        free, weight = (self.free, self.weight) if few is None else (self.free[:, few], self.weight[:, few])
        response = self.response[:, :, None].to(root)
        for part in (slice(i, i + _PIXELS) for i in range(0, free.shape[1], _PIXELS)):
            moved = response * free[:, part].to(root)
            yield part, torch.matmul(root.T, moved).mul_(weight[:, part].sqrt().to(root)[:, None])

    def seen(self, step: torch.Tensor, few: torch.Tensor | None) -> torch.Tensor:
        """What a step changes in the data, in sigma."""
        free, weight = (self.free, self.weight) if few is None else (self.free[:, few], self.weight[:, few])
        return weight.sqrt() * (self.response @ (free * (self.root @ step)))

    def step(self, damping: float, few: torch.Tensor | None) -> tuple[torch.Tensor, int]:
        """The Gauss-Newton step, and the products with the curvature that it took; of a few pixels each by itself.

        In z = shared · v the prior and what neighbours hold are of unit curvature, on the average. Single precision is
        enough for a step: how far it leads is measured in double.
        """
        shared = self._shared_root()
        root, own = (self.root @ shared).float(), slice(None) if few is None else few
        asked = (self.response.T @ self.residual[:, own]).mul_(self.free[:, own])
        gradient = self.z[:, own] + self.root.T @ (self.slope[:, own] - asked)
        right = -(shared.T @ gradient).float()
        # The preconditioner is 1 + Hᵀ H of each pixel, the inverse of which is 1 - Kᵀ K.
        pieces = [
            (part, data_space.whiten(data_space.cholesky(data_space.gram(factor, damping)), factor))
            for part, factor in self.factors(root, few)
        ]
        shape = right.shape

        def precondition(v):
            out = v.reshape(shape).clone()
            for part, factor in pieces:
                here = out[:, part]
                here.sub_(data_space.pull(factor, (factor * here).sum(1)))
            return out.div_(1 + damping).reshape(-1)

        if few is not None:
            return shared @ precondition(right.reshape(-1)).double().reshape(shape), 0
        lack = (shared.T @ shared - torch.eye(len(shared), dtype=shared.dtype)).float()
        held = self.neighbours.curvature(self.free.float(), root)

        def product(v):
            """The curvature less the preconditioner's."""
            v = v.reshape(shape)
            return held(v).addmm_(lack, v).reshape(-1)

        solved = conjugate_gradient(
            product, right.reshape(-1), preconditioner=precondition, tolerance=_EXACT, max_iterations=200, split=True
        )
        return shared @ solved.x.double().reshape(shape), solved.iterations

    def _shared_root(self) -> torch.Tensor:
        """A root of the inverse of 1 + Bᵀ diag(d) B, d what neighbours hold each number with, on the average."""
        held = self.neighbours.held(self.free)
        return _inverse_root(torch.eye(len(self.z), dtype=self.z.dtype) + self.root.T @ (held[:, None] * self.root))

    def in_medium(self) -> torch.Tensor:
        """The prior's root with what the neighbours add, P: B (1 + P)^(-1/2)."""
        average = self._average()
        return self.root @ _inverse_root(torch.eye(len(self.z), dtype=self.z.dtype) + self._medium(average)[0])

    def _average(self) -> torch.Tensor:
        """What a pixel with data knows of its z by itself, on the average, ``(r, r)``."""
        average = torch.zeros((len(self.z), len(self.z)), dtype=self.z.dtype)
        for _, seen in self.factors(self.root):
            rows = seen.permute(1, 0, 2).flatten(1)
            average += rows @ rows.T
        return torch.eye(len(self.z), dtype=self.z.dtype) + average / max(int((self.weight.sum(0) > 0).sum()), 1)

    def _waves(self) -> torch.Tensor:
        """What the neighbours' curvature multiplies each wave of the map with, ``(waves,)``."""
        waves = torch.zeros(1, dtype=self.z.dtype)
        for prior, (name, *_) in self.problem.coupled_priors():
            quadratic = prior.quadratic({name: self.free})
            if quadratic.cosine is not None:
                waves = waves + quadratic.cosine[name].eigenvalues.double().cpu()
            else:
                waves = waves + (quadratic.diagonal[name] * self.free.square()).mean()
        return waves

    def _medium(self, average: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What neighbours add to the precision of a pixel, P, and a pixel's covariance.

        In an endless map of pixels with the average precision a, coupled by K λ(q) among waves q, a pixel's covariance
        is the mean of (a + K λ(q))⁻¹ over all waves, which is that of a pixel by itself with the precision a + P.
        """
        waves = self._waves()
        few = waves[torch.linspace(0, len(waves) - 1, min(len(waves), 4096)).long()]
        lower = torch.linalg.inv(torch.linalg.cholesky(average))
        values, vectors = torch.linalg.eigh(lower @ (self.root.T @ self.root) @ lower.T)
        share = (1 / (1 + values.clamp_min(0)[:, None] * few)).mean(1)
        covariance = lower.T @ (vectors * share) @ vectors.T @ lower
        added = torch.linalg.inv(covariance) - average
        return 0.5 * (added + added.T), covariance

    def log_volume(self) -> float:
        """ln det of the curvature over that of the priors alone, in the same medium.

        The waves of the average medium, and for each pixel by how much it differs from the average in it.
        """
        average, pixels = self._average(), self.z.shape[1]
        added, covariance = self._medium(average)
        eye, joined, waves = torch.eye(len(average), dtype=average.dtype), self.root.T @ self.root, self._waves()
        lower = torch.linalg.inv(torch.linalg.cholesky(average))
        total = pixels * torch.logdet(average)
        for sign, matrix in ((1, lower @ joined @ lower.T), (-1, joined)):
            values = torch.linalg.eigvalsh(matrix).clamp_min(0)
            total = total + sign * torch.log1p(values[:, None] * waves.expand(pixels)).sum()
        total = total + pixels * (torch.logdet(eye + added) + torch.logdet(covariance))
        for _, factor in self.factors(self.root @ _inverse_root(eye + added)):
            reciprocal = data_space.cholesky(data_space.gram(factor))[packed.diagonal_index(len(factor))]
            total = total - 2 * reciprocal.log().sum()
        return float(total)


def _inverse_root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(1e-12).rsqrt()) @ vectors.T
