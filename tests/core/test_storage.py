"""A file loses nothing."""

import asdf
import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from astropy.time import Time
from ndcube import NDCube
from ndcube.extra_coords import QuantityTableCoordinate, TimeTableCoordinate

import sunpy_specfit as specfit
from sunpy_specfit.data import dem_scene, gaussian_cube

REST = 195.119 * u.AA


def line():
    return specfit.Gaussian(REST) + specfit.Polynomial(0)


def same_maps(one, other):
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name].data, other[name].data)
        np.testing.assert_array_equal(one[name].uncertainty.array, other[name].uncertainty.array)
        np.testing.assert_array_equal(one[name].mask, other[name].mask)
        assert one[name].unit == other[name].unit
    for name in ("chi2", "dof", "status", "reduced_chi2"):
        np.testing.assert_array_equal(getattr(one, name).data, getattr(other, name).data)


def round_trip(result, path, **options):
    result.save(path)
    return specfit.FitResult.load(path, **options)


def test_maps_light_draws_and_provenance(tmp_path):
    cube = gaussian_cube((5, 6), seed=3)
    cube.extra_coords.add("time", 1, Time("2021-03-06T06:44:44") + np.arange(6) * 30 * u.s)
    mask = np.zeros(cube.data.shape, bool)
    mask[1, 1] = True
    model = line().bound(width=(20, 90) * u.mAA).tie("c0", "amplitude", factor=0.06)
    result = specfit.fit(cube, model, mask=mask, priors=specfit.Ridge("width", reference=0.035 * u.AA, scale=9 * u.mAA))
    again = round_trip(result, tmp_path / "result.asdf")
    same_maps(result, again)
    np.testing.assert_array_equal(
        result.covariance["width", "velocity"].data, again.covariance["width", "velocity"].data
    )
    np.testing.assert_allclose(again.model().data, result.model().data)
    np.testing.assert_array_equal(again.sample(3, seed=1)["velocity"].value, result.sample(3, seed=1)["velocity"].value)
    assert again.meta == result.meta
    assert repr(again) == repr(result)
    velocity = again["velocity"]
    np.testing.assert_allclose(
        velocity.wcs.low_level_wcs.pixel_to_world_values(2, 3),
        result["velocity"].wcs.low_level_wcs.pixel_to_world_values(2, 3),
    )
    times = velocity.axis_world_coords("time", wcs=velocity.extra_coords)[0]
    assert abs((times[5] - times[0]).to_value(u.s) - 150) < 1e-3
    same_maps(result[1:3, 2:], again[1:3, 2:])
    with pytest.raises(ValueError, match=r"pass them, residual\(data=cube\)"):
        again.residual()
    np.testing.assert_allclose(again.residual(cube).data, result.residual().data, rtol=1e-6, atol=1e-4)


def test_the_numbers_of_samples_are_in_the_file_too(tmp_path):
    result = specfit.fit(gaussian_cube((3, 4)), line())
    compared = specfit.compare([round_trip(result, tmp_path / "result.asdf"), result])
    np.testing.assert_allclose(compared.values["0"].data, compared.values["1"].data)


def test_other_readers_find_the_maps(tmp_path):
    import asdf

    cube = gaussian_cube((3, 4))
    cube.extra_coords.add("time", 1, Time("2021-03-06T06:44:44") + np.arange(4) * 30 * u.s)
    result = specfit.fit(cube, line())
    result.save(tmp_path / "result.asdf")
    with asdf.open(tmp_path / "result.asdf") as file:
        for name in result:
            found = file["maps"][name]
            assert isinstance(found, NDCube)
            np.testing.assert_array_equal(found.data, result[name].data)
            assert found.unit == result[name].unit
            assert list(found.extra_coords.keys()) == ["time"]


def test_wavelengths_of_each_pixel_and_single_spectra(tmp_path):
    cube = gaussian_cube((3, 4), seed=6)
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    shift = np.linspace(-0.02, 0.02, 12).reshape(3, 4, 1) * u.AA
    result = specfit.fit(cube, line(), spectral_axis=x + shift)
    again = round_trip(result, tmp_path / "one.asdf")
    same_maps(result, again)
    np.testing.assert_allclose(again.model().data, result.model().data, rtol=1e-6)
    np.testing.assert_allclose(again[1:, 2].model().data, result.model().data[1:, 2], rtol=1e-6)
    lone = specfit.fit(cube[1, 2], line())
    same_maps(lone, round_trip(lone, tmp_path / "two.asdf"))


def test_joint_fits(tmp_path):
    cube = gaussian_cube((3, 4), seed=6)
    left, right = (specfit.Gaussian(REST, label=label) for label in ("left", "right"))
    result = specfit.fit([cube, cube], [left, right.tie("center", "left.center")])
    again = round_trip(result, tmp_path / "joint.asdf")
    same_maps(result, again)
    for one, other in zip(again.model(), result.model(), strict=True):
        np.testing.assert_allclose(one.data, other.data)


