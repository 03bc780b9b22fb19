"""What cannot be fitted is refused with a sentence that helps, or flagged in its pixel; nothing is lost in silence."""

import re

import astropy.units as u
import dask.array
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube, NDCubeSequence

import sunpy_specfit as specfit
from sunpy_specfit import Status
from sunpy_specfit.data import gaussian_cube

REST = 195.119 * u.AA


def line():
    return specfit.Gaussian(REST) + specfit.Polynomial(0)


@pytest.fixture(scope="module")
def cube():
    return gaussian_cube((4, 5), seed=4)


@pytest.fixture(scope="module")
def expected(cube):
    return specfit.fit(cube, line())


def rewrap(cube, data=None, **options):
    sigma = StdDevUncertainty(np.asarray(cube.uncertainty.array))
    given = {"wcs": cube.wcs, "unit": cube.unit, "uncertainty": sigma} | options
    return NDCube(cube.data if data is None else data, **given)


def close(result, expected, limit=1e-3):
    distance = np.abs(result["velocity"].data - expected["velocity"].data) / expected["velocity"].uncertainty.array
    assert distance.max() < limit


# -- refused -------------------------------------------------------------------------------------


def test_no_spectral_axis(cube):
    wcs = WCS(naxis=3)
    wcs.wcs.ctype = ["LINEAR", "HPLN-TAN", "HPLT-TAN"]
    wcs.wcs.cunit = ["", "arcsec", "arcsec"]
    with pytest.raises(ValueError, match=r"no spectral axis.*physical types.*spectral_axis="):
        specfit.fit(rewrap(cube, wcs=wcs), line())


def test_a_line_that_is_not_in_the_data(cube):
    for rest in (300 * u.AA, 19511.9 * u.AA):
        with pytest.warns(specfit.SpecfitWarning, match=r"no line of the model .* spectral axis runs from 194\.77"):
            specfit.fit(cube, specfit.Gaussian(rest) + specfit.Polynomial(0))


def test_units_that_do_not_convert(cube):
    with pytest.raises(u.UnitConversionError, match="uncertainty is in s, which does not convert"):
        specfit.fit(cube, line(), uncertainty=cube.uncertainty.array * u.s)
    with pytest.raises(u.UnitConversionError, match=r"spectral axis is in kg.*rest wavelength"):
        specfit.fit(cube, line(), spectral_axis=np.arange(32) * u.kg)
    with pytest.raises(u.UnitConversionError, match="window is in K"):
        specfit.fit(cube, line(), window=[1, 2] * u.K)
    with pytest.raises(u.UnitConversionError, match="'center'"):
        specfit.fit(cube, line(), init={"center": 3 * u.s})
    with pytest.raises(u.UnitConversionError, match="width"):
        specfit.fit(cube, line().bound(width=(1, 2) * u.kg))


@pytest.mark.parametrize("shape", [(4, 5, 31), (5, 4), (3,), (4, 5, 32, 1)])
def test_wrong_shapes(cube, shape):
    with pytest.raises(ValueError, match=r"mask has shape .*that of the data \(4, 5, 32\), of the map \(4, 5\)"):
        specfit.fit(cube, line(), mask=np.zeros(shape, bool))
    with pytest.raises(ValueError, match=r"uncertainty has shape .* \(4, 5, 32\)"):
        specfit.fit(cube, line(), uncertainty=np.ones(shape) * cube.unit)
    with pytest.raises(ValueError, match="spectral axis has"):
        specfit.fit(cube, line(), spectral_axis=np.linspace(1, 2, int(np.prod(shape))).reshape(shape) * u.AA)


def test_a_torch_tensor_inside(cube):
    class Loose(NDCube):
        """NDCube itself turns tensors into arrays; a subclass may not."""

        data = property(lambda self: torch.zeros(4, 5, 32))

    with pytest.raises(TypeError, match=r"holds a torch tensor.*tensor\.numpy\(\)"):
        specfit.fit(Loose(cube.data, wcs=cube.wcs), line())


