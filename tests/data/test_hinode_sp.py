"""Hinode/SP level 1: files made by the published format, with everything that is wrong with the real ones."""

from __future__ import annotations

import os

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from scipy.special import wofz

import sunpy_specfit as specfit
from sunpy_specfit.data import hinode_sp, milne_eddington_cube

LINES = ["Fe I 6301.5", "Fe I 6302.5"]
TRUE_STEP = 0.021549
X = 6300.89 + TRUE_STEP * np.arange(112)
# sp_prep's keyword SPBSHFT, and what each Stokes parameter was divided by.
DIVIDED = {0: (1, 1, 1, 1), 1: (2, 1, 1, 1), 2: (2, 1, 1, 2), 3: (2, 2, 2, 2)}
NOISE = np.array([160.0, 18.0, 18.0, 16.0])


def header(index, seconds, **changes):
    """What a file of 2007 states: wavelengths of the raw data, and level 0."""
    cards = {
        "TELESCOP": "SOLAR-B",
        "INSTRUME": "SOT/SP",
        "DATA_LEV": 0,
        "DATE_OBS": (Time("2007-02-27T00:20:10.057") + seconds * u.s).isot,
        "CRPIX1": 56.5,
        "CRVAL1": 6302.0,
        "CDELT1": -0.02213,
        "CTYPE1": "Wavelength",
        "CUNIT1": "Angstrom",
        "CRPIX2": 8.5,
        "CDELT2": 0.1585,
        "CTYPE2": "Solar-Y",
        "CTYPE3": "CCD side",
        "CROTA2": 0.0,
        "XSCALE": 0.1476,
        "XCEN": -120.0 + 0.1476 * index,
        "YCEN": 310.0,
        "SPCCDIY0": 56,
        "SPCCDIY1": 167,
        "NSLITPOS": 6,
        "SLITINDX": index,
        "SPBSHFT": 1,
    } | changes
    made = fits.Header()
    for name, value in cards.items():
        made[name] = value
    made.add_history("sp_prep VERSION:  0.12")
    return made


def stored(counts, shift):
    """The integers of a file: divided, rounded, and what exceeds 16 bits with a sign wrapped around to negative."""
    planes = []
    for plane, by in zip(counts, DIVIDED[shift], strict=True):
        whole = np.rint(plane / by).astype(np.int64)
        planes.append(np.where(whole > 32767, whole - 65536, whole))
    return np.array(planes).astype(">i2")


def write(folder, index, counts, *, seconds=None, name=None, history=True, **changes):
    made = header(index, 12.8 * index if seconds is None else seconds, **changes)
    if not history:
        del made["HISTORY"]
    path = folder / (name or f"SP3D20070227_0020{index:02d}.0C.fits")
    fits.PrimaryHDU(stored(counts, made["SPBSHFT"]), made).writeto(path)
    return path


def wavelengths(cube):
    """In Å, as its WCS has them."""
    return 1e10 * cube.wcs.low_level_wcs.pixel_to_world_values(np.arange(cube.data.shape[-1]), 0, 0, 0)[0]