def test_a_function_cannot_be_stored_and_the_message_says_what_to_pass(tmp_path):
    def profile(x, height):
        return height + 0 * x

    cube = gaussian_cube((3, 4))
    model = specfit.ExternalModel(profile, {"height": specfit.Parameter("data")})
    result = specfit.fit(cube, model)
    with pytest.warns(specfit.SpecfitWarning, match=r"cannot hold the function .*profile.*load\(path, model="):
        result.save(tmp_path / "result.asdf")
    again = specfit.FitResult.load(tmp_path / "result.asdf")
    same_maps(result, again)
    with pytest.raises(ValueError, match=r"FitResult\.load\(path, model=\.\.\.\)"):
        again.model()
    whole = specfit.FitResult.load(tmp_path / "result.asdf", model=model)
    np.testing.assert_allclose(whole.model().data, result.model().data)


def test_wrong_files_and_wrong_data(tmp_path):
    import asdf

    asdf.AsdfFile({"a": 1}).write_to(tmp_path / "other.asdf")
    with pytest.raises(ValueError, match=r"FitResult\.save did not write it"):
        specfit.FitResult.load(tmp_path / "other.asdf")
    cube = gaussian_cube((3, 4))
    specfit.fit(cube, line()).save(tmp_path / "result.asdf")
    again = specfit.FitResult.load(tmp_path / "result.asdf")
    with pytest.raises(ValueError, match="give the cube that was fitted"):
        again.residual(gaussian_cube((3, 5)))
    with pytest.raises(ValueError, match="parameters"):
        specfit.FitResult.load(tmp_path / "result.asdf", model=specfit.Polynomial(3))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    import asdf

    path = tmp_path / "result.asdf"
    cube = gaussian_cube((3, 4))
    result = specfit.fit(cube, line())
    result.save(path)
    before = path.read_bytes()

    def full(self, *args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(asdf.AsdfFile, "write_to", full)
    with pytest.raises(OSError, match="no space"):
        result.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["result.asdf"]


def test_masked_errors_survive(tmp_path):
    cube = gaussian_cube((3, 4))
    data = cube.data.copy()
    data[1, 1] = np.nan
    bad = NDCube(data, wcs=cube.wcs, unit=cube.unit, uncertainty=StdDevUncertainty(cube.uncertainty.array))
    result = specfit.fit(bad, line())
    again = round_trip(result, tmp_path / "result.asdf")
    assert again["velocity"].mask[1, 1]
    assert np.isnan(again["velocity"].data[1, 1])
    same_maps(result, again)


@pytest.mark.filterwarnings("ignore:The unit .* has been deprecated in the VOUnit standard")
def test_time_as_an_axis_of_the_wcs(tmp_path):
    times = Time("2020-01-01T00:00:00") + np.arange(5) * 10 * u.s
    wavelengths = np.linspace(194.9, 195.3, 24)
    wcs = (
        QuantityTableCoordinate(wavelengths * u.AA, physical_types="em.wl", names="wavelength")
        & TimeTableCoordinate(times, physical_types="time", names="time")
    ).wcs
    spectrum = 100 * np.exp(-0.5 * ((wavelengths - 195.12) / 0.03) ** 2) + 5
    cube = NDCube(np.tile(spectrum, (5, 1)), wcs=wcs, unit="ct", uncertainty=StdDevUncertainty(np.ones((5, 24))))
    cube.global_coords.add("slit", "custom:slit", 3 * u.arcsec)
    cube.global_coords.add("filter", "custom:filter", "open")
    path = tmp_path / "result.asdf"
    again = round_trip(specfit.fit(cube, line()), path)
    assert np.all(again["velocity"].axis_world_coords()[0] == times)
    assert np.all(again[1:3]["velocity"].axis_world_coords()[0] == times[1:3])
    assert again["velocity"].global_coords["filter"] == "open"
    with asdf.open(path, memmap=False, lazy_load=False) as file:  # for readers without this package
        velocity = file.tree["maps"]["velocity"]
        assert np.all(velocity.axis_world_coords()[0] == times)
        assert velocity.global_coords["slit"] == 3 * u.arcsec
        np.testing.assert_array_equal(velocity.data, again["velocity"].data)


@pytest.mark.parametrize("part", [(slice(1, 4), slice(2, 5)), (2, slice(2, 5)), (slice(1, 4), 3)])
def test_part_of_a_map_with_temperatures_beside_the_sky(tmp_path, part):
    """Its coordinates are slices of what stands side by side, which ndcube's files know in one form only."""
    pytest.importorskip("demregpy")
    scene = dem_scene("quiet_sun", (5, 6), seed=2)
    bins = np.logspace(5.7, 7.3, 7) * u.K
    result = specfit.fit(scene.images, specfit.DEM(scene.responses, bins=bins))[part]
    result.save(tmp_path / "part.asdf")
    loaded = specfit.FitResult.load(tmp_path / "part.asdf")
    with asdf.open(tmp_path / "part.asdf", lazy_load=False, memmap=False) as file:
        stored = file["maps"]["dem"]
    place = tuple(range(result["dem"].data.ndim))
    expected = result["dem"].wcs.low_level_wcs.pixel_to_world_values(*place)
    for cube in (loaded["dem"], stored):
        np.testing.assert_array_equal(cube.data, result["dem"].data)
        np.testing.assert_allclose(cube.wcs.low_level_wcs.pixel_to_world_values(*place), expected)
