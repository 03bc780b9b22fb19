"""What a result holds, and that its numbers agree with each other."""

import asdf
import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty
from astropy.time import Time
from astropy.wcs import WCS
from ndcube import NDCollection, NDCube

import sunpy_specfit as specfit
from sunpy_specfit import Status
from sunpy_specfit.data import gaussian_cube

REST = 195.119 * u.AA


def line(**options):
    return specfit.Gaussian(REST, **options) + specfit.Polynomial(0)


@pytest.fixture(scope="module")
def fitted():
    cube = gaussian_cube((6, 7), signal_to_noise=30, seed=5)
    cube.mask = np.zeros(cube.data.shape, bool)
    cube.mask[0, 0] = True
    return cube, specfit.fit(cube, line())


# -- the mapping ---------------------------------------------------------------------------------


def test_names_in_declared_order(fitted):
    _, result = fitted
    assert result.parameters == ("amplitude", "center", "width", "c0")
    assert result.derived == ("intensity", "velocity", "fwhm")
    assert list(result) == [*result.parameters, *result.derived]
    assert len(result) == 7
    assert result["gaussian.velocity"] is result["velocity"]
    assert "polynomial.c0" in result
    assert "b_los" not in result
    with pytest.raises(KeyError, match="velocity"):
        result["velocty"]
    with pytest.raises(TypeError):
        result["velocity"] = 3


def test_components_need_their_labels_where_names_meet():
    cube = gaussian_cube((2, 3))
    model = specfit.Gaussian(REST, label="a") + specfit.Gaussian(195.3 * u.AA, label="b")
    result = specfit.fit(cube, model)
    assert list(result)[:3] == ["a.amplitude", "a.center", "a.width"]
    with pytest.raises(KeyError, match=r"'velocity' is ambiguous here: write 'a\.velocity' or 'b\.velocity'"):
        result["velocity"]
    with pytest.raises(ValueError, match="label"):
        specfit.fit(cube, specfit.Gaussian(REST) + specfit.Gaussian(195.3 * u.AA))


def test_maps_have_units_errors_masks_and_coordinates(fitted):
    cube, result = fitted
    units = {"amplitude": cube.unit, "center": u.AA, "intensity": cube.unit * u.AA, "velocity": u.km / u.s}
    for name, unit in units.items():
        one = result[name]
        assert isinstance(one, NDCube)
        assert one.unit == unit
        assert type(one.uncertainty) is StdDevUncertainty
        assert one.data.shape == one.uncertainty.array.shape == one.mask.shape == (6, 7)
        assert one.mask.sum() == 1
        assert one.mask[0, 0]
        assert np.isnan(one.data[0, 0])
        assert type(one.data) is np.ndarray
    np.testing.assert_allclose(
        result["velocity"].wcs.low_level_wcs.pixel_to_world_values(3, 2), cube.wcs.pixel_to_world_values(0, 3, 2)[1:]
    )


