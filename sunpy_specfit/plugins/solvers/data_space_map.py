"""Whole maps of vectors with fewer data than unknowns, whose pixels priors couple."""

from __future__ import annotations

import torch

from ...core.factored import FactoredCovariance
from ...core.prior import BoundPrior
from ...core.solver import Solution, Solver
from ...core.status import Status
from ...numerics import data_space
from ...numerics.conjugate_gradient import conjugate_gradient
from .data_space import DataSpace

__all__ = ["DataSpaceMap"]

# No step changes a logarithm by more than this.
_LONGEST = 4.0
# Each step is found to this part of itself.
_EXACT = 0.03
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

    def __init__(self, *, max_iterations: int = 30, tolerance: float = 5e-2):
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

    def solve(self, problem, start: torch.Tensor) -> Solution:
        here = _Place.of(problem, start[0])
        status = torch.full((problem.n_pixels,), int(Status.MAX_ITERATIONS), dtype=torch.int32)
        damping, iterations, products = 0.0, 0, 0
        length = torch.full_like(here.z[0], torch.inf)
        while iterations < self.max_iterations:
            iterations += 1
            step, spent = here.step(damping)
            products += spent
            longest = (here.root @ step).abs().amax(0)
            step = step * (_LONGEST / longest.clamp_min(1e-30)).clamp_max(1.0)
            there = here.moved(step)
            if there.energy <= here.energy + 1e-12 * abs(here.energy):
                length = step.square().sum(0) + here.seen(step).square().sum(0)
                here, damping = there, damping * 0.2 if damping > 1e-2 else 0.0
                if bool((length <= self.tolerance**2).all()):
                    break
            else:
                damping = max(4 * damping, 0.3)
                if damping > 1e6:
                    break
        status[length <= self.tolerance**2] = int(Status.CONVERGED)
        root = here.in_medium()
        factor = data_space.gram(here.factor_of(root))
        leverage = len(here.response) - data_space.trace_inverse(data_space.cholesky(factor))
        covariance = FactoredCovariance(
            response=here.response.numpy(),
            root=root.numpy(),
            scale=here.free.numpy(),
            weight=here.weight.numpy(),
            logarithm=True,
        )
        info = {"iterations": iterations, "products": products}
        free, status, leverage = (value.to(problem.device) for value in (here.free, status, leverage))
        return Solution(free=free, status=status, covariance=covariance, leverage=leverage, info=info)