def profiles(level=59_000.0, slit=16, seed=0):
    """Counts ``(4, slit, 112)`` of two absorption lines, and of V like that of a weak field, with noise."""
    rng = np.random.default_rng(seed)
    dips, slopes = np.zeros_like(X), np.zeros_like(X)
    for rest, depth, width in ((6301.4995, 0.7, 0.045), (6302.4931, 0.63, 0.036)):
        v = (X - rest) / width
        dips += depth * wofz(v + 0.3j).real / wofz(0.3j).real
        slopes += depth * 2 * v * np.exp(-v * v)
    levels = level * np.linspace(0.9, 1.1, slit)[:, None]
    field = np.linspace(-1, 1, slit)[:, None] * 0.02
    counts = np.stack([levels * (1 - dips), 0 * dips * levels, 0 * dips * levels, levels * field * slopes])
    return counts, counts + NOISE[:, None, None] * rng.standard_normal(counts.shape)


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
@pytest.mark.parametrize("level", [12_000.0, 29_000.0, 59_000.0, 110_000.0])
def test_counts_are_those_that_were_divided_and_wrapped(tmp_path, shift, level):
    if level > 60_000 and shift == 0:
        pytest.skip("would wrap twice")
    counts, noisy = profiles(level)
    path = write(tmp_path, 0, noisy, SPBSHFT=shift)
    negative = (fits.getdata(path)[0] < 0).any()
    assert negative == (noisy[0].max() / DIVIDED[shift][0] > 32767)
    cube = hinode_sp(path)
    assert cube.data.shape == (1, 16, 4, 112)
    assert cube.unit == u.DN
    read = cube.data[0].transpose(1, 0, 2)
    for plane, truth, by in zip(read, noisy, DIVIDED[shift], strict=True):
        assert np.abs(plane - truth).max() <= 0.5 * by + 0.01
    assert not cube.mask.any()
    assert cube.meta["bit_shift"] == [shift]


def test_the_noise_is_that_of_the_continuum(tmp_path):
    for index in range(4):
        write(tmp_path, index, profiles(seed=index, slit=40)[1])
    cube = hinode_sp(tmp_path)
    found = cube.uncertainty.array[..., 0].reshape(-1, 4)
    # Rounding to the bit adds 1/12 of its square.
    assert np.median(found, 0) == pytest.approx(np.hypot(NOISE, [0.6, 0.3, 0.3, 0.3]), rel=0.05)


def test_noise_of_photons_follows_the_light_of_each_pixel(tmp_path):
    rng = np.random.default_rng(3)
    for index in range(6):
        counts, _ = profiles(seed=index, slit=64)
        counts *= np.linspace(0.2, 1.05, 64)[:, None]
        sigma = np.sqrt(counts[0].max(-1))[:, None] * 0.1
        write(tmp_path, index, counts + sigma * rng.standard_normal(counts.shape))
    cube = hinode_sp(tmp_path)
    brightness = cube.data[..., 0, :].max(-1)
    ratio = cube.uncertainty.array[..., 1, 0] / np.hypot(0.1 * np.sqrt(brightness), 0.29)
    assert np.median(ratio) == pytest.approx(1, abs=0.05)
    assert np.abs(ratio - 1).max() < 0.2


def test_wavelengths_come_from_the_lines_and_not_from_the_header(tmp_path):
    path = write(tmp_path, 0, profiles()[1])
    cube = hinode_sp(path)
    found = wavelengths(cube)
    assert found == pytest.approx(X, abs=1e-3)
    assert cube.meta["wavelength"]["dispersion_of_lines"].to_value(u.mAA) == pytest.approx(21.549, abs=0.03)
    assert cube.meta["wavelength"]["dispersion_in_header"].to_value(u.mAA) == pytest.approx(-22.13)
    with pytest.raises(ValueError, match="raw data"):
        hinode_sp(path, wavelength="header")
    later = write(tmp_path, 1, profiles()[1], CRVAL1=X[55] + 0.5 * TRUE_STEP, CDELT1=TRUE_STEP)
    assert wavelengths(hinode_sp(later, wavelength="header")) == pytest.approx(X, abs=1e-6)


def test_slits_stand_in_the_order_of_their_times_with_coordinates(tmp_path):
    paths = [write(tmp_path, index, profiles(seed=index)[1], CROTA2=10.0) for index in (3, 0, 4, 1)]
    cube = hinode_sp(paths)
    assert cube.data.shape[0] == 5
    # The third file is missing.
    assert cube.mask[2].all()
    assert np.isnan(cube.data[2]).all()
    assert not cube.mask[[0, 1, 3, 4]].any()
    assert cube.meta["missing_slits"] == 1
    for place, seed in ((0, 0), (1, 1), (3, 3), (4, 4)):
        assert np.abs(cube.data[place].transpose(1, 0, 2) - profiles(seed=seed)[1]).max() < 1.01
    places = cube[:, :, 0, 0].axis_world_coords(wcs=cube[:, :, 0, 0].wcs)[0]
    angle, along = np.deg2rad(10.0), 0.1585 * (np.arange(16) - 7.5)
    x = -120.0 + 0.1476 * np.arange(5)[:, None] - along * np.sin(angle)
    y = 310.0 + along * np.cos(angle) + 0 * x
    assert places.Tx.to_value(u.arcsec) == pytest.approx(x, abs=2e-3)
    assert places.Ty.to_value(u.arcsec) == pytest.approx(y, abs=2e-3)
    times = cube.axis_world_coords("time", wcs=cube.extra_coords)[0]
    assert (times - Time("2007-02-27T00:20:10.057")).to_value("s") == pytest.approx(12.8 * np.arange(5), abs=1e-3)


