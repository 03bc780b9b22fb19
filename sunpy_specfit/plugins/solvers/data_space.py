"""More unknowns than data, and a Gaussian prior: systems as large as the data."""

from __future__ import annotations

import math

import torch

from ...core.factored import FactoredCovariance
from ...core.gaussian import BoundGaussian
from ...core.solver import Solution, Solver
from ...core.status import Status
from ...numerics import data_space, packed

__all__ = ["DataSpace"]

# Pixels worked on at a time, so that their numbers stay in the processor's cache.
_PIXELS = 4096
# Above this signal-to-noise ratio single precision loses what the best measured direction says.
_SINGLE = 300.0
# Where no datum stands this many sigma above nothing, the answer is the prior's.
_FAINT = 3.0
# No step changes a logarithm by more than this.
_LONGEST = 4.0
# Where Gauss-Newton has not converged after so many steps, the curvature that it leaves out counts.
_GAUSS_NEWTON = 14
# So many steps are taken on the logarithm of the data that stand this many sigma above nothing.
_FAR_STEPS, _CLEAR = 3, 3.0


class DataSpace(Solver):
    """The posterior of a vector of which there are fewer data than unknowns, such as a DEM, from m by m systems.

    With a Gaussian prior of mean m and covariance B Bᵀ on the vector, or on its logarithm, the unknowns are m + B z
    with z ~ N(0, 1). A linear model is solved at once. On the logarithm, where positivity is exact, each step is the
    Gauss-Newton step from where the last one ended, damped where the objective would rise. Bounded from below at zero,
    without the logarithm, an active set is kept.

    Parameters
    ----------
    max_iterations : int
        Steps, at the most.
    tolerance : float
        Converged where the step is shorter than this many sigma.

    References
    ----------
    Rodgers (2000), Inverse Methods for Atmospheric Sounding, https://doi.org/10.1142/3171, equation 5.10; Tarantola
    (2005), https://doi.org/10.1137/1.9780898717921; Bertsekas (1982), https://doi.org/10.1137/0320018

    Examples
    --------
    >>> from sunpy_specfit import DataSpace
    >>> DataSpace(tolerance=1e-3)
    DataSpace(tolerance=0.001)
    """

    name = "data_space"
    references = ("10.1142/3171", "10.1137/1.9780898717921")
    preference = 70
    whole_map = False
    needs_start = False
    factored = True

    def __init__(self, *, max_iterations: int = 50, tolerance: float = 1e-2):
        self.max_iterations = max_iterations
        self.tolerance = tolerance

    def accepts(self, problem) -> str | None:
        reason = self.suits(problem)
        if reason is None and problem.couples_pixels:
            reason = (
                "data_space solves pixel by pixel, and a prior, an operator or a shared parameter couples the pixels "
                "here; use solver='gauss_newton'"
            )
        return reason

    def suits(self, problem) -> str | None:
        own = [prior for prior, _ in problem.priors if not prior.couples_pixels]
        instead = "use solver='levenberg_marquardt'"
        if len(own) != 1 or not isinstance(own[0], BoundGaussian):
            return f"data_space needs one Gaussian prior with a full covariance on a vector, and no other; {instead}"
        if not problem.is_linear:
            return f"data_space needs a model that is linear in all that is free, and Gaussian noise; {instead}"
        layout = problem.layout
        one = len(problem.terms) == 1 and problem.terms[0].frame.is_identity and problem.simple
        if (
            not one
            or layout.free_keys != (layout.resolve(own[0].quantity),)
            or any(t.model.operators for t in problem.terms)
        ):
            return f"data_space knows a single vector and nothing else; {instead}"
        if bool(torch.isfinite(problem.upper).any()):
            return f"data_space keeps no upper bounds; {instead}"
        if own[0].logarithm and not bool((problem.lower == 0).all()):
            return f"a prior on the logarithm needs a lower bound of zero; {instead}"
        return None

    def solve(self, problem, start: torch.Tensor) -> Solution:
        prior = problem.priors[0][0]
        term = problem.terms[0]
        _, columns = problem.select(slice(0, 1)).jacobian(start[0][:, :1])
        response = torch.stack([column[:, 0] for column in columns], 1).double().cpu()
        m = response.shape[0]
        if len(columns[0]) != m or term.data.ndim != 2:
            raise ValueError("data_space knows one Stokes parameter only")
        if prior.logarithm:
            method = self._logarithm
        elif bool(torch.isfinite(problem.lower).any()):
            method = self._non_negative
        else:
            method = self._linear
        # On the processor, wherever the data are: the systems are tiny, and fit its cache.
        pixels, data, weight = problem.n_pixels, term.data.cpu(), term.weight.cpu()
        free = torch.empty((len(columns), pixels), dtype=torch.float64)
        chi2 = torch.empty(pixels, dtype=torch.float64)
        leverage, status = torch.empty_like(chi2), torch.empty(pixels, dtype=torch.int32)
        most, begin = 0, start[0].double().cpu()
        for first in range(0, pixels, _PIXELS):
            part = slice(first, min(first + _PIXELS, pixels))
            inputs = (prior.select(part), response, data[:, part].double(), weight[:, part].double())
            out = method(*inputs, begin[:, part]) if prior.logarithm else method(*inputs)
            free[:, part], chi2[part], leverage[part], status[part], iterations = out
            most = max(most, iterations)
        faint = (data * weight.sqrt()).amax(0) < _FAINT
        status = torch.where(faint, status | int(Status.LOW_SIGNAL), status)
        if prior.logarithm:
            scale = free
        else:
            scale = torch.ones((1, pixels)) if prior.level is None else prior.level[None]
        covariance = FactoredCovariance(
            response=response.numpy(),
            root=prior.root.numpy(),
            scale=scale.numpy(),
            weight=weight.contiguous().numpy(),
            logarithm=prior.logarithm,
        )
        free, chi2, leverage, status = (value.to(problem.device) for value in (free, chi2, leverage, status))
        return Solution(
            free=free, status=status, covariance=covariance, leverage=leverage, chi2=chi2, info={"iterations": most}
        )

    # -- linear ----------------------------------------------------------------------------------

    @staticmethod
    def _linear(prior, response, data, weight):
        """z = Hᵀ (1 + H Hᵀ)⁻¹ d, without ever forming H: it is the same for all pixels but for a factor a channel."""
        mean, root = prior.mean, prior.root
        base = response @ root
        scale = weight.sqrt() if prior.level is None else weight.sqrt() * prior.level
        d = weight.sqrt() * data - scale * (response @ mean)[:, None]
        lower = data_space.cholesky(_scaled_gram(base, scale))
        told = data_space.solve(lower, d)
        free = mean[:, None] + (root @ base.T) @ (scale * told)
        if prior.level is not None:
            free = free * prior.level
        # What is left of the data is (1 + H Hᵀ)⁻¹ d itself.
        chi2 = told.square().sum(0)
        leverage = len(base) - data_space.trace_inverse(lower)
        status = torch.full((data.shape[-1],), int(Status.CONVERGED), dtype=torch.int32, device=data.device)
        return free, chi2, leverage, status, 1

    # -- the logarithm ---------------------------------------------------------------------------

    def _logarithm(self, prior, response, data, weight, begin):
        single = float((data.square() * weight).amax()) ** 0.5 < _SINGLE
        dtype = torch.float32 if single else torch.float64
        # In units of the prior's typical contribution nothing is beyond single precision.
        level = float(prior.mean.amax())
        mean = (prior.mean - level).to(dtype)
        root = prior.root.to(dtype)
        whitening = weight.sqrt()
        response = response * math.exp(level)
        scaled = _LogSystem(mean, root, response.to(dtype), (whitening * data).to(dtype), whitening.to(dtype))
        z = None
        if bool((begin > 0).all()):
            z = torch.linalg.pinv(prior.root) @ (begin.log() - prior.mean[:, None])
            z = z.to(dtype)
        z, iterations, converged = scaled.minimise(self.max_iterations, self.tolerance, z)
        # Errors and misfit at the end, for all.
        x = mean[:, None] + root @ z
        free = (x.double() + level).exp()
        light = (response / math.exp(level)) @ free
        chi2 = ((data - light).square() * weight).sum(0)
        lower = data_space.cholesky(data_space.gram(scaled.jacobian(x.exp())))
        leverage = response.shape[0] - data_space.trace_inverse(lower)
        status = torch.where(converged, int(Status.CONVERGED), int(Status.MAX_ITERATIONS)).to(torch.int32)
        return free, chi2, leverage, status, iterations

    # -- at or above zero ------------------------------------------------------------------------

    def _non_negative(self, prior, response, data, weight):
        """Projected Newton steps on the numbers that are not held at zero."""
        k = response.shape[1]
        level = torch.ones_like(data[0]) if prior.level is None else prior.level
        whitened = (response[:, :, None] * (weight.sqrt() * level)[:, None]).permute(2, 0, 1)  # (pixels, m, k)
        precision = prior.precision
        hessian = whitened.mT @ whitened + precision
        right = (whitened * (weight.sqrt() * data).T[:, :, None]).sum(1) + precision @ prior.mean
        v = prior.mean.clamp_min(0).expand(len(hessian), k).clone()
        converged = torch.zeros(len(v), dtype=torch.bool, device=v.device)
        active, iterations = torch.arange(len(v), device=v.device), 0
        while len(active) and iterations < self.max_iterations:
            iterations += 1
            h, b, here = hessian[active], right[active], v[active]
            gradient = (h @ here[..., None])[..., 0] - b
            held = (here <= 0) & (gradient > 0)
            moving = ~held
            masked = h * (moving[:, :, None] & moving[:, None, :])
            masked = masked + torch.diag_embed(held.to(h))
            factor = torch.linalg.cholesky_ex(masked)[0]
            step = -torch.cholesky_solve((gradient * moving)[..., None], factor)[..., 0]
            best, value = here, _quadratic(h, b, here)
            todo = torch.ones(len(active), dtype=torch.bool, device=v.device)
            length = 1.0
            for _ in range(12):
                trial = (here + length * step).clamp_min(0)
                there = _quadratic(h, b, trial)
                better = todo & (there <= value)
                best = torch.where(better[:, None], trial, best)
                todo = todo & ~better
                if not bool(todo.any()):
                    break
                length *= 0.5
            moved = best - here
            v[active] = best
            size = (moved * (h @ moved[..., None])[..., 0]).sum(-1)
            done = size <= self.tolerance**2
            converged[active[done]] = True
            active = active[~done]
        lower = data_space.cholesky(_scaled_gram(response @ prior.root, weight.sqrt() * level))
        leverage = response.shape[0] - data_space.trace_inverse(lower)
        free = v.T * level
        chi2 = ((data - response @ free).square() * weight).sum(0)
        status = torch.where(converged, int(Status.CONVERGED), int(Status.MAX_ITERATIONS)).to(torch.int32)
        status = torch.where((v <= 0).any(1), status | int(Status.AT_BOUND), status)
        return free, chi2, leverage, status, iterations


