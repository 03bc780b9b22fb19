"""Neighbours resemble each other."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import torch

from ...core.grid import Grid
from ...core.prior import BoundPrior, CosineCurvature, Quadratic
from .differences import Differences
from .fractional import FractionalLaplacian
from .scales import FLOOR, ScaledPrior, check_names, check_scale

__all__ = ["Smooth"]


class Smooth(ScaledPrior):
    """Neighbouring pixels differ little: ½ qᵀ Lᵖ q / scale², with qᵀ L q the sum of squared differences of neighbours.

    A map drawn from it has a power that falls with wave number to the power -2 p. Pixels without data take their value
    from those around them.

    Parameters
    ----------
    *names : str
        Quantities to smooth, fitted or derived: ``Smooth("velocity")``. None for those that the model names as its
        smooth ones.
    scale : `~astropy.units.Quantity`, mapping of name to Quantity, or "auto"
        By how much neighbours typically differ (one sigma); for order 2, by how much a pixel typically differs from
        the straight line through its neighbours, times two; for order 1.5 what lies between these two. Numbers are in
        the quantity's unit. ``"auto"`` chooses one for each quantity from the data, and records it in
        ``result.meta["prior_scales"]``.
    order : {1, 1.5, 2}
        p: 1 likes flat maps, 2 straight ones, whatever their slope is at the edges. 1.5 is for maps like those of
        turbulence, whose detail fades as steeply as wave number to the power -3.
    axes : {"space", "time", "all"}, int, or tuple of these
        Along which axes of the map. For space and time with a scale each, use two priors.
    logarithm : bool
        Smooth the natural logarithm, for positive quantities that range over decades; the scale is then a plain
        number, 0.1 for ten per cent. A fitted quantity needs a lower bound of zero or above; of a derived one, what is
        not positive counts as 1e-15 of its unit, and the fit warns of it.

    Raises
    ------
    ValueError
        If the order is not 1, 1.5 or 2, the scale is not positive, the map has no such axis, or the logarithm is asked
        for of a fitted quantity that may be negative.
    astropy.units.UnitConversionError
        If the scale's unit does not fit the quantity's.

    References
    ----------
    Tikhonov regularisation of maps of solar atmospheres: de la Cruz Rodríguez (2019),
    https://doi.org/10.1051/0004-6361/201936635; Morosin et al. (2020), https://doi.org/10.1051/0004-6361/202038754

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    >>> prior = specfit.Smooth("velocity", scale=5 * u.km / u.s)
    >>> result = specfit.fit(gaussian_cube((8, 9), signal_to_noise=4), model, priors=prior)
    >>> result["velocity"].data.shape
    (8, 9)
    """

    name = "smooth"
    couples_pixels = True

    def __init__(self, *names: str, scale="auto", order: float = 1, axes="space", logarithm: bool = False):
        if order not in (1, 1.5, 2):
            raise ValueError(f"order is 1 (flat maps), 2 (straight ones) or 1.5 (between them), found {order!r}")
        check_names("Smooth", names)
        check_scale("Smooth", scale, automatic=True)
        self.names = names
        self.scale = scale
        self.order = order
        self.axes = axes
        self.logarithm = logarithm

    @property
    def positive_only(self) -> bool:
        """Whether the quantities have to be positive."""
        return self.logarithm

    def bind(self, units: Mapping[str, u.UnitBase], grid: Grid) -> BoundPrior:
        numbers = self.numbers(dict.fromkeys(units, u.dimensionless_unscaled) if self.logarithm else units)
        axes = grid.axes(self.axes)
        if self.order == 1.5:
            return BoundSmooth(numbers, FractionalLaplacian(grid.shape, axes, self.order), self.logarithm)
        return BoundSmooth(numbers, Differences(grid.shape, axes, int(self.order)), self.logarithm)


class BoundSmooth(BoundPrior):
    """Numbers only; see `Smooth`."""

    couples_pixels = True

    def __init__(self, scales: Mapping[str, float], stiffness: Differences | FractionalLaplacian, logarithm: bool):
        self.scales, self.stiffness, self.logarithm = scales, stiffness, logarithm
        self.is_quadratic = not logarithm

    def energy(self, maps) -> torch.Tensor:
        total = 0
        for name, scale in self.scales.items():
            q = maps[name].clamp_min(FLOOR).log() if self.logarithm else maps[name]
            total = total + self.stiffness.energy(q / scale)
        return 0.5 * total

    def quadratic(self, maps) -> Quadratic:
        # Along the logarithm the curvature is that of the map linearised here.
        slopes, gradient, diagonal, cosine = {}, {}, {}, {}
        for name, scale in self.scales.items():
            q, slopes[name] = maps[name], None
            if self.logarithm:
                floored = q.clamp_min(FLOOR)
                slopes[name] = torch.where(q >= floored, 1 / floored, 0.0)
                q = floored.log()
            own = self.stiffness.product(q, 1 / scale**2)
            square = (self.stiffness.diagonal(q) / scale**2).expand(q.shape)
            gradient[name] = own if slopes[name] is None else own * slopes[name]
            diagonal[name] = square if slopes[name] is None else square * slopes[name] ** 2
            cosine[name] = CosineCurvature(self.stiffness.eigenvalues(q) / scale**2, slopes[name])

        def matvec(v):
            out = {}
            for name, scale in self.scales.items():
                slope = slopes[name]
                moved = v[name] if slope is None else slope * v[name]
                out[name] = self.stiffness.product(moved).div_(scale**2)
                if slope is not None:
                    out[name].mul_(slope)
            return out

        def add_product(v, out):
            for name, scale in self.scales.items():
                self.stiffness.product(v[name], 1 / scale**2, out[name])

        def noise(generator):
            drawn = {}
            for name, scale in self.scales.items():
                one = self.stiffness.noise(maps[name], generator) / scale
                drawn[name] = one if slopes[name] is None else slopes[name] * one
            return drawn

        return Quadratic(
            gradient,
            matvec,
            diagonal,
            cosine,
            noise,
            of_logarithm=self._of_logarithm(maps),
            add_product=None if self.logarithm else add_product,
        )

    def _of_logarithm(self, maps):
        if not self.logarithm:
            return None

        def product(scale):
            return lambda logarithms: self.stiffness.product(logarithms).div_(scale**2)

        return {
            name: (product(scale), self.stiffness.diagonal(maps[name]) / scale**2)
            for name, scale in self.scales.items()
        }
