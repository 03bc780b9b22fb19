"""Figures of maps: what is drawn, and that it has room."""

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
import pytest

import sunpy_specfit as specfit
from sunpy_specfit.data import gaussian_cube


@pytest.mark.parametrize("shape", [(6, 7), (3, 60), (60, 3), (1, 9), (9, 1)])
def test_maps_of_any_shape_have_room(shape):
    result = specfit.fit(gaussian_cube(shape, seed=2), specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0))
    figure = result.plot(["intensity", "velocity"])
    figure.canvas.draw()  # a layout that collapses warns, and warnings are errors here
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in maps] == ["intensity", "velocity"]
    for axes in maps:
        box = axes.get_window_extent()
        assert min(box.width, box.height) > 20
    low, high = maps[1].images[0].get_clim()
    assert low == pytest.approx(-high)
    np.testing.assert_allclose(maps[0].images[0].get_array().filled(np.nan), result["intensity"].data)
    plt.close(figure)


def test_one_name_is_one_map():
    result = specfit.fit(gaussian_cube((4, 5), seed=2), specfit.Gaussian(195.119 * u.AA))
    figure = result.plot("velocity")
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["velocity"]
    plt.close(figure)
