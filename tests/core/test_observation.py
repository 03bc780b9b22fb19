"""Cubes of every kind give the same numbers, whatever their axes, units, errors and masks look like."""

import astropy.units as u
import dask.array
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import InverseVariance, StdDevUncertainty, UnknownUncertainty, VarianceUncertainty
from astropy.time import Time
from astropy.wcs import WCS
from dask.delayed import Delayed
from ndcube import NDCollection, NDCube, NDCubeSequence
from ndcube.extra_coords import QuantityTableCoordinate, TimeTableCoordinate
from ndcube.wcs.wrappers import CompoundLowLevelWCS

import sunpy_specfit as specfit
from sunpy_specfit import Status
from sunpy_specfit.core.observation import Observation
from sunpy_specfit.data import gaussian_cube

REST = 195.119 * u.AA
SHAPE = (4, 5)


def line():
    return specfit.Gaussian(REST) + specfit.Polynomial(0)


@pytest.fixture(scope="module")
def plain():
    cube = gaussian_cube(SHAPE, seed=11)
    return cube, specfit.fit(cube, line())


def rewrap(cube, data=None, sigma=None, wcs=None, **options):
    data = cube.data if data is None else data
    sigma = cube.uncertainty.array if sigma is None else sigma
    return NDCube(
        data,
        wcs=wcs or cube.wcs,
        **{"unit": cube.unit, "uncertainty": StdDevUncertainty(sigma), "mask": cube.mask} | options,
    )


def same(result, plain, index=(), names=("amplitude", "velocity", "width"), factor=1.0):
    """Whether maps agree to 1e-3 sigma; ``index`` picks the part of the plain maps."""
    for name in names:
        expected = plain[name].to(result[name].unit) if factor == 1.0 else plain[name]
        sigma = expected.uncertainty.array[index] if index else expected.uncertainty.array
        value = expected.data[index] if index else expected.data
        scale = factor if name == "amplitude" else 1.0
        distance = np.abs(result[name].data / scale - value) / sigma
        assert distance.shape == np.shape(value)
        assert distance.max() < 1e-3, name


# -- axes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_any_axis_order(plain, order):
    cube, expected = plain
    # FITS counts axes the other way round.
    wcs = cube.wcs.sub([3 - axis for axis in reversed(order)])
    turned = rewrap(cube, cube.data.transpose(order), cube.uncertainty.array.transpose(order), wcs)
    result = specfit.fit(turned, line())
    swapped = order.index(0) > order.index(1)
    assert result["velocity"].data.shape == (SHAPE[::-1] if swapped else SHAPE)
    for name in ("amplitude", "velocity", "width"):
        found = result[name].data.T if swapped else result[name].data
        assert np.max(np.abs(found - expected[name].data) / expected[name].uncertainty.array) < 1e-3
    assert result.model().data.shape == turned.data.shape
    np.testing.assert_allclose(
        result.model().data.transpose(np.argsort(order)), expected.model().data, rtol=1e-3, atol=0.5
    )
    types = {t for pair in result["velocity"].array_axis_physical_types for t in pair}
    assert types == {"custom:pos.helioprojective.lon", "custom:pos.helioprojective.lat"}


def test_a_single_spectrum(plain):
    cube, expected = plain
    result = specfit.fit(cube[1, 2], line())
    assert result["velocity"].data.shape == (1,)
    same(result, expected, (slice(1, 2), 2))
    assert result.model().data.shape == (32,)


def times(n):
    return Time("2021-03-06T06:44:44") + np.arange(n) * 10 * u.s


def test_sit_and_stare_keeps_its_times(plain):
    cube, expected = plain
    wave = cube.wcs.sub([1])
    lat = WCS(naxis=1)
    lat.wcs.ctype, lat.wcs.cunit, lat.wcs.cdelt = ["LINEAR"], ["arcsec"], [1.0]
    time = TimeTableCoordinate(times(SHAPE[0]), physical_types="time", names="time").wcs
    wcs = CompoundLowLevelWCS(wave, lat, time)
    result = specfit.fit(rewrap(cube, wcs=wcs), line())
    same(result, expected)
    assert [t for (t,) in result["velocity"].array_axis_physical_types] == ["time", None]
    assert not result["velocity"].global_coords
    followed = specfit.fit(rewrap(cube, wcs=wcs), line(), init="previous")
    same(followed, expected)


