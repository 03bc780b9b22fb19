"""What the maps should look like: the interface of every prior."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import astropy.units as u
import torch

from .arguments import Configurable
from .grid import Grid

__all__ = ["AmongPixels", "BoundPrior", "CosineCurvature", "Prior", "Quadratic"]

Maps = Mapping[str, torch.Tensor]


class Prior(Configurable):
    """A penalty on maps, in the units of a log posterior: the objective is ½ chi² + Σ energies.

    A prior is made of quantities with units. `bind` turns it into a `BoundPrior` that knows only
    numbers, once the units and the grid of the maps are known.

    Attributes
    ----------
    couples_pixels : bool
        Whether the energy joins neighbouring pixels. Where it does not, per-pixel solvers can use it.
    automatic : bool
        Whether a scale is still to be chosen from the data: `sunpy_specfit.fit` then asks `with_scales` for the prior
        with the scales it tries and chooses.
    positive_only : bool
        Whether it makes sense for positive quantities only: then a fitted one that may be negative is refused, and a
        derived one that is negative warned of.
    subtracts : bool
        Whether it takes differences of its quantities from pixel to pixel: then angles that wrap are refused.
    learns : bool
        Whether it still has to see the data: `sunpy_specfit.fit` then asks `learn` for the prior to use.
    light_error : float
        What it learned of the model: by what part of itself the light may be off. It is added to the noise.
    """

    couples_pixels: bool = False
    automatic: bool = False
    positive_only: bool = False
    subtracts: bool = False
    learns: bool = False
    light_error: float = 0.0

    @property
    @abstractmethod
    def quantities(self) -> tuple[str, ...] | None:
        """The fitted or derived quantities it acts on; None for those that the model names as smooth."""

    @abstractmethod
    def bind(self, units: Mapping[str, u.UnitBase], grid: Grid) -> BoundPrior:
        """Make the numeric form.

        Parameters
        ----------
        units : mapping
            The unit of each quantity; its keys are the quantities to act on, in order.
        grid : `~sunpy_specfit.core.grid.Grid`
            The shape of the maps and the meaning of their axes.
        """

    first_scale: float | None = None
    """Where the search for an automatic scale begins; None for how much neighbours differ."""

    largest_scale: float = math.inf
    """The largest that the search for the most probable scale may try."""

    def scale_unit(self, unit: u.UnitBase) -> u.UnitBase:
        """The unit of the scale of a quantity in some unit."""
        return u.dimensionless_unscaled if getattr(self, "logarithm", False) else unit

    def given_scale(self, name: str):
        """The scale of one quantity as the user gave it: a Quantity, a number, or "auto"."""
        raise NotImplementedError(f"{type(self).__name__} has no scale for each quantity")

    def with_scales(self, scales: Mapping[str, u.Quantity]) -> Prior:
        """The same prior with these scales, by name of the quantity, in place of the automatic ones."""
        raise NotImplementedError(f"{type(self).__name__} has no scale to choose")

    def learn(self, problem) -> Prior:
        """The same prior with what it takes from the data of a `~sunpy_specfit.core.problem.Problem`."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to learn")

    def learned(self) -> dict:
        """What it took from the data, for ``result.meta["prior_scales"]``."""
        return {}


