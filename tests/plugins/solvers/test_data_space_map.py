import astropy.units as u
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

import sunpy_specfit as specfit
from sunpy_specfit.data import dem_scene

pytest.importorskip("demregpy")
BINS = np.logspace(5.7, 7.3, 13) * u.K
MEAN = 1e21 * np.exp(-0.5 * ((np.linspace(5.77, 7.23, 12) - 6.2) / 0.4) ** 2) * u.Unit("cm-5 K-1")


def fit(scene, *priors, **options):
    temperature = specfit.TemperaturePrior(scale=1.0, order=1, mean=MEAN)
    return specfit.fit(scene.images, specfit.DEM(scene.responses, bins=BINS), priors=[temperature, *priors], **options)


def _temperature_prior(result):
    return next(prior for prior in result._priors if prior.name == "temperature_prior")._bound


def test_the_whole_map_reaches_the_minimum_that_a_general_optimiser_finds():
    scene = dem_scene("active_region", (3, 4), seed=2, exposure=0.1)
    result = fit(scene, specfit.Smooth("dem", scale=0.8, logarithm=True))
    assert result.meta["solver"] == "DataSpaceMap()"
    model, prior = result._layout.components[0], _temperature_prior(result)
    cube = result._canvases[0].cube
    mean, precision = prior.mean.numpy(), prior.precision.numpy()

    def objective(flat):
        x = flat.reshape(12, 3, 4)
        dem = np.exp(x)
        misfit = (cube.data - np.tensordot(model.matrix, dem, 1)) / cube.uncertainty.array
        away = x - mean[:, None, None]
        pulled = np.tensordot(precision, away, 1)
        slope = pulled - dem * np.tensordot(model.matrix.T, misfit / cube.uncertainty.array, 1)
        energy = 0.5 * np.sum(misfit**2) + 0.5 * np.sum(away * pulled)
        for axis in (1, 2):
            step = np.diff(x, axis=axis) / 0.8
            energy += 0.5 * np.sum(step**2)
            pad = [(0, 0)] * 3
            pad[axis] = (1, 1)
            slope -= np.diff(np.pad(step, pad), axis=axis) / 0.8
        return energy, slope.ravel()

    found = np.log(result["dem"].data).ravel()
    best = minimize(objective, found, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "ftol": 1e-13})
    assert objective(found)[0] - best.fun < 0.05


def laplacian(side):
    total = np.zeros((side**2, side**2))
    for y in range(side):
        for x in range(side):
            for other in ((y + 1, x), (y, x + 1)):
                if max(other) < side:
                    step = np.zeros(side**2)
                    step[y * side + x], step[other[0] * side + other[1]] = 1, -1
                    total += np.outer(step, step)
    return total


def test_errors_shrink_as_those_of_the_dense_curvature_do():
    scene = dem_scene("quiet_sun", (8, 8), seed=2, exposure=0.1)
    result = fit(scene, specfit.Smooth("dem", scale=1.5, logarithm=True))
    model, prior = result._layout.components[0], _temperature_prior(result)
    sigma = result._canvases[0].cube.uncertainty.array.reshape(6, -1)
    dem = result["dem"].data.reshape(12, -1)
    n = dem.shape[1]
    hessian = np.kron(laplacian(8) / 1.5**2, np.eye(12)).reshape(n, 12, n, 12)
    for p in range(n):
        jacobian = model.matrix * dem[:, p] / sigma[:, [p]]
        hessian[p, :, p] += prior.precision.numpy() + jacobian.T @ jacobian
    exact = np.sqrt(np.linalg.inv(hessian.reshape(12 * n, 12 * n)).diagonal()).reshape(n, 12).T
    found = result["dem"].uncertainty.array.reshape(12, -1) / dem
    inner = np.zeros((8, 8), bool)
    inner[2:-2, 2:-2] = True
    ratio = (found / exact)[:, inner.ravel()]
    assert np.median(ratio) == pytest.approx(1, abs=0.1)
    assert np.all((ratio > 0.6) & (ratio < 1.6))