@pytest.mark.parametrize("data", [np.zeros((4, 5, 32)), "cube.fits", None, 3])
def test_what_is_no_cube(data):
    with pytest.raises(TypeError, match="data must be an NDCube"):
        specfit.fit(data, line())


@pytest.mark.parametrize("mask", ["bad", np.nan, np.full((4, 5, 32), np.nan), np.zeros((4, 5, 32))])
def test_masks_that_do_not_say_yes_or_no(cube, mask):
    with pytest.raises(TypeError, match=r"array of bool.*found dtype"):
        specfit.fit(cube, line(), mask=mask)


def test_a_mask_with_two_meanings():
    slit = gaussian_cube((32, 3), seed=1)[:, 0]
    with pytest.raises(ValueError, match=r"shape \(32,\) fits the map and the spectral axis alike.*\(32, 32\)"):
        specfit.fit(slit, line(), mask=np.zeros(32, bool))


def test_integer_masks_are_quality_flags(cube):
    flags = np.zeros(cube.data.shape, ">i2")
    flags[..., :3] = 4
    assert np.all(specfit.fit(rewrap(cube, mask=flags), line()).dof.data == 25)
    assert np.all(specfit.fit(cube, line(), mask=flags).dof.data == 25)


@pytest.mark.parametrize("given", [np.ones((4, 5, 32)), "std", 50.0, specfit.CountNoise])
def test_what_is_no_uncertainty(cube, given):
    with pytest.raises(TypeError, match=r"Quantity of standard deviations, an NDUncertainty or a Noise"):
        specfit.fit(cube, line(), uncertainty=given)


def test_complex_uncertainties(cube):
    with pytest.raises(TypeError, match="uncertainty must hold real numbers, found dtype complex"):
        specfit.fit(cube, line(), uncertainty=StdDevUncertainty(np.ones((4, 5, 32), complex)))


@pytest.mark.parametrize("window", [[194.95, 195.3], 195.1 * u.AA, "all", [[194.95, 195.3]], [195 * u.AA], 3])
def test_windows_without_units_or_ends(cube, window):
    with pytest.raises(ValueError, match=r"a window is a range \[low, high\] with units.*found"):
        specfit.fit(cube, line(), window=window)


@pytest.mark.parametrize("x", [195.1 * u.AA, np.full(32, 195.1) * u.AA, np.full((4, 5, 32), 195.1) * u.AA])
def test_one_wavelength_for_all_samples(cube, x):
    with pytest.raises(ValueError, match=r"one value only, 195\.1 Angstrom, for 32 samples"):
        specfit.fit(cube, line(), spectral_axis=x)


def test_containers_that_cannot_be_fitted(cube):
    with pytest.raises(TypeError, match="pass a list to fit jointly, or an NDCollection"):
        specfit.fit({"a": cube}, line())
    with pytest.raises(TypeError, match="found NDCubeSequence"):
        specfit.fit([cube, NDCubeSequence([cube])], line())


def test_complex_numbers_and_nothing_at_all(cube):
    with pytest.raises(TypeError, match="real numbers, found dtype complex128"):
        specfit.fit(rewrap(cube, cube.data.astype(complex)), line())
    with pytest.raises(ValueError, match=r"holds no data: its shape is \(0, 5, 32\)"):
        specfit.fit(rewrap(cube, cube.data[:0], uncertainty=None), line())
    with pytest.raises(ValueError, match="empty list"):
        specfit.fit([], line())


def test_unknown_names_come_with_what_was_meant(cube):
    with pytest.raises(KeyError, match="velocity"):
        specfit.fit(cube, line(), priors=specfit.Smooth("velocty", scale=1 * u.km / u.s))
    with pytest.raises(KeyError, match="center"):
        specfit.fit(cube, line(), init={"centre": REST})
    with pytest.raises(KeyError, match="width"):
        line().fix(widht=30 * u.mAA)
    with pytest.raises(KeyError, match="levenberg_marquardt"):
        specfit.fit(cube, line(), solver="levenberg_marquart")
    with pytest.raises(KeyError, match="gaussian"):
        specfit.fit(cube, "gausian")