def test_formulas_of_what_is_derived(fitted):
    _, result = fitted
    value = {name: result[name].data for name in result}
    np.testing.assert_allclose(value["intensity"], np.sqrt(2 * np.pi) * value["amplitude"] * value["width"])
    np.testing.assert_allclose(value["velocity"], 299792.458 * (value["center"] / 195.119 - 1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(value["fwhm"], 2.3548200450309493 * value["width"])


# -- how good it is ------------------------------------------------------------------------------


def test_misfit_and_degrees_of_freedom(fitted):
    cube, result = fitted
    pull = result.residual().data / cube.uncertainty.array
    good = ~result["velocity"].mask
    np.testing.assert_allclose((pull**2).sum(-1)[good], result.chi2.data[good], rtol=1e-3)
    assert np.all(result.dof.data[good] == 28)
    np.testing.assert_allclose(result.reduced_chi2.data[good], result.chi2.data[good] / 28)
    assert np.isnan(result.reduced_chi2.data[0, 0])
    assert result.status.data[0, 0] == int(Status.MASKED)
    assert np.all(result.status.data[good] == int(Status.CONVERGED))
    assert result.status.data.dtype.kind == "i"


def test_covariances(fitted):
    _, result = fitted
    good = ~result["velocity"].mask
    for a in result:
        np.testing.assert_allclose(
            result.covariance[a, a].data[good], result[a].uncertainty.array[good] ** 2, rtol=1e-5, err_msg=a
        )
        for b in result:
            one = result.covariance[a, b]
            np.testing.assert_array_equal(one.data, result.covariance[b, a].data)
            limit = result[a].uncertainty.array * result[b].uncertainty.array
            assert np.all(np.abs(one.data[good]) <= limit[good] * (1 + 1e-6))
            assert one.unit == result[a].unit * result[b].unit
    with pytest.raises(KeyError, match=r"covariance\['a', 'b'\]"):
        result.covariance["width"]


def test_the_covariance_is_the_inverse_of_the_curvature(fitted):
    # By hand, from the textbook's formula, in physical units.
    cube, result = fitted
    x = cube.axis_world_coords_values("em.wl")[0].to_value(u.AA)
    a, c, w = (float(result[name].data[3, 4]) for name in ("amplitude", "center", "width"))
    z = (x - c) / w
    shape = np.exp(-0.5 * z**2)
    jacobian = (
        np.stack([shape, a * shape * z / w, a * shape * z**2 / w, np.ones_like(x)]) / cube.uncertainty.array[3, 4]
    )
    expected = np.linalg.inv(jacobian @ jacobian.T)
    for i, first in enumerate(result.parameters):
        for j, second in enumerate(result.parameters):
            scale = np.sqrt(expected[i, i] * expected[j, j])
            assert result.covariance[first, second].data[3, 4] / scale == pytest.approx(
                expected[i, j] / scale, abs=2e-3
            )


# -- draws ---------------------------------------------------------------------------------------


def test_draws_scatter_as_the_errors_say(fitted):
    _, result = fitted
    draws = result.sample(4000, seed=3)
    assert list(draws) == list(result)
    good = ~result["velocity"].mask
    for name, maps in draws.items():
        assert maps.shape == (4000, 6, 7)
        assert maps.unit == result[name].unit
        # Derived errors follow from the full covariance to first order; draws know no such approximation.
        spread = maps.value.std(0)[good] / result[name].uncertainty.array[good]
        assert np.all(np.abs(spread - 1) < 0.1), name
    correlation = ((draws["amplitude"] - draws["amplitude"].mean(0)) * (draws["width"] - draws["width"].mean(0))).mean(
        0
    )
    expected = result.covariance["amplitude", "width"]
    assert np.median(correlation.value[good] / expected.data[good]) == pytest.approx(1, abs=0.05)
    again = result.sample(4000, seed=3)["velocity"]
    np.testing.assert_array_equal(again.value[:, good], draws["velocity"].value[:, good])
    other = result.sample(4000, seed=4)["velocity"]
    assert not np.array_equal(other.value[:, good], draws["velocity"].value[:, good])


def test_draws_stay_between_bounds():
    cube = gaussian_cube((5, 6), signal_to_noise=4, seed=2)
    result = specfit.fit(cube, line().bound(width=(30, 34) * u.mAA))
    width = result.sample(200)["width"].to_value(u.mAA)
    assert np.nanmin(width) >= 30 - 1e-4
    assert np.nanmax(width) <= 34 + 1e-4
    assert np.all(result.sample(50)["amplitude"].value >= 0)


class Halves(specfit.Model):
    """Two numbers, each of its own half of the samples."""

    name = "halves"
    left = specfit.Parameter("data", default=1.0)
    right = specfit.Parameter("data", default=1.0)
    middle = specfit.Parameter("spectral", location=True)

    def evaluate(self, x, left, right, middle):
        return torch.where(x < middle, left, right)


@pytest.mark.parametrize("priors", [(), specfit.Smooth("left", scale=3.0)])
def test_what_nothing_determines_takes_no_other_number_s_draws_along(priors):
    cube = gaussian_cube((5, 6), signal_to_noise=10, seed=2)
    cube.mask = np.zeros(cube.data.shape, bool)
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    cube.mask[1, 2, x > REST] = True
    result = specfit.fit(cube, Halves().fix(middle=REST), priors)
    assert np.isinf(result["right"].uncertainty.array[1, 2])
    draws = result.sample(400)
    assert np.isnan(draws["right"].value[:, 1, 2]).all()
    assert np.isfinite(draws["left"].value).all()
    spread = draws["left"].value.std(0) / result["left"].uncertainty.array
    assert np.all(np.abs(spread - 1) < 0.2)


# -- light ---------------------------------------------------------------------------------------


def test_model_and_residual_lie_on_the_grid_of_the_data(fitted):
    cube, result = fitted
    light, residual = result.model(), result.residual()
    assert light.data.shape == residual.data.shape == cube.data.shape
    assert light.unit == residual.unit == cube.unit
    good = ~cube.mask
    np.testing.assert_allclose((light.data + residual.data)[good], cube.data[good], rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(residual.uncertainty.array, cube.uncertainty.array)
    x = cube.axis_world_coords_values("em.wl")[0].to_value(u.AA)
    value = {name: result[name].data[2, 3] for name in result.parameters}
    by_hand = value["amplitude"] * np.exp(-0.5 * ((x - value["center"]) / value["width"]) ** 2) + value["c0"]
    np.testing.assert_allclose(light.data[2, 3], by_hand, rtol=1e-5)
    assert light.wcs.pixel_n_dim == 3


# -- parts and other forms -----------------------------------------------------------------------


@pytest.mark.parametrize("item", [np.s_[2:5, :], np.s_[1], np.s_[:, 3], np.s_[1:4, 2:6], np.s_[..., 4], np.s_[2, 3]])
def test_parts(fitted, item):
    cube, result = fitted
    part = result[item]
    assert isinstance(part, specfit.FitResult)
    expected = np.atleast_1d(result["velocity"].data[item])
    np.testing.assert_array_equal(part["velocity"].data, expected)
    np.testing.assert_array_equal(part.chi2.data, np.atleast_1d(result.chi2.data[item]))
    np.testing.assert_array_equal(
        part.covariance["width", "velocity"].data, np.atleast_1d(result.covariance["width", "velocity"].data[item])
    )
    pixels = (*item, slice(None)) if isinstance(item, tuple) and Ellipsis in item else item
    np.testing.assert_allclose(part.model().data, result.model().data[pixels], rtol=1e-6)
    np.testing.assert_allclose(part.residual().data, result.residual().data[pixels], rtol=1e-6, atol=1e-4)


def test_a_part_that_is_nothing_is_refused(fitted):
    with pytest.raises(IndexError):
        fitted[1][9]
    with pytest.raises(IndexError, match="leaves no pixel"):
        fitted[1][3:3]


def test_collection_and_sunpy_map(fitted):
    import sunpy.map

    _, result = fitted
    collection = result.to_collection()
    assert isinstance(collection, NDCollection)
    assert list(collection.keys()) == list(result)
    assert collection.aligned_dimensions[0] == 6
    sun = result.to_map("velocity")
    assert isinstance(sun, sunpy.map.GenericMap)
    assert sun.unit == u.km / u.s
    np.testing.assert_allclose(sun.data, result["velocity"].data)
    np.testing.assert_allclose(
        sun.wcs.pixel_to_world_values(3, 2), result["velocity"].wcs.low_level_wcs.pixel_to_world_values(3, 2)
    )
    with pytest.raises(ValueError, match="two axes"):
        result[2].to_map("velocity")


# -- for people ----------------------------------------------------------------------------------


def test_the_table(fitted):
    _, result = fitted
    text = repr(result)
    assert text.startswith("FitResult of ")
    assert "6 x 7 pixels" in text
    for name in result:
        assert name in text
    table = result.summary()
    assert table.colnames == ["parameter", "unit", "median", "median sigma", "% converged"]
    row = table[list(result).index("velocity")]
    assert row["median"] == pytest.approx(np.nanmedian(result["velocity"].data))
    assert row["median sigma"] == pytest.approx(np.nanmedian(result["velocity"].uncertainty.array))
    assert row["% converged"] == 100
    assert "<table" in result._repr_html_()


def test_provenance(fitted):
    _, result = fitted
    meta = result.meta
    assert {"python", "torch", "sunpy_specfit", "astropy", "ndcube", "numpy"} <= set(meta["versions"])
    assert meta["seed"] == 0
    assert meta["device"] == "cpu"
    assert meta["dtype"] in ("float32", "float64")
    assert meta["noise"] == ["cube"]
    assert meta["plugins"]["gaussian"].startswith("sunpy_specfit ")
    assert meta["solver"].startswith("LevenbergMarquardt")
    assert "10.1137/0111030" in meta["references"]
    assert meta["seconds"] > 0
    assert meta["prior_scales"] == {}
    smooth = specfit.fit(fitted[0], line(), priors=specfit.Smooth("velocity"))
    chosen = smooth.meta["prior_scales"]["smooth:velocity"]
    assert chosen["scale"] > 0
    assert chosen["unit"] == "km / s"
    assert chosen["chosen_by"] == "SURE"


def test_a_line_narrower_than_its_thermal_width_has_no_nonthermal_velocity():
    cube = gaussian_cube((6, 7), signal_to_noise=50, seed=1)
    hot = specfit.fit(cube, line(mass=55.845 * u.u, temperature=16 * u.MK))
    width = hot["width"].data
    thermal = np.sqrt(2 * 1.380649e-23 * 16e6 / (55.845 * 1.66053906660e-27)) / 1e3
    speed_squared = 2 * (299792.458 * width / 195.119) ** 2 - thermal**2
    below = speed_squared < 0
    assert 0 < below.sum() < below.size
    flagged = (hot.status.data & int(Status.WIDTH_BELOW_THERMAL)) > 0
    np.testing.assert_array_equal(flagged, below)
    velocity = hot["nonthermal_velocity"]
    np.testing.assert_array_equal(np.isnan(velocity.data), below)
    np.testing.assert_array_equal(velocity.mask, below)
    np.testing.assert_allclose(velocity.data[~below], np.sqrt(speed_squared[~below]), rtol=1e-4)


# -- vectors -------------------------------------------------------------------------------------


class Waves(specfit.Model):
    """A mean and two waves, a vector parameter that enters linearly, and a vector that follows from it."""

    name = "waves"
    b = specfit.Parameter("data", shape=(3,))
    linear = ("b",)
    derived = {"twice": "data"}

    def evaluate(self, x, b):
        return b[0] + b[1] * torch.sin(40 * x) + b[2] * torch.cos(40 * x)

    def derive(self, b):
        return {"twice": 2 * b}

    def vector_axis(self, name):
        return ("temperature", [1, 2, 4] * u.MK) if name == "b" else super().vector_axis(name)


@pytest.fixture(scope="module")
def waves():
    cube = gaussian_cube((6, 7), seed=1)
    cube.extra_coords.add("time", 1, Time("2021-03-06T06:44:44") + np.arange(7) * 30 * u.s)
    return cube, specfit.fit(cube, Waves() + specfit.Gaussian(REST).fix(center=REST, width=30 * u.mAA))


def test_covariances_of_a_vector_are_those_of_weighted_least_squares(waves):
    cube, result = waves
    x = result._canvases[0].x
    columns = np.stack([np.ones_like(x), np.sin(40 * x), np.cos(40 * x), np.exp(-0.5 * ((x - REST.value) / 0.03) ** 2)])
    weight = cube.uncertainty.array[2, 3] ** -2.0
    truth = np.linalg.inv((columns * weight) @ columns.T)
    vector = result.covariance["b", "b"]
    assert vector.shape == (3, 3, 6, 7)
    assert vector.unit == cube.unit**2
    np.testing.assert_allclose(vector.data[..., 2, 3], truth[:3, :3], rtol=1e-4, atol=1e-6 * truth[0, 0])
    for pair in (("b", "amplitude"), ("amplitude", "b")):
        mixed = result.covariance[pair]
        assert mixed.shape == (3, 6, 7)
        np.testing.assert_allclose(mixed.data[:, 2, 3], truth[:3, 3], rtol=1e-4, atol=1e-6 * truth[0, 0])
    assert result.covariance["twice", "amplitude"].data[1, 2, 3] == pytest.approx(2 * truth[1, 3], rel=1e-4)


def test_axes_of_a_vector(waves):
    _, result = waves
    places = [1, 2, 4] * u.MK
    for cube in (result["b"], result.covariance["b", "amplitude"], result[1:3]["b"]):
        assert cube.wcs.low_level_wcs.world_axis_physical_types[-1] == "custom:temperature"
        assert u.allclose(cube.axis_world_coords("custom:temperature")[0], places)
        times = cube.axis_world_coords("time", wcs=cube.extra_coords)[0]
        assert len(times) == cube.shape[-1]
        assert cube.array_axis_physical_types[-1][-1] == "time"
    square = result.covariance["b", "b"].axis_world_coords()
    assert [len(one) for one in square[1:]] == [3, 3]
    assert u.allclose(result["twice"].axis_world_coords("custom:twice")[0], [0, 1, 2] * u.one)


@pytest.mark.parametrize("index", [slice(None), (0, 0)])
def test_vectors_survive_a_file_and_are_drawn(waves, tmp_path, index):
    _, result = waves
    result = result[index]
    result.save(tmp_path / "waves.asdf")
    again = specfit.FitResult.load(tmp_path / "waves.asdf", model=result._layout.models[0])
    np.testing.assert_array_equal(again["b"].data, result["b"].data)
    np.testing.assert_array_equal(again["b"].uncertainty.array, result["b"].uncertainty.array)
    with asdf.open(tmp_path / "waves.asdf") as file:
        assert file["maps"]["b"].shape == result["b"].shape


def test_a_fit_leaves_the_coordinates_of_the_cube_alone():
    cube = gaussian_cube((3, 4), seed=1)
    coordinates = cube.extra_coords
    result = specfit.fit(cube, line())
    result["velocity"], result.model()[0], result.residual()[0], result[0, 0].model(), result.plot()
    assert cube.extra_coords is coordinates
    assert coordinates._ndcube is cube
    assert cube.global_coords._ndcube is cube
    coordinates.add("time", 1, Time("2021-03-06T06:44:44") + np.arange(4) * 30 * u.s)
    assert cube.array_axis_physical_types[1][-1] == "time"


# -- masks ---------------------------------------------------------------------------------------


def test_what_the_data_do_not_determine_is_masked():
    dark = gaussian_cube((3, 4), seed=1)
    dark.data[:] = 0
    result = specfit.fit(dark, line())
    for name in ("center", "width", "velocity", "fwhm"):
        assert np.isinf(result[name].uncertainty.array).all()
        assert result[name].mask.all()
    assert result.covariance["center", "velocity"].mask.all()
    assert not result["c0"].mask.any()
    assert (result.status.data & int(Status.UNCONSTRAINED)).all()


def test_one_cube_of_two_without_data_masks_its_own_numbers_alone():
    one, two = gaussian_cube((3, 4), seed=1), gaussian_cube((3, 4), seed=2)
    two.data[1, 2] = np.nan
    models = [specfit.Gaussian(REST, label="a"), specfit.Gaussian(REST, label="b")]
    result = specfit.fit([one, two], models)
    where = np.zeros((3, 4), bool)
    where[1, 2] = True
    for name in ("amplitude", "velocity"):
        assert not result[f"a.{name}"].mask.any()
        np.testing.assert_array_equal(result[f"b.{name}"].mask, where)


# -- residuals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [StdDevUncertainty, VarianceUncertainty, InverseVariance, u.Quantity])
def test_a_residual_has_the_errors_and_masks_that_were_fitted_with(kind):
    cube = gaussian_cube((3, 4), seed=2)
    sigma = 3 * cube.uncertainty.array.astype(float)
    power = {VarianceUncertainty: 2, InverseVariance: -2}.get(kind, 1)
    given = kind(sigma**power, cube.unit) if kind is u.Quantity else kind(sigma**power)
    cube.mask = np.zeros(cube.shape, bool)
    cube.mask[1, 1, 3] = True
    own = cube.mask.copy()
    more = np.zeros(cube.shape, bool)
    more[1, 2] = True
    result = specfit.fit(cube, line(), uncertainty=given, mask=more)
    for part, item in ((result, ...), (result[1:, 1:3], np.s_[1:, 1:3])):
        residual = part.residual()
        assert type(residual.uncertainty) is StdDevUncertainty
        np.testing.assert_allclose(residual.uncertainty.array, sigma[item], rtol=1e-12)
        np.testing.assert_array_equal(residual.mask, (own | more)[item])
        residual.mask[:] = True
        residual.uncertainty.array[:] = 0
    np.testing.assert_array_equal(cube.mask, own)
    np.testing.assert_allclose(result.residual().uncertainty.array, sigma, rtol=1e-12)


def test_errors_of_a_result_that_comes_from_a_file(tmp_path):
    cube = gaussian_cube((3, 4), seed=2)
    path = tmp_path / "result.asdf"
    sigma = 3 * cube.uncertainty.array.astype(float)

    def again(**options):
        specfit.fit(cube, line(), **options).save(path)
        return specfit.FitResult.load(path, data=cube).residual().uncertainty.array

    np.testing.assert_allclose(again(), sigma / 3)
    np.testing.assert_allclose(again(uncertainty=7 * cube.unit), 7)
    noise = specfit.CountNoise(4, 3)
    light = specfit.fit(cube, line(), uncertainty=noise).model().data
    np.testing.assert_allclose(again(uncertainty=noise), np.sqrt(light / 4 + 9), rtol=1e-4)
    with pytest.warns(specfit.SpecfitWarning, match="which it no longer holds"):
        np.testing.assert_allclose(again(uncertainty=sigma * cube.unit), sigma / 3)
    result = specfit.fit(cube, line(), uncertainty=sigma * cube.unit)
    np.testing.assert_allclose(result.residual(cube).uncertainty.array, sigma)
    other = cube.to_nddata(nddata_type=NDCube, unit=u.DN, uncertainty=None)
    with pytest.raises(u.UnitConversionError, match="this result in"):
        result.residual(other)


# -- coordinates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["pc", "cd"])
def test_a_wavelength_that_depends_on_the_slit_leaves_the_maps_their_sky(keyword):
    def with_matrix(matrix):
        cube = gaussian_cube((6, 7), seed=1)
        header = cube.wcs.to_header()
        for i, j in np.ndindex(3, 3):
            step = header[f"CDELT{i + 1}"] if keyword == "cd" else 1.0
            header[f"{keyword}{i + 1}_{j + 1}"] = step * matrix[i][j]
        if keyword == "cd":
            del header["CDELT*"]
        return cube.to_nddata(wcs=WCS(header), nddata_type=NDCube)

    sky = [0, 1, 0], [0, 0.1, 1]
    cube, straight = with_matrix([[1, 0, 0.3], *sky]), with_matrix([[1, 0, 0], *sky])
    assert cube.wcs.axis_correlation_matrix[0].tolist() == [True, False, True]
    result, plain = specfit.fit(cube, line()), specfit.fit(straight, line())
    kinds = ["custom:pos.helioprojective.lon", "custom:pos.helioprojective.lat"]
    for part, same in ((result, plain), (result[1:4, 2:6], plain[1:4, 2:6])):
        velocity, other = part["velocity"], same["velocity"]
        assert list(velocity.wcs.world_axis_physical_types) == kinds
        np.testing.assert_allclose(velocity.axis_world_coords()[0].Tx, other.axis_world_coords()[0].Tx, atol=1e-9)
        np.testing.assert_allclose(velocity.axis_world_coords()[0].Ty, other.axis_world_coords()[0].Ty, atol=1e-9)
    assert list(result[2]["velocity"].wcs.world_axis_physical_types) == kinds
    np.testing.assert_allclose(
        result[2]["velocity"].wcs.low_level_wcs.pixel_to_world_values(3),
        result["velocity"].wcs.low_level_wcs.pixel_to_world_values(3, 2),
    )
    assert result.to_map("velocity").data.shape == (6, 7)
