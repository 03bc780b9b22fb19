"""A soft limit."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import torch

from ...core.grid import Grid
from ...core.prior import BoundPrior, Prior
from .scales import check_scale, in_unit

__all__ = ["Hinge"]


class Hinge(Prior):
    """A limit that gives way: ½ (excess / scale)² beyond it, nothing within.

    The soft form of a bound: ``model.bound(width=(limit, None))`` keeps it strictly.

    Parameters
    ----------
    quantity : str
        What it acts on, fitted or derived.
    lower, upper : `~astropy.units.Quantity`, optional
        The limits; numbers are in the quantity's unit.
    scale : `~astropy.units.Quantity`
        How soft they are: an excess of this costs as much as one sigma of the data.

    Raises
    ------
    ValueError
        If there is no limit, lower is not below upper, or the scale is not positive.
    astropy.units.UnitConversionError
        If a unit does not fit the quantity's.

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    >>> prior = specfit.Hinge("width", lower=30 * u.mAA, scale=0.2 * u.mAA)
    >>> result = specfit.fit(gaussian_cube((3, 4), signal_to_noise=4), model, priors=prior)
    >>> bool(result["width"].data.min() > 0.029)
    True
    """

    name = "hinge"

    def __init__(self, quantity: str, *, lower=None, upper=None, scale):
        if lower is None and upper is None:
            raise ValueError(f"Hinge on {quantity!r} has no limit: give lower=, upper=, or both")
        check_scale("Hinge", scale, automatic=False)
        self.quantity = quantity
        self.lower = lower
        self.upper = upper
        self.scale = scale

    @property
    def quantities(self) -> tuple[str, ...]:
        return (self.quantity,)

    def bind(self, units: Mapping[str, u.UnitBase], grid: Grid) -> BoundPrior:
        unit = units[self.quantity]
        low, high = (
            missing if limit is None else float(in_unit(limit, unit, self.quantity, "limit"))
            for limit, missing in ((self.lower, -float("inf")), (self.upper, float("inf")))
        )
        if not low < high:
            raise ValueError(f"Hinge on {self.quantity!r}: lower = {self.lower} is not below upper = {self.upper}")
        return BoundHinge(
            self.quantity, low, high, float(in_unit(self.scale, unit, self.quantity, "scale", positive=True))
        )


class BoundHinge(BoundPrior):
    """Numbers only; see `Hinge`."""

    def __init__(self, name: str, low: float, high: float, scale: float):
        self.name, self.low, self.high, self.scale = name, low, high, scale

    def energy(self, maps) -> torch.Tensor:
        q = maps[self.name]
        excess = torch.relu(self.low - q) + torch.relu(q - self.high)
        energy = 0.5 * (excess / self.scale).square()
        return energy.sum(0) if energy.ndim > 1 else energy