def test_a_slit_that_stands_still_makes_a_cube_of_times(tmp_path):
    for number in range(3):
        write(tmp_path, 0, profiles(seed=number)[1], seconds=9.6 * number, name=f"SP3D_{number}.fits")
    cube = hinode_sp(tmp_path)
    assert cube.data.shape == (3, 16, 4, 112)
    places = cube[:, :, 0, 0].axis_world_coords(wcs=cube[:, :, 0, 0].wcs)[0]
    assert np.ptp(places.Tx.to_value(u.arcsec)) < 1e-3


@pytest.mark.parametrize("normalize", ["quiet Sun", "pixel"])
def test_normalised_light_is_that_of_the_continuum(tmp_path, normalize):
    path = write(tmp_path, 0, profiles()[1])
    plain, cube = hinode_sp(path), hinode_sp(path, normalize=normalize)
    assert cube.unit == u.dimensionless_unscaled
    assert cube.meta["normalization"] == normalize
    assert np.median(cube.data[:, :, 0, :8]) == pytest.approx(1, abs=0.02)
    spread = cube.data[0, :, 0, :8].mean(-1).std()
    assert (spread < 0.005) == (normalize == "pixel")
    signal = [one.data / one.uncertainty.array for one in (plain, cube)]
    np.testing.assert_allclose(*signal, rtol=1e-4, atol=1e-3)


def test_a_raster_is_inverted_to_what_it_was_made_of(tmp_path):
    made = milne_eddington_cube((6, 12), wavelength=X * u.AA, noise=0, seed=2, dtype=float)
    level = 58_000.0
    rng = np.random.default_rng(1)
    for index in range(6):
        counts = level * made.data[:, :, index, :].transpose(0, 2, 1)
        write(tmp_path, index, counts + 30 * rng.standard_normal(counts.shape), SPBSHFT=3)
    cube = hinode_sp(tmp_path)
    result = specfit.fit(cube, specfit.MilneEddington(LINES))
    truth = made.meta["truth"]
    pull = (result["field_strength"].data - truth["field_strength"]) / result["field_strength"].uncertainty.array
    assert 0.7 < pull.std() < 1.3
    assert np.abs(pull).max() < 5
    # The zero point of the velocity is that of the mean profile.
    away = result["velocity"].data - truth["velocity"]
    assert away.std() < 0.03
    assert abs(np.median(away)) < 1.0
    assert np.median(result["source_gradient"].data / truth["source_gradient"]) == pytest.approx(level, rel=0.02)
    seen = []
    specfit.disambiguate(
        result, lambda field: seen.append(field) or np.zeros((6, 12), bool), stokes_reference=0 * u.deg
    )
    # Steps go west, the slit north, about 970 arcsec the solar radius.
    frame = seen[0].frame
    assert frame.steps * 970 == pytest.approx(np.array([[0, 0.1476], [0.1585, 0]]), abs=2e-3)
    assert frame.vertical[:2] * 970 == pytest.approx([-120 + 2.5 * 0.1476, 310], rel=0.01)
    assert [set(kinds) for kinds in result["velocity"].array_axis_physical_types] == [
        {"custom:pos.helioprojective.lon", "custom:pos.helioprojective.lat", "time"},
        {"custom:pos.helioprojective.lon", "custom:pos.helioprojective.lat"},
    ]


