import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import Status
from sunpy_specfit.core.warnings import SpecfitWarning

RATE = u.DN / u.s


def sky():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["HPLN-TAN", "HPLT-TAN"]
    wcs.wcs.cunit = ["arcsec", "arcsec"]
    wcs.wcs.cdelt = [0.6, 0.6]
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.set()
    return wcs


@pytest.fixture
def truth(bins):
    """A hump at log T = 6.2 in each of 6 by 7 pixels, brighter from one to the next."""
    log_t = np.log10(np.sqrt(bins[1:] * bins[:-1]).value)
    profile = np.exp(-0.5 * ((log_t - 6.2) / 0.15) ** 2)
    return 1e21 * profile[:, None, None] * np.linspace(0.5, 2, 42).reshape(6, 7)


@pytest.fixture
def images(response, bins, truth):
    model = specfit.DEM(response, bins=bins)
    rng = np.random.default_rng(4)
    light = np.tensordot(model.matrix, truth, 1)
    found = {}
    for channel, clean in zip(response, light, strict=True):
        sigma = 0.05 * clean + 0.05
        data = clean + sigma * rng.standard_normal(clean.shape)
        found[channel] = NDCube(data, wcs=sky(), unit=RATE, uncertainty=StdDevUncertainty(sigma))
    return found


def test_keys_units_and_the_temperature_axis_are_those_of_the_contract(response, bins, images, truth):
    result = specfit.fit(images, specfit.DEM(response, bins=bins))
    assert list(result) == ["dem", "emission_measure", "temperature", "log_temperature"]
    dem = result["dem"]
    assert dem.data.shape == (32, 6, 7)
    assert dem.unit == u.Unit("cm-5 K-1")
    assert result["emission_measure"].unit == u.Unit("cm-5")
    assert result["temperature"].unit == u.K
    assert result["log_temperature"].unit == u.dimensionless_unscaled
    assert dem.array_axis_physical_types[0] == ("custom:temperature",)
    np.testing.assert_allclose(dem.axis_world_coords_values(0)[0].to_value(u.K), np.sqrt(bins[1:] * bins[:-1]).value)
    assert "custom:pos.helioprojective.lon" in dem.wcs.world_axis_physical_types
    assert result["emission_measure"].wcs.world_n_dim == 2
    assert np.all(result.status.data == Status.CONVERGED)
    assert np.all(dem.uncertainty.array > 0)
    expected = (truth * np.diff(bins.value)[:, None, None]).sum(0)
    assert np.median(np.abs(np.log10(result["emission_measure"].data / expected))) < 0.05
    assert result.model().data.shape == (6, 6, 7)
    assert np.median(result.chi2.data) < 8
    assert result.meta["responses"]["source"] == "made up"
    assert repr(result).startswith("FitResult of DEM(94, 131, 171")


@pytest.mark.parametrize("form", ["log", "nonnegative", "linear"])
def test_plain_mappings_do_as_well_as_a_response_object(response, bins, images, form):
    plain = specfit.DEM(dict(response), response.temperature, bins, form=form)
    whole = specfit.DEM(response, bins=bins, form=form)
    a, b = (specfit.fit(images, model)["emission_measure"].data for model in (plain, whole))
    np.testing.assert_allclose(a, b)


def test_derived_quantities_are_the_integrals_of_the_contract(response, bins):
    import torch

    model = specfit.DEM(response, bins=bins, bands=[6e5, 1e6, 1e7] * u.K)
    dem = np.zeros((32, 1))
    dem[3] = 2e21
    found = {k: v.numpy() for k, v in model.derive(torch.as_tensor(dem)).items()}
    low, high = bins[3:5].value
    t = np.linspace(low, high, 20001)
    assert found["emission_measure"][0] == pytest.approx(2e21 * (high - low))
    assert found["temperature"][0] == pytest.approx(t.mean())
    assert found["log_temperature"][0] == pytest.approx(np.log10(t).mean(), abs=1e-6)
    # The first band ends at 1 MK; bins from there on belong to the second.
    np.testing.assert_allclose(found["band_emission_measure"][:, 0], [2e21 * (high - low), 0], rtol=1e-9)


def test_the_order_of_pixels_and_time_is_kept(response, bins, images):
    model = specfit.DEM(response, bins=bins)
    alone = specfit.fit({c: i[2:3, 4:5] for c, i in images.items()}, model)
    whole = specfit.fit(images, model)
    sigma = whole["emission_measure"].uncertainty.array[2, 4]
    assert abs(alone["emission_measure"].data[0, 0] - whole["emission_measure"].data[2, 4]) < sigma


def test_counts_below_zero_are_data(response, bins, images):
    images = {c: image.to_nddata(nddata_type=NDCube) for c, image in images.items()}
    images["94"].data[:] = -0.1
    images["335"].data[:2] = 0.0
    result = specfit.fit(images, specfit.DEM(response, bins=bins))
    assert np.all(np.isfinite(result["dem"].data))
    assert np.all(result["dem"].data > 0)
    assert np.all((result.status.data & Status.CONVERGED) > 0)


