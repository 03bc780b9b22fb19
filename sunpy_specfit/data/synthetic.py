"""Small synthetic cubes for examples and tests."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.constants import c
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube

__all__ = ["gaussian_cube", "spectral_wcs"]


def spectral_wcs(shape: tuple[int, int], wavelength: u.Quantity) -> WCS:
    """A helioprojective WCS for a cube ``(y, x, wavelength)`` with a linear wavelength axis.

    Parameters
    ----------
    shape : tuple of int
        The map's shape (y, x).
    wavelength : `~astropy.units.Quantity`
        Evenly spaced, ``(n,)``.
    """
    wcs = WCS(naxis=3)
    wcs.wcs.ctype = ["WAVE", "HPLN-TAN", "HPLT-TAN"]
    wcs.wcs.cunit = [str(wavelength.unit), "arcsec", "arcsec"]
    wcs.wcs.crpix = [1, (shape[1] + 1) / 2, (shape[0] + 1) / 2]
    step = (wavelength[-1] - wavelength[0]) / max(len(wavelength) - 1, 1)
    wcs.wcs.cdelt = [step.value, 2.0, 1.0]
    wcs.wcs.crval = [wavelength[0].value, 0.0, 0.0]
    wcs.wcs.dateobs = "2021-03-06T06:44:44"
    wcs.wcs.set()
    return wcs


def gaussian_cube(
    shape: tuple[int, int] = (16, 16),
    *,
    rest_wavelength: u.Quantity = 195.119 * u.AA,
    n_wavelengths: int = 32,
    signal_to_noise: float = 20.0,
    truth: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    dtype=np.float32,
) -> NDCube:
    """One Gaussian emission line on a constant, with noise, whose true maps stand in ``meta["truth"]``.

    Parameters
    ----------
    shape : tuple of int
        The map's shape (y, x).
    rest_wavelength : `~astropy.units.Quantity`
    n_wavelengths : int
        Samples, 22.3 mÅ apart as on Hinode/EIS.
    signal_to_noise : float
        Amplitude of the line over the noise of a sample.
    truth : mapping, optional
        Maps ``velocity`` (km/s), ``amplitude``, ``width`` (Å) and ``background``; those that are not given vary from
        pixel to pixel at random.
    seed : int
    dtype : numpy dtype

    Returns
    -------
    `~ndcube.NDCube`
        Data ``(y, x, wavelength)`` in erg / (cm² s sr Å) with their standard deviation.

    Examples
    --------
    >>> from sunpy_specfit.data import gaussian_cube
    >>> cube = gaussian_cube((3, 4))
    >>> cube.data.shape, sorted(cube.meta["truth"])
    ((3, 4, 32), ['amplitude', 'background', 'center', 'velocity', 'width'])
    """
    rng = np.random.default_rng(seed)
    step = 0.0223
    rest = rest_wavelength.to_value(u.AA)
    x = rest + step * (np.arange(n_wavelengths) - (n_wavelengths - 1) / 2)
    drawn = {
        "velocity": rng.normal(0.0, 20.0, shape),
        "amplitude": rng.uniform(0.5, 1.5, shape) * 1000.0,
        "width": rng.uniform(0.025, 0.045, shape),
        "background": rng.uniform(20.0, 120.0, shape),
    }
    truth = {**drawn, **(truth or {})}
    truth["center"] = rest * (1 + truth["velocity"] / c.to_value(u.km / u.s))
    sigma = truth["amplitude"] / signal_to_noise
    data = rng.standard_normal((*shape, n_wavelengths), dtype=np.float32).astype(dtype)
    data *= sigma[..., None].astype(dtype)
    for row in range(shape[0]):  # a row at a time: large cubes are made for benchmarks of memory
        t = {key: value[row][:, None] for key, value in truth.items()}
        line = t["amplitude"] * np.exp(-0.5 * ((x - t["center"]) / t["width"]) ** 2) + t["background"]
        data[row] += line.astype(dtype)
    return NDCube(
        data,
        wcs=spectral_wcs(shape, x * u.AA),
        unit="erg / (cm2 s sr Angstrom)",
        uncertainty=StdDevUncertainty(np.repeat(sigma[..., None], n_wavelengths, axis=-1).astype(dtype)),
        meta={"truth": truth},
    )
