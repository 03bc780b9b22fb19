import astropy.units as u
import numpy as np
import pytest

import sunpy_specfit as specfit
from sunpy_specfit.data import dem_scene

pytest.importorskip("demregpy")


def test_the_resolution_is_fine_where_channels_look_and_wide_elsewhere():
    scene = dem_scene("active_region", (4, 4), seed=1)
    bins = np.logspace(5.7, 7.3, 33) * u.K
    result = specfit.fit(scene.images, specfit.DEM(scene.responses, bins=bins))
    width = specfit.temperature_resolution(result)
    assert width.unit == u.dex
    assert width.data.shape == (32, 4, 4)
    middle = np.median(width.data, axis=(1, 2))
    assert np.all(middle[8:14] < 0.6)
    assert middle[-1] > 1
    less = specfit.fit(
        {c: scene.images[c] for c in ("171", "193")}, specfit.DEM(scene.responses.only(171, 193), bins=bins)
    )
    assert np.median(specfit.temperature_resolution(less).data) > np.median(width.data)


def test_other_results_have_none():
    from sunpy_specfit.data import gaussian_cube

    result = specfit.fit(gaussian_cube((2, 2)), specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0))
    with pytest.raises(ValueError, match="data space"):
        specfit.temperature_resolution(result, "amplitude")


def test_one_pixel_can_be_plotted():
    import matplotlib.pyplot as plt

    scene = dem_scene("active_region", (4, 4), seed=1)
    bins = np.logspace(5.7, 7.3, 17) * u.K
    for form in ("log", "linear"):
        result = specfit.fit(scene.images, specfit.DEM(scene.responses, bins=bins, form=form))
        axes = specfit.plot_dem(result, (1, 2))
        assert len(axes.get_lines()) == 6
        plt.close(axes.figure)
