"""Neighbours resemble each other, except at edges."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import torch

from ...core.grid import Grid
from ...core.prior import BoundPrior, Quadratic
from .scales import FLOOR, ScaledPrior, check_names, check_scale

__all__ = ["TotalVariation"]


class TotalVariation(ScaledPrior):
    """Few and sharp edges: the length of the map's gradient over the scale, summed over pixels.

    The gradient's length takes all axes together, so that edges of any direction cost the same. It is solved by
    reweighted quadratics that lie above it.

    Parameters
    ----------
    *names : str
        Quantities to act on, fitted or derived; none for those that the model names as its smooth ones.
    scale : `~astropy.units.Quantity`, mapping of name to Quantity, or "auto"
        By how much neighbours differ on average. ``"auto"`` chooses one for each quantity from the data.
    axes : {"space", "time", "all"}, int, or tuple of these
        Along which axes of the map.
    softness : float
        Differences below this many scales cost as their square does: it rounds the kink at zero.
    joint : bool
        Whether one length takes the gradients of all quantities together, each over its scale: then their edges fall on
        the same places. For parts of one vector, such as ``b_q`` and ``b_u``, whose axes are anybody's choice; an
        automatic scale is then one for all.
    logarithm : bool
        Of the natural logarithm, for positive quantities that range over decades, such as a DEM; the scale is then a
        plain number. A fitted quantity needs a lower bound of zero or above.

    Raises
    ------
    ValueError
        If scale or softness is not positive, the map has no such axis, or the logarithm is asked for of a fitted
        quantity that may be negative.
    astropy.units.UnitConversionError
        If the scale's unit does not fit the quantity's.

    References
    ----------
    Rudin, Osher & Fatemi (1992), https://doi.org/10.1016/0167-2789(92)90242-F; several maps together: Bresson & Chan
    (2008), https://doi.org/10.3934/ipi.2008.2.455

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> specfit.TotalVariation("velocity", scale=2 * u.km / u.s)
    TotalVariation('velocity', scale=<Quantity 2. km / s>)
    """

    name = "total_variation"
    references = ("10.1016/0167-2789(92)90242-F", "10.3934/ipi.2008.2.455")
    couples_pixels = True

    def __init__(
        self,
        *names: str,
        scale="auto",
        axes="space",
        softness: float = 0.1,
        joint: bool = False,
        logarithm: bool = False,
    ):
        check_names("TotalVariation", names)
        check_scale("TotalVariation", scale, automatic=True)
        if not softness > 0:
            raise ValueError(f"softness must be positive, found {softness!r}")
        self.names = names
        self.scale = scale
        self.axes = axes
        self.softness = softness
        self.joint = bool(joint)
        self.logarithm = bool(logarithm)

    @property
    def positive_only(self) -> bool:
        """Whether the quantities have to be positive."""
        return self.logarithm

    def bind(self, units: Mapping[str, u.UnitBase], grid: Grid) -> BoundPrior:
        numbers = self.numbers(dict.fromkeys(units, u.dimensionless_unscaled) if self.logarithm else units)
        axes, options = grid.axes(self.axes), {"joint": self.joint, "logarithm": self.logarithm}
        return BoundTotalVariation(numbers, grid.shape, axes, self.softness, **options)


class BoundTotalVariation(BoundPrior):
    """Numbers only; see `TotalVariation`."""

    couples_pixels = True

    def __init__(
        self,
        scales: Mapping[str, float],
        shape,
        axes,
        softness: float,
        *,
        joint: bool = False,
        logarithm: bool = False,
    ):
        self.scales, self.shape, self.softness, self.joint = scales, tuple(shape), softness, joint
        self.logarithm, self.is_convex = logarithm, not logarithm
        self.dims = [axis - len(self.shape) for axis in axes]

    def _image(self, q: torch.Tensor) -> torch.Tensor:
        return q.reshape(*q.shape[:-1], *self.shape)

    def _gradient(self, q: torch.Tensor) -> list[torch.Tensor]:
        """Steps to the next pixel along each axis, zero at the end: all of the map's shape."""
        image = self._image(q)
        return [image.diff(dim=dim, append=image.narrow(dim, self.shape[dim] - 1, 1)) for dim in self.dims]

    def _transpose(self, steps: list[torch.Tensor]) -> torch.Tensor:
        total = 0
        for dim, step in zip(self.dims, steps, strict=True):
            inner = step.narrow(dim, 0, self.shape[dim] - 1)
            end = inner.new_zeros([1 if i == inner.ndim + dim else n for i, n in enumerate(inner.shape)])
            total = total - inner.diff(dim=dim, prepend=end, append=end)
        return total.reshape(*total.shape[: total.ndim - len(self.shape)], -1)

    def _seen(self, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """The map whose gradient is meant, and its slope with the quantity."""
        if not self.logarithm:
            return q, 1.0
        floored = q.clamp_min(FLOOR)
        return floored.log(), torch.where(q >= floored, 1 / floored, 0.0)

    def _lengths(self, maps) -> dict[str, torch.Tensor]:
        """The length that each quantity's gradient has a share in."""
        squares = {
            name: sum((d / scale).square() for d in self._gradient(self._seen(maps[name])[0]))
            for name, scale in self.scales.items()
        }
        if self.joint:
            # A vector quantity counts with all its rows.
            rows = [
                s if s.ndim == len(self.shape) else s.flatten(0, -len(self.shape) - 1).sum(0) for s in squares.values()
            ]
            squares = dict.fromkeys(squares, sum(rows))
        return {name: (square + self.softness**2).sqrt() for name, square in squares.items()}

    def energy(self, maps) -> torch.Tensor:
        lengths = list(self._lengths(maps).values())
        return sum((length - self.softness).sum() for length in (lengths[:1] if self.joint else lengths))

    def quadratic(self, maps) -> Quadratic:
        # √(d² + ε²) lies below its parabola of curvature 1 / √(d₀² + ε²) that touches it at d₀.
        lengths = self._lengths(maps)
        weights = {
            name: (1 / (scale**2 * lengths[name])).expand(self._image(maps[name]).shape)
            for name, scale in self.scales.items()
        }

        seen = {name: self._seen(maps[name]) for name in self.scales}

        def pulled(name, q):
            return self._transpose([weights[name] * d for d in self._gradient(q)])

        def matvec(v):
            return {name: slope * pulled(name, slope * v[name]) for name, (_, slope) in seen.items()}

        diagonal = {}
        for name, weight in weights.items():
            total = torch.zeros_like(weight)
            for dim in self.dims:
                inner = weight.narrow(dim, 0, self.shape[dim] - 1)
                total.narrow(dim, 0, self.shape[dim] - 1).add_(inner)
                total.narrow(dim, 1, self.shape[dim] - 1).add_(inner)
            diagonal[name] = total.reshape(maps[name].shape) * seen[name][1] ** 2

        def noise(generator):
            drawn = {}
            for name, weight in weights.items():
                white = [
                    torch.randn(weight.shape, generator=generator, dtype=weight.dtype, device=weight.device)
                    for _ in self.dims
                ]
                drawn[name] = seen[name][1] * self._transpose([weight.sqrt() * one for one in white])
            return drawn

        gradient = {name: slope * pulled(name, q) for name, (q, slope) in seen.items()}
        return Quadratic(gradient, matvec, diagonal, noise=noise)