def test_raster_times_stay_as_extra_coordinates(plain):
    cube, expected = plain
    raster = rewrap(cube)
    raster.extra_coords.add("time", 1, times(SHAPE[1]))
    raster.global_coords.add("filter", "custom:filter", "open")
    result = specfit.fit(raster, line())
    same(result, expected)
    velocity = result["velocity"]
    assert list(velocity.extra_coords.keys()) == ["time"]
    assert velocity.global_coords["filter"] == "open"
    found = velocity.axis_world_coords("time", wcs=velocity.extra_coords)[0]
    assert np.all(np.abs((found - times(SHAPE[1])).to_value(u.s)) < 1e-3)
    part = result[1:3, 2:]["velocity"]
    found = part.axis_world_coords("time", wcs=part.extra_coords)[0]
    assert abs((found[0] - times(3)[2]).to_value(u.s)) < 1e-3
    # The wavelength that was sliced away must not linger as a coordinate of the map.
    assert not any("em." in str(t) for t in velocity.global_coords.physical_types.values())


def test_repeated_raster(plain):
    cube, expected = plain
    time = TimeTableCoordinate(times(3), physical_types="time", names="time").wcs
    wcs = CompoundLowLevelWCS(cube.wcs, time)
    scale = np.array([1.0, 2.0, 0.5])[:, None, None, None]
    movie = rewrap(cube, cube.data * scale, cube.uncertainty.array * scale, wcs)
    result = specfit.fit(movie, line())
    assert result["velocity"].data.shape == (3, *SHAPE)
    for number, factor in enumerate(scale.ravel()):
        same(result[number], expected, factor=factor)


def stokes_wcs(cube, order):
    wcs = WCS(naxis=4)
    wcs.wcs.ctype = ["WAVE", "HPLN-TAN", "HPLT-TAN", "STOKES"]
    wcs.wcs.cunit = [*map(str, cube.wcs.wcs.cunit), ""]
    wcs.wcs.crpix = [*cube.wcs.wcs.crpix, 1]
    wcs.wcs.cdelt = [*cube.wcs.wcs.cdelt, order]
    wcs.wcs.crval = [*cube.wcs.wcs.crval, 1 if order > 0 else 4]
    wcs.wcs.dateobs = cube.wcs.wcs.dateobs
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize("order", [1, -1])
def test_a_model_of_the_intensity_takes_it_from_a_stokes_cube(plain, order):
    cube, expected = plain
    full = np.stack([cube.data, 0.1 * cube.data, 0 * cube.data, np.full_like(cube.data, np.nan)])
    sigma = np.repeat(cube.uncertainty.array[None], 4, 0)
    result = specfit.fit(rewrap(cube, full[::order], sigma, stokes_wcs(cube, order)), line())
    same(result, expected)
    light = result.model().data
    assert light.shape == full.shape
    position = 0 if order == 1 else 3
    assert np.isfinite(light[position]).all()
    assert np.isnan(np.delete(light, position, 0)).all()


def test_a_cube_of_five_dimensions(plain):
    cube, expected = plain
    time = TimeTableCoordinate(times(2), physical_types="time", names="time").wcs
    wcs = CompoundLowLevelWCS(stokes_wcs(cube, 1), time)
    full = np.stack([cube.data, 0.1 * cube.data, 0 * cube.data, 0 * cube.data])
    full = np.stack([full, full])
    sigma = np.broadcast_to(cube.uncertainty.array, full.shape)
    result = specfit.fit(rewrap(cube, full, sigma, wcs), line())
    assert result["velocity"].data.shape == (2, *SHAPE)
    same(result[1], expected)