def test_bounds_that_leave_no_room(cube):
    with pytest.raises(ValueError, match="lower"):
        specfit.fit(cube, line().bound(width=(60, 20) * u.mAA))
    with pytest.raises(ValueError, match="lower"):
        specfit.fit(cube, line().bound(width=(30, 30) * u.mAA))


def test_a_window_beside_the_data(cube):
    with pytest.raises(ValueError, match=r"no sample lies in the window .* runs from 194\.77"):
        specfit.fit(cube, line(), window=[300, 301] * u.AA)
    with pytest.raises(ValueError, match=r"range \[low, high\]"):
        specfit.fit(cube, line(), window=[195, 195.1, 195.2] * u.AA)


def test_wavelengths_that_are_not_finite(cube):
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    x = x.copy()
    x[3] = np.nan
    with pytest.raises(ValueError, match=r"not finite.*mask data"):
        specfit.fit(cube, line(), spectral_axis=x)
    with pytest.raises(TypeError, match="Quantity"):
        specfit.fit(cube, line(), spectral_axis=x.value)


# -- handled -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["nan", "mask", "sigma"])
def test_a_cube_without_one_good_sample(cube, how):
    if how == "nan":
        empty = rewrap(cube, np.full_like(cube.data, np.nan))
    elif how == "mask":
        empty = rewrap(cube, mask=np.ones(cube.data.shape, bool))
    else:
        empty = rewrap(cube, uncertainty=StdDevUncertainty(np.zeros(cube.data.shape)))
    if how == "mask":
        result = specfit.fit(empty, line())
    else:
        with pytest.warns(specfit.SpecfitWarning, match="no pixel has a usable sample"):
            result = specfit.fit(empty, line())
    for name in result:
        assert np.isnan(result[name].data).all()
        assert result[name].mask.all()
    assert np.all(result.status.data & int(Status.MASKED))
    assert not np.any(result.status.data & int(Status.CONVERGED))
    assert np.all(result.dof.data == 0)
    assert np.isnan(result.reduced_chi2.data).all()
    assert "FitResult" in repr(result)


def test_a_map_whose_data_are_all_bad_is_no_problem_for_priors(cube):
    empty = rewrap(cube, np.full_like(cube.data, np.nan))
    for scale in (2 * u.km / u.s, "auto"):
        with pytest.warns(specfit.SpecfitWarning, match="no pixel has a usable sample"):
            result = specfit.fit(empty, line(), priors=specfit.Smooth("velocity", scale=scale))
        assert np.isnan(result["velocity"].data).all()
        assert np.all(result.status.data & int(Status.MASKED))


def test_too_few_samples(cube):
    mask = np.zeros(cube.data.shape, bool)
    mask[1, 1, 3:] = True  # three samples, four parameters
    mask[2, 2, 4:] = True  # four: enough
    result = specfit.fit(cube, line(), mask=mask)
    assert result.status.data[1, 1] == int(Status.UNDERDETERMINED)
    assert np.isnan(result["velocity"].data[1, 1])
    assert result["velocity"].mask[1, 1]
    assert not result.status.data[2, 2] & int(Status.UNDERDETERMINED)
    assert result.dof.data[2, 2] <= 4
    assert np.isnan(result.reduced_chi2.data[2, 2]) == (result.dof.data[2, 2] <= 0)
    # A prior makes up for what the data lack.
    with_prior = specfit.fit(
        cube,
        line(),
        mask=mask,
        priors=[
            specfit.Ridge("width", reference=0.03 * u.AA, scale=5 * u.mAA),
            specfit.Ridge("c0", scale=100 * cube.unit),
        ],
    )
    assert not with_prior.status.data[1, 1] & int(Status.UNDERDETERMINED)


