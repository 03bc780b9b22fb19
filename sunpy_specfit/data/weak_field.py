"""Stokes profiles that obey the weak-field approximation."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.constants import c
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube

from .lines import line as find_line
from .zeeman import LORENTZ_SPLITTING

__all__ = ["stokes_wcs", "weak_field_cube"]

# Of common lines: half the range of wavelengths and the Doppler width, in Å.
_SHAPES = {
    "Mg I 5172.7": (0.32, 0.12),
    "Ca II 8542.1": (0.96, 0.25),
    "Fe I 6301.5": (0.30, 0.05),
    "Fe I 6302.5": (0.30, 0.05),
}


def stokes_wcs(shape: tuple[int, int], wavelength: u.Quantity) -> WCS:
    """A WCS for a cube ``(stokes, wavelength, y, x)`` with a linear axis of wavelengths in air.

    Parameters
    ----------
    shape : tuple of int
        The map's shape (y, x).
    wavelength : `~astropy.units.Quantity`
        Evenly spaced, ``(n,)``.
    """
    wcs = WCS(naxis=4)
    wcs.wcs.ctype = ["HPLN-TAN", "HPLT-TAN", "AWAV", "STOKES"]
    wcs.wcs.cunit = ["arcsec", "arcsec", str(wavelength.unit), ""]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2, 1, 1]
    wcs.wcs.cdelt = [0.1, 0.1, (wavelength[1] - wavelength[0]).value, 1]
    wcs.wcs.crval = [0.0, 0.0, wavelength[0].value, 1]
    wcs.wcs.dateobs = "2017-07-13T18:35:02"
    wcs.wcs.set()
    return wcs


def weak_field_cube(
    shape: tuple[int, int] = (16, 16),
    *,
    line: str = "Mg I 5172.7",
    n_wavelengths: int = 17,
    noise: float = 1e-3,
    truth: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    dtype=np.float32,
) -> NDCube:
    """Stokes I, Q, U and V of an absorption line by the formulas of `sunpy_specfit.WeakField`, with noise.

    The derivatives are analytic, Q and U follow the core's formula within a Doppler width of the centre and the wing's
    outside, and width, depth and velocity vary from pixel to pixel.

    Parameters
    ----------
    shape : tuple of int
        The map's shape (y, x).
    line : str
        As in `sunpy_specfit.data.line`.
    n_wavelengths : int
    noise : float
        Of each sample, in units of the continuum.
    truth : mapping, optional
        Maps ``b_los`` (G), ``b_trans`` (G), ``azimuth`` (deg) and, if wanted, ``velocity`` (km/s); by default a spot.
    seed : int
    dtype : numpy dtype

    Returns
    -------
    `~ndcube.NDCube`
        ``(stokes, wavelength, y, x)``, the truth in ``meta["truth"]``, the Doppler width (Å) and the depth of the
        line in ``meta["profile"]``.

    Examples
    --------
    >>> from sunpy_specfit.data import weak_field_cube
    >>> cube = weak_field_cube((3, 4))
    >>> cube.data.shape, sorted(cube.meta["truth"])
    ((4, 17, 3, 4), ['azimuth', 'b_los', 'b_trans', 'velocity'])
    """
    rng = np.random.default_rng(seed)
    entry = find_line(line)
    rest = entry.air.to_value(u.AA)
    reach, width = _SHAPES.get(entry.name, (6e-5 * rest, 2e-5 * rest))
    x = np.linspace(-reach, reach, n_wavelengths)
    truth = dict(_spot(shape) if truth is None else truth)
    truth.setdefault("velocity", rng.normal(0.0, 1.0, shape))
    center = rest * truth["velocity"] / c.to_value(u.km / u.s)
    width = width * rng.uniform(0.85, 1.15, shape)
    depth = rng.uniform(0.55, 0.75, shape)
    away = x[:, None, None] - center
    z = away / width
    dip = depth * np.exp(-z * z)
    first, second = 2 * z / width * dip, (2 - 4 * z * z) / width**2 * dip
    lorentz = LORENTZ_SPLITTING * rest**2
    across = np.where(np.abs(z) < 1, -0.25 * second, 0.75 * first / np.where(away == 0, 1, away))
    across = lorentz**2 * entry.G * truth["b_trans"] ** 2 * across
    twice = 2 * np.deg2rad(truth["azimuth"])
    along = -lorentz * entry.g_eff * truth["b_los"] * first
    data = np.stack([1 - dip, across * np.cos(twice), across * np.sin(twice), along]).astype(dtype)
    data += noise * rng.standard_normal(data.shape, dtype=np.float32).astype(dtype)
    return NDCube(
        data,
        wcs=stokes_wcs(shape, (rest + x) * u.AA),
        unit=u.dimensionless_unscaled,
        uncertainty=StdDevUncertainty(np.broadcast_to(dtype(noise), data.shape)),
        meta={"truth": truth, "profile": {"width": width, "depth": depth}},
    )


def _spot(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    y, x = np.meshgrid(*(np.linspace(-1.5, 1.5, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    r2 = x * x + y * y
    return {
        "b_los": 900 * np.exp(-3 * r2) - 60,
        "b_trans": 900 * np.sqrt(r2) * np.exp(-2 * r2) + 20,
        "azimuth": np.rad2deg(np.arctan2(y, x)) % 180,
    }