def test_tabulated_wavelengths(plain):
    cube, expected = plain
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    table = QuantityTableCoordinate(x, names="wave", physical_types="em.wl").wcs
    wcs = CompoundLowLevelWCS(table, cube.wcs.sub([2, 3]))
    result = specfit.fit(rewrap(cube, wcs=wcs), line())
    same(result, expected)
    # What is left is a FITS WCS, as other packages want it, and no wavelength lingers.
    assert isinstance(result["velocity"].wcs, WCS)
    assert not result["velocity"].global_coords
    assert result.to_map("velocity").data.shape == SHAPE
    # Unevenly tabulated: every other sample of the second half is missing.
    keep = np.r_[0:16, 16:32:2]
    table = QuantityTableCoordinate(x[keep], names="wave", physical_types="em.wl").wcs
    wcs = CompoundLowLevelWCS(table, cube.wcs.sub([2, 3]))
    uneven = specfit.fit(rewrap(cube, cube.data[..., keep], cube.uncertainty.array[..., keep], wcs), line())
    pull = (uneven["velocity"].data - cube.meta["truth"]["velocity"]) / uneven["velocity"].uncertainty.array
    assert np.abs(pull).max() < 4.5


def linear_wcs(cube):
    wcs = WCS(naxis=3)
    wcs.wcs.ctype, wcs.wcs.cunit = ["LINEAR", "HPLN-TAN", "HPLT-TAN"], ["", "arcsec", "arcsec"]
    wcs.wcs.dateobs = cube.wcs.wcs.dateobs
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize("combined", [False, True])
def test_wavelengths_in_an_extra_coordinate(plain, combined):
    cube, expected = plain
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    given = rewrap(cube, wcs=linear_wcs(cube))
    given.extra_coords.add("wavelength", 2, x, physical_types="em.wl")
    if combined:
        given = rewrap(cube, wcs=given.combined_wcs)
    result = specfit.fit(given, line())
    same(result, expected)
    velocity = result["velocity"]
    assert velocity.wcs.pixel_n_dim == 2
    if not combined:
        assert not any("em." in str(t) for t in velocity.global_coords.physical_types.values())
    assert result.model().data.shape == cube.data.shape


def test_wavelengths_of_a_wcs_that_knows_none(plain):
    cube, expected = plain
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    same(specfit.fit(rewrap(cube, wcs=linear_wcs(cube)), line(), spectral_axis=x), expected)


def test_a_table_in_the_fits_file(plain):
    cube, expected = plain
    x = cube.axis_world_coords_values("em.wl")[0].to_value(u.m)
    column = np.zeros(1, dtype=[("WAVE", "f8", (32, 1))])
    column["WAVE"][0, :, 0] = x
    table = fits.BinTableHDU(column, name="WCSTAB", ver=1)
    table.header["EXTLEVEL"] = 1
    header = cube.wcs.to_header()
    for key in ("CRPIX1", "CRVAL1", "CDELT1"):
        header[key] = 1.0
    header.update({"CTYPE1": "WAVE-TAB", "CUNIT1": "m", "PS1_0": "WCSTAB", "PS1_1": "WAVE"})
    header.update({"PV1_1": 1, "PV1_2": 1, "PV1_3": 1})
    files = fits.HDUList([fits.PrimaryHDU(np.zeros(cube.data.shape), header), table])
    result = specfit.fit(rewrap(cube, wcs=WCS(files[0].header, files)), line())
    same(result, expected)
    same(result[1:3, 2], expected, (slice(1, 3), 2))
    assert result["velocity"].wcs.pixel_n_dim == 2


@pytest.mark.parametrize("kind", ["frequency", "velocity", "energy"])
def test_what_a_spectral_axis_may_be_in(plain, kind):
    cube, expected = plain
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    given = {
        "frequency": lambda: x.to(u.THz, equivalencies=u.spectral()),
        "energy": lambda: x.to(u.eV, equivalencies=u.spectral()),
        "velocity": lambda: 299792.458 * (x / REST - 1) * u.km / u.s,
    }[kind]()
    result = specfit.fit(cube, line(), spectral_axis=given)
    same(result, expected)
    assert result["center"].unit == u.AA