def test_one_bad_pixel_changes_no_other(cube, expected):
    for bad in (np.nan, np.inf, 1e30, -1e30):
        data = cube.data.copy()
        data[2, 2] = bad
        result = specfit.fit(rewrap(cube, data), line())
        others = np.ones((4, 5), bool)
        others[2, 2] = False
        for name in ("amplitude", "velocity", "width", "c0"):
            distance = np.abs(result[name].data - expected[name].data) / expected[name].uncertainty.array
            assert distance[others].max() < 1e-3, (name, bad)
        assert np.all(result.status.data[others] == int(Status.CONVERGED))
        assert result.status.data[2, 2] != int(Status.CONVERGED)


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_wavelengths_in_any_order(cube, expected, order):
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    index = np.arange(32)[::-1] if order == "reversed" else np.random.default_rng(0).permutation(32)
    sigma = StdDevUncertainty(cube.uncertainty.array[..., index])
    result = specfit.fit(rewrap(cube, cube.data[..., index], uncertainty=sigma), line(), spectral_axis=x[index])
    close(result, expected)


def test_inputs_stay_as_they_were(cube):
    data, sigma = cube.data.astype(float), cube.uncertainty.array.astype(float)
    mask = np.zeros(data.shape, bool)
    mask[0, 0, 0] = True
    data[1, 1, 1], sigma[2, 2, 2] = np.nan, 0.0
    axis = cube.axis_world_coords_values("em.wl")[0].to(u.AA)
    init = {"width": np.full((4, 5), 0.03)}
    arrays = [data, sigma, mask, axis.value, init["width"]]
    copies = [array.copy() for array in arrays]
    given = NDCube(data, wcs=cube.wcs, unit=cube.unit, uncertainty=StdDevUncertainty(sigma), mask=mask)
    header = given.wcs.to_header_string()
    result = specfit.fit(given, line(), spectral_axis=axis, init=init, mask=mask)
    result["velocity"].data[...] = 0
    result.residual()
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert given.wcs.to_header_string() == header


@pytest.mark.parametrize(
    "kind", ["read-only", "big-endian", "float16", "long", "integer", "unsigned", "dask", "strided"]
)
def test_arrays_of_any_kind(cube, expected, kind):
    data, limit = np.asarray(cube.data), 1e-3
    if kind == "read-only":
        data = data.copy()
        data.flags.writeable = False
    elif kind == "big-endian":
        data = data.astype(">f4")
    elif kind == "float16":
        data, limit = data.astype(np.float16), 0.2
    elif kind == "long":
        data = data.astype(np.longdouble)
    elif kind == "integer":
        data, limit = np.rint(data).astype(np.int16), 0.2
    elif kind == "unsigned":
        data, limit = np.rint(data.clip(0)).astype(np.uint16), 2.0
    elif kind == "dask":
        data = dask.array.from_array(data, chunks=(2, 5, 8))
    else:
        data = np.repeat(data, 2, axis=1)[:, ::2]
    close(specfit.fit(rewrap(cube, data), line()), expected, limit)


@pytest.mark.parametrize("kind", ["read-only", "big-endian", "integer", "half"])
def test_uncertainties_of_any_kind_of_array(cube, expected, kind):
    sigma, limit = np.array(cube.uncertainty.array), 1e-3
    if kind == "read-only":
        sigma.flags.writeable = False
    elif kind == "big-endian":
        sigma = sigma.astype(">f8")
    else:
        sigma, limit = np.rint(sigma).astype(np.int32 if kind == "integer" else np.float16), 0.01
    close(specfit.fit(rewrap(cube, uncertainty=StdDevUncertainty(sigma)), line()), expected, limit)


def test_a_masked_array_keeps_its_mask(cube, expected):
    data = np.ma.masked_array(cube.data.copy(), mask=np.zeros(cube.data.shape, bool))
    data[0, 0] = np.ma.masked
    result = specfit.fit(NDCube(data, wcs=cube.wcs, unit=cube.unit, uncertainty=cube.uncertainty), line())
    assert result.status.data[0, 0] == int(Status.MASKED)
    assert np.isnan(result["velocity"].data[0, 0])
    distance = np.abs(result["velocity"].data - expected["velocity"].data) / expected["velocity"].uncertainty.array
    assert np.nanmax(distance) < 1e-3


