"""The main job, through the front door."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube, NDCubeSequence

import sunpy_specfit as specfit
from sunpy_specfit import Model, Parameter, Status
from sunpy_specfit.data import gaussian_cube, spectral_wcs

REST = 195.119 * u.AA


def line():
    return specfit.Gaussian(REST) + specfit.Polynomial(0)


def with_data(cube, data, uncertainty=None):
    return NDCube(data, wcs=cube.wcs, unit=cube.unit, uncertainty=uncertainty or cube.uncertainty, meta=cube.meta)


def pulls(result, cube):
    truth = cube.meta["truth"]
    names = {"amplitude": "amplitude", "center": "center", "width": "width", "c0": "background", "velocity": "velocity"}
    return {key: (result[key].data - truth[name]) / result[key].uncertainty.array for key, name in names.items()}


@pytest.mark.parametrize("signal_to_noise", [10, 50])
def test_truths_are_within_the_stated_errors(signal_to_noise):
    cube = gaussian_cube((50, 60), signal_to_noise=signal_to_noise, seed=21)
    result = specfit.fit(cube, line())
    assert np.all(result.status.data & ~int(Status.LOW_SIGNAL) == int(Status.CONVERGED))
    assert np.mean(result.status.data & int(Status.LOW_SIGNAL) > 0) < 0.01
    for key, pull in pulls(result, cube).items():
        assert abs((np.abs(pull) < 1).mean() - 0.683) < 0.03, key
        assert abs((np.abs(pull) < 2).mean() - 0.954) < 0.015, key
    assert result.reduced_chi2.data.mean() == pytest.approx(1.0, abs=0.02)
    assert np.all(result.dof.data == 32 - 4)


@pytest.mark.parametrize(
    # Quantile of the pixels with a spike that move by less than a tenth of a sigma, and most of all that move by one:
    # Huber's loss still feels the direction of a spike, Student's forgets it.
    ("loss", "quantile", "most"),
    [("student_t", 0.95, 0.005), ("huber", 0.6, 0.12)],
)
def test_cosmic_rays_move_the_velocity_by_less_than_a_tenth_of_a_sigma(loss, quantile, most):
    cube = gaussian_cube((40, 40), signal_to_noise=30, seed=22)
    hit = np.random.default_rng(0).random(cube.data.shape) < 0.01
    spiked = with_data(cube, cube.data + 50 * hit * cube.uncertainty.array)
    # What can be known at best: the spikes' places, so that only the samples under them are lost.
    best = specfit.fit(cube, line(), loss=loss, mask=hit)["velocity"]

    def moved(result):
        return (np.abs(result["velocity"].data - best.data) / best.uncertainty.array)[hit.any(-1)]

    robust, fooled = moved(specfit.fit(spiked, line(), loss=loss)), moved(specfit.fit(spiked, line()))
    assert hit.any(-1).mean() > 0.2
    assert np.quantile(robust, quantile) < 0.1
    assert np.mean(robust > 1) < most
    assert np.mean(fooled > 1) > 0.3


def test_a_start_that_loses_the_line_is_no_end():
    cube = gaussian_cube((6, 7), seed=23)
    first = specfit.fit(cube, line())
    noise = np.random.default_rng(0).normal(size=cube.data.shape) * cube.uncertainty.array + 70
    elsewhere = specfit.fit(with_data(cube, noise), line())
    for init in (elsewhere, {"center": 195.219 * u.AA}, {"width": 1 * u.AA}):
        for solver in ("auto", "gauss_newton"):
            result = specfit.fit(cube, line(), init=init, solver=solver)
            np.testing.assert_allclose(result.chi2.data, first.chi2.data, rtol=1e-4)
            assert np.all(result.status.data == int(Status.CONVERGED))


def test_a_start_outside_the_bounds_is_refused():
    with pytest.raises(ValueError, match="the start value of 'width' lies below its bound of 0"):
        specfit.fit(gaussian_cube((2, 3)), line(), init={"width": -3 * u.AA})


def test_start_values_from_an_earlier_result():
    cube = gaussian_cube((6, 7), seed=23)
    first = specfit.fit(cube, line())
    again = specfit.fit(cube, line(), init=first)
    assert again.meta["solver_info"]["iterations"] <= 3
    np.testing.assert_allclose(again["velocity"].data, first["velocity"].data, atol=1e-2)


def test_start_values_by_name():
    cube = gaussian_cube((6, 7), seed=23)
    first = specfit.fit(cube, line())
    named = specfit.fit(cube, line(), init={"center": 195.12 * u.AA, "gaussian.width": 35 * u.mAA})
    np.testing.assert_allclose(named["velocity"].data, first["velocity"].data, atol=1e-2)
    with pytest.raises(KeyError, match="did you mean 'center'"):
        specfit.fit(cube, line(), init={"centre": 195.12 * u.AA})
    with pytest.raises(u.UnitConversionError, match="start value of 'width' is in s"):
        specfit.fit(cube, line(), init={"width": 3 * u.s})
    with pytest.raises(ValueError, match=r"'width' has shape \(3,\)"):
        specfit.fit(cube, line(), init={"width": [1, 2, 3] * u.mAA})


def test_hard_and_soft_constraints_by_one_argument():
    cube = gaussian_cube((12, 12), signal_to_noise=5, seed=24)
    limit = 35 * u.mAA
    hard = specfit.fit(cube, specfit.Gaussian(REST).bound(width=(limit, None)) + specfit.Polynomial(0))
    width = hard["width"].data
    assert width.min() >= 0.035
    at_bound = (hard.status.data & int(Status.AT_BOUND)) > 0
    assert at_bound.any()
    assert np.all((width[at_bound] - 0.035) < 1e-9)
    soft = specfit.fit(cube, line(), priors=specfit.Hinge("width", lower=limit, scale=1 * u.mAA))
    free = specfit.fit(cube, line())["width"].data
    below = free < 0.034
    assert np.all(soft["width"].data[below] > free[below])
    assert np.all(soft["width"].data[below] < 0.0353)
    np.testing.assert_allclose(soft["width"].data[free > 0.036], free[free > 0.036], rtol=1e-3)


def test_fixed_values_and_ties():
    cube = gaussian_cube((5, 6), seed=25)
    width = cube.meta["truth"]["width"]
    model = specfit.Gaussian(REST).fix(width=width * u.AA) + specfit.Polynomial(0)
    result = specfit.fit(cube, model)
    np.testing.assert_allclose(result["width"].data, width)
    assert np.all(result["width"].uncertainty.array == 0)
    assert np.all(result.dof.data == 32 - 3)
    free = specfit.fit(cube, line())
    assert np.mean(result["amplitude"].uncertainty.array) < 0.95 * np.mean(free["amplitude"].uncertainty.array)


def test_a_cube_without_uncertainty_gets_an_estimate_and_a_warning():
    cube = gaussian_cube((8, 9), signal_to_noise=20, seed=26)
    bare = NDCube(cube.data, wcs=cube.wcs, unit=cube.unit)
    with pytest.warns(specfit.SpecfitWarning, match="noise"):
        result = specfit.fit(bare, line())
    assert result.meta["noise"] == ["estimated"]
    assert 0.3 < np.median(result.reduced_chi2.data) < 3


@pytest.mark.parametrize(("photons", "allowed"), [(5, 0.03), (20, 0.01), (100, 0.005)])
def test_photon_noise_from_the_model_leaves_no_bias(photons, allowed):
    rng = np.random.default_rng(photons)
    x = REST.value + 0.0223 * (np.arange(32) - 15.5)
    shape = (60, 60)
    light = photons * np.exp(-0.5 * ((x - REST.value) / 0.04) ** 2) + 0.3 * photons
    counts = rng.poisson(np.broadcast_to(light, (*shape, 32))).astype(float)
    data = counts / 4 + 0.2 * rng.standard_normal(counts.shape)  # 4 photons per DN and read noise
    cube = NDCube(data, wcs=spectral_wcs(shape, x * u.AA), unit=u.DN)
    noise = specfit.CountNoise(4 * u.ph / u.DN, 0.2 * u.DN)
    result = specfit.fit(cube, line(), uncertainty=noise)
    true = np.sqrt(2 * np.pi) * 0.04 * photons / 4
    sigma = result["intensity"].uncertainty.array
    pull = (result["intensity"].data - true) / sigma
    # With a peak of two sigma some lines come out as broad as the axis: the median, not the mean, is without bias.
    assert abs(np.median(result["intensity"].data) / true - 1) < allowed
    assert 0.9 < np.subtract(*np.quantile(pull, [0.8413, 0.1587])) / 2 < 1.15
    naive = specfit.fit(cube, line(), uncertainty=StdDevUncertainty(np.sqrt(np.clip(data, 0.25, None) / 4 + 0.04)))
    assert abs(np.median(result["c0"].data) / (0.3 * photons / 4) - 1) < allowed
    assert abs(np.median(naive["c0"].data) / (0.3 * photons / 4) - 1) > 2 * allowed


def test_sequences_are_fitted_one_by_one():
    cubes = [gaussian_cube((3, 4), seed=s) for s in (1, 2)]
    results = specfit.fit(NDCubeSequence(cubes), line())
    assert len(results) == 2
    np.testing.assert_allclose(results[1]["velocity"].data, specfit.fit(cubes[1], line())["velocity"].data, atol=1e-6)


def test_nothing_is_computed_before_it_is_asked_for():
    cube = gaussian_cube((3, 4), seed=1)
    delayed = specfit.fit(cube, line(), compute=False)
    assert type(delayed).__name__ == "Delayed"
    result = delayed.compute(scheduler="synchronous")
    np.testing.assert_allclose(result["velocity"].data, specfit.fit(cube, line())["velocity"].data)


class Branching(Model):
    """A branch on a value and an iteration: only one pixel at a time can follow."""

    name = "branching"
    amplitude = Parameter("data", lower=0)
    center = Parameter("spectral", location=True)
    width = Parameter("spectral", lower=0)

    def evaluate(self, x, amplitude, center, width):
        t = ((x - center) / width) ** 2
        if amplitude > 0.5:
            return amplitude * torch.exp(-0.5 * t)
        square, y = torch.exp(-t), torch.ones_like(t)
        for _ in range(200):
            previous, y = y, 0.5 * (y + square / y)
            if bool(((previous - y).abs() <= 1e-15 * y).all()):
                break
        return amplitude * y


def test_a_model_that_cannot_be_batched_fits_like_its_analytic_twin():
    cube = gaussian_cube((3, 4), seed=31)
    slow = specfit.fit(cube, Branching() + specfit.Polynomial(0))
    assert slow.meta["batching"]["branching"] == "loop"
    twin = specfit.fit(cube, line(), dtype="float64")
    for key in ("amplitude", "center", "width"):
        np.testing.assert_allclose(
            (slow[key].data - twin[key].data) / twin[key].uncertainty.array, 0, atol=2e-3, err_msg=key
        )
        np.testing.assert_allclose(slow[key].uncertainty.array, twin[key].uncertainty.array, rtol=1e-3, err_msg=key)


def foreign(x, amplitude, center, width):
    return amplitude * np.exp(-0.5 * ((x - center) / width) ** 2)


@pytest.mark.parametrize("solver", ["levenberg_marquardt", "gauss_newton", "adam", "lbfgs"])
def test_every_solver_works_with_foreign_code(solver):
    cube = gaussian_cube((3, 4), seed=32)
    parameters = {
        "amplitude": Parameter("data", lower=0),
        "center": Parameter("spectral", location=True),
        "width": Parameter("spectral", lower=0),
    }
    model = specfit.ExternalModel(foreign, parameters, vectorized=True, linear=("amplitude",)) + specfit.Polynomial(0)
    result = specfit.fit(cube, model, solver=solver)
    twin = specfit.fit(cube, line(), dtype="float64")
    for key in ("amplitude", "center", "width"):
        np.testing.assert_allclose(
            (result[key].data - twin[key].data) / twin[key].uncertainty.array, 0, atol=1e-2, err_msg=key
        )


def test_the_bar_is_shown_when_asked_for(capsys):
    specfit.fit(gaussian_cube((3, 4)), line(), progress=True, chunks=3)
    assert "specfit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "cauchy"}, ValueError, "'gaussian', 'student_t', 'huber'"),
        ({"dtype": "float16"}, ValueError, "'float32' or 'float64'"),
        ({"chunks": 0}, ValueError, "positive number of pixels"),
        ({"solver": "levenberg_marquart"}, KeyError, "did you mean 'levenberg_marquardt'"),
        ({"priors": [3]}, TypeError, "Penalty"),
        ({"init": "earlier"}, ValueError, "'previous'"),
        ({"init": "previous"}, ValueError, "time axis"),
    ],
)
def test_wrong_options_are_told_what_is_right(options, error, message):
    with pytest.raises(error, match=message):
        specfit.fit(gaussian_cube((3, 4)), line(), **options)


def test_a_model_by_name_and_one_that_needs_arguments():
    with pytest.raises(TypeError, match="needs arguments"):
        specfit.fit(gaussian_cube((3, 4)), "gaussian")
    with pytest.raises(KeyError, match="did you mean 'gaussian'"):
        specfit.fit(gaussian_cube((3, 4)), "gausian")
    flat = specfit.fit(gaussian_cube((3, 4)), "polynomial")
    assert list(flat.parameters) == ["c0"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_maps():
    cube = gaussian_cube((30, 40), seed=41)
    cpu, gpu = (specfit.fit(cube, line(), device=device) for device in ("cpu", "cuda"))
    for key in cpu:
        np.testing.assert_allclose(
            (cpu[key].data - gpu[key].data) / cpu[key].uncertainty.array, 0, atol=1e-3, err_msg=key
        )


def test_cuda_where_there_is_none_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ValueError, match="no CUDA device"):
        specfit.fit(gaussian_cube((3, 4)), line(), device="cuda")