def test_a_wcs_in_air_or_in_velocity(plain):
    cube, expected = plain
    air = cube.wcs.deepcopy()
    air.wcs.ctype = ["AWAV", "HPLN-TAN", "HPLT-TAN"]
    air.wcs.set()
    same(specfit.fit(rewrap(cube, wcs=air), line()), expected)  # nothing is converted in silence
    first, step = (299792.458e3 * value / REST.value for value in (cube.wcs.wcs.crval[0], cube.wcs.wcs.cdelt[0]))
    scale = (1 * u.Unit(cube.wcs.wcs.cunit[0])).to_value(u.AA)
    speed = cube.wcs.deepcopy()
    speed.wcs.ctype, speed.wcs.cunit = ["VELO", "HPLN-TAN", "HPLT-TAN"], ["m/s", "deg", "deg"]
    speed.wcs.crval = [scale * first - 299792.458e3, *cube.wcs.wcs.crval[1:]]
    speed.wcs.cdelt = [scale * step, *cube.wcs.wcs.cdelt[1:]]
    speed.wcs.set()
    same(specfit.fit(rewrap(cube, wcs=speed), line()), expected)


def test_gwcs_axes(plain):
    gwcs = pytest.importorskip("gwcs")
    from astropy.coordinates import SkyCoord  # noqa: F401 - gwcs frames need astropy.coordinates loaded
    from astropy.modeling import models
    from gwcs import coordinate_frames as cf

    cube, expected = plain
    x = cube.axis_world_coords_values("em.wl")[0].to_value(u.AA)
    spectral = cf.SpectralFrame(axes_order=(0,), unit=u.AA, axes_names=("wavelength",))
    sky = cf.CoordinateFrame(
        2, ["SPATIAL"] * 2, (1, 2), unit=(u.arcsec, u.arcsec), axis_physical_types=("pos.x", "pos.y"), name="sky"
    )
    transform = models.Tabular1D(lookup_table=x * u.AA, points=np.arange(32) * u.pix) & (
        models.Multiply(2 * u.arcsec / u.pix) & models.Multiply(1 * u.arcsec / u.pix)
    )
    detector = cf.CoordinateFrame(3, ["PIXEL"] * 3, (0, 1, 2), unit=[u.pix] * 3, name="detector")
    wcs = gwcs.WCS([(detector, transform), (cf.CompositeFrame([spectral, sky]), None)])
    wcs.array_shape = cube.data.shape
    wcs.pixel_shape = cube.data.shape[::-1]
    result = specfit.fit(rewrap(cube, wcs=wcs), line())
    same(result, expected)
    assert result["velocity"].wcs.pixel_n_dim == 2


def test_wavelength_coupled_to_the_slit():
    cube = gaussian_cube((12, 5), signal_to_noise=200, seed=3)
    tilted = cube.wcs.deepcopy()
    tilt = 0.004  # Å from row to row: 74 km/s over the slit
    step = cube.wcs.wcs.cdelt[0] * u.Unit(cube.wcs.wcs.cunit[0])
    pc = np.eye(3)
    pc[0, 2] = (tilt * u.AA / step).to_value(u.one)
    tilted.wcs.pc = pc
    rows = np.arange(12) + 1 - cube.wcs.wcs.crpix[2]
    result = specfit.fit(rewrap(cube, wcs=tilted), line())
    shift = 299792.458 * tilt * rows[:, None] / REST.value
    pull = (result["velocity"].data - shift - cube.meta["truth"]["velocity"]) / result["velocity"].uncertainty.array
    assert np.abs(pull).max() < 4.5
    assert np.ptp(shift) > 60
    assert result["velocity"].data.shape == (12, 5)


# -- wavelengths, units --------------------------------------------------------------------------


