"""Neighbours resemble each other, except at edges."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import torch

from ...core.grid import Grid
from ...core.prior import BoundPrior, Quadratic
from .scales import ScaledPrior, check_names, check_scale

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

    Raises
    ------
    ValueError
        If scale or softness is not positive, or the map has no such axis.
    astropy.units.UnitConversionError
        If the scale's unit does not fit the quantity's.

    References
    ----------
    Rudin, Osher & Fatemi (1992), https://doi.org/10.1016/0167-2789(92)90242-F

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> specfit.TotalVariation("velocity", scale=2 * u.km / u.s)
    TotalVariation('velocity', scale=<Quantity 2. km / s>)
    """

    name = "total_variation"
    references = ("10.1016/0167-2789(92)90242-F",)
    couples_pixels = True

    def __init__(self, *names: str, scale="auto", axes="space", softness: float = 0.1):
        check_names("TotalVariation", names)
        check_scale("TotalVariation", scale, automatic=True)
        if not softness > 0:
            raise ValueError(f"softness must be positive, found {softness!r}")
        self.names = names
        self.scale = scale
        self.axes = axes
        self.softness = softness

    def bind(self, units: Mapping[str, u.UnitBase], grid: Grid) -> BoundPrior:
        return BoundTotalVariation(self.numbers(units), grid.shape, grid.axes(self.axes), self.softness)


class BoundTotalVariation(BoundPrior):
    """Numbers only; see `TotalVariation`."""

    couples_pixels = True

    def __init__(self, scales: Mapping[str, float], shape, axes, softness: float):
        self.scales, self.shape, self.softness = scales, tuple(shape), softness
        self.dims = [axis - len(self.shape) for axis in axes]

    def _gradient(self, q: torch.Tensor) -> list[torch.Tensor]:
        """Steps to the next pixel along each axis, zero at the end: all of the map's shape."""
        image = q.reshape(*q.shape[:-1], *self.shape)
        return [image.diff(dim=dim, append=image.narrow(dim, self.shape[dim] - 1, 1)) for dim in self.dims]

    def _transpose(self, steps: list[torch.Tensor]) -> torch.Tensor:
        total = 0
        for dim, step in zip(self.dims, steps, strict=True):
            inner = step.narrow(dim, 0, self.shape[dim] - 1)
            end = inner.new_zeros([1 if i == inner.ndim + dim else n for i, n in enumerate(inner.shape)])
            total = total - inner.diff(dim=dim, prepend=end, append=end)
        return total.reshape(*total.shape[: total.ndim - len(self.shape)], -1)

    def _length(self, q: torch.Tensor, scale: float) -> torch.Tensor:
        return (sum((d / scale).square() for d in self._gradient(q)) + self.softness**2).sqrt()

    def energy(self, maps) -> torch.Tensor:
        total = 0
        for name, scale in self.scales.items():
            total = total + (self._length(maps[name], scale) - self.softness).sum()
        return total

    def quadratic(self, maps) -> Quadratic:
        # √(d² + ε²) lies below its parabola of curvature 1 / √(d₀² + ε²) that touches it at d₀.
        weights = {name: 1 / (scale**2 * self._length(maps[name], scale)) for name, scale in self.scales.items()}

        def matvec(v):
            return {name: self._transpose([weights[name] * d for d in self._gradient(v[name])]) for name in self.scales}

        diagonal = {}
        for name, weight in weights.items():
            total = torch.zeros_like(weight)
            for dim in self.dims:
                inner = weight.narrow(dim, 0, self.shape[dim] - 1)
                total.narrow(dim, 0, self.shape[dim] - 1).add_(inner)
                total.narrow(dim, 1, self.shape[dim] - 1).add_(inner)
            diagonal[name] = total.reshape(maps[name].shape)
        return Quadratic(matvec({name: maps[name] for name in self.scales}), matvec, diagonal)
