"""Whatever else is known: a distribution, or a function of maps."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import torch

from ...core.grid import Grid
from ...core.prior import BoundPrior, Prior

__all__ = ["Penalty"]


class Penalty(Prior):
    """A torch distribution as a prior, or any function as a penalty.

    Parameters
    ----------
    quantities : str or tuple of str
        What it acts on, fitted or derived.
    penalty : `torch.distributions.Distribution` or callable
        A distribution (its minus log probability is the energy), or a function of torch tensors, one map
        ``([k,] pixels)`` for each quantity in order, that returns one energy a pixel, ``(pixels,)``. It must consist
        of torch operations.
    unit : `~astropy.units.Unit`, optional
        The unit in which the distribution or function takes the (first) quantity; by default the quantity's own.
        A tuple for several.
    couples_pixels : bool
        Whether the function joins pixels; it may then return one number for the map, and it needs a solver that works
        with gradients alone ("adam", "lbfgs").

    Raises
    ------
    TypeError
        If ``penalty`` is neither a distribution nor callable.
    astropy.units.UnitConversionError
        If the unit does not fit the quantity's.

    Notes
    -----
    Outside of a distribution's support the probability is zero and gives no direction to go. There the energy goes on
    as a steep parabola, so that a start outside finds in.

    Examples
    --------
    >>> import astropy.units as u
    >>> import torch
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    >>> prior = specfit.Penalty("width", torch.distributions.Normal(35.0, 1.0), unit=u.mAA)
    >>> result = specfit.fit(gaussian_cube((3, 4), signal_to_noise=4), model, priors=prior)
    >>> bool(abs(result["width"].data - 0.035).max() < 0.003)
    True
    """

    name = "penalty"

    def __init__(self, names, penalty, *, unit=None, couples_pixels: bool = False):
        if not (isinstance(penalty, torch.distributions.Distribution) or callable(penalty)):
            raise TypeError(
                f"Penalty takes a torch distribution or a function of torch tensors, found {type(penalty).__name__}"
            )
        if isinstance(penalty, torch.distributions.Distribution) and not isinstance(names, str):
            raise TypeError(
                f"a distribution is a prior on one quantity, found {names!r}: use one Penalty for each, or a function"
            )
        self.names = names
        self.penalty = penalty
        self.unit = unit
        self.couples_pixels = couples_pixels

    @property
    def quantities(self) -> tuple[str, ...]:
        return (self.names,) if isinstance(self.names, str) else tuple(self.names)

    def bind(self, units: Mapping[str, u.UnitBase], grid: Grid) -> BoundPrior:
        wanted = self.unit if isinstance(self.unit, (tuple, list)) else (self.unit,)
        factors = {}
        for number, name in enumerate(self.quantities):
            own = units[name]
            unit = wanted[number] if number < len(wanted) and wanted[number] is not None else own
            try:
                factors[name] = own.to(u.Unit(unit))
            except u.UnitConversionError:
                raise u.UnitConversionError(
                    f"Penalty takes {name!r} in {unit}, which does not convert from its unit, {own}"
                ) from None
        energy = self.penalty
        if isinstance(energy, torch.distributions.Distribution):
            energy = _Surprise(energy)
        return BoundPenalty(factors, energy, self.couples_pixels)


class BoundPenalty(BoundPrior):
    """Numbers only; see `Penalty`."""

    def __init__(self, factors: Mapping[str, float], function, couples_pixels: bool):
        self.factors, self.function, self.couples_pixels = factors, function, couples_pixels

    def energy(self, maps) -> torch.Tensor:
        energy = self.function(*(maps[name] * factor for name, factor in self.factors.items()))
        pixels = maps[next(iter(self.factors))].shape[-1]
        if not self.couples_pixels and energy.ndim > 1:
            energy = energy.reshape(-1, energy.shape[-1]).sum(0)
        if not self.couples_pixels and energy.shape != (pixels,):
            raise ValueError(
                f"the function of a Penalty should return one energy a pixel, ({pixels},), and returned "
                f"{tuple(energy.shape)}; if it joins pixels, say couples_pixels=True"
            )
        return energy


class _Surprise:
    """Minus the logarithm of a distribution's density, continued outside of its support."""

    def __init__(self, distribution: torch.distributions.Distribution):
        self.distribution = distribution
        try:
            spread = float(torch.as_tensor(distribution.stddev).double().mean())
        except NotImplementedError:
            spread = 1.0
        self.margin = 1e-3 * (spread if 0 < spread < float("inf") else 1.0)
        support = distribution.support
        support = getattr(support, "base_constraint", support)
        self.low = getattr(support, "lower_bound", None)
        self.high = getattr(support, "upper_bound", None)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        inside = values
        if self.low is not None:
            inside = torch.maximum(inside, torch.as_tensor(self.low).to(values) + self.margin)
        if self.high is not None:
            inside = torch.minimum(inside, torch.as_tensor(self.high).to(values) - self.margin)
        vector = len(self.distribution.event_shape) > 0
        surprise = -self.distribution.log_prob(inside.T if vector else inside).to(values)
        if self.low is None and self.high is None:
            return surprise
        outside = 0.5 * ((values - inside.detach()) / self.margin).square() * (values != inside)
        return surprise + (outside.sum(0) if vector else outside)