def test_wavelengths_of_each_pixel(plain):
    cube, expected = plain
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    shift = np.linspace(-0.01, 0.01, 20).reshape(SHAPE)[..., None] * u.AA
    result = specfit.fit(cube, line(), spectral_axis=x + shift)
    moved = result["velocity"].data - expected["velocity"].data
    sigma = expected["velocity"].uncertainty.array
    assert np.max(np.abs(moved - 299792.458 * shift[..., 0].value / REST.value) / sigma) < 2e-3
    one = specfit.fit(cube, line(), spectral_axis=(x - 0.005 * u.AA).to(u.nm))
    assert np.allclose(one["center"].data, expected["center"].data - 0.005, atol=1e-5)


def test_units_are_those_of_the_data_and_of_the_rest_wavelength(plain):
    cube, expected = plain
    result = specfit.fit(cube, specfit.Gaussian(19.5119 * u.nm) + specfit.Polynomial(1))
    assert result["center"].unit == result["width"].unit == u.nm
    assert result["c1"].unit == cube.unit / u.nm
    assert result["intensity"].unit.is_equivalent(expected["intensity"].unit)
    assert result["intensity"].to(expected["intensity"].unit).data[0, 0] == pytest.approx(
        expected["intensity"].data[0, 0], rel=0.05
    )
    other = rewrap(cube, unit=u.DN)
    assert specfit.fit(other, line())["intensity"].unit == u.DN * u.AA
    assert specfit.fit(rewrap(cube, unit=None), line())["amplitude"].unit == u.dimensionless_unscaled


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 2, 3, 0), (3, 0, 2, 1), (1, 0, 3, 2)])
def test_the_stokes_axis_may_stand_anywhere(plain, order):
    cube, expected = plain
    full = np.stack([cube.data, 0.1 * cube.data, 0 * cube.data, np.full_like(cube.data, np.nan)])
    sigma = np.repeat(cube.uncertainty.array[None], 4, 0)
    wcs = stokes_wcs(cube, 1).sub([4 - axis for axis in reversed(order)])
    result = specfit.fit(rewrap(cube, full.transpose(order), sigma.transpose(order), wcs), line())
    swapped = order.index(1) > order.index(2)
    for name in ("amplitude", "velocity", "width"):
        found = result[name].data.T if swapped else result[name].data
        assert np.max(np.abs(found - expected[name].data) / expected[name].uncertainty.array) < 1e-3
    light = result.model().data.transpose(np.argsort(order))
    np.testing.assert_allclose(light[0], expected.model().data, rtol=1e-3, atol=0.5)
    assert np.isnan(light[1:]).all()


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "power"), [(StdDevUncertainty, 1), (VarianceUncertainty, 2), (InverseVariance, -2)])
@pytest.mark.parametrize("scaled", [False, True])
def test_every_kind_of_uncertainty(plain, kind, power, scaled):
    cube, expected = plain
    array = cube.uncertainty.array.astype(float) ** power
    if scaled:  # in another unit than the data's
        unit = (1e3 * cube.unit) ** power
        array, unit = array / 1000.0**power, unit
        given = kind(array, unit=unit)
    else:
        given = kind(array)
    for result in (specfit.fit(rewrap(cube, uncertainty=given), line()), specfit.fit(cube, line(), uncertainty=given)):
        same(result, expected)
        np.testing.assert_allclose(
            result["velocity"].uncertainty.array, expected["velocity"].uncertainty.array, rtol=1e-3
        )


def test_uncertainty_as_a_quantity_and_of_unknown_kind(plain):
    cube, expected = plain
    same(specfit.fit(cube, line(), uncertainty=cube.uncertainty.array * cube.unit), expected)
    # One sigma for a pixel broadcasts.
    same(specfit.fit(cube, line(), uncertainty=cube.uncertainty.array[..., :1] * cube.unit), expected)
    unknown = UnknownUncertainty(cube.uncertainty.array)
    for given, option in ((cube, unknown), (rewrap(cube, uncertainty=unknown), None)):
        with pytest.raises(TypeError, match=r"UnknownUncertainty.*StdDevUncertainty, VarianceUncertainty"):
            specfit.fit(given, line(), uncertainty=option)


