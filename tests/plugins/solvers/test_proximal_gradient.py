"""Proximal gradients: the minimum against other solvers and closed forms, and what is refused."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import Status
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import gaussian_cube, spectral_wcs
from sunpy_specfit.plugins.solvers.proximal_gradient import _Reduced

KMS = u.km / u.s
REST = 195.119 * u.AA


def line():
    return specfit.Gaussian(REST) + specfit.Polynomial(0)


def flat_cube(shape=(17, 22), spread=1.0, seed=0):
    """Constant spectra; the noise of pixels differs up to this factor."""
    rng = np.random.default_rng(seed)
    sigma = np.repeat(spread ** rng.uniform(-0.5, 0.5, shape)[..., None], 4, -1)
    truth = 5 * np.sin(np.arange(shape[1]) / 4.0) + np.linspace(0, 3, shape[0])[:, None]
    data = truth[..., None] + sigma * rng.standard_normal(sigma.shape)
    wcs = spectral_wcs(shape, np.arange(1, 5) * u.AA)
    return NDCube(data, wcs=wcs, unit=u.DN, uncertainty=StdDevUncertainty(sigma))


def test_where_pixels_are_alike_one_shrinkage_is_the_answer():
    cube = flat_cube()
    prior = specfit.Sparse("c0", scale=0.2 * u.DN)
    result = specfit.fit(cube, specfit.Polynomial(0), prior, solver=specfit.ProximalGradient(tolerance=1e-6))
    bound = prior.bind({"c0": u.DN}, build_problem([cube], [specfit.Polynomial(0)]).grid)
    mean = torch.as_tensor(cube.data.mean(-1).reshape(-1))
    expected = bound.proximal({"c0": mean}, {"c0": torch.tensor(0.25)})["c0"]
    np.testing.assert_allclose(result["c0"].data.reshape(-1), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_the_minimum_is_that_of_reweighted_quadratics(spread):
    cube = flat_cube((12, 14), spread)
    mask = np.zeros(cube.data.shape, bool)
    mask[4:6, 9:11] = True
    problem = build_problem([cube], [specfit.Polynomial(0)], mask=mask, priors=[specfit.Sparse("c0", scale=0.2 * u.DN)])
    start = torch.zeros((1, 1, problem.n_pixels), dtype=problem.dtype)
    ours = specfit.ProximalGradient(tolerance=1e-4).solve(problem, start)
    theirs = specfit.GaussNewton(tolerance=1e-4, max_iterations=500).solve(problem, start)
    assert float(problem.loss(ours.free)) <= float(problem.loss(theirs.free)) + 1e-4
    stiffness = problem.linearize(theirs.free)[1].diagonal()
    stiffness = torch.where(stiffness > 0, stiffness, stiffness.median())
    assert float(((ours.free - theirs.free) * stiffness.sqrt()).abs().max()) < 5e-3
    assert bool((ours.status & int(Status.CONVERGED) > 0).all())


def test_a_line_with_a_sparse_velocity_and_its_other_numbers_free():
    cube = gaussian_cube((8, 9), signal_to_noise=12, seed=3)
    priors = (specfit.Sparse("velocity", scale=4 * KMS), specfit.Hinge("width", lower=36 * u.mAA, scale=1 * u.mAA))
    ours = specfit.fit(cube, line(), priors, solver=specfit.ProximalGradient(tolerance=1e-4))
    theirs = specfit.fit(cube, line(), priors, solver=specfit.GaussNewton(tolerance=1e-5, max_iterations=500))
    for key in ours.parameters:
        distance = np.abs(ours[key].data - theirs[key].data) / theirs[key].uncertainty.array
        assert distance.max() < 0.02, key
    assert np.all(ours.status.data & int(Status.CONVERGED))


def test_two_quantities_of_one_prior():
    cube = gaussian_cube((8, 9), signal_to_noise=12, seed=4)
    model = specfit.Gaussian(REST).bound(width=(None, None)) + specfit.Polynomial(0)
    prior = specfit.Sparse("velocity", "width", scale={"velocity": 4 * KMS, "width": 2 * u.mAA})
    assert specfit.ProximalGradient().accepts(build_problem([cube], [model], priors=[prior])) is None
    ours = specfit.fit(cube, model, prior)
    theirs = specfit.fit(cube, model, prior, solver=specfit.GaussNewton(tolerance=1e-5, max_iterations=500))
    assert ours.meta["solver"] == "ProximalGradient()"
    for key in ours.parameters:
        distance = np.abs(ours[key].data - theirs[key].data) / theirs[key].uncertainty.array
        assert distance.max() < 0.1, key


def test_bounds_of_other_parameters_hold():
    cube = gaussian_cube((8, 9), signal_to_noise=12, seed=3)
    model = specfit.Gaussian(REST).bound(width=(34 * u.mAA, 38 * u.mAA)) + specfit.Polynomial(0)
    prior = specfit.Sparse("velocity", scale=4 * KMS)
    ours = specfit.fit(cube, model, prior, solver=specfit.ProximalGradient(tolerance=1e-3))
    theirs = specfit.fit(cube, model, prior, solver=specfit.GaussNewton(tolerance=1e-4, max_iterations=300))
    width = ours["width"].data
    assert width.min() >= 0.034 - 1e-12
    assert width.max() <= 0.038 + 1e-12
    assert np.any(ours.status.data & int(Status.AT_BOUND))
    distance = np.abs(ours["velocity"].data - theirs["velocity"].data) / theirs["velocity"].uncertainty.array
    assert distance.max() < 0.1


def test_numbers_are_eliminated_as_dense_matrices_say():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 4, 6, generator=generator, dtype=torch.float64)
    full = root @ root.mT
    vector = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    i, j = torch.tril_indices(4, 4)
    held = torch.zeros(4, 5, dtype=torch.bool)
    held[0, 2] = True
    reduced = _Reduced(full[:, i, j].T, vector, held, [3, 1])
    moved = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    step = reduced.complete(moved)
    torch.testing.assert_close(step[[3, 1]], moved)
    for pixel in range(5):
        others = [n for n in (0, 2) if not held[n, pixel]]
        slope = full[pixel] @ step[:, pixel] - vector[:, pixel]
        torch.testing.assert_close(slope[others], torch.zeros(len(others), dtype=torch.float64), atol=1e-9, rtol=0)
        # The slope of what is left is that of the whole.
        left = reduced.matrix[..., pixel] @ moved[:, pixel] - reduced.vector[:, pixel]
        torch.testing.assert_close(left, slope[[3, 1]], atol=1e-9, rtol=0)
    assert step[0, 2] == 0


@pytest.mark.parametrize(
    ("model", "prior", "message"),
    [
        (line(), specfit.Smooth("velocity", scale=5 * KMS), "Smooth offers none; use solver='gauss_newton'"),
        (line(), specfit.Sparse("amplitude", scale=5, wavelet="haar"), "keeps no bounds"),
        (line(), specfit.Sparse("intensity", scale=5, wavelet="haar"), "one fitted number each"),
        (line().share("width"), specfit.Sparse("velocity", scale=5, wavelet="haar"), "shared parameter"),
    ],
)
def test_what_it_refuses_gauss_newton_takes(model, prior, message):
    problem = build_problem([gaussian_cube((6, 7))], [model], priors=[prior])
    assert message in specfit.ProximalGradient().accepts(problem)
    assert specfit.GaussNewton().accepts(problem) is None


def test_two_priors_on_one_quantity_are_refused():
    priors = [
        specfit.Sparse(name, scale=1 * unit, wavelet="haar") for name, unit in (("velocity", KMS), ("center", u.AA))
    ]
    problem = build_problem([gaussian_cube((6, 7))], [line()], priors=priors)
    assert "no two on the same" in specfit.ProximalGradient().accepts(problem)
