import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import InverseVariance, StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.plugins.dem.images import gather, without_pixels

RATE = u.DN / u.s


def sky(shift=0.0, scale=0.6):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["HPLN-TAN", "HPLT-TAN"]
    wcs.wcs.cunit = ["arcsec", "arcsec"]
    wcs.wcs.cdelt = [scale, scale]
    wcs.wcs.crpix = [2.0, 2.0]
    wcs.wcs.crval = [shift, 0.0]
    wcs.wcs.set()
    return wcs


def image(value=10.0, *, unit=RATE, sigma=1.0, shape=(3, 4), wcs=None, **options):
    errors = None if sigma is None else StdDevUncertainty(np.full(shape, sigma))
    return NDCube(np.full(shape, value), wcs=wcs or sky(), unit=unit, uncertainty=errors, **options)


def test_a_unit_per_pixel_is_the_same_without():
    assert without_pixels(u.Unit("DN / (s pix)")) == RATE
    assert without_pixels(u.Unit("ct / s")) == RATE
    assert without_pixels(u.Unit("1000 DN / s")).to(RATE) == pytest.approx(1000)


def test_channels_come_in_the_order_of_the_responses_with_a_channel_axis():
    cube, uncertainty, mask = gather({193: image(2), "A171": image(1)}, ("171", "193"), RATE)
    assert (uncertainty, mask) == (None, None)
    assert cube.data[:, 0, 0].tolist() == [1, 2]
    assert cube.array_axis_physical_types[0] == ("custom:channel",)
    assert "custom:pos.helioprojective.lon" in cube.wcs.world_axis_physical_types
    assert cube.meta["channels"] == ["171", "193"]


def test_counts_are_divided_by_the_exposure_time_and_rates_are_not():
    counts = image(20, unit=u.DN, sigma=4.0, meta={"exposure_time": 2.0 * u.s})
    cube, _, _ = gather({"171": counts, "193": image(20)}, ("171", "193"), RATE)
    np.testing.assert_allclose(cube.data[:, 0, 0], [10, 20])
    np.testing.assert_allclose(cube.uncertainty.array[:, 0, 0], [2, 1])
    with pytest.raises(ValueError, match="exposure time is missing"):
        gather({"171": image(unit=u.DN)}, ("171",), RATE)


def test_a_sunpy_map_brings_exposure_and_the_noise_of_aia():
    sunpy_map = pytest.importorskip("sunpy.map")
    header = {
        "ctype1": "HPLN-TAN", "ctype2": "HPLT-TAN", "cunit1": "arcsec", "cunit2": "arcsec",
        "cdelt1": 0.6, "cdelt2": 0.6, "crpix1": 2.0, "crpix2": 2.0, "crval1": 0.0, "crval2": 0.0,
        "instrume": "AIA_4", "telescop": "SDO/AIA", "wavelnth": 171, "waveunit": "angstrom", "exptime": 2.0,
        "bunit": "DN", "date-obs": "2011-01-01T00:00:00", "hgln_obs": 0.0, "hglt_obs": 0.0, "dsun_obs": 1.496e11,
    }  # fmt: skip
    picture = sunpy_map.Map(np.full((5, 5), 400.0), header)
    cube, _, _ = gather({171: picture}, ("171",), RATE)
    np.testing.assert_allclose(cube.data, 200.0)
    np.testing.assert_allclose(cube.uncertainty.array, np.sqrt(400 * 1.168 + 1.15**2) / 2)


def test_errors_can_be_given_for_each_channel_or_for_all():
    images = {"171": image(sigma=None), "193": image(sigma=None)}
    cube, _, _ = gather(
        images, ("171", "193"), RATE, uncertainty={171: 2 * RATE, "193": InverseVariance(np.ones((3, 4)))}
    )
    np.testing.assert_allclose(cube.uncertainty.array[:, 1, 1], [2, 1])
    cube, _, _ = gather(images, ("171", "193"), RATE, uncertainty=3 * RATE)
    np.testing.assert_allclose(cube.uncertainty.array, 3)
    with pytest.raises(ValueError, match="'171' has no uncertainty"):
        gather(images, ("171", "193"), RATE)
    counts = {"171": image(100, unit=u.DN, sigma=None, meta={"exposure_time": 2.0})}
    cube, _, _ = gather(counts, ("171",), RATE, uncertainty=specfit.CountNoise(0.5, 3.0))
    np.testing.assert_allclose(cube.uncertainty.array, np.sqrt(100 / 0.5 + 9) / 2)


def test_the_error_of_the_responses_adds_to_the_noise():
    cube, _, _ = gather({"171": image(10), "193": image(-5)}, ("171", "193"), RATE, response_error={171: 0.2, 193: 0.2})
    np.testing.assert_allclose(cube.uncertainty.array[:, 0, 0], [np.hypot(1, 2), 1])


def test_masks_of_channels_and_of_the_map():
    hidden = np.zeros((3, 4), bool)
    hidden[1, 2] = True
    cube, _, mask = gather({"171": image(mask=hidden), "193": image()}, ("171", "193"), RATE)
    assert cube.mask[0, 1, 2]
    assert not cube.mask[1].any()
    assert mask is None
    cube, _, mask = gather({"171": image(), "193": image()}, ("171", "193"), RATE, mask={171: hidden, 193: None})
    assert cube.mask[0, 1, 2]
    assert cube.mask.sum() == 1
    assert mask is None
    _, _, mask = gather({"171": image(), "193": image()}, ("171", "193"), RATE, mask=hidden)
    assert mask.sum() == 1


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ({"171": image()}, ValueError, "no 193"),
        ({"171": image(), "193": image(), "304": image()}, ValueError, "304, for which the model has no response"),
        ({"171": image(), "193": image(shape=(3, 5))}, ValueError, "reproject all channels onto one grid"),
        ({"171": image(), "193": image(wcs=sky(shift=3.0))}, ValueError, "5 pixels away"),
        ({"171": image(), "193": image(wcs=sky(scale=1.2))}, ValueError, "pixels away"),
        ({"171": image(), "193": image(unit=u.K)}, u.UnitConversionError, "does not convert to DN / s"),
        ({"171": image(), "193": np.ones((3, 4))}, TypeError, "NDCube or a sunpy Map, found"),
        ({"171": image(), "A171": image()}, ValueError, "twice"),
    ],
)
def test_bad_images_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        gather(images, ("171", "193"), RATE)


def test_images_half_a_pixel_apart_are_on_one_grid():
    gather({"171": image(), "193": image(wcs=sky(shift=0.2))}, ("171", "193"), RATE)


def test_a_cube_with_a_channel_axis():
    cube, _, _ = gather({"171": image(1), "193": image(2)}, ("171", "193"), RATE)
    again, _, _ = gather(cube, ("171", "193"), RATE)
    np.testing.assert_allclose(again.data, cube.data)
    with pytest.raises(ValueError, match="the cube's meta has the channels"):
        gather(cube, ("193", "171"), RATE)
    cube.meta = {}
    with pytest.raises(ValueError, match="has 2 channels, the model responses for 3"):
        gather(cube, ("94", "193", "171"), RATE)
    with pytest.raises(ValueError, match="one channel axis"):
        gather(image(), ("171",), RATE)
