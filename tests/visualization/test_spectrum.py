"""Figures of single pixels show what was measured and what was fitted."""

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.data import gaussian_cube

REST = 195.119 * u.AA


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def result():
    cube = gaussian_cube((4, 5), seed=1)
    mask = np.zeros(cube.data.shape, bool)
    mask[2, 3, 7] = True
    return specfit.fit(cube, specfit.Gaussian(REST, label="line") + specfit.Polynomial(0), mask=mask)


def drawn(axes):
    """The points with error bars: their places and heights."""
    return np.array(axes.containers[0][0].get_data())


def test_data_and_residual_of_the_pixel_are_drawn(result):
    upper, lower = result.plot_spectrum((2, 3)).axes
    used = np.arange(32) != 7
    x, y = drawn(upper)
    np.testing.assert_allclose(y, result.model().data[2, 3, used] + result.residual().data[2, 3, used], rtol=1e-5)
    assert x.shape == (31,)
    sigma = 1 / np.sqrt(np.mean((drawn(lower)[1] / result.residual().data[2, 3, used]) ** 2))
    assert np.sum(drawn(lower)[1] ** 2) == pytest.approx(result.chi2.data[2, 3], rel=1e-4)
    assert sigma > 0


def test_the_fit_passes_through_its_own_samples(result):
    upper = result.plot_spectrum((2, 3)).axes[0]
    x, y = drawn(upper)
    fit = next(line for line in upper.lines if line.get_label() == "fit")
    light = np.interp(x, *fit.get_data())
    np.testing.assert_allclose(light, result.model().data[2, 3, np.arange(32) != 7], rtol=2e-2)


def test_components_add_up_to_the_fit(result):
    upper = result.plot_spectrum((0, 0)).axes[0]
    curves = {line.get_label(): line.get_ydata() for line in upper.lines}
    parts = [y for label, y in curves.items() if label not in ("fit", "data") and not label.startswith("_")]
    assert len(parts) == 2
    np.testing.assert_allclose(sum(parts), curves["fit"], rtol=1e-5)


def test_a_place_on_the_sky_is_a_pixel(result):
    place = result["velocity"].wcs.array_index_to_world(2, 3)
    by_index, by_place = (result.plot_spectrum(pixel).axes[0] for pixel in ((2, 3), place))
    np.testing.assert_array_equal(drawn(by_index), drawn(by_place))


@pytest.mark.parametrize("pixel", [(4, 0), (0, -6), (1,), (0, 0, 0)])
def test_a_pixel_off_the_map_is_told(result, pixel):
    with pytest.raises(IndexError, match="does not lie on this map of shape"):
        result.plot_spectrum(pixel)


def test_of_several_pixels_one_has_to_be_named(result):
    with pytest.raises(ValueError, match="which pixel"):
        result.plot_spectrum()


def test_a_single_spectrum():
    cube = gaussian_cube((1, 1), seed=1)
    single = NDCube(
        cube.data[0, 0],
        wcs=cube[0, 0].wcs,
        unit=cube.unit,
        uncertainty=StdDevUncertainty(cube.uncertainty.array[0, 0]),
    )
    result = specfit.fit(single, specfit.Gaussian(REST) + specfit.Polynomial(0))
    upper = result.plot_spectrum().axes[0]
    np.testing.assert_allclose(drawn(upper)[1], single.data, rtol=1e-6)


def test_joint_windows_stand_side_by_side():
    cubes = [gaussian_cube((2, 3), seed=seed) for seed in (1, 2)]
    model = specfit.Gaussian(REST, label="line") + specfit.Polynomial(0)
    joint = specfit.fit(cubes, [model, specfit.Gaussian(REST, label="other") + specfit.Polynomial(0)])
    figure = joint.plot_spectrum((1, 1))
    assert len(figure.axes) == 4
    for number, cube in enumerate(cubes):
        np.testing.assert_allclose(drawn(figure.axes[2 * number])[1], cube.data[1, 1], rtol=1e-6)


def test_a_pixel_without_data_can_be_drawn():
    cube = gaussian_cube((2, 3), seed=1)
    cube.data[0, 1] = np.nan
    result = specfit.fit(cube, specfit.Gaussian(REST) + specfit.Polynomial(0))
    figure = result.plot_spectrum((0, 1))
    assert "masked" in figure.get_suptitle()


def test_errors_are_those_of_the_noise_model():
    cube = gaussian_cube((2, 3), seed=1)
    cube.uncertainty = None
    noise = specfit.CountNoise(0.25, 2.0)
    result = specfit.fit(cube, specfit.Gaussian(REST) + specfit.Polynomial(0), uncertainty=noise)
    light, residual = result.model().data, result.residual()
    sigma = np.sqrt(light / 0.25 + 2.0**2)
    np.testing.assert_allclose(residual.uncertainty.array, sigma, rtol=1e-6)
    lower = result.plot_spectrum((1, 2)).axes[1]
    np.testing.assert_allclose(drawn(lower)[1], (residual.data / sigma)[1, 2], rtol=1e-5)
    # What the eye adds up in the panel is what the result calls chi-squared.
    np.testing.assert_allclose(np.sum(drawn(lower)[1] ** 2), result.chi2.data[1, 2], rtol=1e-3)
