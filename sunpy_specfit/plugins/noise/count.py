"""Photon and read noise of a detector."""

from __future__ import annotations

from numbers import Real

import astropy.units as u
import numpy as np
import torch

from ...core.noise import Noise

__all__ = ["CountNoise"]

# Photons. More of them make the errors of a faint background too large, fewer let single photons rule: tried between
# 0.001 and 1 for backgrounds of 0, 0.1 and 0.5 photons, this leaves velocities the smallest scatter.
_LEAST = 0.1


class CountNoise(Noise):
    """Photon noise and read noise: sigma² = I / photons_per_dn + read_noise².

    Parameters
    ----------
    photons_per_dn : float or `~astropy.units.Quantity`
        Photons (or electrons) for each unit of the data, such as ``4 * u.ph / u.DN``. A plain number is per unit of
        the data, whatever that is.
    read_noise : float or `~astropy.units.Quantity`
        Standard deviation of the read noise; a plain number is in the data's unit.

    Raises
    ------
    TypeError
        If a value is not one real number.
    ValueError
        If a value is not finite and positive (the read noise may be zero).

    Notes
    -----
    Light below zero has the read noise alone. No variance is below that of a tenth of a photon: where the model has
    hardly any light and the detector no read noise, one photon that came all the same would count for any number of
    sigmas. Down to a tenth of a photon a sample the weights, and so errors and chi2, are those of the counts.
    For IRIS level 2: ``CountNoise(4, 3.1)`` in the far and ``CountNoise(18, 1.2)`` in the near ultraviolet
    (De Pontieu et al. 2014, https://doi.org/10.1007/s11207-014-0485-y).

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit import CountNoise
    >>> CountNoise(4, 3.1).variance(torch.tensor([0.0, 100.0]))
    tensor([ 9.6100, 34.6100])
    """

    name = "count_noise"
    references = ("10.1007/s11207-014-0485-y",)

    def __init__(self, photons_per_dn, read_noise=0.0):
        self.photons_per_dn = photons_per_dn
        self.read_noise = read_noise
        self._gain = _number("photons_per_dn", photons_per_dn)
        self._read = _number("read_noise", read_noise)
        if not 0 < self._gain < np.inf:
            raise ValueError(f"photons_per_dn must be finite and above zero, found {photons_per_dn}")
        if not 0 <= self._read < np.inf:
            raise ValueError(f"read_noise must be finite and not negative, found {read_noise}")

    def in_unit(self, unit: u.UnitBase) -> CountNoise:
        """The same noise for data in ``unit``, as plain numbers.

        DN, adu and counts are one and the same here, and data without a unit are in whatever the noise is in.

        Raises
        ------
        astropy.units.UnitConversionError
            If a unit does not convert: for data in erg, or in DN/s, photons per DN say nothing.
        """
        per_unit = [quantum / label for label in _labels(unit) for quantum in (u.ph, u.electron)]
        gain = _convert("photons_per_dn", self.photons_per_dn, per_unit, unit)
        return CountNoise(gain, _convert("read_noise", self.read_noise, _labels(unit), unit))

    def variance(self, light: torch.Tensor) -> torch.Tensor:
        return (light.clamp_min(0.0) / self._gain + self._read**2).clamp_min(_LEAST * self._gain**-2)


def _number(name: str, value) -> float:
    number = value.value if isinstance(value, u.Quantity) else value
    if not isinstance(number, (Real, np.ndarray)) or np.ndim(number):
        raise TypeError(f"{name} is one number or a Quantity, found {value!r}")
    return float(number)


def _labels(unit: u.UnitBase) -> list[u.UnitBase]:
    """The unit of the data, under its other names where it is what a detector reads out."""
    read_out = [u.DN, u.adu, u.ct]
    return [unit, *read_out] if any(unit.is_equivalent(name) for name in read_out) else [unit]


def _convert(name: str, value, wanted: list[u.UnitBase], data_unit: u.UnitBase) -> float:
    if not isinstance(value, u.Quantity) or u.dimensionless_unscaled in (value.unit, data_unit):
        return _number(name, value)
    for unit in wanted:
        if value.unit.is_equivalent(unit):
            return float(value.to_value(unit))
    raise u.UnitConversionError(
        f"{name} is in {value.unit}, which for data in {data_unit} does not convert to {wanted[0]}: "
        "give it in that unit, or as a plain number per unit of the data"
    )
