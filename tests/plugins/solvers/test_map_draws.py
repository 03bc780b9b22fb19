import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit.core.gaussian import BoundGaussian
from sunpy_specfit.core.grid import Grid
from sunpy_specfit.data import dem_scene

pytest.importorskip("demregpy")
BINS = np.logspace(5.7, 7.3, 13) * u.K
MEAN = 1e21 * np.exp(-0.5 * ((np.linspace(5.77, 7.23, 12) - 6.2) / 0.4) ** 2) * u.Unit("cm-5 K-1")
NEIGHBOURS = {
    "smooth": specfit.Smooth("dem", scale=1.0, logarithm=True),
    "continuous": specfit.Correlated("dem", length=3.0, order=1),
    "correlated": specfit.Correlated("dem", length=2.0),
}


def fit(scene, neighbours, **options):
    prior = specfit.TemperaturePrior(scale=1.0, order=1, **options)
    return specfit.fit(scene.images, specfit.DEM(scene.responses, bins=BINS), priors=[prior, neighbours])


class Dense:
    """The posterior of the logarithms about the solution, all pixels at once, pixel by pixel ``(pixels · bins)``."""

    def __init__(self, result, neighbours):
        model = result._layout.components[0]
        cube = result._canvases[0].cube
        self.dem, sigma = (array.reshape(len(array), -1) for array in (result["dem"].data, cube.uncertainty.array))
        self.pixels, self.shape = self.dem.shape[1], result["emission_measure"].data.shape
        self.prior = next(prior for prior in result._priors if prior.name == "temperature_prior")._bound
        bound = neighbours.bind({"dem": u.one}, Grid(self.shape, ("space", "space")))
        eye = torch.eye(self.pixels, dtype=torch.float64)
        alone = bound.among_pixels is None
        if alone:
            free = torch.ones((1, self.pixels), dtype=torch.float64)
            self.steps = bound.quadratic({"dem": free}).of_logarithm["dem"][0](eye).numpy()
            self.between = eye.numpy()
        else:
            self.steps = 0 * eye.numpy()
            self.between = bound.among_pixels.product(eye).numpy() + eye.numpy()
        self.jacobians = [model.matrix * self.dem[:, p] / sigma[:, [p]] for p in range(self.pixels)]

    def hessian(self, covariance):
        precision = BoundGaussian("dem", self.prior.mean, covariance).precision.numpy()
        total = np.kron(self.between, precision) + np.kron(self.steps, np.eye(12))
        return total + self.data()

    def data(self):
        total = np.zeros((self.pixels, 12, self.pixels, 12))
        for p, jacobian in enumerate(self.jacobians):
            total[p, :, p] = jacobian.T @ jacobian
        return total.reshape(self.pixels * 12, -1)

    def covariance(self):
        """With the error of a learned mean, which all pixels share, as far as the solution follows the mean."""
        if self.prior.shared is None:
            return np.linalg.inv(self.hessian(self.prior.covariance))
        own = np.linalg.inv(self.hessian(self.prior.covariance - self.prior.shared))
        every = np.tile(np.eye(12), (self.pixels, 1))
        follows = every - np.linalg.solve(self.hessian(self.prior.covariance), self.data() @ every)
        return own + follows @ self.prior.shared.numpy() @ follows.T


def logarithms(result, draws):
    """How far draws are from the solution ``(n, pixels · bins)``."""
    dem = draws["dem"].value.reshape(len(draws["dem"]), 12, -1)
    away = np.log(dem / result["dem"].data.reshape(12, -1))
    return away.transpose(0, 2, 1).reshape(len(dem), -1)


