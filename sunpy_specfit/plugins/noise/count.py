"""Photon and read noise of a detector."""

from __future__ import annotations

import astropy.units as u
import torch

from ...core.noise import Noise

__all__ = ["CountNoise"]


class CountNoise(Noise):
    """Photon noise and read noise: sigma² = I / photons_per_dn + read_noise².

    Parameters
    ----------
    photons_per_dn : float or `~astropy.units.Quantity`
        Photons for each unit of the data. A plain number or ph/DN, electron/DN.
    read_noise : float or `~astropy.units.Quantity`
        Standard deviation of the read noise, in the data's unit.

    Raises
    ------
    ValueError
        If a value is not positive (the read noise may be zero).

    Notes
    -----
    Light below zero has the read noise alone; where that is zero too, the noise of one photon is the least.
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
        self._gain = _number(photons_per_dn)
        self._read = _number(read_noise)
        if not self._gain > 0:
            raise ValueError(f"photons_per_dn must be above zero, found {photons_per_dn}")
        if not self._read >= 0:
            raise ValueError(f"read_noise must not be negative, found {read_noise}")

    def variance(self, light: torch.Tensor) -> torch.Tensor:
        least = self._gain**-2 if self._read == 0 else 0.0
        return (light.clamp_min(0.0) / self._gain + self._read**2).clamp_min(least)


def _number(value) -> float:
    return float(value.value if isinstance(value, u.Quantity) else value)