def _quadratic(h, b, v):
    return (v * (0.5 * (h @ v[..., None])[..., 0] - b)).sum(-1)


def _scaled_gram(base: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """1 + H Hᵀ, packed, where H is base times a factor for each datum and pixel."""
    m, product = len(base), base @ base.T
    out = scale.new_empty((m * (m + 1) // 2, scale.shape[-1]))
    for i in range(m):
        for j in range(i + 1):
            torch.mul(scale[i], scale[j], out=out[packed.index(i, j)]).mul_(product[i, j])
        out[packed.index(i, i)] += 1.0
    return out


def _newton(factor, slope, damping=0.0) -> torch.Tensor:
    """((1 + damping) 1 + Hᵀ H)⁻¹ slope, by a system of the size of the data."""
    lower = data_space.cholesky(data_space.gram(factor, damping))
    told = data_space.solve(lower, data_space.apply(factor, slope))
    return (slope - data_space.pull(factor, told)) / (1 + damping)


class _LogSystem:
    """½ |d - W^½ R exp(mean + B z)|² + ½ |z|² of some pixels."""

    def __init__(self, mean, root, response, data, whitening):
        self.mean, self.root, self.response, self.data, self.whitening = mean, root, response, data, whitening

    def select(self, index) -> _LogSystem:
        return _LogSystem(self.mean, self.root, self.response, self.data[:, index], self.whitening[:, index])

    def jacobian(self, e: torch.Tensor) -> torch.Tensor:
        """H ``(m, r, pixels)`` where the vector is ``e`` ``(k, pixels)``: one matrix product for all pixels."""
        k, pixels = e.shape
        moved = self.response[:, :, None] * e  # (m, k, pixels)
        factor = torch.matmul(self.root.T, moved)
        return factor.mul_(self.whitening[:, None])

    def objective(self, z, e) -> tuple[torch.Tensor, torch.Tensor]:
        residual = torch.addcmul(self.data, self.whitening, self.response @ e, value=-1)
        return 0.5 * (residual.square().sum(0) + z.square().sum(0)), residual

    def start(self) -> torch.Tensor:
        """The prior's mean, moved up or down as a whole to where the data are."""
        e = self.mean.exp()
        expected = self.whitening * (self.response @ e)[:, None]
        ones = torch.ones_like(self.mean)
        along = self.root.T @ torch.linalg.lstsq(self.root @ self.root.T, ones[:, None], driver="gelsd").solution[:, 0]
        ratio = (self.data.clamp_min(0.3) / expected.clamp_min(1e-30)).log()
        trust = self.data.clamp_min(0.3).square() / (1 + self.data.clamp_min(0.3).square())
        shift = (ratio * trust).sum(0) / trust.sum(0)
        return along[:, None] * shift

    def approach(self, z: torch.Tensor) -> torch.Tensor:
        """Steps on the logarithms of the light where it stands above the noise: from afar these are nearly linear."""
        clear = self.data > _CLEAR
        logarithm = self.data.clamp_min(_CLEAR).log()
        for _ in range(_FAR_STEPS):
            e = (self.mean[:, None] + self.root @ z).exp()
            light = (self.whitening * (self.response @ e)).clamp_min(1e-20)
            gain = torch.where(clear, (self.data / light).clamp(0.01, 100.0), 1.0)
            residual = torch.where(clear, self.data * (logarithm - light.log()), self.data - light)
            factor = self.jacobian(e).mul_(gain[:, None])
            step = _newton(factor, data_space.pull(factor, residual) - z)
            longest = (self.root @ step).abs().amax(0)
            z = z + step * (_LONGEST / longest.clamp_min(1e-30)).clamp_max(1.0)
        return torch.where(torch.isfinite(z), z, 0.0)

    def newton(self, factor, slope, e, residual, damping) -> torch.Tensor:
        """The step with the true curvature, that of exp with it, where Gauss-Newton's converges slowly.

        Systems of the size of the root: for the few pixels that need it.
        """
        weighted = self.response.T @ (self.whitening * residual)  # what the data ask of each unknown
        bend = torch.einsum("kr,kp,ks->prs", self.root, e * weighted, self.root)
        bowl = torch.einsum("mrp,msp->prs", factor, factor)
        eye = torch.eye(factor.shape[1], dtype=factor.dtype, device=factor.device)
        flat = bowl + eye * (1 + damping)[:, None, None]
        lower, failed = torch.linalg.cholesky_ex(flat - bend)
        if bool(failed.any()):
            lower = torch.where((failed > 0)[:, None, None], torch.linalg.cholesky_ex(flat)[0], lower)
        return torch.cholesky_solve(slope.T[..., None], lower)[..., 0].T

    def minimise(self, max_iterations: int, tolerance: float, z: torch.Tensor | None = None):
        if z is None:
            z = self.start()
            near = self.approach(z)
            energies = [self.objective(one, (self.mean[:, None] + self.root @ one).exp())[0] for one in (z, near)]
            z = torch.where(energies[1] < energies[0], near, z)
        pixels = z.shape[-1]
        converged = torch.zeros(pixels, dtype=torch.bool, device=z.device)
        index = torch.arange(pixels, device=z.device)
        system, here = self, z
        e = (self.mean[:, None] + self.root @ here).exp()
        energy, residual = system.objective(here, e)
        damping = torch.zeros(pixels, dtype=z.dtype, device=z.device)
        iterations = 0
        while iterations < max_iterations:
            iterations += 1
            factor = system.jacobian(e)
            slope = data_space.pull(factor, residual) - here
            if iterations > _GAUSS_NEWTON:
                step = system.newton(factor, slope, e, residual, damping)
            else:
                step = _newton(factor, slope, damping)
            change = self.root @ step
            shorten = (_LONGEST / change.abs().amax(0).clamp_min(1e-30)).clamp_max(1.0)
            step = step * shorten
            promised = (slope * step).sum(0)
            moved = data_space.apply(factor, step)
            told_gain = promised - 0.5 * (moved.square().sum(0) + step.square().sum(0))
            trial = here + step
            e_trial = (self.mean[:, None] + self.root @ trial).exp()
            there, residual_trial = system.objective(trial, e_trial)
            eps = 4 * torch.finfo(z.dtype).eps
            better = there <= energy * (1 + eps)
            ratio = (energy - there + eps * energy) / (told_gain + eps * energy)
            here = torch.where(better, trial, here)
            e = torch.where(better, e_trial, e)
            residual = torch.where(better, residual_trial, residual)
            energy = torch.where(better, there, energy)
            done = better & (promised * (1 + damping) <= tolerance**2) & (shorten == 1)
            # A step that gains nothing more than round-off is the last.
            unseen = eps * (energy + (residual * system.data).abs().sum(0))
            done |= promised * (1 + damping) <= unseen.clamp_min((tolerance * 0.1) ** 2)
            done |= damping > 1e8
            calmer = torch.where(damping > 0.05, damping * 0.3, 0.0)
            firmer = (damping * torch.where(better, 2.0, 8.0)).clamp_min(0.5)
            damping = torch.where(ratio > 0.75, calmer, torch.where(ratio > 0.25, damping, firmer))
            if bool(done.all()):
                z[:, index] = here
                converged[index] = damping < 1e8
                return z, iterations, converged
            if int(done.sum()) * 3 >= len(done):
                left = (~done).nonzero()[:, 0]
                z[:, index[done]] = here[:, done]
                converged[index[done]] = damping[done] < 1e8
                system, index = system.select(left), index[left]
                here, e, residual = here[:, left], e[:, left], residual[:, left]
                energy, damping = energy[left], damping[left]
        z[:, index] = here
        return z, iterations, converged
