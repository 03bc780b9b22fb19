"""The objective of some pixels in numbers of unit prior variance, where the prior is on the logarithm."""

from __future__ import annotations

import torch

from ...numerics import data_space
from .penalty_rows import PenaltyRows

__all__ = ["LONGEST_STEP", "LogSystem"]

# No step changes a logarithm by more than this.
LONGEST_STEP = 4.0
# Where Gauss-Newton has not converged after so many steps, the curvature that it leaves out counts.
_GAUSS_NEWTON = 14
# So many steps are taken on the logarithm of the data that stand this many sigma above nothing.
_FAR_STEPS, _CLEAR = 3, 3.0


class LogSystem:
    """½ |d - W^½ R exp(mean + B z)|² + ½ |z|², and penalties on what is linear in exp(mean + B z), of some pixels.

    Where a penalty has the slope g and the curvature c, it is like a datum of weight c that asks for -g / c more.
    """

    def __init__(self, mean, root, response, data, whitening, penalties: PenaltyRows | None = None):
        self.mean, self.root, self.data, self.whitening = mean, root, data, whitening
        self.response, self.penalties = response, penalties
        self.every = response if penalties is None else torch.cat([response, penalties.response.to(response)])

    def select(self, index) -> LogSystem:
        penalties = None if self.penalties is None else self.penalties.select(index)
        return LogSystem(self.mean, self.root, self.response, self.data[:, index], self.whitening[:, index], penalties)

    def jacobian(self, e: torch.Tensor, whitening: torch.Tensor | None = None) -> torch.Tensor:
        """H ``(m, r, pixels)`` where the vector is ``e`` ``(k, pixels)``: one matrix product for all pixels.

        Of the data, or with ``whitening`` as `objective` returned it, of the penalties too.
        """
        response, whitening = (self.response, self.whitening) if whitening is None else (self.every, whitening)
        moved = response[:, :, None] * e  # (m, k, pixels)
        factor = torch.matmul(self.root.T, moved)
        return factor.mul_(whitening[:, None])

    def objective(self, z, e) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Energy ``(pixels,)``, what data and penalties still ask for, and the roots of their weights."""
        residual = torch.addcmul(self.data, self.whitening, self.response @ e, value=-1)
        energy = 0.5 * (residual.square().sum(0) + z.square().sum(0))
        if self.penalties is None:
            return energy, residual, self.whitening
        own, asked, root = self.penalties.at(e)
        return (
            energy + own.to(energy),
            torch.cat([residual, asked.to(residual)]),
            torch.cat([self.whitening, root.to(residual)]),
        )

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
            step = data_space.newton(factor, data_space.pull(factor, residual) - z)
            longest = (self.root @ step).abs().amax(0)
            z = z + step * (LONGEST_STEP / longest.clamp_min(1e-30)).clamp_max(1.0)
        return torch.where(torch.isfinite(z), z, 0.0)

    def newton(self, factor, slope, e, asked, damping) -> torch.Tensor:
        """The step with the true curvature, that of exp with it, where Gauss-Newton's converges slowly.

        Systems of the size of the root: for the few pixels that need it.
        """
        weighted = self.every.T @ asked  # what the data ask of each unknown
        bend = torch.einsum("kr,kp,ks->prs", self.root, e * weighted, self.root)
        bowl = torch.einsum("mrp,msp->prs", factor, factor)
        eye = torch.eye(factor.shape[1], dtype=factor.dtype, device=factor.device)
        flat = bowl + eye * (1 + damping)[:, None, None]
        lower, failed = torch.linalg.cholesky_ex(flat - bend)
        if bool(failed.any()):
            lower = torch.where((failed > 0)[:, None, None], torch.linalg.cholesky_ex(flat)[0], lower)
        return torch.cholesky_solve(slope.T[..., None], lower)[..., 0].T

    def minimise(
        self, max_iterations: int, tolerance: float, z: torch.Tensor | None = None, begun: int = 0, leave: int = 0
    ) -> tuple[torch.Tensor, int, torch.Tensor]:
        """The numbers z of the minimum, the iterations that it took, and for which pixels it is one.

        Parameters
        ----------
        max_iterations : int
        tolerance : float
            Converged where the step is shorter than this many sigma.
        z : `torch.Tensor`, optional
            Where to begin; by default the data are asked.
        begun : int
            Iterations that z has behind it.
        leave : int
            End where no more pixels than this have still to converge.
        """
        if z is None:
            z = self.start()
            near = self.approach(z)
            energies = [self.objective(one, (self.mean[:, None] + self.root @ one).exp())[0] for one in (z, near)]
            z = torch.where(energies[1] < energies[0], near, z)
        pixels = z.shape[-1]
        converged = torch.zeros(pixels, dtype=torch.bool, device=z.device)
        index = torch.arange(pixels, device=z.device)
        system, here, z = self, z, z.clone()
        e = (self.mean[:, None] + self.root @ here).exp()
        energy, residual, whitening = system.objective(here, e)
        damping = torch.zeros(pixels, dtype=z.dtype, device=z.device)
        iterations = begun
        while iterations < max_iterations and len(index) > leave:
            iterations += 1
            factor = system.jacobian(e, whitening)
            slope = data_space.pull(factor, residual) - here
            whole = iterations > _GAUSS_NEWTON
            if whole:
                step = system.newton(factor, slope, e, whitening * residual, damping)
            else:
                step = data_space.newton(factor, slope, damping)
            change = self.root @ step
            shorten = (LONGEST_STEP / change.abs().amax(0).clamp_min(1e-30)).clamp_max(1.0)
            step = step * shorten
            promised = (slope * step).sum(0)
            moved = data_space.apply(factor, step)
            told_gain = promised - 0.5 * (moved.square().sum(0) + step.square().sum(0))
            if whole:  # by the curvature that the step was taken with, or a step too long seems to lose what it should
                asked = e * (system.every.T @ (whitening * residual))
                told_gain = told_gain + 0.5 * (asked * (self.root @ step).square()).sum(0)
            trial = here + step
            e_trial = (self.mean[:, None] + self.root @ trial).exp()
            there, residual_trial, whitening_trial = system.objective(trial, e_trial)
            eps = 4 * torch.finfo(z.dtype).eps
            better = there <= energy * (1 + eps)
            ratio = (energy - there + eps * energy) / (told_gain + eps * energy)
            here = torch.where(better, trial, here)
            e = torch.where(better, e_trial, e)
            residual = torch.where(better, residual_trial, residual)
            if self.penalties is not None:
                whitening = torch.where(better, whitening_trial, whitening)
            energy = torch.where(better, there, energy)
            done = better & (promised * (1 + damping) <= tolerance**2) & (shorten == 1)
            # A step that gains nothing more than round-off is the last.
            unseen = eps * (energy + (residual[: len(system.data)] * system.data).abs().sum(0))
            done |= promised * (1 + damping) <= unseen.clamp_min((tolerance * 0.1) ** 2)
            done |= damping > 1e8
            calmer = torch.where(damping > 0.05, damping * 0.3, 0.0)
            firmer = (damping * torch.where(better, 2.0, 8.0)).clamp_min(0.5)
            good, fair = better & (ratio > 0.75), better & (ratio > 0.25)
            damping = torch.where(good, calmer, torch.where(fair, damping, firmer))
            more = len(done) - int(done.sum())
            if more <= leave or 3 * more <= 2 * len(done):
                z[:, index[done]] = here[:, done]
                converged[index[done]] = damping[done] < 1e8
                left = (~done).nonzero()[:, 0]
                system, index = system.select(left), index[left]
                here, e, residual, whitening = (value[:, left] for value in (here, e, residual, whitening))
                energy, damping = energy[left], damping[left]
        z[:, index] = here
        return z, iterations, converged