def test_what_wraps_twice_is_masked(tmp_path):
    counts, noisy = profiles(59_000.0)
    noisy[0, 3] *= 2.4
    integers = np.rint(noisy[0]).astype(np.int64) % 65536
    path = write(tmp_path, 0, noisy, SPBSHFT=0)
    with fits.open(path, mode="update") as units:
        units[0].data[0] = np.where(integers > 32767, integers - 65536, integers)
    cube = hinode_sp(path)
    assert cube.mask[0, :, 0, 0].tolist() == [number == 3 for number in range(16)]
    assert cube.meta["torn_pixels"] == 1


def test_files_that_are_none_are_refused(tmp_path):
    noisy = profiles()[1]
    with pytest.raises(FileNotFoundError, match="SP3D"):
        hinode_sp(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing.fits"):
        hinode_sp(tmp_path / "nothing.fits")
    for number, (changes, message) in enumerate(
        [
            ({"INSTRUME": "SOT/WB"}, "SOT/WB"),
            ({"history": False}, "not calibrated"),
            ({"SPBSHFT": 2, "YCEN": None}, "SOT/SP|YCEN|number"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write(folder, 0, noisy, **changes)
        if number == 2:
            fits.delval(path, "YCEN")
        with pytest.raises(ValueError, match=message):
            hinode_sp(path)
    converted = tmp_path / "converted.fits"
    fits.PrimaryHDU(noisy.astype(np.float32), header(0, 0)).writeto(converted)
    with pytest.raises(ValueError, match="16-bit"):
        hinode_sp(converted)
    fits.setval(converted, "SPBSHFT", value=4)
    with pytest.raises(ValueError, match="0 to 3"):
        hinode_sp(converted)
    raw = tmp_path / "raw.fits"
    fits.PrimaryHDU(stored(noisy, 1)[None], header(0, 0)).writeto(raw)
    with pytest.raises(ValueError, match="level"):
        hinode_sp(raw)
    backwards = write(tmp_path, 0, noisy[..., ::-1], name="backwards.fits")
    with pytest.raises(ValueError, match="backwards"):
        hinode_sp(backwards)
    flat = write(tmp_path, 0, np.full_like(noisy, 30_000.0) + profiles()[1] * 1e-4, name="flat.fits")
    with pytest.raises(ValueError, match="no two lines"):
        hinode_sp(flat)
    first = write(tmp_path, 0, noisy, name="first.fits")
    short = write(tmp_path, 1, noisy[:, :8], name="short.fits")
    with pytest.raises(ValueError, match="different rasters"):
        hinode_sp([first, short])
    scans = [write(tmp_path, i, noisy, seconds=s, name=f"scan{s}.fits") for s, i in ((0, 0), (10, 1), (20, 0))]
    with pytest.raises(ValueError, match="more than one scan"):
        hinode_sp(scans)
    with pytest.raises(ValueError, match="'lines' or 'header'"):
        hinode_sp(first, wavelength="guess")
    with pytest.raises(ValueError, match="'quiet Sun'"):
        hinode_sp(first, normalize="median")


@pytest.mark.skipif("SPECFIT_HINODE_SP" not in os.environ, reason="needs SPECFIT_HINODE_SP, a folder of real files")
def test_real_files():
    cube = hinode_sp(os.environ["SPECFIT_HINODE_SP"], normalize="quiet Sun")
    good = ~cube.mask[..., 0, 0]
    intensity = cube.data[..., 0, :][good]
    # Nothing is left of the wraps: the light is as smooth as two lines are.
    assert np.abs(np.diff(intensity, axis=-1)).max() < 0.4
    assert 0.2 < intensity.mean(0).min() < 0.6
    assert cube.meta["wavelength"]["dispersion_of_lines"].to_value(u.mAA) == pytest.approx(21.549, rel=0.005)
    sigma = np.median(cube.uncertainty.array[good][..., 0], axis=0)
    assert np.all((sigma[1:] > 2e-4) & (sigma[1:] < 4e-3))