def test_holes_are_filled_from_around_them():
    scene = dem_scene("quiet_sun", (8, 9), seed=2)
    for image in scene.images.values():
        image.data[3:5, 4] = np.nan
    result = fit(scene, specfit.Smooth("dem", scale=0.5, logarithm=True))
    inside, around = result["dem"].data[:, 3, 4], result["dem"].data[:, 3, 3:6:2].mean(1)
    assert np.all(np.isfinite(inside))
    peak = around > 0.3 * around.max()
    np.testing.assert_allclose(inside[peak], around[peak], rtol=0.3)
    assert (
        result["dem"].uncertainty.array[np.argmax(around), 3, 4]
        > result["dem"].uncertainty.array[np.argmax(around), 3, 3]
    )


def test_at_low_signal_neighbours_help():
    scene = dem_scene("quiet_sun", (24, 24), seed=6, exposure=0.03)
    model = specfit.DEM(scene.responses, bins=BINS)
    alone = specfit.fit(scene.images, model)
    coupled = specfit.fit(scene.images, model, priors=specfit.Smooth("dem", scale=1.5, logarithm=True))
    truth = np.log10(scene.total())

    def rms(result):
        return np.sqrt(np.mean((np.log10(result["emission_measure"].data) - truth) ** 2))

    assert rms(coupled) < 0.9 * rms(alone)


def test_what_it_does_not_solve_is_refused_with_a_sentence():
    scene = dem_scene("quiet_sun", (3, 3))
    with pytest.raises(ValueError, match="whose pixels are coupled by priors"):
        fit(scene, solver="data_space_map")
    with pytest.raises(ValueError, match="priors on 'dem' itself only"):
        fit(scene, specfit.Smooth("emission_measure", scale=1e26), solver="data_space_map")


def test_the_last_few_pixels_end_where_whole_steps_end():
    scene = dem_scene("active_region", (24, 24), seed=5, exposure=0.05)
    smooth = specfit.Smooth("dem", scale=1.5, logarithm=True)
    usual = fit(scene, smooth)
    exact = fit(scene, smooth, solver=specfit.DataSpaceMap(tolerance=1e-4, max_iterations=100))
    assert np.all(usual.status.data & specfit.Status.CONVERGED)
    away = np.log(usual["dem"].data / exact["dem"].data) * exact["dem"].data / exact["dem"].uncertainty.array
    assert np.abs(away).max() < 0.25
    assert np.sqrt(np.mean(away**2)) < 0.02


class Alike(specfit.Prior):
    """What Smooth does, without saying that it is quadratic in the logarithm."""

    name = "alike"
    couples_pixels = True
    quantities = ("dem",)

    def __init__(self, smooth):
        self.smooth = smooth

    def bind(self, units, grid):
        bound = self.smooth.bind(units, grid)
        bound._of_logarithm = lambda maps: None
        return bound


def test_priors_that_do_not_know_of_logarithms_end_in_the_same_place():
    scene = dem_scene("active_region", (8, 9), seed=5, exposure=0.1)
    smooth = specfit.Smooth("dem", scale=1.5, logarithm=True)
    one, other = fit(scene, smooth), fit(scene, Alike(smooth), solver="data_space_map")
    away = np.log(one["dem"].data / other["dem"].data) * one["dem"].data / one["dem"].uncertainty.array
    assert np.abs(away).max() < 0.1


def test_an_automatic_scale_is_that_of_the_greatest_evidence():
    side = 8
    scene = dem_scene("active_region", (side, side), seed=3, exposure=0.1)
    automatic = fit(scene, specfit.Smooth("dem", logarithm=True))
    told = automatic.meta["prior_scales"]["smooth:dem"]
    assert told["chosen_by"] == "evidence"

    def dense(scale):
        """-2 ln evidence by Laplace's approximation, with matrices of all unknowns at once."""
        result = fit(scene, specfit.Smooth("dem", scale=scale, logarithm=True))
        model, prior = result._layout.components[0], _temperature_prior(result)
        cube = result._canvases[0].cube
        data, sigma = cube.data.reshape(6, -1), cube.uncertainty.array.reshape(6, -1)
        dem = result["dem"].data.reshape(12, -1)
        alone = np.kron(np.eye(side**2), prior.precision.numpy())
        joined = alone + np.kron(laplacian(side) / scale**2, np.eye(12))
        away = (np.log(dem) - prior.mean.numpy()[:, None]).T.reshape(-1)
        hessian = joined.reshape(side**2, 12, side**2, 12).copy()
        for p in range(side**2):
            jacobian = model.matrix * dem[:, p] / sigma[:, [p]]
            hessian[p, :, p] += jacobian.T @ jacobian
        energy = np.sum(((data - model.matrix @ dem) / sigma) ** 2) + away @ joined @ away
        volume = np.linalg.slogdet(hessian.reshape(joined.shape))[1] - np.linalg.slogdet(joined)[1]
        return energy + volume

    exact = np.array([dense(scale) for scale in told["tried"]])
    found = np.array(told["evidence"])
    best = told["tried"].index(told["scale"])
    np.testing.assert_allclose(found - found[best], exact - exact[best], rtol=0.1, atol=4)
    assert exact[best] - exact.min() < 2


