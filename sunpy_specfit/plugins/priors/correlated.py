"""A vector's Gaussian prior, correlated between neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy

import astropy.units as u
import torch

from ...core.gaussian import BoundGaussian
from ...core.grid import Grid
from ...core.prior import AmongPixels, BoundPrior, Prior
from ...numerics.cosine_transform import variances
from .differences import Differences
from .scales import in_unit

__all__ = ["Correlated"]

# Where the search for a length begins, and the longest that is asked for, pixels.
_FIRST, _LONGEST = 4.0, 300.0


class Correlated(Prior):
    """Pixels have the Gaussian prior that the vector has, and neighbours resemble each other: a covariance C ⊗ K.

    C is that of the vector's own prior, such as the `TemperaturePrior` of a DEM, and K that of a Gaussian process over
    the map of unit variance. So it changes nothing of what is known of a pixel by itself. How neighbours differ has
    the shape of how pixels differ, less of it: a DEM that rises as a whole counts once and not for each of its bins.

    K⁻¹ is S (1 + length² L)^order S, with qᵀ L q the sum of squared differences of neighbours and S the diagonal matrix
    that makes the variance of every pixel one, those at the edges of the map included.

    Parameters
    ----------
    name : str
        The vector, ``"dem"``.
    length : float, `~astropy.units.Quantity` or "auto"
        Over how many pixels the correlation falls off. ``"auto"`` takes the most probable one given the data, and
        records it in ``result.meta["prior_scales"]``.
    order : {1, 2}
        How smooth maps are: beyond the length their power falls with wave number to the power -2 or -4. Images of
        AIA's, blurred by its optics, ask for 2.
    axes : {"space", "time", "all"}, int, or tuple of these
        Along which axes of the map.

    Raises
    ------
    ValueError
        If the order is not 1 or 2, the length is not between 0 and 300, the map has no such axis, or the quantity has
        no Gaussian prior on its logarithm.
    astropy.units.UnitConversionError
        If the length is not in pixels.

    References
    ----------
    Separable Gaussian processes: Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, chapters 2 and
    5; correlations by differential operators on a lattice: Lindgren, Rue & Lindström (2011),
    https://doi.org/10.1111/j.1467-9868.2011.00777.x

    Examples
    --------
    >>> import astropy.units as u
    >>> import numpy as np
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import dem_scene
    >>> scene = dem_scene("quiet_sun", (12, 12), exposure=0.05)
    >>> model = specfit.DEM(scene.responses, bins=np.logspace(5.7, 7.3, 17) * u.K)
    >>> result = specfit.fit(scene.images, model, priors=specfit.Correlated("dem", length=4))
    >>> result["dem"].data.shape
    (16, 12, 12)
    """

    name = "correlated"
    references = ("10.1111/j.1467-9868.2011.00777.x",)
    couples_pixels = True
    first_scale, largest_scale = _FIRST, _LONGEST

    def __init__(self, quantity: str, *, length="auto", order: int = 2, axes="space"):
        if not isinstance(quantity, str):
            raise TypeError(f"Correlated takes the name of a vector, such as 'dem'; found {quantity!r}")
        if order not in (1, 2):
            raise ValueError(f"order is 1 (detail of all sizes) or 2 (smooth), found {order!r}")
        if isinstance(length, str) and length != "auto":
            raise ValueError(f'the length is a number of pixels, or "auto"; found {length!r}')
        if not isinstance(length, str):
            _pixels(length, quantity)
        self.quantity = quantity
        self.length = length
        self.order = order
        self.axes = axes

    @property
    def quantities(self) -> tuple[str, ...]:
        return (self.quantity,)

    @property
    def automatic(self) -> bool:
        return isinstance(self.length, str)

    def given_scale(self, name: str):
        return self.length

    def scale_unit(self, unit: u.UnitBase) -> u.UnitBase:
        return u.pixel

    def with_scales(self, scales: Mapping[str, u.Quantity]) -> Correlated:
        return type(self)(**(self.arguments() | {"length": scales.get(self.quantity, self.length)}))

    def bind(self, units: Mapping[str, u.UnitBase], grid: Grid) -> BoundPrior:
        if self.automatic:
            raise ValueError("the length of Correlated is still 'auto': fit() chooses it")
        steps = Differences(grid.shape, grid.axes(self.axes), 1)
        return BoundCorrelated(self.quantity, steps, _pixels(self.length, self.quantity), self.order)


def _pixels(length, name: str) -> float:
    try:
        number = in_unit(length, u.pixel, name, "length", positive=True)
    except u.UnitConversionError:
        raise u.UnitConversionError(f"the length of Correlated is in pixels, found {length!r}") from None
    if number.ndim or number > _LONGEST:
        raise ValueError(
            f"the length of Correlated is one number of pixels, {_LONGEST:g} at the most; found {length!r}"
        )
    return float(number)


class BoundCorrelated(BoundPrior):
    """Numbers only; see `Correlated`. Of white numbers z it makes ½ zᵀ K⁻¹ z of the pixels' own ½ zᵀ z."""

    couples_pixels = True

    def __init__(self, quantity: str, steps: Differences, length: float, order: int):
        self.quantity, self.steps, self.length, self.order = quantity, steps, length, order
        self.gaussian: BoundGaussian | None = None
        waves = self._power(steps.eigenvalues(torch.zeros(1, dtype=torch.float64)))
        # At the edges, where there are fewer neighbours, more is left free.
        self._variance = variances((1 / waves).reshape(steps.shape)).reshape(-1)
        self._root = self._variance.sqrt()
        # Edges apart, cosines make it diagonal.
        self._waves = float(self._variance.mean()) * waves - 1

    def _power(self, steps: torch.Tensor) -> torch.Tensor:
        return (1 + self.length**2 * steps) ** self.order

    def beside(self, priors, quantity: str) -> BoundCorrelated:
        same = [prior for prior, name in priors if name == quantity]
        own = [prior for prior in same if isinstance(prior, BoundGaussian) and prior.logarithm]
        if sum(isinstance(prior, BoundCorrelated) for prior in same) > 1:
            raise ValueError(f"Correlated is given twice for {self.quantity!r}: give one, of several axes")
        new = copy(self)
        new.gaussian = own[0] if own else None
        return new

    @property
    def among_pixels(self) -> AmongPixels:
        diagonal = self.steps.diagonal(torch.zeros(1, dtype=torch.float64))
        if self.order == 1:
            power = 1 + self.length**2 * diagonal
        else:  # a row of L is as many ones as neighbours, and their number
            power = 1 + 2 * self.length**2 * diagonal + self.length**4 * diagonal * (diagonal + 1)
        return AmongPixels(self._product, self._variance * power - 1, self._waves, self._noise)

    def _product(self, z: torch.Tensor) -> torch.Tensor:
        root = self._root.to(z)
        out = root * z
        for _ in range(self.order):
            out = self.steps.product(out).mul_(self.length**2).add_(out)
        return out.mul_(root).sub_(z)

    def _noise(self, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Of the covariance K⁻¹."""
        out = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        if self.order == 1:
            out = out + self.length * self.steps.noise(like, generator)
        else:
            out = out + self.length**2 * self.steps.product(out)
        return self._root.to(like) * out

    def energy(self, maps) -> torch.Tensor:
        if self.gaussian is None:
            raise ValueError(
                f"Correlated is about a vector with a Gaussian prior on its logarithm, and {self.quantity!r} has none"
            )
        # In place of the pixels' own, which is the problem's too.
        maps = {self.gaussian.quantity: maps[self.quantity]}
        z = self.gaussian.white(maps)
        return 0.5 * (z * (self._product(z) + z)).sum() - self.gaussian.energy(maps).sum()
