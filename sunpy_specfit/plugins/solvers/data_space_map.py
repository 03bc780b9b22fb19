"""Whole maps of vectors with fewer data than unknowns, whose pixels priors couple."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...core.factored import FactoredCovariance
from ...core.prior import BoundPrior
from ...core.solver import Solution, Solver
from ...core.status import Status
from ...numerics import data_space
from .data_space import DataSpace
from .log_system import LONGEST_STEP
from .map_draws import MapDraws
from .place import Place

__all__ = ["DataSpaceMap"]

# After so many steps all the curvature counts.
_GAUSS_NEWTON = 4
# Where no more than this part of the pixels has still to converge, they take steps by themselves.
_FEW = 0.1
# Each pixel's own solution, where it starts, need be no better than this: steps at the most, sigma.
_START_ITERATIONS, _START_TOLERANCE = 8, 0.3


class DataSpaceMap(Solver):
    """Maps of a positive vector, such as a DEM, with a Gaussian prior on its logarithm and priors that couple pixels.

    Gauss-Newton on the numbers z of unit prior variance, of which the logarithm is m + B z; each step by conjugate
    gradients for the whole map, preconditioned by systems as large as the data, one a pixel. Errors take the neighbours
    as a homogeneous medium: what they add to a pixel's own precision is that of an endless map of average pixels. The
    error of a learned mean, which all pixels share, is that of even maps, and solved for as the map is where pixels are
    unlike their neighbours; so are draws of whole maps.

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
        if len(own) > 1:
            return f"data_space_map knows no other prior of single pixels beside the Gaussian one; {instead}"
        if not own[0].logarithm:
            return f"data_space_map knows priors on the logarithm only; {instead}"
        if problem.mixes_pixels or bool(problem.shared.any()) or not problem.coupled_priors():
            return f"data_space_map is for maps whose pixels are coupled by priors and nothing else; {instead}"
        quantity = problem.layout.resolve(own[0].quantity)
        for prior, names in problem.coupled_priors():
            if prior.among_pixels is None and type(prior).quadratic is BoundPrior.quadratic:
                return f"data_space_map needs the curvature of priors, and {type(prior).__name__} has none; {instead}"
            if [problem.layout.resolve(name) for name in names] != [quantity]:
                return f"data_space_map knows priors on {quantity!r} itself only; {instead}"
        return None

    def starter(self, problem) -> Solver:
        # Neighbours move each pixel anyway.
        return DataSpace(max_iterations=_START_ITERATIONS, tolerance=_START_TOLERANCE)

    def tells_evidence(self, problem) -> bool:
        free = torch.ones((problem.n_free, problem.n_pixels), dtype=torch.float64)

        def known(prior, name) -> bool:
            if prior.among_pixels is not None:
                return True
            quadratic = prior.quadratic({name: free})
            return quadratic.of_logarithm is not None and quadratic.cosine is not None

        return bool(problem.coupled_priors()) and all(
            known(prior, name) for prior, (name, *_) in problem.coupled_priors()
        )

    def evidence(self, problem, start: torch.Tensor) -> tuple[float, torch.Tensor]:
        here = self._search(problem, start[0])[0]
        return 2 * here.energy + here.medium(here.root).log_volume(), here.free.double().to(problem.device)

    def solve(self, problem, start: torch.Tensor) -> Solution:
        here, length, info = self._search(problem, start[0])
        status = torch.full((problem.n_pixels,), int(Status.MAX_ITERATIONS), dtype=torch.int32)
        status[length <= self.tolerance**2] = int(Status.CONVERGED)
        own = here.prior.own_root
        root = here.medium(own).effective_root()
        common = None if here.prior.shared_root is None else here.shifted(here.prior.shared_root).float().numpy()
        leverage = length.new_empty(len(length), dtype=torch.float64)

        def fill(part, factor) -> None:
            leverage[part] = len(factor) - data_space.trace_inverse(data_space.factorize(factor))

        here.factors(root).each(fill)
        covariance = FactoredCovariance(
            response=here.response.numpy(),
            root=root.numpy(),
            scale=here.free.double().numpy(),
            weight=here.weight.double().numpy(),
            logarithm=True,
            common=common,
        )
        sampler = MapDraws(replace(problem, _whole=None), own, covariance)
        free = torch.as_tensor(covariance.scale)
        free, status, leverage = (value.to(problem.device) for value in (free, status, leverage))
        return Solution(free=free, status=status, covariance=covariance, leverage=leverage, sampler=sampler, info=info)

    def _search(self, problem, start: torch.Tensor) -> tuple[Place, torch.Tensor, dict]:
        """The place of the minimum, the square of each pixel's last step in sigma, and what it took.

        At low signal some pixels by themselves find emission that their neighbours do not have, and together may keep
        it. Where a smoothed start is lower, the search goes on from both; of two minima that is kept which has more of
        the posterior about it.
        """
        own = Place.of(problem, start)
        smooth = own.smoothed()
        found = self._descend(own)
        if smooth.energy < own.energy:
            other = self._descend(smooth)
            spent = {name: number + other[2][name] for name, number in found[2].items()}
            better = other if other[0].badness() < found[0].badness() else found
            found = (*better[:2], spent)
        return found

    def _descend(self, here: Place) -> tuple[Place, torch.Tensor, dict]:
        """The same, from one place on."""
        damping, iterations, products = 0.0, 0, 0
        length, few = torch.full_like(here.z[0], torch.inf), None
        while iterations < self.max_iterations:
            iterations += 1
            step, spent = here.step(damping, few, near=iterations > _GAUSS_NEWTON)
            products += spent
            longest = here.logarithms(step).abs().amax(0)
            step.mul_((LONGEST_STEP / longest.clamp_min(1e-30)).clamp_max(1.0))
            moved = step.square().sum(0) + here.seen(step, few).square().sum(0)
            there, part = here.lowest_along(step, few)
            if there is None:
                damping, few = max(4 * damping, 0.3), None
                if damping > 1e6:
                    break
                continue
            length[slice(None) if few is None else few] = moved
            here = there
            if part < 1:
                damping = max(2 * damping, 0.1)
            else:
                damping = 0.2 * damping if damping > 1e-2 else 0.0
            left = (length > self.tolerance**2).nonzero()[:, 0]
            if not len(left):
                break
            few = left if len(left) <= _FEW * len(length) and not here.neighbours.alike else None
        return here, length, {"iterations": iterations, "products": products}