def test_holes_cost_a_channel_and_not_the_pixel(response, bins, images):
    images["171"].data[1, 2] = np.nan
    hidden = np.zeros((6, 7), bool)
    hidden[3, 3] = True
    for image in images.values():
        image.data[5, 5] = np.nan
    result = specfit.fit(images, specfit.DEM(response, bins=bins), mask=hidden)
    assert np.isfinite(result["dem"].data[:, 1, 2]).all()
    assert result.status.data[1, 2] == Status.CONVERGED | Status.BAD_DATA
    assert result.status.data[3, 3] & Status.MASKED
    assert result.status.data[5, 5] & Status.MASKED
    assert np.isnan(result["dem"].data[:, 3, 3]).all()
    assert result["dem"].mask[:, 3, 3].all()
    assert result["dem"].mask.sum() == 64


def test_a_result_is_sliced_saved_and_loaded(response, bins, images, tmp_path):
    result = specfit.fit(images, specfit.DEM(response, bins=bins, bands=[6e5, 1e6, 1e7] * u.K))
    part = result[1:3, 2]
    np.testing.assert_allclose(part["dem"].uncertainty.array, result["dem"].uncertainty.array[:, 1:3, 2])
    result.save(tmp_path / "dem.asdf")
    again = specfit.FitResult.load(tmp_path / "dem.asdf")
    for key in result:
        np.testing.assert_allclose(again[key].data, result[key].data)
        np.testing.assert_allclose(again[key].uncertainty.array, result[key].uncertainty.array, rtol=1e-6)
    np.testing.assert_allclose(again.model().data, result.model().data)
    np.testing.assert_allclose(again.sample(2)["dem"].value, result.sample(2)["dem"].value)


def test_response_errors_widen_the_errors(response, bins, images):
    tight = specfit.fit(images, specfit.DEM(response, bins=bins))
    loose = specfit.fit(images, specfit.DEM(response, bins=bins, response_error=0.25))
    ratio = loose["emission_measure"].uncertainty.array / tight["emission_measure"].uncertainty.array
    assert np.median(ratio) > 1.5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bins": np.logspace(4, 7, 9) * u.K}, ValueError, "the responses only from 5.000"),
        ({"bins": np.logspace(5.7, 7.3, 9)}, TypeError, "found plain numbers"),
        ({"bins": [1, 1, 2] * u.MK}, ValueError, "increasing edges"),
        ({"bins": None}, TypeError, "needs temperature bins"),
        ({"bins": np.logspace(5.7, 7.3, 9) * u.K, "form": "cubic"}, ValueError, "form is one of"),
        ({"bins": np.logspace(5.7, 7.3, 9) * u.K, "response_error": -1}, ValueError, "relative error"),
        ({"bins": np.logspace(5.7, 7.3, 9) * u.K, "bands": [1e5, 1e6] * u.K}, ValueError, "beyond the bins"),
    ],
)
def test_bad_arguments_are_refused(response, arguments, error, message):
    with pytest.raises(error, match=message):
        specfit.DEM(response, **arguments)


def test_responses_in_different_units_and_data_in_foreign_ones_are_refused(response, bins, images):
    mixed = {**response, "94": response["94"].value * u.Unit("erg cm3 / (s sr)")}
    with pytest.raises(u.UnitConversionError, match="'131' is in"):
        specfit.DEM(mixed, response.temperature, bins)
    foreign = {c: response[c].value * u.Unit("erg cm3 / (s sr)") for c in response}
    with pytest.raises(u.UnitConversionError, match="does not convert"):
        specfit.fit(images, specfit.DEM(foreign, response.temperature, bins))


def test_line_intensities_of_a_single_pixel_with_contribution_functions(response, bins):
    """As from EIS: G(T) in erg cm³ s⁻¹ sr⁻¹, intensities in erg cm⁻² s⁻¹ sr⁻¹."""
    unit = u.Unit("erg cm3 / (s sr)")
    lines = {f"line {c}": response[c].value * 10 * unit for c in response}
    model = specfit.DEM(lines, response.temperature, bins)
    log_t = np.log10(model.centers.value)
    dem = 1e21 * np.exp(-0.5 * ((log_t - 6.1) / 0.2) ** 2)
    wcs = WCS(naxis=1)
    wcs.wcs.ctype = ["CHANNEL"]
    wcs.wcs.set()
    light = model.matrix @ dem
    cube = NDCube(light, wcs=wcs, unit="erg / (cm2 s sr)", uncertainty=StdDevUncertainty(0.05 * light))
    result = specfit.fit(cube, model)
    assert result["dem"].data.shape == (32, 1)
    assert result["log_temperature"].data[0] == pytest.approx(
        (log_t * dem * np.diff(bins.value)).sum() / (dem * np.diff(bins.value)).sum(), abs=0.1
    )


