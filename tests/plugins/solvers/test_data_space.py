"""Held against dense matrices of the size of the vector, and a general optimiser."""

import astropy.units as u
import numpy as np
import pytest
import torch
from scipy.optimize import minimize, nnls

import sunpy_specfit as specfit
from sunpy_specfit.data import dem_scene
from sunpy_specfit.plugins.solvers import log_map

pytest.importorskip("demregpy")
BINS = np.logspace(5.7, 7.3, 17) * u.K


@pytest.fixture(scope="module")
def scene():
    return dem_scene("active_region", (4, 5), seed=2)


def _fit(scene, form, **options):
    prior = specfit.TemperaturePrior(scale=1.0, order=1, **options)
    return specfit.fit(scene.images, specfit.DEM(scene.responses, bins=BINS, form=form), priors=prior)


def _parts(result):
    prior = result._priors[0]._bound
    cube = result._canvases[0].cube
    return (
        result._layout.components[0].matrix,
        cube.data.reshape(6, -1),
        cube.uncertainty.array.reshape(6, -1),
        prior.mean.numpy(),
        prior.covariance.numpy(),
        prior,
    )


def test_the_linear_form_is_the_posterior_of_dense_matrices(scene):
    result = _fit(scene, "linear")
    r, data, sigma, mean, covariance, prior = _parts(result)
    for pixel in (0, 7, 19):
        level = float(prior.level[pixel])
        whitened = r * level / sigma[:, [pixel]]
        hessian = np.linalg.inv(covariance) + whitened.T @ whitened
        right = np.linalg.solve(covariance, mean) + whitened.T @ (data[:, pixel] / sigma[:, pixel])
        expected = level * np.linalg.solve(hessian, right)
        spread = level * np.sqrt(np.linalg.inv(hessian).diagonal())
        found = result["dem"].data.reshape(len(mean), -1)[:, pixel]
        # Directions of a ten thousandth of the variance are left out.
        np.testing.assert_allclose(found, expected, atol=0.02 * spread.max())
        errors = result["dem"].uncertainty.array.reshape(len(mean), -1)[:, pixel]
        np.testing.assert_allclose(errors, spread, rtol=0.05, atol=0.01 * spread.max())
        chi2 = (((r @ found - data[:, pixel]) / sigma[:, pixel]) ** 2).sum()
        assert result.chi2.data.reshape(-1)[pixel] == pytest.approx(chi2, rel=1e-6)
        leverage = np.trace(np.linalg.solve(hessian, whitened.T @ whitened))
        assert 6 - result.dof.data.reshape(-1)[pixel] == pytest.approx(leverage, rel=0.02)


def test_the_logarithm_reaches_the_minimum_that_a_general_optimiser_finds(scene):
    result = _fit(scene, "log")
    r, data, sigma, mean, covariance, prior = _parts(result)
    precision = prior.precision.numpy()
    assert np.all(result["dem"].data > 0)
    for pixel in (3, 11):

        def objective(x, pixel=pixel):
            away = x - mean
            misfit = (data[:, pixel] - r @ np.exp(x)) / sigma[:, pixel]
            slope = precision @ away - np.exp(x) * (r.T @ (misfit / sigma[:, pixel]))
            return 0.5 * misfit @ misfit + 0.5 * away @ precision @ away, slope

        found = np.log(result["dem"].data.reshape(len(mean), -1)[:, pixel])
        best = minimize(objective, found, jac=True, method="BFGS", options={"gtol": 1e-6, "maxiter": 2000})
        assert objective(found)[0] - best.fun < 0.01


def test_errors_of_the_logarithm_are_those_of_the_dense_curvature(scene):
    result = _fit(scene, "log")
    r, _, sigma, mean, covariance, _ = _parts(result)
    dem = result["dem"].data.reshape(len(mean), -1)[:, 5]
    whitened = r * dem / sigma[:, [5]]
    posterior = np.linalg.inv(np.linalg.inv(covariance) + whitened.T @ whitened)
    expected = dem * np.sqrt(posterior.diagonal())
    np.testing.assert_allclose(result["dem"].uncertainty.array.reshape(len(mean), -1)[:, 5], expected, rtol=0.03)
    # And of what is derived, by the same matrix.
    width = np.diff(BINS.value)
    gradient = width * dem
    assert result["emission_measure"].uncertainty.array.reshape(-1)[5] == pytest.approx(
        np.sqrt(gradient @ posterior @ gradient), rel=0.02
    )
    found = result.covariance["dem", "dem"].data.reshape(len(mean), len(mean), -1)[..., 5]
    np.testing.assert_allclose(found, dem[:, None] * posterior * dem, atol=0.03 * np.abs(found).max())


