"""What eispac's cubes say differently from what they hold."""

from __future__ import annotations

import logging

import astropy.units as u
import numpy as np

__all__ = ["corrected_unit", "corrected_wavelengths", "is_eis"]

_log = logging.getLogger("sunpy_specfit")


def is_eis(cube) -> bool:
    """Whether this is an eispac cube, told without importing eispac."""
    return any(cls.__name__ == "EISCube" for cls in type(cube).__mro__)


def corrected_wavelengths(cube) -> u.Quantity | None:
    """The wavelength of every sample, which eispac keeps beside the WCS: it varies along the slit."""
    wavelength = getattr(cube, "wavelength", None)
    if not is_eis(cube) or wavelength is None or np.shape(wavelength) != cube.data.shape:
        return None
    return u.Quantity(wavelength, u.AA)


def corrected_unit(cube) -> u.UnitBase:
    """The unit of the values: eispac labels spectra erg / (s sr cm2) although they are per Angstrom."""
    unit = cube.unit if cube.unit is not None else u.dimensionless_unscaled
    if is_eis(cube) and unit.is_equivalent("erg / (s sr cm2)"):
        _log.info("eispac labels this cube %s; its values are per Angstrom and are read as such", unit)
        return unit / u.AA
    return unit