def test_the_noise_may_come_from_the_light(plain):
    cube, expected = plain
    # Read noise alone is a constant sigma, and no light is needed to know it.
    flat = specfit.fit(cube, line(), uncertainty=40 * cube.unit)
    result = specfit.fit(cube, line(), uncertainty=specfit.CountNoise(1e12, 40))
    same(result, flat)
    np.testing.assert_allclose(result["velocity"].uncertainty.array, flat["velocity"].uncertainty.array, rtol=1e-3)
    np.testing.assert_allclose(result.chi2.data, flat.chi2.data, rtol=1e-3)
    assert result.meta["noise"] == ["noise model"]
    assert np.max(np.abs(flat["velocity"].uncertainty.array / expected["velocity"].uncertainty.array - 1)) > 0.1


def test_noise_that_nobody_states_is_estimated_from_the_scatter():
    cube = gaussian_cube((20, 20), signal_to_noise=30, seed=5)
    cube = rewrap(cube, sigma=np.full(cube.data.shape, 30.0))
    rng = np.random.default_rng(0)
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    light = specfit.fit(cube, line()).model().data
    noisy = light + 30 * rng.standard_normal(light.shape)
    expected = specfit.fit(rewrap(cube, noisy), line())
    padded = np.concatenate([noisy, np.zeros_like(noisy), np.zeros_like(noisy)])  # most of it empty
    shuffled = rng.permutation(32)
    for data, options in (
        (noisy, {}),
        (padded, {}),
        (np.where(rng.random(noisy.shape) < 0.05, np.nan, noisy), {}),
        (noisy[..., shuffled], {"spectral_axis": x[shuffled]}),
    ):
        with pytest.warns(specfit.SpecfitWarning, match=r"a noise of .* was estimated from their scatter"):
            result = specfit.fit(NDCube(data, wcs=cube.wcs, unit=cube.unit), line(), **options)
        assert result.meta["noise"] == ["estimated"]
        ratio = result["c0"].uncertainty.array[:20] / expected["c0"].uncertainty.array
        assert np.median(ratio) == pytest.approx(1.0, rel=0.35)
    # Nothing to tell it from: that is said, too.
    with pytest.warns(specfit.SpecfitWarning, match=r"do not scatter .* a noise of 1 "):
        specfit.fit(NDCube(np.full(cube.data.shape, 7.0), wcs=cube.wcs, unit=cube.unit), specfit.Polynomial(0))
    with pytest.raises(ValueError, match=r"noise cannot be estimated from 4 samples.*uncertainty="):
        specfit.fit(NDCube(noisy, wcs=cube.wcs, unit=cube.unit)[..., :4], specfit.Polynomial(0))


# -- masks, bad samples --------------------------------------------------------------------------


def test_masks_of_every_shape_say_the_same(plain):
    cube, _ = plain
    samples = np.zeros(32, bool)
    samples[:4] = True
    full = np.broadcast_to(samples, cube.data.shape)
    expected = specfit.fit(cube, line(), mask=full)
    assert np.all(expected.dof.data == 28 - 4)
    for result in (
        specfit.fit(cube, line(), mask=samples),
        specfit.fit(rewrap(cube, mask=full), line()),
        specfit.fit(rewrap(cube, mask=np.roll(full, 1, -1) & full), line(), mask=full),
    ):
        same(result, expected)
        assert np.all(result.dof.data == 24)
    assert specfit.fit(rewrap(cube, mask=False), line()).dof.data[0, 0] == 28
    pixels = np.zeros(SHAPE, bool)
    pixels[1, 2] = True
    holed = specfit.fit(cube, line(), mask=pixels)
    assert holed.status.data[1, 2] == int(Status.MASKED)
    assert np.isnan(holed["velocity"].data[1, 2])
    assert holed["velocity"].mask.sum() == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_samples_are_left_out_and_flagged_and_touch_no_other_pixel(plain, bad):
    cube, expected = plain
    data = cube.data.copy()
    data[2, 3, 15] = bad
    result = specfit.fit(rewrap(cube, data), line())
    assert result.status.data[2, 3] & int(Status.BAD_DATA)
    assert result.dof.data[2, 3] == 27
    assert np.isfinite(result["velocity"].data).all()
    others = np.ones(SHAPE, bool)
    others[2, 3] = False
    assert np.all(result.status.data[others] == expected.status.data[others])
    for name in ("amplitude", "velocity", "width"):
        distance = np.abs(result[name].data - expected[name].data) / expected[name].uncertainty.array
        assert distance[others].max() < 1e-3


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_samples_without_a_valid_sigma_are_left_out_and_flagged(plain, bad):
    cube, _ = plain
    sigma = cube.uncertainty.array.copy()
    sigma[0, 1, 3] = bad
    result = specfit.fit(rewrap(cube, sigma=sigma), line())
    assert result.dof.data[0, 1] == 27
    assert result.status.data[0, 1] & int(Status.BAD_DATA)
    assert result.status.data[0, 0] == int(Status.CONVERGED)