def test_the_bounded_form_is_that_of_non_negative_least_squares(scene):
    result = _fit(scene, "nonnegative")
    r, data, sigma, mean, covariance, prior = _parts(result)
    root = np.linalg.cholesky(prior.precision.numpy()).T
    for pixel in (0, 13):
        level = float(prior.level[pixel])
        stacked = np.concatenate([r * level / sigma[:, [pixel]], root])
        right = np.concatenate([data[:, pixel] / sigma[:, pixel], root @ mean])
        expected = level * nnls(stacked, right)[0]
        found = result["dem"].data.reshape(len(mean), -1)[:, pixel]
        assert np.all(found >= 0)
        np.testing.assert_allclose(found, expected, atol=0.01 * expected.max())


def test_draws_have_the_mean_and_the_spread_of_the_posterior(scene):
    linear = _fit(scene, "linear")[1:2, 1:3]
    draws = linear.sample(4000, seed=1)["dem"].value
    sigma = linear["dem"].uncertainty.array
    assert np.all(np.abs(draws.mean(0) - linear["dem"].data) < 6 * sigma / np.sqrt(4000))
    np.testing.assert_allclose(draws.std(0), sigma, rtol=0.08)
    positive = _fit(scene, "log")[1:2, 1:3]
    draws = positive.sample(4000, seed=1)
    assert np.all(draws["dem"].value > 0)
    spread = np.log(draws["dem"].value).std(0)
    np.testing.assert_allclose(spread, positive["dem"].uncertainty.array / positive["dem"].data, rtol=0.08)
    assert draws["emission_measure"].unit == u.Unit("cm-5")


def test_a_pixel_does_not_depend_on_its_company(scene):
    mean = np.full(16, 1e21) * u.Unit("cm-5 K-1")
    whole = _fit(scene, "log", mean=mean)
    alone = specfit.fit(
        {c: image[2:3, 1:2] for c, image in scene.images.items()},
        specfit.DEM(scene.responses, bins=BINS),
        priors=specfit.TemperaturePrior(scale=1.0, order=1, mean=mean),
    )
    sigma = alone["dem"].uncertainty.array[:, 0, 0]
    assert np.all(np.abs(alone["dem"].data[:, 0, 0] - whole["dem"].data[:, 2, 1]) < 1e-2 * sigma)


@pytest.mark.parametrize("threads", [1, 2])
def test_pixels_of_all_pieces_that_go_on_together_end_where_each_piece_would(monkeypatch, threads):
    scene = dem_scene("flare", (16, 16), seed=2)
    mean = np.full(16, 1e21) * u.Unit("cm-5 K-1")
    whole = _fit(scene, "log", mean=mean)
    monkeypatch.setattr(log_map, "_PIXELS", 40)
    went_on, minimise = [], log_map.LogSystem.minimise

    def watched(self, most, tolerance, z=None, begun=0, leave=0):
        went_on.extend([begun] * (begun > 0) * self.data.shape[1])
        return minimise(self, most, tolerance, z, begun, leave)

    monkeypatch.setattr(log_map.LogSystem, "minimise", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pieces = _fit(scene, "log", mean=mean)
    finally:
        torch.set_num_threads(before)
    assert len(went_on) > 8
    np.testing.assert_array_equal(pieces.status.data, whole.status.data)
    away = np.abs(pieces["dem"].data - whole["dem"].data) / whole["dem"].uncertainty.array
    assert away.max() < 0.05
    np.testing.assert_allclose(pieces.chi2.data, whole.chi2.data, atol=0.01, rtol=0.01)


def test_penalties_with_derivatives_are_the_same_in_threads(monkeypatch):
    scene = dem_scene("flare", (32, 32), seed=2)
    monkeypatch.setattr(log_map, "_PIXELS", 40)
    limit = 1e28 * u.Unit("cm-5")
    prior = specfit.TemperaturePrior(mean=np.full(16, 1e21) * u.Unit("cm-5 K-1"), scale=1.0, length=0.3)
    hinge = specfit.Hinge("emission_measure", upper=limit, scale=0.1 * limit)
    found, before = [], torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(specfit.fit(scene.images, specfit.DEM(scene.responses, bins=BINS), priors=[hinge, prior]))
    finally:
        torch.set_num_threads(before)
    for name in ("data", "uncertainty"):
        one, two = (getattr(result["emission_measure"], name) for result in found)
        one, two = (one, two) if name == "data" else (one.array, two.array)
        np.testing.assert_allclose(two, one, rtol=1e-6)


def test_what_it_does_not_solve_is_refused_with_a_sentence(scene):
    from sunpy_specfit.data import gaussian_cube

    with pytest.raises(ValueError, match="one Gaussian prior with a full covariance"):
        specfit.fit(
            gaussian_cube((2, 2)), specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0), solver="data_space"
        )
    with pytest.raises(ValueError, match="no upper bounds"):
        specfit.fit(
            scene.images,
            specfit.DEM(scene.responses, bins=BINS).bound(dem=(0, 1e24)),
            solver="data_space",
        )


MEAN = 1e21 * np.exp(-0.5 * ((np.linspace(5.75, 7.25, 16) - 6.2) / 0.4) ** 2) * u.Unit("cm-5 K-1")