def test_of_two_minima_of_faint_light_the_one_with_more_of_the_posterior_is_kept():
    # By themselves pixels of a corner have hot emission; from there the search ends with a corner 0.3 dex too hot.
    from sunpy_specfit.plugins.solvers import DataSpaceMap

    scene = dem_scene("quiet_sun", (48, 48), seed=11, exposure=0.05)
    model = specfit.DEM(scene.responses, bins=np.logspace(5.7, 7.3, 33) * u.K)
    ends, descend = [], DataSpaceMap._descend

    def watched(self, here):
        ends.append(descend(self, here))
        return ends[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataSpaceMap, "_descend", watched)
        result = specfit.fit(scene.images, model, priors=specfit.Correlated("dem", length=12))
    off = result["log_temperature"].data - scene.log_temperature()
    assert np.sqrt(np.mean(off**2)) < 0.05
    assert np.abs(off).max() < 0.15
    from_own, from_smooth = (place for place, *_ in ends)
    assert from_smooth.badness() < from_own.badness() - 5
    assert result.meta["solver_info"]["iterations"] == sum(info["iterations"] for *_, info in ends)
    np.testing.assert_allclose(result["dem"].data.reshape(32, -1), from_smooth.free, rtol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_either_minimum_may_be_kept(sign, monkeypatch):
    from sunpy_specfit.plugins.solvers import DataSpaceMap, place

    badness, descend, search = place.Place.badness, DataSpaceMap._descend, DataSpaceMap._search
    ends, kept = [], []

    def descended(self, here):
        ends.append(descend(self, here))
        return ends[-1]

    def searched(self, *args):
        kept.append(search(self, *args))
        return kept[-1]

    monkeypatch.setattr(place.Place, "badness", lambda self: sign * badness(self))
    monkeypatch.setattr(DataSpaceMap, "_descend", descended)
    monkeypatch.setattr(DataSpaceMap, "_search", searched)
    scene = dem_scene("quiet_sun", (8, 9), seed=2, exposure=0.02)
    fit(scene, specfit.Correlated("dem", length=6))
    ((own, *_), (smooth, *_)), ((found, *_),) = ends, kept
    assert badness(own) != badness(smooth)
    assert found is min(own, smooth, key=lambda end: sign * badness(end))


@pytest.mark.parametrize(("axes", "joined"), [((0,), [0]), ((1,), [1]), ("all", [0, 1])])
@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (specfit.Correlated, {"length": 6}),
        (specfit.Smooth, {"scale": 0.3, "logarithm": True}),
        (specfit.Smooth, {"scale": 3e20 * u.Unit("cm-5 K-1")}),
        (specfit.TotalVariation, {"scale": 0.3, "softness": 1.0, "logarithm": True}),
    ],
)
def test_a_start_is_smoothed_along_the_axes_that_priors_join(kind, numbers, axes, joined):
    from sunpy_specfit.plugins.solvers import data_space_map, place

    seen = []

    class Watched(place.Place):
        def smoothed(self):
            seen.append((self, super().smoothed()))
            return seen[-1][1]

    scene = dem_scene("quiet_sun", (8, 9), seed=2, exposure=0.02)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_space_map, "Place", Watched)
        fit(scene, kind("dem", axes=axes, **numbers))
    own, smooth = seen[-1]
    image = own.z.unflatten(1, (8, 9)).numpy()
    expected = gaussian_filter(image, 2.0, axes=[1 + axis for axis in joined], mode="nearest")
    np.testing.assert_allclose(smooth.z.unflatten(1, (8, 9)), expected, atol=1e-5)
    assert smooth.energy < own.energy