# -- windows -------------------------------------------------------------------------------------


def test_windows_weigh_nothing_outside_and_keep_the_grid(plain):
    cube, _ = plain
    x = cube.axis_world_coords_values("em.wl")[0].to_value(u.AA)
    inside = (x >= 194.95) & (x <= 195.3)
    expected = specfit.fit(cube, line(), mask=~inside)
    data = cube.data.copy()
    data[..., ~inside] = 1e6  # what lies outside must not matter, not even as bad data
    data[0, 0, 0] = np.nan
    for window in ([194.95, 195.3] * u.AA, [19.495, 19.53] * u.nm, [(194.95 * u.AA, 195.3 * u.AA)]):
        result = specfit.fit(rewrap(cube, data), line(), window=window)
        same(result, expected)
        assert np.all(result.dof.data == inside.sum() - 4)
        assert not np.any(result.status.data & int(Status.BAD_DATA))
        assert result.model().data.shape == cube.data.shape
        assert np.isfinite(result.model().data).all()
    speeds = specfit.fit(cube, line(), window=[-259.7, 278.1] * u.km / u.s)
    same(speeds, expected)
    turned = specfit.fit(cube, line(), window=[195.3, 194.95] * u.AA)
    same(turned, expected)
    two = specfit.fit(cube, line(), window=[[194.95, 195.0], [195.0, 195.3]] * u.AA)
    same(two, expected)


def test_a_window_in_velocity_follows_the_wavelengths_of_each_pixel(plain):
    cube, _ = plain
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    shift = np.linspace(-0.05, 0.05, 20).reshape(SHAPE)[..., None] * u.AA
    result = specfit.fit(cube, line(), spectral_axis=x + shift, window=[-250, 250] * u.km / u.s)
    speed = 299792.458 * ((x + shift) / REST - 1).to_value(u.one)
    inside = np.abs(speed) <= 250
    expected = specfit.fit(cube, line(), spectral_axis=x + shift, mask=~inside)
    assert np.unique(inside.argmax(-1)).size > 3
    np.testing.assert_array_equal(result.dof.data, inside.sum(-1) - 4)
    same(result, expected)


# -- several cubes -------------------------------------------------------------------------------


def test_sequences_and_collections(plain):
    cube, expected = plain
    sequence = specfit.fit(NDCubeSequence([cube, cube[:2]]), line())
    same(sequence[0], expected)
    same(sequence[1], expected, (slice(0, 2),))
    collection = specfit.fit(NDCollection([("a", cube), ("b", cube[1:])], aligned_axes=None), line())
    assert list(collection) == ["a", "b"]
    same(collection["b"], expected, (slice(1, None),))


def test_sunraster_cubes_and_sequences(plain):
    sunraster = pytest.importorskip("sunraster")
    cube, expected = plain
    spectrogram = sunraster.SpectrogramCube(
        cube.data, wcs=cube.wcs, unit=cube.unit, uncertainty=cube.uncertainty, instrument_axes=None
    )
    same(specfit.fit(spectrogram, line()), expected)
    results = specfit.fit(sunraster.SpectrogramSequence([spectrogram, spectrogram]), line())
    assert len(results) == 2
    same(results[1], expected)


