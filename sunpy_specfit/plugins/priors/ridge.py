"""Values lie near a reference."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import torch

from ...core.grid import Grid
from ...core.prior import BoundPrior, Prior
from .scales import check_scale, in_unit

__all__ = ["Ridge"]


class Ridge(Prior):
    """A quantity lies near a reference: ½ ((quantity - reference) / scale)².

    Parameters
    ----------
    quantity : str
        What it acts on, fitted or derived.
    reference : `~astropy.units.Quantity`
        Where it pulls to: one value, a map of the grid's shape, or a vector for a vector parameter. Numbers are in
        the quantity's unit.
    scale : `~astropy.units.Quantity` or "auto"
        The spread (one sigma) around the reference: one value, or a map. ``"auto"`` chooses one value from the data.

    Raises
    ------
    ValueError
        If the scale is not positive or a map's shape is not the grid's.
    astropy.units.UnitConversionError
        If a unit does not fit the quantity's.

    References
    ----------
    Hoerl & Kennard (1970), https://doi.org/10.1080/00401706.1970.10488634

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    >>> prior = specfit.Ridge("width", 35 * u.mAA, scale=1 * u.mAA)
    >>> result = specfit.fit(gaussian_cube((3, 4), signal_to_noise=4), model, priors=prior)
    >>> bool(abs(result["width"].data - 0.035).max() < 0.003)
    True
    """

    name = "ridge"
    references = ("10.1080/00401706.1970.10488634",)

    def __init__(self, quantity: str, reference=0.0, *, scale):
        check_scale("Ridge", scale, automatic=True)
        self.quantity = quantity
        self.reference = reference
        self.scale = scale

    @property
    def quantities(self) -> tuple[str, ...]:
        return (self.quantity,)

    @property
    def automatic(self) -> bool:
        return isinstance(self.scale, str)

    def given_scale(self, name: str):
        """What the user gave."""
        return self.scale

    def with_scales(self, scales: Mapping[str, u.Quantity]) -> Ridge:
        return type(self)(**{**self.arguments(), "scale": scales[self.quantity]})

    def bind(self, units: Mapping[str, u.UnitBase], grid: Grid) -> BoundPrior:
        unit = units[self.quantity]
        reference = in_unit(self.reference, unit, self.quantity, "reference")
        scale = in_unit(self.scale, unit, self.quantity, "scale", positive=True)
        return BoundRidge(
            self.quantity,
            _per_pixel(reference, grid, self.quantity, "reference"),
            _per_pixel(scale, grid, self.quantity, "scale"),
        )


def _per_pixel(value, grid: Grid, name: str, what: str) -> torch.Tensor:
    """``(1,)``, ``(pixels,)``, ``(k, 1)`` or ``(k, pixels)``."""
    value = torch.as_tensor(value)
    dims = len(grid.shape)
    if value.ndim == 0:
        return value.reshape(1)
    if value.ndim >= dims and tuple(value.shape[value.ndim - dims :]) == grid.shape:
        return value.reshape(*value.shape[: value.ndim - dims], grid.size)
    if value.ndim == 1:
        return value[:, None]
    raise ValueError(
        f"the {what} of Ridge on {name!r} has the shape {tuple(value.shape)}; expected one number, or a map of shape "
        f"{grid.shape}"
    )


class BoundRidge(BoundPrior):
    """Numbers only; see `Ridge`."""

    is_quadratic = True

    def __init__(self, name: str, reference: torch.Tensor, scale: torch.Tensor):
        self.name, self.reference, self.scale = name, reference, scale

    def select(self, index) -> BoundRidge:
        pick = [value if value.shape[-1] == 1 else value[..., index] for value in (self.reference, self.scale)]
        return BoundRidge(self.name, *pick)

    def energy(self, maps) -> torch.Tensor:
        q = maps[self.name]
        # A pixel without a reference (NaN) is not pulled.
        known = torch.isfinite(self.reference).to(q)
        away = (q - self.reference.nan_to_num().to(q)) * known / self.scale.to(q)
        energy = 0.5 * away.square()
        return energy.sum(0) if energy.ndim > 1 else energy
