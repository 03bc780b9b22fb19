"""Level-1 files of the Hinode spectro-polarimeter as one cube."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.constants import R_sun
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube

from .hinode_sp_calibration import DISPERSION, Axis, continuum, find_lines, noise_of
from .hinode_sp_file import find_files, read_slit

__all__ = ["hinode_sp"]

# Arcsec between exposures of a slit that stays where it is: a WCS has no use for steps of zero.
_STANDING = 1e-6
# From one wavelength to the next no number of a file changes as much, unless it wraps.
_TORN = 32768
# Å by which the lines may lie elsewhere than the header has them.
_OFF = 0.05


def hinode_sp(
    files: str | Path | Sequence[str | Path], *, wavelength: str = "lines", normalize: str | None = None
) -> NDCube:
    """Read level-1 files of Hinode/SOT-SP, one for each position of the slit, as one Stokes cube.

    Level-1 files are those that SSW's ``sp_prep`` wrote (Lites & Ichimoto 2013), with names such as
    ``SP3D20111213_025004.4C.fits``, or ``SP4D...C.fits`` before 2008. They are not to be read as they stand:

    * Numbers are 16-bit integers. Intensities beyond 32767 have wrapped around to negative ones; they are unwrapped.
    * Before that, some were divided by two, as ``SPBSHFT`` tells: I from 1 on, V from 2 on, Q and U at 3. They are
      multiplied again.
    * The header's wavelengths are mostly those of the raw data, whose axis runs the other way and has steps 3 per cent
      wider. The axis here has the dispersion that was measured on the ground, 21.549 mÅ, and its zero point from the
      cores of both iron lines in the mean profile. Velocities thus count from the mean of the map: ``sp_prep`` has
      taken out the spacecraft's motion, and shifted the slits' mean profiles onto each other.
    * Files that telemetry lost are missing. Their places in the raster are filled with masked pixels.

    Parameters
    ----------
    files : str, `~pathlib.Path`, or sequence of these
        A file, the files of one raster in any order, or a folder that holds them and no others.
    wavelength : {"lines", "header"}
        Where wavelengths come from. Those of a header are refused where the lines say that they are wrong.
    normalize : {"quiet Sun", "pixel"}, optional
        Divide by the mean continuum of the unpolarised half of the pixels, or by that of each pixel. By default counts
        stay counts.

    Returns
    -------
    `~ndcube.NDCube`
        ``(slit position, along the slit, Stokes, wavelength)`` in DN, or without unit where it is normalised, with
        celestial coordinates from the headers, wavelengths in air, and the times of the slit's positions as the extra
        coordinate ``time`` (of a single position, as a global one). The uncertainty is measured: the scatter of the
        continuum in each Stokes parameter, as a function of the continuum's intensity; that of I holds what
        flat-fielding and compression left. It is one number along the wavelengths. ``meta`` tells what was found and
        corrected.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If a file is none of these, if files belong to different rasters or to more than one scan, or if the lines
        cannot be found.

    Notes
    -----
    Signs and frame of Q, U and V are those of ``sp_prep``. Pointing is the header's, which may be off by some ten
    arcsec. The observer is taken to be at the centre of the Earth.

    References
    ----------
    Lites & Ichimoto (2013), https://doi.org/10.1007/s11207-012-0205-4 (calibration, dispersion); Tsuneta et al. (2008),
    https://doi.org/10.1007/s11207-008-9174-z; the keywords: https://sot.lmsal.com/data/sot/sotguide

    Examples
    --------
    >>> from sunpy_specfit.data import hinode_sp
    >>> cube = hinode_sp("20111213_025004", normalize="quiet Sun")  # doctest: +SKIP
    >>> result = specfit.fit(cube, specfit.MilneEddington(["Fe I 6301.5", "Fe I 6302.5"]))  # doctest: +SKIP
    """
    if wavelength not in ("lines", "header"):
        raise ValueError(f"wavelength is 'lines' or 'header', found {wavelength!r}")
    if normalize not in (None, "quiet Sun", "pixel"):
        raise ValueError(f"normalize is 'quiet Sun', 'pixel' or None, found {normalize!r}")
    slits = sorted(map(read_slit, find_files(files)), key=lambda slit: slit[0]["DATE_OBS"])
    headers, columns = map(list, zip(*slits, strict=True))
    del slits
    standing, places = _placed(headers, columns)
    data = np.full((places[-1] + 1, *columns[0].shape), np.nan, np.float32)
    for number, place in enumerate(places):
        # Let go of one by one: a large raster fills gigabytes.
        data[place], columns[number] = columns[number], None
    known = np.isfinite(data[..., 0, 0])
    intensity = continuum(data[..., 0, :])
    torn = known & (np.abs(np.diff(data[..., 0, :], axis=-1)).max(-1) > _TORN * (2 if headers[0]["SPBSHFT"] else 1))
    whole = known & (intensity > 0) & ~torn
    if not whole.any():
        raise ValueError(f"{headers[0]['FILENAME']}: no pixel has a continuum")
    polarised = np.abs(data[..., 3, :]).mean(-1) / np.where(whole, intensity, np.nan)
    quiet = whole & (polarised <= np.nanmedian(polarised))
    axis = find_lines(data[..., 0, :][quiet].mean(0, dtype=float))
    first, step = _from_header(headers[0], axis) if wavelength == "header" else (axis.first, DISPERSION)
    sigma = noise_of(data, intensity, whole, axis)
    if normalize is not None:
        level = intensity if normalize == "pixel" else np.float32(intensity[quiet].mean())
        level = np.broadcast_to(np.where(whole, level, np.nan), known.shape)[..., None, None]
        data /= level
        sigma = sigma / level
    wcs = _wcs(headers, places, data.shape, (first, step), standing)
    cube = NDCube(
        data,
        wcs=wcs,
        unit=u.DN if normalize is None else u.dimensionless_unscaled,
        uncertainty=StdDevUncertainty(np.broadcast_to(sigma, data.shape)),
        mask=np.broadcast_to(~whole[..., None, None], data.shape),
        meta={
            "instrument": "Hinode/SOT-SP",
            "files": [header["FILENAME"] for header in headers],
            "bit_shift": sorted({header["SPBSHFT"] for header in headers}),
            "missing_slits": int(len(data) - len(columns)),
            "torn_pixels": int(torn.sum()),
            "wavelength": {
                "source": wavelength,
                "dispersion": step * u.AA,
                "dispersion_of_lines": axis.dispersion * u.AA,
                "dispersion_in_header": headers[0].get("CDELT1", np.nan) * u.AA,
            },
            "normalization": normalize,
            "header": {key: value for key, value in headers[0].items() if key not in ("HISTORY", "COMMENT", "")},
        },
    )
    _add_times(cube, headers, places)
    return cube


def _placed(headers: list[dict], columns: list[np.ndarray]) -> tuple[bool, np.ndarray]:
    """Whether the slit stood still, and the place of each file in the raster."""
    shapes = {column.shape for column in columns}
    windows = {tuple(header.get(f"SPCCDIY{end}") for end in (0, 1)) for header in headers}
    if len(shapes) > 1 or len(windows) > 1:
        raise ValueError(
            f"these files belong to different rasters, with (slit, 4, wavelengths) of {sorted(shapes)}: give one raster"
        )
    index = np.array([int(header["SLITINDX"]) for header in headers])
    if len(index) > 1 and np.ptp(index) == 0:
        return True, np.arange(len(index))
    if (np.diff(index) <= 0).any():
        again = headers[1 + int(np.argmax(np.diff(index) <= 0))]["FILENAME"]
        raise ValueError(f"these files are of more than one scan: {again} begins another. Give those of one")
    return False, index - index[0]


def _add_times(cube: NDCube, headers: list[dict], places: np.ndarray) -> None:
    """The time of each slit position, in place; those of missing ones lie in between."""
    first = headers[0]["DATE_OBS"]
    if len(cube.data) == 1:
        cube.global_coords.add("time", "time", first)
        return
    seconds = [(header["DATE_OBS"] - first).to_value("s") for header in headers]
    times = first + np.interp(np.arange(len(cube.data)), places, seconds) * u.s
    cube.extra_coords.add("time", 0, times, physical_types="time")


def _from_header(header: dict, axis: Axis) -> tuple[float, float]:
    """The wavelength of the first sample and the step, where the lines are where a header says."""
    step, value, place = (header.get(name) for name in ("CDELT1", "CRVAL1", "CRPIX1"))
    stated = "nowhere"
    if None not in (step, value, place):
        first = value + (1 - place) * step
        away = [first + core * step - (axis.first + core * DISPERSION) for core in axis.cores]
        if max(map(abs, away)) < _OFF:
            return first, step
        stated = f"{away[0]:+.3f} and {away[1]:+.3f} Å from their places"
    raise ValueError(
        f"{header['FILENAME']}: its header has the two iron lines {stated}, for it is that of the raw data; leave "
        "wavelength='lines'"
    )


def _wcs(headers, places, shape, spectral, standing) -> WCS:
    """A WCS of (wavelength, Stokes, along the slit, slit position), the FITS order of the axes."""
    from sunpy.coordinates import get_earth

    angle = np.deg2rad(np.median([header.get("CROTA2", 0.0) for header in headers]))
    along = float(headers[0]["CDELT2"])
    step, start = _steps(headers, places, angle, standing)
    matrix = np.array([[-along * np.sin(angle), step[0]], [along * np.cos(angle), step[1]]])
    scale = np.array([np.hypot(*step), along])
    wcs = WCS(naxis=4)
    wcs.wcs.ctype = ["AWAV", "STOKES", "HPLT-TAN", "HPLN-TAN"]
    wcs.wcs.cunit = ["Angstrom", "", "arcsec", "arcsec"]
    wcs.wcs.crpix = [1, 1, (shape[1] + 1) / 2, 1]
    wcs.wcs.crval = [spectral[0], 1, start[1], start[0]]
    wcs.wcs.cdelt = [spectral[1], 1, scale[1], scale[0]]
    mixed = np.eye(4)
    mixed[3, 2:], mixed[2, 2:] = matrix[0] / scale[0], matrix[1] / scale[1]
    wcs.wcs.pc = mixed
    middle = headers[len(headers) // 2]["DATE_OBS"]
    wcs.wcs.dateobs, wcs.wcs.mjdobs = headers[0]["DATE_OBS"].isot, headers[0]["DATE_OBS"].mjd
    wcs.wcs.dateavg, wcs.wcs.mjdavg = middle.isot, middle.mjd
    earth = get_earth(middle)
    wcs.wcs.aux.rsun_ref = R_sun.to_value(u.m)
    wcs.wcs.aux.dsun_obs = earth.radius.to_value(u.m)
    wcs.wcs.aux.hgln_obs, wcs.wcs.aux.hglt_obs = 0.0, earth.lat.to_value(u.deg)
    wcs.wcs.set()
    return wcs


def _steps(headers, places, angle, standing) -> tuple[np.ndarray, np.ndarray]:
    """How far the slit moves from one place to the next, (x, y) in arcsec, and where it begins."""
    centres = np.array([(header["XCEN"], header["YCEN"]) for header in headers], float)
    nominal = float(headers[0].get("XSCALE", headers[0]["CDELT2"]))
    across = np.array([np.cos(angle), np.sin(angle)])
    if standing:
        return _STANDING * across, centres.mean(0)
    if len(headers) > 1:
        slope, start = np.polynomial.polynomial.polyfit(places, centres, 1)[::-1]
        # Headers of some rasters have one pointing for all.
        if np.hypot(*slope) > 0.2 * nominal:
            return slope, start
    return nominal * across, centres[0]
