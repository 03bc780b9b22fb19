"""How often the errors of coupled maps hold the truth, for truths drawn from the prior itself."""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.data import gaussian_cube, spectral_wcs

SHAPE = (36, 36)
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


def flat_light(truth, sigma, rng):
    data = truth[..., None] + 2 * sigma * rng.standard_normal((*SHAPE, 4))
    wcs = spectral_wcs(SHAPE, np.arange(1, 5) * u.AA)
    return NDCube(data, wcs=wcs, unit=u.DN, uncertainty=StdDevUncertainty(np.full(data.shape, 2 * sigma)))


def shares(pulls):
    size = np.abs(np.concatenate(pulls))
    return 100 * np.mean(size < 1), 100 * np.mean(size < 2)


@pytest.mark.parametrize("how", ["known", "auto"])
def test_of_linear_maps(drawing, how):
    order, draw = drawing
    pulls, spreads = [], []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        truth = 7 + 0.5 * draw(rng)
        scale = 0.5 * u.DN if how == "known" else "auto"
        prior = specfit.Smooth("c0", order=order, scale=scale)
        result = specfit.fit(flat_light(truth, 1.0, rng), specfit.Polynomial(0), prior)
        sigma = result["c0"].uncertainty.array
        pulls.append((result["c0"].data - truth) / sigma)
        spreads.append(result.sample(50)["c0"].value.std(0) / sigma)
    one, two = shares(pulls)
    # A scale found from one map as small as these is off by a sixth, typically (that of SURE's lowest place even with
    # an exact trace), which the errors leave out: of five maps' mean it leaves three per cent.
    assert one == pytest.approx(68, abs=4 if how == "known" else 9)
    assert two == pytest.approx(95, abs=2 if how == "known" else 5)
    assert np.mean(spreads) == pytest.approx(1, abs=0.02)


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
