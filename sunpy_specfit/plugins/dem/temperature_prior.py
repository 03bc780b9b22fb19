"""What is known of a DEM before the data: a Gaussian of given mean and covariance along temperature."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import partial

import astropy.units as u
import numpy as np
import torch

from ...core.gaussian import BoundGaussian
from ...core.prior import BoundPrior, Prior
from .correlation import correlation
from .learning import Evidence, sample_pixels

__all__ = ["TemperaturePrior", "usual_shape"]

# Where the search for a scale begins: the natural logarithm of a DEM (or parts of its level).
_FIRST = 1.0
# Lengths are sought from the first of these on, in steps of this factor, dex.
_SHORTEST, _LONGER, _LONGEST = 0.2, 2**0.5, 1.0
# Where the usual hump has its peak.
_PEAK = 6.2
# The common mean is a broader curve than what departs from it, dex.
_MEAN_LENGTH = 0.37
# By how much the level, the slope and the bend of the mean may be others than the hump's, natural logarithms (per dex
# and per dex²): at ten million kelvin a quiet corona has a ten-thousandth of the hump, a flare more than all of it. Of
# a curve that returned to the hump where no channel looks, the hottest bins would hold too much.
_MEAN_SHAPE = (1.0, 4.0, 6.0)
# A few pixels may depart from the hump so many times as far as the mean of many, but in no slope or bend of their own.
_ALONE = 3.0
# By how much slope and bend of pixels may be others than the mean's.
_SHAPE = 2.0
# The mean is learned from a narrower hump, too, dex; twice the logarithms of two evidences that differ by less than the
# second number are those of one mean.
_NARROWER, _CLEARLY = 0.22, 1.0
# Mean and scale are learned in turn.
_ROUNDS = 2
_STEPS = 3
# The least that a linear prior lets a bin vary, in parts of the largest.
_LEAST = 0.003


def usual_shape(log_temperature: np.ndarray, width: float = 0.35) -> np.ndarray:
    """ln DEM as a function of log T, up to a constant, before anything is known: a broad coronal hump.

    The emission measure in equal steps of log T, T · DEM, is a Gaussian of ``width`` (dex) about log T = 6.2. Where no
    channel looks, a DEM falls back to it: there is less emission below half a million kelvin and above five than in the
    corona, and at log T = 7.2 a fiftieth of it, unless the data ask for more. (A flat prior on DEM per kelvin instead
    would put most of the emission measure at the highest temperatures, for there the bins are widest.)
    """
    away = log_temperature - _PEAK
    return -0.5 * (away / width) ** 2 - np.log(10) * away


def _of_shape(log_temperature: np.ndarray, spreads: tuple[float, ...]) -> torch.Tensor:
    """The covariance of curves that differ in level, slope and bend (Rasmussen & Williams 2006, section 2.7)."""
    away = torch.as_tensor(log_temperature - _PEAK)
    return sum(torch.outer(own, own) for own in (spread * away**power for power, spread in enumerate(spreads)))


class TemperaturePrior(Prior):
    """Along temperature a DEM is smooth, and lies about a mean: ½ (g - m)ᵀ C⁻¹ (g - m), with g = ln DEM or DEM / level.

    The mean matters as much as the smoothing: in bins that no channel sees, the answer is the mean and its error the
    prior's. C = scale² K + level_spread² 1 1ᵀ + shape_spread² (t tᵀ + t² t²ᵀ), where K tells how bins resemble each
    other: the correlation of a smooth curve of the given order with the given length; and t = log10 (T / 1.6 MK).

    Parameters
    ----------
    scale : float or "auto"
        By how much the curve typically departs from its mean (one sigma): a natural logarithm, 0.7 for a factor of two
        (of the forms without logarithm: a part of the mean). ``"auto"`` takes it from the data by ``criterion``; on the
        logarithm, of 32 pixels or more, then also how much each bin scatters, with which others (what the pixels say
        of themselves counts by their number, the smooth curve as much as two a bin; beside many pixels it widens little
        what is far narrower: Mulder & Pericchi 2018).
    length : float or "auto"
        Over what distance in log10 T the departure changes, in dex. ``"auto"``: 0.2, or what longer one is the more
        probable once all else is learned (on the logarithm, where 32 pixels or more also teach the mean and, by the
        evidence, the scale).
    order : {0, 1, 2, "gaussian"}
        Bins independent of each other (0); curves that are continuous (1: the correlation exp(-d / length)); with a
        continuous slope (2: Matérn's of order 3/2); or smooth in all derivatives ("gaussian").
    mean : `~astropy.units.Quantity`, array or "auto"
        A Quantity in cm⁻⁵ K⁻¹, one number a bin: the mean itself. Plain numbers, one a bin: ln DEM up to a constant,
        which is taken from the data. ``"auto"``: of 32 pixels or more, what they have in common, a smooth curve near a
        broad coronal hump about log T = 6.2; of fewer, that hump at the level of the data.
    mean_spread : float
        By how much an automatic mean may depart from a hump of any level, slope and bend, a natural logarithm; with 0
        it is the usual hump. Fewer than 32 pixels may depart three times as far, from the usual hump at any level.
    level_spread : float
        By how much the DEM as a whole may lie above or below the mean, one sigma, a natural logarithm; for the form
        with logarithm only, the others take a level for each pixel.
    shape_spread : float, optional
        By how much its slope and its bend may be others than the mean's, natural logarithms per dex and per dex²; for
        the form with logarithm only. Where no channel looks pixels may differ by far more than one scale for all bins
        says, for some are steeper than others. By default 2 with an automatic scale and 32 pixels or more, else 0.
    criterion : {"evidence", "discrepancy", "sure"}
        How an automatic scale is chosen: the most probable one given the data (marginal likelihood), the smallest one
        whose chi² is not above the number of channels, or the one that foretells the data best (SURE, which leaves
        ill-posed problems too rough).
    covariance : array, optional
        C itself, ``(k, k)``, in place of scale, length, order, level_spread and shape_spread.
    quantity : str
        The vector that it is about.

    Raises
    ------
    ValueError
        If a number is not positive, or a shape does not fit the bins.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, section 2.7, chapters 4 and 5; MacKay (1992),
    https://doi.org/10.1162/neco.1992.4.3.415; Mulder & Pericchi (2018), https://doi.org/10.1214/17-BA1092

    Examples
    --------
    >>> import sunpy_specfit as specfit
    >>> specfit.TemperaturePrior(scale=1.5, length=0.3, order=2)
    TemperaturePrior(scale=1.5, length=0.3)
    """

    name = "temperature_prior"
    references = ("10.1162/neco.1992.4.3.415", "10.1214/17-BA1092")
    learns = True

    def __init__(
        self,
        *,
        scale="auto",
        length="auto",
        order=2,
        mean="auto",
        level_spread: float = 2.0,
        shape_spread: float | None = None,
        mean_spread: float = 1.0,
        criterion: str = "evidence",
        covariance=None,
        quantity: str = "dem",
    ):
        if not (scale == "auto" if isinstance(scale, str) else np.isfinite(scale) and scale > 0):
            raise ValueError(f"scale is 'auto' or a positive number, found {scale!r}")
        if not (length == "auto" if isinstance(length, str) else np.isfinite(length) and length > 0):
            raise ValueError(f"length is 'auto' or a positive number, found {length!r}")
        if not (np.isfinite(level_spread) and level_spread >= 0):
            raise ValueError(f"level_spread must not be below zero, found {level_spread}")
        if shape_spread is not None and (
            isinstance(shape_spread, str) or not (np.isfinite(shape_spread) and shape_spread >= 0)
        ):
            raise ValueError(f"shape_spread is a number that is not below zero, or None; found {shape_spread!r}")
        if not (np.isfinite(mean_spread) and mean_spread >= 0):
            raise ValueError(f"mean_spread must not be below zero, found {mean_spread}")
        if criterion not in ("evidence", "discrepancy", "sure"):
            raise ValueError(f"criterion is 'evidence', 'discrepancy' or 'sure', found {criterion!r}")
        if isinstance(mean, str) and mean != "auto":
            raise ValueError(f"mean is 'auto', a Quantity or an array of logarithms, found {mean!r}")
        correlation(np.zeros(1), _SHORTEST, order)  # refuses an unknown order
        self.scale = scale
        self.length = length
        self.order = order
        self.mean = mean
        self.level_spread = level_spread
        self.shape_spread = shape_spread
        self.mean_spread = mean_spread
        self.criterion = criterion
        self.covariance = covariance
        self.quantity = quantity
        self._bound: BoundGaussian | None = None
        self._learned: dict = {}

    @property
    def quantities(self) -> tuple[str, ...]:
        return (self.quantity,)

    def bind(self, units: Mapping[str, u.UnitBase], grid) -> BoundPrior:
        if self._bound is None:
            raise ValueError("a TemperaturePrior is bound once it has seen the bins and the data: see learn")
        return self._bound

    def learned(self) -> dict:
        return dict(self._learned)

    def learn(self, problem) -> TemperaturePrior:
        """The same prior for the bins of a problem's model, its level and its scale from the data."""
        key = problem.layout.resolve(self.quantity)
        component, own = problem.layout.origin(key)
        places = component.vector_axis(own)[1]
        if places is None or not problem.layout.parameters[key].shape:
            raise ValueError(f"TemperaturePrior is about a vector along temperature, and {self.quantity!r} is none")
        log_temperature = np.log10(places.to_value(u.K))
        logarithm = getattr(component, "form", "log") == "log"
        shape, known_level = self._shape(log_temperature, problem.layout.units[key])
        evidence = Evidence(problem, sample_pixels(problem, logarithm=logarithm))
        level = known_level if known_level is not None else evidence.level(np.exp(shape))
        # The mean is learned as that of logarithms, for it is positive whatever the form.
        departs = self.mean_spread**2 * torch.as_tensor(correlation(log_temperature, _MEAN_LENGTH, "gaussian"))
        firm = 1e-4 * torch.eye(len(shape)).to(departs)
        spread = departs + firm + _of_shape(log_temperature, _MEAN_SHAPE)
        first = torch.as_tensor(shape + np.log(level))
        mean, uncertain, learned = first, torch.zeros_like(spread), None
        length = _SHORTEST if isinstance(self.length, str) else self.length
        shaped = self.shape_spread
        if shaped is None:
            shaped = _SHAPE if isinstance(self.scale, str) and evidence.tells_mean else 0.0
        shaped = shaped if logarithm else 0.0
        common = _of_shape(log_temperature, (self.level_spread, shaped, shaped))

        def of_logarithm(scale: float, error=0.0, shared=None) -> BoundGaussian:
            own = torch.as_tensor(self._covariance(log_temperature, scale, length))
            if self.covariance is None or not logarithm:
                own = (own + common if learned is None else learned) + error
            return BoundGaussian(self.quantity, mean, own, logarithm=True, shared=shared)

        automatic = isinstance(self.scale, str) and self.covariance is None
        scale, curve = (_FIRST if automatic else self.scale if self.covariance is None else 1.0), {}
        learns_mean = isinstance(self.mean, str) and self.mean_spread > 0
        alone = learns_mean and not evidence.tells_mean
        if alone:
            uncertain, learns_mean = _ALONE**2 * departs + firm + _of_shape(log_temperature, _MEAN_SHAPE[:1]), False
        trial = partial(of_logarithm, error=uncertain)
        chooses = automatic and (logarithm or learns_mean or alone)
        for _ in range(_ROUNDS):
            if learns_mean:
                for _ in range(_STEPS):
                    mean, uncertain = evidence.mean(trial(scale), first, spread)
            if chooses:
                scale, curve = evidence.choose(trial, scale, self.criterion)
        if learns_mean:
            # Steps lead to the best mean nearby: what few channels say of the hottest bins may be one of two things.
            usual = evidence.settled_mean(trial(scale), first, spread)
            mean = first + torch.as_tensor(usual_shape(log_temperature, _NARROWER) - shape)
            evidence.forget()
            other = evidence.settled_mean(trial(scale), first, spread)
            evidence.forget()
            better = other[2] > usual[2] + _CLEARLY
            mean, uncertain, _ = other if better else usual
            if better and chooses:
                scale, curve = evidence.choose(trial, scale, self.criterion)
        error = 0.0
        if logarithm and automatic and learns_mean:
            tells_error = getattr(component, "response_error", None) is None
            end = evidence.settle(trial(scale), first, spread, tells_error)
            while isinstance(self.length, str) and self.criterion == "evidence" and length * _LONGER < _LONGEST:
                best = length, scale, curve, end
                length *= _LONGER
                evidence.admit(0.0)
                scale, curve = evidence.choose(trial, scale, self.criterion)
                end = evidence.settle(trial(scale), first, spread, tells_error, best[3])
                if end is None or end.badness + end.departure >= best[3].badness + best[3].departure:
                    length, scale, curve, end = best
                    break
            mean, uncertain, learned, error = end.mean, end.uncertain, end.scatter, end.light_error
        # Of a mean that is not learned but taken, maps make what single pixels do.
        shared = uncertain if learns_mean and self.covariance is None else None
        bound = partial(of_logarithm, error=uncertain, shared=shared)
        if not logarithm:
            # In parts of each pixel's level: bins vary by a part of their mean, and a little where that is nothing.
            typical = (mean - mean.max()).exp()
            width = typical.clamp_min(_LEAST)
            levels = evidence.pixel_level(typical.numpy(), float(mean.max().exp()))

            def bound(scale: float, own: torch.Tensor) -> BoundGaussian:
                given = torch.as_tensor(self._covariance(log_temperature, scale, length)) + uncertain
                covariance = (
                    torch.as_tensor(self.covariance) if self.covariance is not None else given * width[:, None] * width
                )
                return BoundGaussian(self.quantity, typical, covariance, level=own)

            if automatic:
                evidence.forget()
                scale, curve = evidence.choose(partial(bound, own=evidence.own(levels)), scale, self.criterion)
            bound = partial(bound, own=levels)
        new = copy(self)
        new._bound = bound(scale)
        new.light_error = error
        new._learned = {
            "scale": float(scale),
            "chosen_by": self.criterion if automatic else "given",
            "tried": list(curve),
            "criterion": list(curve.values()),
            "length": float(length),
            "shape_spread": float(shaped),
            "light_error": error,
            "level": float(level),
            "mean": mean.exp().numpy(),
            "covariance": new._bound.covariance.numpy(),
        }
        return new

    def _shape(self, log_temperature: np.ndarray, unit) -> tuple[np.ndarray, float | None]:
        """ln of the mean, and its level where that is known."""
        if isinstance(self.mean, str):
            return usual_shape(log_temperature), None
        values = self.mean.to_value(unit) if isinstance(self.mean, u.Quantity) else self.mean
        values = np.asarray(values, float)
        if values.shape != log_temperature.shape:
            raise ValueError(f"the prior's mean has shape {values.shape}; there are {len(log_temperature)} bins")
        if not isinstance(self.mean, u.Quantity):
            return values - values.max(), None
        if not np.all(values > 0):
            raise ValueError("the prior's mean must be above zero in all bins")
        return np.log(values / values.max()), float(values.max())

    def _covariance(self, log_temperature: np.ndarray, scale: float, length: float) -> np.ndarray:
        k = len(log_temperature)
        if self.covariance is None:
            return scale**2 * correlation(log_temperature, length, self.order)
        given = np.asarray(self.covariance, float)
        if given.shape != (k, k) or not np.allclose(given, given.T):
            raise ValueError(f"the covariance is a symmetric ({k}, {k}) array, found shape {given.shape}")
        return given
