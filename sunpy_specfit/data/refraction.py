"""Wavelengths in air and in vacuum."""

from __future__ import annotations

import astropy.units as u
import numpy as np

__all__ = ["air_to_vacuum", "vacuum_to_air"]

# The formula holds above; wavelengths below are always given in vacuum.
AIR_FROM = 2000 * u.AA


def vacuum_to_air(wavelength: u.Quantity) -> u.Quantity:
    """The wavelength in standard air of light whose wavelength in vacuum is given.

    Dry air at 15 °C and 1 atm; Birch & Downs (1994) in the form of Morton (2000, doi:10.1086/317349), the IAU's
    standard.

    Parameters
    ----------
    wavelength : `~astropy.units.Quantity`
        Any shape, from 2000 Å.

    Raises
    ------
    ValueError
        Below 2000 Å, where wavelengths in air are not in use.

    Examples
    --------
    >>> import astropy.units as u
    >>> from sunpy_specfit.data.refraction import vacuum_to_air
    >>> vacuum_to_air(2796.352 * u.AA)
    <Quantity 2795.5278 Angstrom>
    """
    wavelength = _checked(wavelength)
    return wavelength / _refractive_index(wavelength)


def air_to_vacuum(wavelength: u.Quantity) -> u.Quantity:
    """The wavelength in vacuum of light whose wavelength in standard air is given: `vacuum_to_air` backwards.

    Parameters and errors are those of `vacuum_to_air`.

    Examples
    --------
    >>> import astropy.units as u
    >>> from sunpy_specfit.data.refraction import air_to_vacuum
    >>> air_to_vacuum(6302.4931 * u.AA)
    <Quantity 6304.2361 Angstrom>
    """
    wavelength = _checked(wavelength)
    vacuum = wavelength
    for _ in range(4):  # each step gains five digits
        vacuum = wavelength * _refractive_index(vacuum)
    return vacuum


def _checked(wavelength: u.Quantity) -> u.Quantity:
    if not np.all(wavelength > AIR_FROM * 0.999):  # 2000 Å in vacuum are 1999.35 Å in air
        raise ValueError(f"wavelengths below {AIR_FROM:.0f} are given in vacuum only, found {wavelength}")
    return wavelength


def _refractive_index(vacuum: u.Quantity) -> np.ndarray:
    wavenumber2 = vacuum.to_value(u.um) ** -2
    return 1 + 8.34254e-5 + 2.406147e-2 / (130 - wavenumber2) + 1.5998e-4 / (38.9 - wavenumber2)