class _Place:
    """The objective, its slope and its curvature at some z ``(r, pixels)``."""

    def __init__(self, problem, prior, response, data, weight, z):
        self.problem, self.prior, self.response = problem, prior, response
        self.data, self.weight, self.z = data, weight, z
        self.root = prior.root
        self.free = (prior.mean[:, None] + self.root @ z).exp()
        residual = data - response @ self.free
        self.residual = residual * weight.sqrt()
        coupled = sum(float(p.energy({names[0]: self.free}).sum()) for p, names in problem.coupled_priors())
        self.energy = 0.5 * float(self.residual.square().sum() + z.square().sum()) + coupled
        if not self.energy < float("inf"):
            self.energy = float("inf")
        self._quadratics = None

    @classmethod
    def of(cls, problem, free) -> _Place:
        prior = next(p for p, _ in problem.priors if not p.couples_pixels)
        term = problem.whole().terms[0]
        _, columns = problem.whole().select(slice(0, 1)).jacobian(free[:, :1])
        response = torch.stack([column[:, 0] for column in columns], 1).double().cpu()
        inverse = torch.linalg.pinv(prior.root)
        z = inverse @ (free.double().cpu().clamp_min(1e-300).log() - prior.mean[:, None])
        return cls(problem, prior, response, term.data.double().cpu(), term.weight.double().cpu(), z)

    def moved(self, step: torch.Tensor) -> _Place:
        return _Place(self.problem, self.prior, self.response, self.data, self.weight, self.z + step)

    def factor_of(self, root: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """H ``(m, r, pixels)`` for some root of the prior's covariance."""
        moved = self.response[:, :, None].to(dtype) * self.free.to(dtype)
        return torch.matmul(root.T.to(dtype), moved).mul_(self.weight.sqrt().to(dtype)[:, None])

    def seen(self, step: torch.Tensor) -> torch.Tensor:
        """What a step changes in the data, in sigma."""
        return self.weight.sqrt() * (self.response @ (self.free * (self.root @ step)))

    @property
    def quadratics(self):
        if self._quadratics is None:
            self._quadratics = [
                (p.quadratic({names[0]: self.free}), names[0]) for p, names in self.problem.coupled_priors()
            ]
        return self._quadratics

    def step(self, damping: float) -> tuple[torch.Tensor, int]:
        """The Gauss-Newton step, and the products with the curvature that it took."""
        shape, shared = self.z.shape, self._shared_root()
        # A preconditioner in single precision is as good as any.
        factor = self.factor_of(self.root @ shared, torch.float32)
        lower = data_space.cholesky(data_space.gram(factor, damping))
        asked = self.response.T @ (self.residual * self.weight.sqrt())
        gradient = self.z - self.root.T @ (self.free * asked)
        for quadratic, name in self.quadratics:
            gradient = gradient + self.root.T @ (self.free * quadratic.gradient[name])

        # In z = shared · v the prior and what neighbours hold are of unit curvature, on the average. Single precision
        # is enough for a step: how far it leads is measured in double.
        root = (self.root @ shared).float()
        # Each piece is read twice while it is in the processor's cache.
        pieces = [
            (part, factor[..., part].contiguous(), lower[:, part].contiguous())
            for part in (slice(i, i + _PIXELS) for i in range(0, shape[1], _PIXELS))
        ]
        own = (shared.T @ shared + damping * torch.eye(len(shared), dtype=shared.dtype)).float()
        free = self.free.float()
        quadratics = [(p.quadratic({n[0]: free}), n[0]) for p, n in self.problem.coupled_priors()]

        def product(v):
            v = v.reshape(shape)
            moved = free * (root @ v)
            held = torch.zeros_like(moved)
            for quadratic, name in quadratics:
                held += quadratic.matvec({name: moved})[name]
            out = torch.addmm(own @ v, root.T, held.mul_(free))
            for part, few, _ in pieces:
                out[:, part] += data_space.pull(few, (few * v[:, part]).sum(1))
            return out.reshape(-1)

        def precondition(v):
            out = v.reshape(shape).clone()
            for part, few, lower in pieces:
                out[:, part] -= data_space.pull(few, data_space.solve(lower, (few * out[:, part]).sum(1)))
            return out.div_(1 + damping).reshape(-1)

        right = -(shared.T @ gradient).float().reshape(-1)
        solved = conjugate_gradient(product, right, preconditioner=precondition, tolerance=_EXACT, max_iterations=200)
        return shared @ solved.x.double().reshape(shape), solved.iterations

    def _shared_root(self) -> torch.Tensor:
        """A root of the inverse of 1 + Bᵀ diag(d) B, d what neighbours hold each number with, on the average."""
        held = 0.0
        for quadratic, name in self.quadratics:
            held = held + (quadratic.diagonal[name] * self.free.square()).mean(1)
        return _inverse_root(torch.eye(len(self.z), dtype=self.z.dtype) + self.root.T @ (held[:, None] * self.root))

    def in_medium(self) -> torch.Tensor:
        """The prior's root with what the neighbours add: B (1 + P)^(-1/2).

        In an endless map of pixels with the average precision a, coupled by K λ(q) among waves q, a pixel's covariance
        is the mean of (a + K λ(q))⁻¹ over all waves, which is that of a pixel by itself with the precision a + P.
        """
        eye = torch.eye(len(self.z), dtype=self.z.dtype)
        seen = self.factor_of(self.root)[..., self.weight.sum(0) > 0]
        average = eye + torch.einsum("mrp,msp->rs", seen, seen) / max(seen.shape[-1], 1)
        coupling, waves = self.root.T @ self.root, 0.0
        for quadratic, name in self.quadratics:
            told = quadratic.cosine
            if told is not None:
                waves = waves + told[name].eigenvalues.double()
            else:
                waves = waves + (quadratic.diagonal[name] * self.free.square()).mean()
        lower = torch.linalg.inv(torch.linalg.cholesky(average))
        values, vectors = torch.linalg.eigh(lower @ coupling @ lower.T)
        waves = torch.as_tensor(waves, dtype=self.z.dtype).reshape(-1)
        few = waves[torch.linspace(0, len(waves) - 1, min(len(waves), 4096)).long()]
        share = (1 / (1 + values.clamp_min(0)[:, None] * few)).mean(1)
        covariance = lower.T @ (vectors * share) @ vectors.T @ lower
        added = torch.linalg.inv(covariance) - average
        return self.root @ _inverse_root(eye + 0.5 * (added + added.T))


def _inverse_root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(1e-12).rsqrt()) @ vectors.T