def test_raster_sequences_and_collections_of_them(plain):
    sunraster = pytest.importorskip("sunraster")
    cube, expected = plain
    scans = sunraster.SpectrogramCube(
        cube.data,
        wcs=cube.wcs,
        unit=cube.unit,
        uncertainty=cube.uncertainty,
        instrument_axes=("raster scan", "slit", "spectral"),
    )
    rasters = sunraster.RasterSequence([scans, scans[1:]], common_axis=0)
    results = specfit.fit(rasters, line())
    same(results[0], expected)
    same(results[1], expected, (slice(1, None),))
    windows = NDCollection([("a", rasters), ("b", sunraster.RasterSequence([scans], common_axis=0))])
    found = specfit.fit(windows, line())
    assert {key: len(value) for key, value in found.items()} == {"a": 2, "b": 1}
    same(found["b"][0], expected)


def test_nothing_is_read_before_it_is_asked_for(plain):
    cube, expected = plain
    read = []

    def load(block):
        read.append(1)
        return block

    lazy = dask.array.from_array(cube.data, chunks=(2, 5, 32)).map_blocks(load, meta=cube.data[:0])
    delayed = specfit.fit(rewrap(cube, lazy), line(), compute=False)
    assert isinstance(delayed, Delayed)
    assert not read
    same(delayed.compute(scheduler="synchronous"), expected)
    assert read


def test_errors_and_masks_may_be_dask_arrays_too(plain):
    cube, _ = plain
    mask = np.zeros(cube.data.shape, bool)
    mask[..., :4] = True
    expected = specfit.fit(cube, line(), mask=mask)
    lazy = [dask.array.from_array(a, chunks=(2, 3, 8)) for a in (cube.data, cube.uncertainty.array.astype(float), mask)]
    result = specfit.fit(rewrap(cube, lazy[0], lazy[1], mask=lazy[2]), line())
    same(result, expected)
    assert np.all(result.dof.data == 24)
    assert isinstance(result["velocity"].data, np.ndarray)


# -- the tensors ---------------------------------------------------------------------------------


def test_blocks_hold_weights_and_zeros():
    cube = gaussian_cube((2, 3), seed=1)
    data = cube.data.copy()
    data[0, 1, 5] = np.nan
    observation = Observation.from_cube(rewrap(cube, data), window=[194.9, 195.3] * u.AA)
    block = observation.block(slice(0, 6))
    assert block.data.shape == block.weight.shape == (32, 6)
    assert block.data[5, 1] == 0
    assert block.weight[5, 1] == 0
    inside = (observation.x >= 194.9) & (observation.x <= 195.3)
    assert np.all(block.weight.numpy()[~inside] == 0)
    np.testing.assert_allclose(block.weight.numpy()[inside, 0], cube.uncertainty.array[0, 0, inside] ** -2.0, rtol=1e-6)
    np.testing.assert_allclose(block.data.numpy()[inside, 5], cube.data[1, 2, inside])


@pytest.mark.parametrize("size", [1e-60, 1e-23, 1e20, 1e60])
@pytest.mark.parametrize(
    ("kind", "power"), [(StdDevUncertainty, 1), (VarianceUncertainty, 2), (InverseVariance, -2)], ids=lambda v: str(v)
)
def test_data_of_any_size(size, kind, power):
    cube = gaussian_cube((3, 4), seed=1)
    sigma = cube.uncertainty.array.astype(float)
    expected = specfit.fit(cube, line())
    scaled = cube.to_nddata(
        data=cube.data.astype(float) * size, uncertainty=kind((sigma * size) ** power), nddata_type=NDCube
    )
    result = specfit.fit(scaled, line())
    assert (result.status.data == expected.status.data).all()
    for name, factor in (("velocity", 1), ("amplitude", size), ("intensity", size)):
        found, known = result[name], expected[name]
        assert not found.mask.any()
        np.testing.assert_allclose(found.uncertainty.array / factor, known.uncertainty.array, rtol=1e-3)
        assert (np.abs(found.data / factor - known.data) < 1e-3 * known.uncertainty.array).all()
