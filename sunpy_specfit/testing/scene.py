"""Small cubes of spectra with a real coordinate system, for checks that need one."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube

from ..core.model import Model
from .common import require

__all__ = ["DATA_SIZE", "cube_of", "empty_cube"]

DATA_SIZE = 100.0
"""A typical value of data, in their unit."""

_SAMPLES = 40


def empty_cube(model: Model, shape: tuple[int, int] = (8, 8)) -> NDCube:
    """A cube of noise that the model could be fitted to, its axis around the model's lines."""
    require(
        model.data_axis == "spectral",
        f"{model!r} lives on {model.data_axis!r}, which no cube of spectra has: pass `cube=`, something it is made for",
    )
    lines = u.Quantity([c.rest_wavelength for c in model.components if getattr(c, "rest_wavelength", None) is not None])
    lines = np.atleast_1d(lines) if lines.size else [500] * u.nm
    # One line: about thirty km/s a sample, as in slit spectrographs. Several: all of them well inside.
    middle, apart = 0.5 * (lines.max() + lines.min()), lines.max() - lines.min()
    span = 2 * apart if apart > 0 else middle * 1e-4 * (_SAMPLES - 1)
    x = middle + span * np.linspace(-0.5, 0.5, _SAMPLES)
    noise = np.random.default_rng(0).normal(DATA_SIZE, 0.1 * DATA_SIZE, (len(model.stokes), _SAMPLES, *shape))
    return cube_of(noise, x, stokes=model.stokes, sigma=np.full_like(noise, 0.1 * DATA_SIZE))


def cube_of(light: np.ndarray, x: u.Quantity, *, stokes: str = "I", sigma=None, unit=u.DN) -> NDCube:
    """An NDCube ``([stokes,] y, x, wavelength)`` of light ``(stokes, n, y, x)`` on evenly spaced wavelengths."""
    array = np.moveaxis(light, 1, -1)
    wcs = WCS(naxis=4)
    wcs.wcs.ctype = ["WAVE", "HPLN-TAN", "HPLT-TAN", "STOKES"]
    wcs.wcs.cunit = [str(x.unit), "arcsec", "arcsec", ""]
    wcs.wcs.cdelt = [float((x[1] - x[0]).value), 2.0, 2.0, 1.0]
    wcs.wcs.crval = [x[0].value, 0.0, 0.0, "IQUV".index(stokes[0]) + 1]
    wcs.wcs.crpix = [1.0, 1.0, 1.0, 1.0]
    wcs.wcs.set()
    if len(stokes) == 1:
        array, wcs = array[0], wcs.dropaxis(3)
        sigma = None if sigma is None else np.moveaxis(sigma, 1, -1)[0]
    elif sigma is not None:
        sigma = np.moveaxis(sigma, 1, -1)
    return NDCube(array, wcs=wcs, unit=unit, uncertainty=None if sigma is None else StdDevUncertainty(sigma))