def test_pixels_of_another_size_are_an_error_unless_declared(response, bins):
    sunpy_map = pytest.importorskip("sunpy.map")
    header = {
        "ctype1": "HPLN-TAN", "ctype2": "HPLT-TAN", "cunit1": "arcsec", "cunit2": "arcsec",
        "cdelt1": 2.4, "cdelt2": 2.4, "crpix1": 2.0, "crpix2": 2.0, "crval1": 0.0, "crval2": 0.0,
        "instrume": "AIA_4", "telescop": "SDO/AIA", "wavelnth": 171, "waveunit": "angstrom", "exptime": 2.0,
        "bunit": "DN", "date-obs": "2011-01-01T00:00:00", "hgln_obs": 0.0, "hglt_obs": 0.0, "dsun_obs": 1.496e11,
    }  # fmt: skip
    maps = {c: sunpy_map.Map(np.full((5, 5), 400.0), {**header, "wavelnth": int(c)}) for c in response}
    meta = {"pixel_scale": 0.6 * u.arcsec / u.pix}
    with pytest.raises(ValueError, match="give pixel_scale="):
        specfit.fit(maps, specfit.DEM(dict(response), response.temperature, bins, meta=meta))
    summed = specfit.DEM(dict(response), response.temperature, bins, meta=meta, pixel_scale=2.4 * u.arcsec / u.pix)
    plain = specfit.DEM(dict(response), response.temperature, bins)
    np.testing.assert_allclose(summed.matrix, 16 * plain.matrix)


def test_pixels_without_signal_say_so(response, bins, images):
    for image in images.values():
        image.data[2, 3] = 0.5 * image.uncertainty.array[2, 3]
    result = specfit.fit(images, specfit.DEM(response, bins=bins))
    assert result.status.data[2, 3] & Status.LOW_SIGNAL
    assert not result.status.data[2, 4] & Status.LOW_SIGNAL
    assert result["emission_measure"].data[2, 3] < result["emission_measure"].data[2, 4]


@pytest.mark.parametrize("form", ["log", "linear", "nonnegative"])
def test_a_map_of_nothing_has_as_much_as_its_noise_could_hide(response, bins, images, truth, form):
    dark = {
        name: NDCube(0 * image.data, wcs=image.wcs, unit=image.unit, uncertainty=image.uncertainty)
        for name, image in images.items()
    }
    model = specfit.DEM(response, bins=bins, form=form)
    amount = specfit.fit(dark, model)["emission_measure"]
    # Of a coronal hump so much gives one sigma in the channel that shows it best.
    light = np.tensordot(model.matrix, truth, 1)
    part = np.min([images[c].uncertainty.array / own for c, own in zip(response, light, strict=True)], 0)
    hidden = part * np.tensordot(np.diff(bins.value), truth, 1)
    most = amount.data + amount.uncertainty.array
    assert np.all(most > 0.03 * hidden)
    assert np.all(most < 3 * hidden)


def test_frames_of_a_sequence_are_coupled_in_time(response, bins):
    """A plasma that cools: at low signal the frames before and after help."""
    log_t = np.log10(np.sqrt(bins[1:] * bins[:-1]).value)
    centre = np.linspace(6.5, 6.1, 40)[:, None] + np.linspace(0, 0.05, 6)
    truth = 5e20 * np.exp(-0.5 * ((log_t[:, None, None] - centre) / 0.15) ** 2)
    model = specfit.DEM(response, bins=bins)
    light = np.tensordot(model.matrix, truth, 1)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["PIXEL", "TIME"]
    wcs.wcs.cunit = ["", "s"]
    wcs.wcs.cdelt = [1, 12]
    wcs.wcs.set()
    rng = np.random.default_rng(7)
    images = {}
    for channel, clean in zip(response, light, strict=True):
        sigma = 0.4 * clean.mean() * np.ones_like(clean)
        data = clean + sigma * rng.standard_normal(clean.shape)
        images[channel] = NDCube(data, wcs=wcs, unit=RATE, uncertainty=StdDevUncertainty(sigma))
    expected = (truth * np.diff(bins.value)[:, None, None]).sum(0)

    def rms(result):
        return np.sqrt(np.mean(np.log10(result["emission_measure"].data / expected) ** 2))

    alone = specfit.fit(images, model)
    assert alone["dem"].data.shape == (32, 40, 6)
    coupled = specfit.fit(images, model, priors=specfit.Smooth("dem", scale=1.5, logarithm=True, axes="time"))
    assert rms(coupled) < 0.85 * rms(alone)


@pytest.mark.parametrize("priors", [(), specfit.Smooth("dem", scale=2.0, logarithm=True)])
def test_a_map_without_any_data_is_masked_and_no_error(response, bins, images, priors):
    for image in images.values():
        image.data[:] = np.nan
    with pytest.warns(SpecfitWarning, match="no pixel has a usable sample"):
        result = specfit.fit(images, specfit.DEM(response, bins=bins), priors=priors)
    assert np.all((result.status.data & Status.MASKED) > 0)
    assert np.isnan(result["dem"].data).all()
    assert np.isnan(result["dem"].uncertainty.array).all()
    assert result["emission_measure"].mask.all()
