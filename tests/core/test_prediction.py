"""The light of a result: against formulas in numpy, whole and pixel by pixel."""

import warnings

import astropy.units as u
import numpy as np
import pytest

import sunpy_specfit as specfit
from sunpy_specfit.core import prediction
from sunpy_specfit.data import gaussian_cube

REST = 195.119


@pytest.fixture(scope="module")
def fitted():
    cube = gaussian_cube((4, 5), signal_to_noise=40, seed=2)
    mask = np.zeros(cube.data.shape, bool)
    mask[1, 2, :3] = True
    return cube, specfit.fit(cube, specfit.Gaussian(REST * u.AA) + specfit.Polynomial(1), mask=mask)


def line(result, pixel, x):
    a, c, w = (result[name].data[pixel] for name in ("amplitude", "center", "width"))
    return a * np.exp(-0.5 * ((x - c) / w) ** 2)


def test_a_pixel_and_its_parts(fitted):
    cube, result = fitted
    profile = result._profile(0, (1, 2))
    x = cube.axis_world_coords_values("em.wl")[0].to_value(u.AA)
    np.testing.assert_allclose(profile.x, x)
    np.testing.assert_allclose(profile.light[0], result.model().data[1, 2], rtol=1e-9)
    assert len(profile.fine_x) > 4 * len(x)
    np.testing.assert_allclose(profile.components["gaussian"][0], line(result, (1, 2), profile.fine_x), rtol=1e-6)
    np.testing.assert_allclose(sum(profile.components.values()), profile.fine_light)
    np.testing.assert_allclose(np.interp(x, profile.fine_x, profile.fine_light[0]), profile.light[0], rtol=1e-9)
    used = profile.used[0]
    np.testing.assert_allclose(profile.data[0][used], cube.data[1, 2][used], rtol=1e-6)
    np.testing.assert_array_equal(np.isfinite(profile.sigma[0]), profile.used[0])
    assert (~profile.used[0]).sum() == 3


def test_pieces_make_the_same_light(fitted, monkeypatch):
    _, result = fitted
    whole = result.model().data
    monkeypatch.setattr(prediction, "_BATCH", 3 * whole.shape[-1])
    np.testing.assert_array_equal(result.model().data, whole)


class Shift(specfit.Operator):
    """Light of the neighbouring column, as a mirror off by a pixel would give: half here, half there."""

    name = "shift"
    mixes_pixels = True

    def apply(self, light, x, shape):
        image = light.reshape(*light.shape[:-1], *shape)
        return (0.5 * (image + image.roll(1, -1))).reshape(light.shape)


def test_a_part_sees_the_light_of_what_it_was_cut_from(tmp_path):
    cube = gaussian_cube((4, 6), signal_to_noise=40, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = specfit.fit(cube, (specfit.Gaussian(REST * u.AA) + specfit.Polynomial(0)) | Shift())
    whole = result.model().data
    part = result[:, 1:4]
    np.testing.assert_allclose(part.model().data, whole[:, 1:4], rtol=1e-12)
    np.testing.assert_allclose(part[1:3, 1:].model().data, whole[1:3, 2:4], rtol=1e-12)
    np.testing.assert_allclose(part[2, 0].model().data, whole[2, 1], rtol=1e-12)
    np.testing.assert_allclose(part.residual().data, result.residual().data[:, 1:4], rtol=1e-9, atol=1e-9)
    profile = part._profile(0, (2, 1))
    np.testing.assert_allclose(profile.light[0], whole[2, 2], rtol=1e-12)
    np.testing.assert_allclose(profile.data[0], cube.data[2, 2], rtol=1e-6)
    part.save(tmp_path / "part.asdf")
    again = specfit.FitResult.load(tmp_path / "part.asdf", model=part._layout.models[0])
    np.testing.assert_allclose(again.model().data, whole[:, 1:4], rtol=1e-12)
    np.testing.assert_allclose(again[1:].model().data, whole[1:, 1:4], rtol=1e-12)