@pytest.mark.parametrize("sigma", [1e-30, 1e30])
def test_absurd_uncertainties_stay_in_their_pixel(cube, expected, sigma):
    values = cube.uncertainty.array.astype(float)
    values[1, 1] = sigma
    result = specfit.fit(rewrap(cube, uncertainty=StdDevUncertainty(values)), line())
    others = np.ones((4, 5), bool)
    others[1, 1] = False
    distance = np.abs(result["velocity"].data - expected["velocity"].data) / expected["velocity"].uncertainty.array
    assert distance[others].max() < 1e-3
    assert np.all(result.status.data[others] == int(Status.CONVERGED))
    assert result.status.data[1, 1] != int(Status.CONVERGED)


def test_two_samples_at_one_wavelength(cube, expected):
    x = cube.axis_world_coords_values("em.wl")[0].to(u.AA).copy()
    x[4] = x[3]  # in the far wing, where it matters little
    close(specfit.fit(cube, line(), spectral_axis=x), expected, 0.1)


def test_one_sample_and_one_parameter():
    cube = gaussian_cube((2, 3))[..., 15:16]
    result = specfit.fit(cube, specfit.Polynomial(0))
    np.testing.assert_allclose(result["c0"].data, cube.data[..., 0], rtol=1e-5)
    assert np.all(np.isnan(result.reduced_chi2.data))
    lone = specfit.fit(cube, line())
    assert np.all(lone.status.data == int(Status.UNDERDETERMINED))


def test_flat_light_has_no_line(cube):
    flat = rewrap(cube, np.full_like(cube.data, 50.0))
    result = specfit.fit(flat, line())
    assert np.all(result.status.data & int(Status.LOW_SIGNAL))
    np.testing.assert_allclose(result["c0"].data, 50, rtol=0.05)


def test_huge_and_tiny_numbers_fit_as_well(cube, expected):
    for factor in (1e-20, 1e-9, 1e12, 1e25):
        scaled = rewrap(
            cube,
            cube.data.astype(float) * factor,
            uncertainty=StdDevUncertainty(cube.uncertainty.array.astype(float) * factor),
        )
        close(specfit.fit(scaled, line()), expected)


# -- sentences in place of what others would say ---------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "error", "match"),
    [
        ((1, 20 * u.mAA), ValueError, "mix a plain number with a Quantity"),
        ((1 * u.km, 20 * u.s), u.UnitConversionError, "do not convert"),
        ((np.full((4, 5), 0.01), None), ValueError, r"one number for all pixels; found one of shape \(4, 5\)"),
        ((np.full((4, 5), 0.01), np.full((4, 5), 0.1)), ValueError, "A limit cannot vary over the map"),
    ],
)
def test_bounds_that_cannot_be(limits, error, match):
    with pytest.raises(error, match=match):
        specfit.Gaussian(REST).bound(width=limits)


@pytest.mark.parametrize("limits", [(0, 60 * u.mAA), (10 * u.mAA, np.inf), (0.01, 0.06), (10 * u.mAA, 0.06 * u.AA)])
def test_bounds_that_can_be(limits):
    result = specfit.fit(gaussian_cube((2, 3)), specfit.Gaussian(REST).bound(width=limits))
    assert (result["width"].data < 0.07).all()


def test_a_vector_may_have_a_bound_for_each_of_its_numbers():
    class Two(specfit.Model):
        name = "two"
        b = specfit.Parameter("data", shape=(2,))

        def evaluate(self, x, b):
            return b[0] + b[1] * (x - 195.119)

    result = specfit.fit(gaussian_cube((2, 3)), Two().bound(b=([0, -1], [1e9, 1])))
    assert (result["b"].data[1] >= -1).all()
    assert (result["b"].data[1] <= 1).all()
    with pytest.raises(ValueError, match=r"or, for this vector, \(2,\); found one of shape \(3,\)"):
        Two().bound(b=([0, 0, 0], None))


