"""What a result holds, and that its numbers agree with each other."""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
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