@pytest.mark.parametrize("name", ["emission_measure", "dem"])
def test_a_soft_limit_beside_the_prior_on_the_logarithm_is_kept(scene, name):
    prior = specfit.TemperaturePrior(scale=1.0, order=1, mean=MEAN)
    free = specfit.fit(scene.images, specfit.DEM(scene.responses, bins=BINS), priors=prior)[name]
    upper = np.median(free.data if name == "emission_measure" else free.data.max(0)) * free.unit
    hinge = specfit.Hinge(name, upper=upper, scale=0.1 * upper)
    result = specfit.fit(scene.images, specfit.DEM(scene.responses, bins=BINS), priors=[hinge, prior])
    assert result.meta["solver"] == "DataSpace()"
    assert np.all(result.status.data == specfit.Status.CONVERGED)
    model, cube = result._layout.components[0], result._canvases[0].cube
    bound = next(p for p in result._priors if p.name == "temperature_prior")._bound
    mean, precision = bound.mean.numpy(), bound.precision.numpy()
    rows = np.diff(BINS.value)[None] if name == "emission_measure" else np.eye(16)
    limit, soft, felt = upper.value, 0.1 * upper.value, 0
    for pixel in np.ndindex(4, 5):
        data, sigma = cube.data[:, *pixel], cube.uncertainty.array[:, *pixel]

        def objective(x, data=data, sigma=sigma):
            dem = np.exp(x)
            misfit, excess = (data - model.matrix @ dem) / sigma, np.maximum(rows @ dem - limit, 0) / soft
            slope = precision @ (x - mean) - dem * (model.matrix.T @ (misfit / sigma) - rows.T @ (excess / soft))
            return 0.5 * (misfit @ misfit + excess @ excess + (x - mean) @ precision @ (x - mean)), slope

        dem = result["dem"].data[:, *pixel]
        best = minimize(objective, np.log(dem), jac=True, method="L-BFGS-B", options={"maxiter": 3000, "ftol": 1e-14})
        assert objective(np.log(dem))[0] - best.fun < 1e-2
        # Errors are those of the dense curvature, the active limits in it.
        active = rows @ dem > limit
        felt += active.any()
        seen = np.concatenate([model.matrix / sigma[:, None], rows[active] / soft]) * dem
        exact = np.sqrt(np.linalg.inv(precision + seen.T @ seen).diagonal())
        np.testing.assert_allclose(result["dem"].uncertainty.array[:, *pixel] / dem, exact, rtol=0.05)
        data_only = model.matrix / sigma[:, None] * dem
        spent = np.trace(np.linalg.inv(precision + seen.T @ seen) @ data_only.T @ data_only)
        assert 6 - result.dof.data[pixel] == pytest.approx(spent, abs=0.02)
    assert felt > 5


def test_a_limit_on_what_is_not_linear_goes_to_another_solver_from_a_positive_start(scene):
    hinge = specfit.Hinge("log_temperature", upper=6.3, scale=0.003)
    prior = specfit.TemperaturePrior(scale=1.0, order=1, mean=MEAN)
    model = specfit.DEM(scene.responses, bins=BINS)
    with pytest.raises(ValueError, match="'log_temperature' is not; use solver='gauss_newton'"):
        specfit.fit(scene.images, model, priors=[prior, hinge], solver="data_space")
    result = specfit.fit(scene.images, model, priors=[prior, hinge])
    free = specfit.fit(scene.images, model, priors=prior)
    assert result.meta["solver"] == "GaussNewton()"
    assert result["log_temperature"].data.max() < 6.31 < free["log_temperature"].data.max()
    assert np.all(result["dem"].data > 0)
    assert np.all(np.isfinite(result["dem"].uncertainty.array))


def test_levenberg_marquardt_names_who_knows_logarithms(scene):
    model = specfit.DEM(scene.responses, bins=BINS)
    with pytest.raises(ValueError, match="use solver='data_space'"):
        specfit.fit(scene.images, model, solver="levenberg_marquardt")
    # An upper bound, which data_space does not keep, must not end at zero either.
    bounded = specfit.fit(scene.images, model.bound(dem=(0, 1e24) * u.Unit("cm-5 K-1")))
    assert np.all(bounded["dem"].data > 0)
    assert np.all(np.isfinite(bounded["dem"].uncertainty.array))


def test_bins_independent_of_each_other_converge_too():
    # Where Gauss-Newton creeps, the step by all the curvature is longer than Gauss-Newton's own gain can tell.
    scene = dem_scene("active_region", (32, 32), seed=101)
    result = specfit.fit(
        scene.images,
        specfit.DEM(scene.responses, bins=np.logspace(5.7, 7.3, 33) * u.K),
        priors=specfit.TemperaturePrior(order=0),
    )
    assert np.all(result.status.data & specfit.Status.CONVERGED)
