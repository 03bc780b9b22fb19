"""How often the errors of coupled maps hold the truth, for truths drawn from the prior itself."""

import astropy.units as u
import numpy as np
import pytest
import scipy.fft
import scipy.sparse as sp
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from scipy.sparse.linalg import splu

import sunpy_specfit as specfit
from sunpy_specfit.data import gaussian_cube, spectral_wcs

SHAPE = (36, 36)
# A scale found from a map has an error of its own, which falls with the number of pixels: here it is 6 %.
LARGE = (96, 96)
SEEDS = range(5)


def differences(order):
    """Of neighbouring pixels of a flat map, one a row: written out with Kronecker products."""
    eye = [np.eye(n) for n in SHAPE]
    step = [np.diff(one, axis=0) for one in eye]
    if order < 2:
        return np.concatenate([np.kron(step[0], eye[1]), np.kron(eye[0], step[1])])
    twice = [np.diff(one, 2, axis=0) for one in eye]
    return np.concatenate(
        [np.kron(twice[0], eye[1]), np.kron(eye[0], twice[1]), np.sqrt(2) * np.kron(step[0], step[1])]
    )


@pytest.fixture(scope="module", params=[1, 1.5, 2])
def drawing(request):
    """The order, and a function that draws maps from ``Smooth`` of that order and a scale of one."""
    order = request.param
    d = differences(order)
    values, vectors = np.linalg.eigh(d.T @ d)
    power = 1.5 if order == 1.5 else 1
    spread = np.where(values > 1e-9, values.clip(1e-9) ** (-power / 2), 0.0)
    return order, lambda rng: (vectors @ (spread * rng.standard_normal(len(spread)))).reshape(SHAPE)


def large_draw(order, rng):
    """The same on a large map, by sparse matrices; for order 1.5, which has none, among cosines."""
    if order == 1.5:
        squared = np.add.outer(*(2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in LARGE))
        squared[0, 0] = np.inf
        return scipy.fft.idctn(rng.standard_normal(LARGE) * squared**-0.75, norm="ortho")
    one = [sp.diags([-1.0, 1.0], [0, 1], shape=(n - 1, n)) for n in LARGE]
    steps = one if order == 1 else [sp.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(n - 2, n)) for n in LARGE]
    rows = [sp.kron(steps[0], sp.eye(LARGE[1])), sp.kron(sp.eye(LARGE[0]), steps[1])]
    if order == 2:
        rows.append(np.sqrt(2) * sp.kron(*one))
    d = sp.vstack(rows)
    curvature = (d.T @ d + 1e-9 * sp.eye(d.shape[1])).tocsc()
    return splu(curvature).solve(d.T @ rng.standard_normal(d.shape[0])).reshape(LARGE)


def flat_light(truth, sigma, rng):
    data = truth[..., None] + 2 * sigma * rng.standard_normal((*truth.shape, 4))
    wcs = spectral_wcs(truth.shape, np.arange(1, 5) * u.AA)
    return NDCube(data, wcs=wcs, unit=u.DN, uncertainty=StdDevUncertainty(np.full(data.shape, 2 * sigma)))


def shares(pulls):
    size = np.abs(np.concatenate(pulls))
    return 100 * np.mean(size < 1), 100 * np.mean(size < 2)


def test_of_linear_maps(drawing):
    order, draw = drawing
    pulls, spreads = [], []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        truth = 7 + 0.5 * draw(rng)
        prior = specfit.Smooth("c0", order=order, scale=0.5 * u.DN)
        result = specfit.fit(flat_light(truth, 1.0, rng), specfit.Polynomial(0), prior)
        sigma = result["c0"].uncertainty.array
        pulls.append((result["c0"].data - truth) / sigma)
        spreads.append(result.sample(50)["c0"].value.std(0) / sigma)
    one, two = shares(pulls)
    assert one == pytest.approx(68, abs=4)
    assert two == pytest.approx(95, abs=2)
    assert np.mean(spreads) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("order", [1, 1.5, 2])
def test_of_linear_maps_whose_scale_is_found(order):
    pulls, spreads, scales = [], [], []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        truth = 7 + 0.5 * large_draw(order, rng)
        result = specfit.fit(
            flat_light(truth, 1.0, rng), specfit.Polynomial(0), specfit.Smooth("c0", order=order, scale="auto")
        )
        scales.append(result.meta["prior_scales"]["smooth:c0"]["scale"])
        sigma = result["c0"].uncertainty.array
        pulls.append((result["c0"].data - truth) / sigma)
        spreads.append(result.sample(50)["c0"].value.std(0) / sigma)
    one, two = shares(pulls)
    assert one == pytest.approx(68, abs=4)
    assert two == pytest.approx(95, abs=2)
    assert np.mean(spreads) == pytest.approx(1, abs=0.02)
    assert np.median(scales) == pytest.approx(0.5, rel=0.1)


def test_of_velocities(drawing):
    order, draw = drawing
    model, pulls = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0), []
    for seed in SEEDS:
        truth = {"velocity": 1.0 * draw(np.random.default_rng(seed))}
        cube = gaussian_cube(SHAPE, signal_to_noise=15, truth=truth, seed=seed)
        result = specfit.fit(cube, model, specfit.Smooth("velocity", order=order, scale=1.0 * u.km / u.s))
        pulls.append((result["velocity"].data - truth["velocity"]) / result["velocity"].uncertainty.array)
    one, two = shares(pulls)
    assert one == pytest.approx(68, abs=4)
    assert two == pytest.approx(95, abs=2)


def test_edges_are_outside_of_what_a_smooth_prior_foresees():
    # The errors are those of a map without edges: beside one they are too small, and in the plains too large.
    x = np.arange(SHAPE[1])
    truth = np.broadcast_to(np.where(x < 18, 0.0, 12.0), SHAPE)
    result = specfit.fit(flat_light(truth, 1.0, np.random.default_rng(0)), specfit.Polynomial(0), specfit.Smooth("c0"))
    pull = np.abs(result["c0"].data - truth) / result["c0"].uncertainty.array
    assert np.mean(pull[:, 17:19] < 1) < 0.5
    assert np.mean(pull[:, [*range(9), *range(27, 36)]] < 1) > 0.6