def test_one_registered_name_of_a_prior_is_as_good_as_a_list_of_it():
    cube, model = gaussian_cube((3, 4), signal_to_noise=5), specfit.Polynomial(0)
    one, several = specfit.fit(cube, model, priors="smooth"), specfit.fit(cube, model, priors=["smooth"])
    assert one.meta["priors"] == several.meta["priors"] == ["Smooth()"]
    np.testing.assert_array_equal(one["c0"].data, several["c0"].data)
    assert specfit.fit(cube, model, priors=specfit.Smooth).meta["priors"] == ["Smooth()"]
    with pytest.raises(KeyError, match="no prior is called 'smoth'"):
        specfit.fit(cube, model, priors="smoth")
    with pytest.raises(TypeError, match="wrap a function"):
        specfit.fit(cube, model, priors=lambda maps: 0)


@pytest.mark.parametrize(("device", "match"), [("tpux", "device is 'auto', 'cpu'"), (3.2, "found 3.2")])
def test_a_device_that_is_none(device, match):
    with pytest.raises(ValueError, match=match):
        specfit.fit(gaussian_cube((2, 3)), specfit.Gaussian(REST), device=device)


@pytest.mark.parametrize("seed", ["a", 1.5, None, -1, True])
def test_a_seed_that_is_none(seed):
    cube = gaussian_cube((2, 3))
    with pytest.raises(ValueError, match="a seed is a whole number"):
        specfit.fit(cube, specfit.Gaussian(REST), seed=seed)
    with pytest.raises(ValueError, match="a seed is a whole number"):
        specfit.fit(cube, specfit.Gaussian(REST)).sample(2, seed=seed)


@pytest.mark.parametrize("shape", [(5,), (2, 32), ()])
def test_light_of_a_wrong_shape(shape):
    model = specfit.ExternalModel(lambda x, a: a * np.ones(shape), {"a": specfit.Parameter("data")})
    with pytest.raises(ValueError, match=re.escape(f"gave light of shape {shape} for one pixel, where (32,) was")):
        specfit.fit(gaussian_cube((2, 3)), model)


@pytest.mark.parametrize("light", [lambda x: np.ones(len(x)), lambda x: None, lambda x: [1.0] * len(x)])
def test_light_that_is_no_tensor(light):
    class Foreign(specfit.Model):
        name = "foreign"
        a = specfit.Parameter("data")

        def evaluate(self, x, a):
            return light(x)

    with pytest.raises(TypeError, match=r"Foreign\.evaluate returned \w+ instead of a torch tensor"):
        specfit.fit(gaussian_cube((2, 3)), Foreign())


def test_parts_are_counted_from_either_end():
    cube = gaussian_cube((4, 5), seed=1)
    result = specfit.fit(cube, specfit.Gaussian(REST))
    velocity = result["velocity"].data
    np.testing.assert_array_equal(result[-1]["velocity"].data, velocity[-1])
    np.testing.assert_array_equal(result[1:-1, -2:]["velocity"].data, velocity[1:-1, -2:])
    np.testing.assert_array_equal(result[..., -1]["velocity"].data, velocity[:, -1])
    np.testing.assert_allclose(result[-1].residual().data, result.residual().data[-1], rtol=1e-5, atol=1e-3)
    for item, match in [
        (np.s_[::2], "has a step"),
        (np.s_[::-1], "has a step"),
        (np.array([0, 1]), "with integers and slices, found array"),
        (9, "index 9 is out of bounds for an axis of 4 pixels"),
        (-5, "index -5 is out of bounds"),
        ((1, 1, 1), "has 3 indices"),
        (np.s_[2:1], "leaves no pixel"),
    ]:
        with pytest.raises(IndexError, match=match):
            result[item]