def neighbour_correlation(covariance, shape):
    """Of each bin, pixel by pixel, with the pixel to the right."""
    sigma = np.sqrt(covariance.diagonal())
    rows = (covariance / np.outer(sigma, sigma)).reshape(*shape, 12, *shape, 12)
    y, x, k = np.ogrid[: shape[0], : shape[1] - 1, :12]
    return rows[y, x, k, y, x + 1, k]


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_draws_vary_and_correlate_as_the_dense_posterior(name):
    scene = dem_scene("quiet_sun", (3, 4), seed=2, exposure=0.1)
    result = fit(scene, NEIGHBOURS[name], mean=MEAN)
    exact = Dense(result, NEIGHBOURS[name]).covariance()
    n = 300
    away = logarithms(result, result.sample(n, seed=3))
    found = away.T @ away / n
    # Of each number a draw's variance is known to √(2 / n); of the mean over many of them better.
    ratio = found.diagonal() / exact.diagonal()
    assert ratio.mean() == pytest.approx(1, abs=0.06)
    assert np.all(np.abs(ratio - 1) < 6 * np.sqrt(2 / n))
    here, there = (neighbour_correlation(c, (3, 4)) for c in (found, exact))
    assert there.mean() > 0.2
    assert here.mean() == pytest.approx(there.mean(), abs=0.05)
    assert np.all(np.abs(here - there) < 6 / np.sqrt(n))
    # The map's mean of each bin: what single pixels' draws cannot tell.
    mean = np.tile(np.eye(12), (12, 1)) / 12
    np.testing.assert_allclose((away @ mean).var(0), (mean.T @ exact @ mean).diagonal(), rtol=6 * np.sqrt(2 / n))


@pytest.mark.parametrize("name", ["smooth", "correlated"])
def test_the_error_of_a_learned_mean_is_in_the_errors_and_common_to_the_draws(name):
    scene = dem_scene("quiet_sun", (7, 7), seed=2, exposure=0.1)
    result = fit(scene, NEIGHBOURS[name])
    dense = Dense(result, NEIGHBOURS[name])
    assert dense.prior.shared is not None
    exact = dense.covariance()
    sigma = np.sqrt(exact.diagonal()).reshape(7, 7, 12)[2:-2, 2:-2]
    dem = result["dem"]
    found = np.moveaxis(dem.uncertainty.array / dem.data, 0, -1)[2:-2, 2:-2]
    assert np.median(found / sigma) == pytest.approx(1, abs=0.06)
    assert np.all((found / sigma > 0.75) & (found / sigma < 1.35))
    n, mean = 200, np.tile(np.eye(12), (49, 1)) / 49
    of_map = (logarithms(result, result.sample(n)) @ mean).var(0)
    np.testing.assert_allclose(of_map, (mean.T @ exact @ mean).diagonal(), rtol=6 * np.sqrt(2 / n))
    # Without it the map's mean would seem to be known much better.
    own = np.linalg.inv(dense.hessian(dense.prior.covariance - dense.prior.shared))
    assert np.max(of_map / (mean.T @ own @ mean).diagonal()) > 3


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_what_pixels_share_is_found_where_data_leave_little_of_it(name):
    """A small difference of large numbers, in the bins that are measured best."""
    result = fit(dem_scene("quiet_sun", (7, 7), seed=2, exposure=0.1), NEIGHBOURS[name])
    dense = Dense(result, NEIGHBOURS[name])
    every = np.tile(np.eye(12), (49, 1))
    follows = every - np.linalg.solve(dense.hessian(dense.prior.covariance), dense.data() @ every)
    exact = np.sqrt(np.einsum("ij,jk,ik->i", follows, dense.prior.shared.numpy(), follows)).reshape(49, 12)
    found = np.sqrt(np.square(result._propagation.covariance_rows.common).sum(1)).T
    assert exact.min() < 0.1 * exact.max()
    np.testing.assert_allclose(np.median(found / exact, axis=0), 1, atol=0.15)


def test_draws_of_a_part_are_the_part_of_the_draws_and_files_keep_what_pixels_share(tmp_path):
    scene = dem_scene("quiet_sun", (6, 7), seed=2, exposure=0.1)
    result = fit(scene, NEIGHBOURS["smooth"])
    whole, part = result.sample(2, seed=5), result[1:4, 2:5].sample(2, seed=5)
    np.testing.assert_allclose(part["dem"], whole["dem"][..., 1:4, 2:5])
    assert not np.array_equal(whole["dem"], result.sample(2, seed=6)["dem"])
    assert np.all(whole["dem"].value > 0)
    result.save(tmp_path / "dem.asdf")
    stored = specfit.FitResult.load(tmp_path / "dem.asdf")
    np.testing.assert_allclose(stored["dem"].uncertainty.array, result["dem"].uncertainty.array)
    # A file's draws are pixel by pixel, but for what all share.
    away = logarithms(stored, stored.sample(300))
    hot = away.reshape(300, -1, 12)[:, :, -1]
    assert np.corrcoef(hot[:, 0], hot[:, -1])[0, 1] > 0.5
