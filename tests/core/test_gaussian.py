"""A full covariance within a pixel, in the views that every solver has."""

import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit.core.gaussian import BoundGaussian
from sunpy_specfit.data import dem_scene


def _prior(logarithm=False, level=None):
    rng = np.random.default_rng(0)
    half = rng.standard_normal((4, 4))
    return BoundGaussian(
        "dem", torch.as_tensor(rng.standard_normal(4)), torch.as_tensor(half @ half.T + np.eye(4)), logarithm=logarithm,
        level=level,
    )  # fmt: skip


@pytest.mark.parametrize("logarithm", [False, True])
def test_energy_gradient_and_curvature_are_those_of_the_density(logarithm):
    prior = _prior(logarithm)
    q = torch.rand((4, 3), dtype=torch.float64) + 0.5
    density = torch.distributions.MultivariateNormal(prior.mean, prior.covariance)
    value = (q.log() if logarithm else q).T
    np.testing.assert_allclose(
        prior.energy({"dem": q}), -density.log_prob(value) + density.log_prob(prior.mean), rtol=1e-6
    )
    found = prior.quadratic({"dem": q})
    np.testing.assert_allclose(
        found.gradient["dem"], torch.func.grad(lambda m: prior.energy({"dem": m}).sum())(q), rtol=1e-8
    )
    slope, matrix = found.within["dem"]
    v = torch.rand_like(q)
    np.testing.assert_allclose(found.matvec({"dem": v})["dem"], slope * (matrix @ (slope * v)))
    np.testing.assert_allclose(found.diagonal["dem"], matrix.diagonal()[:, None] * slope**2)


def test_root_and_precision_belong_to_the_covariance():
    prior = _prior()
    np.testing.assert_allclose(prior.root @ prior.root.T, prior.covariance, rtol=1e-8)
    np.testing.assert_allclose(prior.precision @ prior.covariance, np.eye(4), atol=1e-8)


def test_a_level_for_each_pixel_goes_with_it():
    level = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    prior = _prior(level=level)
    q = torch.rand((4, 3), dtype=torch.float64)
    np.testing.assert_allclose(prior.select(slice(1, 2)).energy({"dem": q[:, 1:2]}), prior.energy({"dem": q})[1:2])
    np.testing.assert_allclose(prior.energy({"dem": q}), _prior().energy({"dem": q / level}))


@pytest.mark.parametrize("form", ["linear", "nonnegative"])
def test_the_general_solver_finds_what_data_space_finds(form):
    """Through packed triangles of the size of the vector, an independent way to the same minimum."""
    pytest.importorskip("demregpy")
    scene = dem_scene("active_region", (3, 4), seed=2)
    model = specfit.DEM(scene.responses, bins=np.logspace(5.7, 7.3, 9) * u.K, form=form)
    prior = specfit.TemperaturePrior(scale=1.0, order=1)
    own = specfit.fit(scene.images, model, priors=prior)
    general = specfit.fit(scene.images, model, priors=prior, solver="levenberg_marquardt")
    sigma = own["dem"].uncertainty.array
    assert np.all(np.abs(own["dem"].data - general["dem"].data) < 0.05 * sigma.max(0))
    if form == "linear":
        np.testing.assert_allclose(general["dem"].uncertainty.array, sigma, rtol=0.05, atol=0.01 * sigma.max())
        np.testing.assert_allclose(
            general["emission_measure"].uncertainty.array, own["emission_measure"].uncertainty.array, rtol=0.02
        )