class BoundPrior:
    """A prior on plain tensors: maps ``([k,] pixels)`` by name, in the units given to `Prior.bind`.

    `energy` is enough for the solvers that need only a gradient. Those that need curvature ask
    for `quadratic`, by default made by automatic differentiation where pixels are not coupled.
    """

    couples_pixels: bool = False
    is_quadratic: bool = False
    """Whether the energy is a quadratic in its maps, everywhere."""

    is_convex: bool = False
    """Whether the energy is convex in its maps, though no quadratic: only where there is one minimum, which reweighting
    reaches from anywhere, is an automatic scale found by SURE."""

    def energy(self, maps: Maps) -> torch.Tensor:
        """The penalty, ``(pixels,)`` where pixels are not coupled (or scalar): its sum counts."""
        raise NotImplementedError

    def select(self, index: torch.Tensor | slice) -> BoundPrior:
        """The same prior on some of the pixels; one that holds maps of its own takes them along.

        Asked only where pixels are not coupled.
        """
        return self

    def beside(self, priors: Sequence[tuple[BoundPrior, str]], quantity: str) -> BoundPrior:
        """The same prior, knowing all priors of the problem, itself among them, with the first quantity of each.

        Quantities, that of this prior too, are named as the result names them.
        """
        return self

    @property
    def among_pixels(self) -> AmongPixels | None:
        """For one that is to change a vector's Gaussian prior, how it joins each of its white numbers; else None."""
        return None

    def quadratic(self, maps: Maps) -> Quadratic | None:
        """A quadratic that touches `energy` at these maps and lies above it nearby (or equals it).

        None where there is none to be had; Gauss-Newton then refuses the prior and says so.
        """
        if self.couples_pixels:
            return None
        return separable_quadratic(self, maps)

    def proximal(self, maps: Maps, step: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The maps that minimise `energy` + Σ ½ ‖difference from these maps‖² / step, where that has a closed form.

        Optional: proximal-gradient solvers refuse a prior that couples pixels and leaves it out.

        Parameters
        ----------
        maps : mapping of str to `torch.Tensor`
        step : mapping of str to `torch.Tensor`
            For each quantity one number, in its unit squared; of a vector one for each row, ``(k, 1)``.

        References
        ----------
        Parikh & Boyd (2014), https://doi.org/10.1561/2400000003
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed form of its proximal operator")


@dataclass(frozen=True)
class CosineCurvature:
    """S Cᵀ diag(eigenvalues) C S: a curvature that the cosine transform C of the whole map makes diagonal.

    It may be true away from the map's edges only: a preconditioner is what is made of it.

    Attributes
    ----------
    eigenvalues : `torch.Tensor`
        ``(pixels,)``, in the order of `~sunpy_specfit.numerics.cosine_transform.cosine_transform` along all axes of
        the map.
    slope : `torch.Tensor`, optional
        The diagonal of S, shaped as the map, for a prior on a function of the quantity (its logarithm); one by default.
    """

    eigenvalues: torch.Tensor
    slope: torch.Tensor | None = None


@dataclass(frozen=True)
class AmongPixels:
    """½ zᵀ A z, summed over the white numbers z ``(r, pixels)`` of a vector's Gaussian prior.

    Attributes
    ----------
    product : callable
        A z.
    diagonal : `torch.Tensor`
        ``(pixels,)``.
    eigenvalues : `torch.Tensor`
        What A multiplies each cosine of the map with, ``(pixels,)``; above -1.
    noise : callable
        Takes maps ``(r, pixels)`` and a `torch.Generator`, and returns noise like the maps, of the covariance 1 + A.
    """

    product: Callable[[torch.Tensor], torch.Tensor]
    diagonal: torch.Tensor
    eigenvalues: torch.Tensor
    noise: Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Quadratic:
    """Gradient and curvature of a prior at some maps.

    Attributes
    ----------
    gradient : dict of str to `torch.Tensor`
        dE/dq, shaped as the maps.
    matvec : callable
        Curvature times a set of maps; symmetric, positive semi-definite.
    diagonal : dict of str to `torch.Tensor`
        The diagonal of the curvature.
    cosine : dict of str to `CosineCurvature`, optional
        Where the curvature joins no two quantities and is diagonal among cosines, how: strongly coupled maps are then
        solved in a few steps.
    noise : callable, optional
        Takes a `torch.Generator` and returns maps of noise whose covariance is the curvature: draws of whole maps are
        made of it.
    within : dict of str to (`torch.Tensor`, `torch.Tensor`), optional
        For a vector quantity whose numbers are joined within a pixel: slope ``(k, pixels)`` and matrix ``(k, k)`` of
        the curvature diag(slope) matrix diag(slope), of which ``diagonal`` tells only a part.
    of_logarithm : dict of str to (callable, `torch.Tensor`), optional
        Where the energy is ½ gᵀ A g of the natural logarithm g of a quantity: A times maps ``(..., pixels)``, and the
        diagonal of A, ``(pixels,)``.
    add_product : callable, optional
        Takes a set of maps and a set of their shapes that it adds curvature times the first to: what ``matvec`` does
        without fresh memory, which for large maps costs more than the sums.
    """

    gradient: dict[str, torch.Tensor]
    matvec: Callable[[Maps], dict[str, torch.Tensor]]
    diagonal: dict[str, torch.Tensor]
    cosine: Mapping[str, CosineCurvature] | None = None
    noise: Callable[[torch.Generator], dict[str, torch.Tensor]] | None = None
    within: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None
    of_logarithm: Mapping[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]] | None = None
    add_product: Callable[[Maps, Maps], None] | None = None


def separable_quadratic(prior: BoundPrior, maps: Maps) -> Quadratic:
    """Gradient and non-negative diagonal curvature of an energy that does not couple pixels, by AD."""
    names = list(maps)
    values = tuple(maps[name] for name in names)

    def total(*tensors):
        return prior.energy(dict(zip(names, tensors, strict=True))).sum()

    gradient_of = torch.func.grad(total, argnums=tuple(range(len(names))))
    gradient = gradient_of(*values)

    def slope(number: int, row: int, *tensors):
        own = gradient_of(*tensors)[number]
        return (own[row] if own.ndim > 1 else own).sum()

    diagonal = {}
    for i, name in enumerate(names):
        # With no coupling, the slope of a sum over pixels is each pixel's own (row by row for vectors). Forward
        # derivatives would do with half the work, but are one for all threads of a process.
        rows = values[i].shape[0] if values[i].ndim > 1 else 1
        bends = [torch.func.grad(partial(slope, i, row), argnums=i)(*values) for row in range(rows)]
        curvature = torch.stack([bend[row] for row, bend in enumerate(bends)]) if values[i].ndim > 1 else bends[0]
        diagonal[name] = torch.nan_to_num(curvature, nan=0.0).clamp_min(0.0)
    return Quadratic(
        gradient=dict(zip(names, gradient, strict=True)),
        matvec=lambda v: {name: diagonal[name] * v[name] for name in v},
        diagonal=diagonal,
    )
