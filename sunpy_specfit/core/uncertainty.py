"""Every kind of uncertainty as something that gives weights, block by block."""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.nddata import (
    InverseVariance,
    NDUncertainty,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)

from .noise import Noise

__all__ = ["Sigma", "estimate_noise", "read_uncertainty"]


@dataclass(frozen=True)
class Sigma:
    """Stored errors: an array, and the power of sigma that it holds.

    Attributes
    ----------
    values : `numpy.ndarray`
        Broadcast to the cube's shape, not copied.
    power : int
        1 for standard deviations, 2 for variances, -2 for inverse variances.
    factor : float
        Multiplies the values to bring them to the data's unit (to its power).
    """

    values: np.ndarray
    power: int
    factor: float

    @property
    def uniform(self) -> bool:
        """Whether one number stands for all samples."""
        return isinstance(self.values, np.ndarray) and all(
            stride == 0 or n == 1 for stride, n in zip(self.values.strides, self.values.shape, strict=True)
        )

    def deviations(self, values: np.ndarray) -> np.ndarray:
        """Some of the values as standard deviations in the data's unit, float64; NaN where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (np.asarray(values, float) * self.factor) ** (1 / self.power)


def read_uncertainty(given, cube, unit: u.UnitBase) -> tuple[Sigma | Noise | None, str]:
    """What the user or the cube says of the noise, and who said it.

    Returns
    -------
    `Sigma`, `Noise` or None
    origin : str
        "given", "cube", "noise model" or "none".

    Raises
    ------
    TypeError
        If it is no uncertainty, or one of unknown kind.
    ValueError
        If its shape does not fit the cube.
    astropy.units.UnitConversionError
        If its unit does not convert to that of the data.
    """
    if isinstance(given, Noise):
        return given.in_unit(unit), "noise model"
    source = "given" if given is not None else "cube"
    found = given if given is not None else cube.uncertainty
    if found is None or (isinstance(found, NDUncertainty) and found.array is None):
        return None, "none"
    if isinstance(found, NDUncertainty):
        return _from_nddata(found, cube, unit), source
    if isinstance(found, u.Quantity):
        factor = _factor(found.unit, unit, cube.unit)
        return Sigma(_fit_shape(found.value, cube.data.shape, "uncertainty"), 1, factor), source
    raise TypeError(
        "uncertainty is a Quantity of standard deviations, an NDUncertainty or a Noise such as CountNoise; "
        f"found {type(found).__name__}"
    )


def _from_nddata(found: NDUncertainty, cube, unit: u.UnitBase) -> Sigma:
    powers = {StdDevUncertainty: 1, VarianceUncertainty: 2, InverseVariance: -2}
    power = next((p for kind, p in powers.items() if isinstance(found, kind)), None)
    if power is None:
        if isinstance(found, UnknownUncertainty):
            raise TypeError(
                "the uncertainty is an UnknownUncertainty, as astropy makes it from a bare array: wrap the values in "
                "StdDevUncertainty, VarianceUncertainty or InverseVariance to say what they are, in the cube or as "
                "uncertainty="
            )
        found, power = found.represent_as(StdDevUncertainty), 1
    if np.dtype(getattr(found.array, "dtype", float)).kind not in "iuf":
        raise TypeError(f"the uncertainty must hold real numbers, found dtype {found.array.dtype}")
    own = getattr(found, "unit", None)
    factor = 1.0 if own is None else _factor(own, unit**power, cube.unit and cube.unit**power)
    return Sigma(_fit_shape(np.asanyarray(found.array), cube.data.shape, "uncertainty"), power, factor)


def _factor(found: u.UnitBase, wanted: u.UnitBase, labelled: u.UnitBase | None) -> float:
    """What brings an uncertainty to the data's unit; it may share a wrong label with the data."""
    for unit in (wanted, labelled):
        if unit is not None and found.is_equivalent(unit):
            return float(found.to(unit))
    raise u.UnitConversionError(
        f"the uncertainty is in {found}, which does not convert to {wanted}, as the data's unit asks"
    )


def _fit_shape(values, shape: tuple[int, ...], what: str):
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise ValueError(
            f"the {what} has shape {np.shape(values)}, which does not fit the data's shape {shape}; "
            "give the same shape, or one that broadcasts to it"
        ) from None


def estimate_noise(samples: np.ndarray) -> float:
    """One standard deviation for a cube, from how spectra scatter about straight lines.

    The median of |2 y_i - y_(i-2) - y_(i+2)|, scaled for Gaussian noise (the method DER_SNR,
    https://ui.adsabs.harvard.edu/abs/2008ASPC..394..505S), with clipping at three sigma so that lines hardly touch it.

    Parameters
    ----------
    samples : `numpy.ndarray`
        ``(pixels, n)`` in the order of the wavelengths, NaN where not used.

    Returns
    -------
    float
        NaN where there is nothing to tell it from: no valid samples, or all alike.

    Raises
    ------
    ValueError
        If there are fewer than five samples along a spectrum.
    """
    if samples.shape[-1] < 5:
        raise ValueError(
            f"the noise cannot be estimated from {samples.shape[-1]} samples a pixel (5 are needed): "
            "pass uncertainty=, as a Quantity, an NDUncertainty or a noise model"
        )
    spread = np.abs(2 * samples[..., 2:-2] - samples[..., :-4] - samples[..., 4:])
    spread = spread[np.isfinite(spread) & (spread > 0)]  # constant samples are padding, not light
    if not spread.size:
        return np.nan
    sigma = 0.6052697 * float(np.median(spread))
    # In a narrow window a line is no longer few samples among many: what it sets apart is left out, and again.
    for _ in range(20):
        before, sigma = sigma, 0.6052697 * float(np.median(spread[spread <= 3 * np.sqrt(6) * sigma]))
        if sigma > 0.99 * before:
            break
    return sigma
