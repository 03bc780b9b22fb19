"""Windows 1, 2 and 4 of the Hinode/EIS raster that comes with eispac, fitted from eispac's own templates."""

import warnings
from importlib.resources import files

import numpy as np
import pytest
from scipy.optimize import least_squares

import sunpy_specfit as specfit
from sunpy_specfit import from_eispac_template, options_from_eispac_template

eispac = pytest.importorskip("eispac")
DATA = files("eispac") / "data"


def fitted(window, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cube = eispac.read_cube(str(DATA / "test" / "eis_20210306_064444.data.h5"), window=window)
        template = eispac.read_template(str(DATA / "templates" / f"{name}.template.h5"))
        result = specfit.fit(cube, from_eispac_template(template), **options_from_eispac_template(template))
    return cube, template, result


@pytest.fixture(scope="module")
def windows():
    return {
        1: fitted(1, "fe_12_186_880.1c"),
        2: fitted(2, "fe_12_192_394.1c"),
        4: fitted(4, "fe_13_201_121.2c"),
    }


@pytest.mark.parametrize("window", [1, 2, 4])
def test_nearly_all_pixels_are_fitted_well(windows, window):
    _, _, result = windows[window]
    status, reduced = result.status.data, result.reduced_chi2.data
    done = (status & int(specfit.Status.CONVERGED)) > 0
    assert np.mean(done) > 0.99
    assert 0.5 < np.nanmedian(reduced) < 3


@pytest.mark.parametrize("window", [1, 2, 4])
def test_scipy_from_our_answer_finds_nothing_better(windows, window):
    cube, template, result = windows[window]
    model, names = result.model(), list(result.parameters)
    lines = template.template["n_gauss"]
    low, high = template.template["wmin"], template.template["wmax"]
    worse = []
    for index in np.random.default_rng(0).choice(result.status.data.size, 30, replace=False):
        pixel = np.unravel_index(index, result.status.shape)
        x, y, sigma = cube.wavelength[pixel], cube.data[pixel], cube.uncertainty.array[pixel]
        used = ~cube.mask[pixel] & (sigma > 0) & (x >= low) & (x <= high)
        if used.sum() < 3 * lines + 2:
            continue
        x, y, sigma = x[used], y[used], sigma[used]
        start = np.array([float(result[name].data[pixel]) for name in names])

        def light(p, x=x):
            parts = (p[3 * i] * np.exp(-0.5 * ((x - p[3 * i + 1]) / p[3 * i + 2]) ** 2) for i in range(lines))
            return sum(parts) + p[3 * lines]

        np.testing.assert_allclose(model.data[pixel][used], light(start), rtol=1e-3, atol=1e-3 * np.abs(y).max())
        parinfo = template.parinfo
        lower = [p["limits"][0] if p["limited"][0] else -np.inf for p in parinfo]
        upper = [p["limits"][1] if p["limited"][1] else np.inf for p in parinfo]
        inside = np.clip(start, np.nextafter(lower, np.inf), np.nextafter(upper, -np.inf))
        best = least_squares(
            lambda p, light=light, y=y, sigma=sigma: (light(p) - y) / sigma,
            inside,
            bounds=(lower, upper),
            x_scale="jac",
        )
        worse.append(np.sum(((light(start) - y) / sigma) ** 2) - 2 * best.cost)
    assert len(worse) > 20
    assert np.quantile(worse, 0.9) < 1e-2


def test_two_lines_of_one_ion_move_alike(windows):
    """Fe XII 186.88 and 192.394 come from the same plasma: two windows, two independent measurements."""
    one, two = (windows[window][2] for window in (1, 2))
    velocity = [
        one[next(n for n in one if n.endswith("velocity"))],
        two[next(n for n in two if n.endswith("velocity"))],
    ]
    sigma = np.hypot(*(v.uncertainty.array for v in velocity))
    bright = (sigma < 5) & ~velocity[0].mask & ~velocity[1].mask
    assert bright.sum() > 500
    first, second = (v.data[bright] for v in velocity)
    assert np.corrcoef(first, second)[0, 1] > 0.7
    # Without an absolute scale the two differ by a constant, and about that by as much as their errors say.
    assert 0.6 < np.std((first - second) / sigma[bright]) < 1.2


def test_residuals_are_in_the_unit_of_the_light_with_and_without_a_file(windows, tmp_path):
    cube, _, result = windows[2]
    light, part = result.model(), result[5:7, 9:20]
    result.save(tmp_path / "eis.asdf")
    again = specfit.FitResult.load(tmp_path / "eis.asdf", data=cube)
    for residual, item in (
        (result.residual(), ...),
        (part.residual(), np.s_[5:7, 9:20]),
        (again.residual(), ...),
        (again[5:7, 9:20].residual(), np.s_[5:7, 9:20]),
    ):
        assert residual.unit == light.unit
        np.testing.assert_allclose(residual.data, (cube.data - light.data)[item], rtol=1e-6, atol=1e-3)
        np.testing.assert_allclose(residual.uncertainty.array, cube.uncertainty.array[item])
        np.testing.assert_array_equal(residual.mask, cube.mask[item])
