"""Zero points of velocities, and the medium that wavelengths are measured in."""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.data import gaussian_cube, spectral_wcs

REST = 195.119 * u.AA
KMS = u.km / u.s


def fitted(shape=(12, 10)):
    cube = gaussian_cube(shape, signal_to_noise=50, seed=8)
    return cube, specfit.fit(cube, specfit.Gaussian(REST) + specfit.Polynomial(0))


def test_a_region_is_at_rest():
    cube, result = fitted()
    before = result["velocity"].data.copy()
    relative = specfit.velocity_reference(result, region=np.s_[:4, :])
    zero = np.median(before[:4])
    np.testing.assert_allclose(relative["velocity"].data, before - zero)
    np.testing.assert_array_equal(result["velocity"].data, before)
    np.testing.assert_array_equal(relative["velocity"].uncertainty.array, result["velocity"].uncertainty.array)
    np.testing.assert_array_equal(relative["center"].data, result["center"].data)
    record = relative.meta["velocity_reference"]
    assert record["zero_points"]["velocity"] == pytest.approx(zero)
    scatter = before[:4].std()
    assert record["errors"]["velocity"] == pytest.approx(1.25 * scatter / np.sqrt(40), rel=0.5)
    np.testing.assert_array_equal(relative.model().data, result.model().data)
    mask = np.zeros((12, 10), bool)
    mask[:4] = True
    again = specfit.velocity_reference(relative, region=mask)
    np.testing.assert_allclose(again["velocity"].data, relative["velocity"].data)
    assert "velocity_reference" not in result.meta


def test_it_holds_in_parts_files_tables_and_draws(tmp_path):
    _, result = fitted()
    relative = specfit.velocity_reference(result, value=25 * KMS)
    expected = result["velocity"].data - 25
    np.testing.assert_allclose(relative[2:5, 1]["velocity"].data, expected[2:5, 1])
    relative.save(tmp_path / "result.asdf")
    loaded = specfit.FitResult.load(tmp_path / "result.asdf")
    np.testing.assert_allclose(loaded["velocity"].data, expected)
    assert loaded.meta["velocity_reference"]["by"] == "value"
    row = next(row for row in relative.summary() if row["parameter"] == "velocity")
    assert row["median"] == pytest.approx(np.median(expected))
    draws = relative.sample(50)["velocity"]
    assert np.median(draws.value - expected) == pytest.approx(0, abs=0.2)


def test_an_earlier_result_with_a_zero_point_starts_a_fit_as_well_as_one_without():
    cube, result = fitted()
    relative = specfit.velocity_reference(result, value=200 * KMS)
    model = specfit.Gaussian(REST) + specfit.Polynomial(0)
    again = specfit.fit(cube, model, init=relative)
    np.testing.assert_allclose(again["velocity"].data, result["velocity"].data, atol=1e-2)


def test_one_line_is_the_reference_of_another():
    rng = np.random.default_rng(2)
    x = 195.30 + 0.0223 * (np.arange(64) - 31.5)
    wcs = spectral_wcs((6, 7), x * u.AA)
    scale = 1 + 12 / 299792.458  # the whole wavelength scale is off by 12 km/s
    light = 100 * np.exp(-0.5 * ((x - 195.119 * scale * (1 + 30 / 299792.458)) / 0.03) ** 2)
    light = light + 80 * np.exp(-0.5 * ((x - 195.60 * scale) / 0.03) ** 2) + 10
    data = light + rng.standard_normal((6, 7, 64))
    cube = NDCube(data, wcs=wcs, unit=u.DN, uncertainty=StdDevUncertainty(np.ones(data.shape)))
    model = specfit.Gaussian(REST, label="flow") + specfit.Gaussian(195.60 * u.AA, label="rest") + specfit.Polynomial(0)
    relative = specfit.velocity_reference(specfit.fit(cube, model), line="rest")
    assert np.median(relative["flow.velocity"].data) == pytest.approx(30, abs=0.5)
    assert np.median(relative["rest.velocity"].data) == pytest.approx(0, abs=1e-9)
    assert relative.meta["velocity_reference"]["line"] == "rest"
    with pytest.raises(KeyError, match="rest"):
        specfit.velocity_reference(relative, line="rist")


def test_what_makes_no_reference_is_refused():
    _, result = fitted((4, 5))
    with pytest.raises(ValueError, match="found none"):
        specfit.velocity_reference(result)
    with pytest.raises(ValueError, match="found region and value"):
        specfit.velocity_reference(result, region=np.s_[:2], value=1 * KMS)
    with pytest.raises(ValueError, match="one speed"):
        specfit.velocity_reference(result, value=3.0)
    with pytest.raises(ValueError, match="finite"):
        specfit.velocity_reference(result, value=np.nan * KMS)
    with pytest.raises(ValueError, match=r"shaped as the map, \(4, 5\)"):
        specfit.velocity_reference(result, region=np.ones((5, 4), bool))
    with pytest.raises(ValueError, match="no pixel there"):
        specfit.velocity_reference(result, region=np.zeros((4, 5), bool))
    plain = specfit.fit(gaussian_cube((3, 3)), specfit.Polynomial(0))
    with pytest.raises(ValueError, match="no velocity"):
        specfit.velocity_reference(plain, value=1 * KMS)


# -- air or vacuum -------------------------------------------------------------------------------


def visible(observed, ctype="WAVE", meta=None):
    x = 6302.5 + 0.02 * (np.arange(41) - 20.0)
    wcs = spectral_wcs((4, 5), x * u.AA)
    wcs.wcs.ctype = [ctype if t.startswith("WAVE") else t for t in wcs.wcs.ctype]
    light = 100 - 60 * np.exp(-0.5 * ((x - observed) / 0.05) ** 2) + 0 * np.zeros((4, 5, 1))
    light = light + np.random.default_rng(0).standard_normal(light.shape) * 0.5
    errors = StdDevUncertainty(np.full(light.shape, 0.5))
    return NDCube(light, wcs=wcs, unit=u.DN, uncertainty=errors, meta=meta)


def absorption(rest):
    return specfit.Gaussian(rest * u.AA, absorption=True) + specfit.Polynomial(0)


@pytest.mark.parametrize(("ctype", "medium"), [("WAVE", "unknown"), ("AWAV", "air")])
def test_a_line_off_by_the_refraction_of_air_asks_whether_it_is_air_or_vacuum(ctype, medium):
    cube = visible(6302.4931, ctype)
    assert specfit.fit(cube, absorption(6302.4931)).meta["medium"] == [medium]
    with pytest.warns(specfit.MediumWarning, match=f"in vacuum and the data's in air .*{medium}"):
        specfit.fit(cube, absorption(6304.2365))


def test_the_medium_of_the_far_ultraviolet_is_vacuum_and_no_shift_there_is_doubted():
    cube, result = fitted((4, 5))
    assert result.meta["medium"] == ["vacuum"]
    shifted = specfit.Gaussian(195.119 * u.AA * (1 - 80 / 299792.458)) + specfit.Polynomial(0)
    moved = specfit.fit(cube, shifted)  # warnings are errors here
    assert np.median(moved["velocity"].data) > 60


def test_iris_measures_in_vacuum():
    cube = visible(6302.4931, meta={"TELESCOP": "IRIS"})
    assert specfit.fit(cube, absorption(6302.4931)).meta["medium"] == ["vacuum"]
