"""Who searches: the interface of every solver, and what it returns."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from .arguments import Configurable
from .factored import FactoredCovariance
from .map_sampler import MapSampler

if TYPE_CHECKING:
    from .curvature import Curvature

__all__ = ["Solution", "Solver"]


@dataclass
class Solution:
    """What a solver found, for the pixels of the problem it was given; tensors on its device.

    Attributes
    ----------
    free : `torch.Tensor`
        The free numbers, ``(k, pixels)``, in the problem's internal frame. Rows of shared parameters are constant.
    status : `torch.Tensor`
        Bits of `~sunpy_specfit.Status`, ``(pixels,)``, int32. The engine adds those that any solution has
        (AT_BOUND, UNCONSTRAINED, LOW_SIGNAL, ...).
    covariance : `torch.Tensor` or `~sunpy_specfit.core.factored.FactoredCovariance`, optional
        Packed lower triangle, ``(k (k + 1) / 2, pixels)``: inverse of the undamped Hessian. Without it
        the engine inverts the Hessian of each pixel's block, which is right where pixels are not coupled. In factored
        form the engine takes the solution as it is, and needs its leverage.
    undetermined : `torch.Tensor`, optional
        Beside a covariance, which numbers the data do not determine, bool ``(k, pixels)``; they are infinite there.
    leverage : `torch.Tensor`, optional
        tr(H⁻¹ A) of each pixel, ``(pixels,)``: the degrees of freedom that the data spent there.
    quadratic : tuple of `torch.Tensor`, optional
        What ``linearize`` of the block gives at ``free``, where the solver knows it: the engine then need not ask.
    chi2 : `torch.Tensor`, optional
        The misfit of each pixel there, ``(pixels,)``, where the solver knows it; used with a factored covariance.
    final : bool
        Whether ``free`` is the exact minimum of ``quadratic``, so that no last step is worth trying.
    curvature : `~sunpy_specfit.core.curvature.Curvature`, optional
        Of the whole problem at ``free``, or anywhere if it is the same everywhere, where the solver has it: the errors
        of coupled maps are found from it.
    sampler : `~sunpy_specfit.core.map_sampler.MapSampler`, optional
        Draws whole maps, where the covariance is factored and pixels are coupled; without it each pixel is drawn by
        itself.
    weights : dict
        Learned weights of operators, or of the solver's own network.
    info : dict
        Numbers for the result's meta, such as iterations.
    """

    free: torch.Tensor
    status: torch.Tensor
    covariance: torch.Tensor | FactoredCovariance | None = None
    undetermined: torch.Tensor | None = None
    leverage: torch.Tensor | None = None
    quadratic: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    chi2: torch.Tensor | None = None
    final: bool = False
    curvature: Curvature | None = None
    sampler: MapSampler | None = None
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


class Solver(Configurable):
    """Something that lowers a `~sunpy_specfit.core.problem.Problem`'s objective.

    Attributes
    ----------
    preference : int
        ``solver="auto"`` takes the accepted solver of highest preference.
    whole_map : bool
        Whether it needs all pixels at once. Where not, the engine hands it blocks of pixels.
    needs_start : bool
        Whether it matters where it starts: where not, nobody looks for start values.
    uses_proximal : bool
        Whether it works with the proximal operator of priors that have a kink, and is right there in a few steps:
        then it is asked for each trial of an automatic scale.
    exact : bool
        Whether its answer for a block of quadratics is where these are least, and nothing else: the engine may then
        find that itself, with errors and misfit, in one look at each pixel. It is said of the class's own ``solve``:
        a class that is derived from it and has another one is not taken at its word.
    factored : bool
        Whether its covariances are `~sunpy_specfit.core.factored.FactoredCovariance`.
    """

    preference: ClassVar[int] = 0
    whole_map: ClassVar[bool] = True
    needs_start: ClassVar[bool] = True
    uses_proximal: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    factored: ClassVar[bool] = False

    @property
    def is_exact(self) -> bool:
        """Whether `exact` was said of the ``solve`` that it has."""
        owner = next(kind for kind in type(self).__mro__ if "solve" in vars(kind))
        return self.exact and "exact" in vars(owner)

    def suits(self, problem) -> str | None:
        """None if it can solve each pixel of the problem by itself, else the reason; couplings are not looked at."""
        return None

    def heeds_start(self, problem) -> bool:
        """Whether it asks for each pixel's own solution to start a whole map from; where not, it starts from zero."""
        return True

    def starter(self, problem) -> Solver | None:
        """The per-pixel solver whose answer this one, of whole maps, starts from; None leaves the choice."""
        return None

    def tells_evidence(self, problem) -> bool:
        """Whether `evidence` is known: automatic scales are then those of the greatest."""
        return False

    def evidence(self, problem, start: torch.Tensor) -> tuple[float, torch.Tensor]:
        """-2 ln of the probability of the data under the priors, up to a constant, and the free numbers' solution."""
        raise NotImplementedError(f"{type(self).__name__} knows no evidence")

    def accepts(self, problem) -> str | None:
        """None if it can solve the problem, else the reason why not, as a sentence that says what to use instead."""
        return None

    @abstractmethod
    def solve(self, problem, start: torch.Tensor) -> Solution:
        """Search from ``start``.

        Parameters
        ----------
        problem : `~sunpy_specfit.core.problem.PixelBlock` or `~sunpy_specfit.core.problem.Problem`
            A block of pixels, or the whole map if `whole_map`.
        start : `torch.Tensor`
            ``(starts, k, pixels)``: one or several starts for the free numbers, best first.

        Returns
        -------
        `Solution`
            It never prints and never raises for a bad pixel: every pixel gets a status.
        """
