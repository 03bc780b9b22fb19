"""Maps whose pixels are coupled: curvature, errors and scales, against what dense matrices and truths say."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from scipy.optimize import lsq_linear

import sunpy_specfit as specfit
from sunpy_specfit import Status
from sunpy_specfit.core import risk
from sunpy_specfit.core.curvature import Curvature
from sunpy_specfit.core.engine import pixel_solution
from sunpy_specfit.core.posterior import probe_inverse
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import gaussian_cube, spectral_wcs
from sunpy_specfit.numerics import packed

REST = 195.119 * u.AA
KMS = u.km / u.s


def line():
    return specfit.Gaussian(REST) + specfit.Polynomial(0)


def smooth_scene(shape=(24, 24), signal_to_noise=4.0, seed=0):
    """A line whose velocity varies gently over the map; its truth in meta."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    velocity = 20 * np.sin(2 * x + y) + 8 * np.sin(7 * x)
    wavelength = REST.value + 0.0223 * (np.arange(24) - 11.5)
    center = REST.value * (1 + velocity / 299792.458)
    light = 100 * np.exp(-0.5 * ((wavelength - center[..., None]) / 0.035) ** 2) + 10
    sigma = np.full(light.shape, 100 / signal_to_noise)
    data = light + sigma * rng.standard_normal(light.shape)
    wcs = spectral_wcs(shape, wavelength * u.AA)
    return NDCube(
        data, wcs=wcs, unit=u.DN, uncertainty=StdDevUncertainty(sigma), meta={"velocity": velocity, "light": light}
    )


def problem_of(cube, model=None, *priors, **options):
    return build_problem([cube], [model or line()], priors=priors, dtype="float64", **options)


def start_of(problem):
    return pixel_solution(problem, specfit.LevenbergMarquardt(), {})[0]


def dense(product, n):
    return torch.stack([product(row) for row in torch.eye(n, dtype=torch.float64)], dim=1)


PRIORS = [
    specfit.Smooth("velocity", scale=4 * KMS),
    specfit.Smooth("intensity", "width", scale={"intensity": 1.0, "width": 2 * u.mAA}, order=2),
    specfit.TotalVariation("velocity", scale=4 * KMS),
]


@pytest.mark.parametrize("prior", PRIORS, ids=["smooth", "derived", "total variation"])
def test_gradient_of_the_curvature_is_that_of_the_objective(prior):
    problem = problem_of(smooth_scene((4, 5)), None, prior, specfit.Hinge("width", lower=34 * u.mAA, scale=1 * u.mAA))
    free = start_of(problem).requires_grad_()
    expected = torch.autograd.grad(problem.loss(free), free)[0]
    found = Curvature(problem, free.detach())
    torch.testing.assert_close(found.gradient.reshape(expected.shape), expected, rtol=1e-7, atol=1e-7)
    assert found.objective == pytest.approx(float(problem.loss(free).detach()))


def test_products_and_preconditioner_agree_with_dense_matrices():
    problem = problem_of(smooth_scene((3, 4)), line().share("width"), specfit.Smooth("velocity", scale=4 * KMS))
    curvature = Curvature(problem, problem.unflatten(problem.flatten(start_of(problem))))
    n = len(problem.flatten(curvature.free))
    assert n == 3 * 12 + 1
    matrix = dense(curvature.product, n)
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).min() > 0
    right = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solved = curvature.solve(right, tolerance=1e-12)
    torch.testing.assert_close(solved.x, torch.linalg.solve(matrix, right), rtol=1e-6, atol=1e-9)
    inverse = dense(curvature.preconditioner(), n)
    torch.testing.assert_close(inverse, inverse.T)
    assert solved.iterations < n


def test_pixels_of_one_place_in_the_curvature_of_another():
    problem = problem_of(smooth_scene((3, 4)), None, specfit.Smooth("velocity", scale=4 * KMS))
    here = start_of(problem)
    there = here + 0.01
    where = torch.arange(12) % 3 == 0
    mixed = Curvature(problem, here).replace_pixels(Curvature(problem, there), where)
    fresh = Curvature(problem, torch.where(where, there, here))
    assert mixed.objective == pytest.approx(fresh.objective)
    torch.testing.assert_close(mixed.gradient, fresh.gradient)


@pytest.mark.parametrize("shared", [False, True])
def test_errors_of_coupled_maps_are_those_of_the_inverse_matrix(shared):
    model = line().share("width") if shared else line()
    problem = problem_of(smooth_scene((9, 10)), model, specfit.Smooth("velocity", scale=6 * KMS))
    curvature = Curvature(problem, problem.unflatten(problem.flatten(start_of(problem))))
    covariance, leverage, undetermined = probe_inverse(curvature)
    n = len(problem.flatten(curvature.free))
    inverse = torch.linalg.inv(dense(curvature.product, n))
    k, pixels = problem.n_free, problem.n_pixels
    columns, own = [], 0
    for j in range(k):
        if problem.shared[j]:
            columns.append(torch.full((pixels,), n - 1))
        else:
            columns.append(torch.arange(pixels) + own * pixels)
            own += 1
    for i in range(k):
        sigma = inverse[columns[i], columns[i]].sqrt()
        found = covariance[packed.index(i, i)].sqrt()
        assert float((found / sigma - 1).abs().max()) < 0.15
        assert float((found / sigma - 1).square().mean().sqrt()) < 0.04
        for j in range(i):
            expected = inverse[columns[i], columns[j]] / sigma / inverse[columns[j], columns[j]].sqrt()
            got = covariance[packed.index(i, j)] / found / covariance[packed.index(j, j)].sqrt()
            assert float((got - expected).abs().max()) < 0.15
    data = dense(lambda v: problem.reduce(curvature.data_product(problem.unflatten(v))), n)
    assert float(leverage.sum()) == pytest.approx(float(torch.trace(inverse @ data)), rel=0.02)
    assert not undetermined.any()


@pytest.mark.parametrize(
    "priors",
    [
        [specfit.Smooth("velocity", scale=3 * KMS)],
        [specfit.Smooth("velocity", scale=3 * KMS, order=2), specfit.Smooth("amplitude", scale=0.2, logarithm=True)],
        [specfit.Smooth("velocity", scale=3 * KMS, order=1.5)],
        [specfit.TotalVariation("velocity", scale=3 * KMS)],
        [specfit.Sparse("velocity", scale=3 * KMS, wavelet="haar")],
    ],
)
def test_noise_of_a_prior_has_its_curvature_as_covariance(priors):
    problem = problem_of(smooth_scene((4, 5)), None, *priors)
    coupling = Curvature(problem, start_of(problem)).coupling
    n = problem.n_free * 20
    expected = dense(lambda v: coupling.product(v.reshape(problem.n_free, 20)).reshape(-1), n)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([coupling.noise(generator).reshape(-1) for _ in range(2500)])
    size = expected.diagonal().sqrt()
    size = torch.where(size > 0, size, 1.0)
    apart = (draws.T @ draws / len(draws) - expected) / size / size[:, None]
    assert float(apart.abs().max()) < 0.15


@pytest.mark.parametrize("shared", [False, True])
def test_draws_of_coupled_maps_have_the_covariance_of_the_inverse_matrix(shared):
    """Neighbours too: a draw is a map, not a heap of pixels."""
    model = line().share("c0") if shared else line()
    shape = (6, 7)
    cube = smooth_scene(shape)
    result = specfit.fit(cube, model, specfit.Smooth("velocity", scale=3 * KMS), dtype="float64")
    problem = problem_of(cube, model, specfit.Smooth("velocity", scale=3 * KMS))
    factor, offset = problem.layout.scales()
    free = np.stack([result[key].data.reshape(-1) for key in ("amplitude", "center", "width", "c0")])
    free = torch.as_tensor((free - offset[:, None]) / factor[:, None])
    curvature = Curvature(problem, free)
    n = len(problem.flatten(free))
    inverse = torch.linalg.inv(dense(curvature.product, n))
    expected = inverse[42:84, 42:84].numpy() * factor[1] ** 2
    draws = result.sample(700, seed=1)["center"].value.reshape(700, -1)
    size = np.sqrt(expected.diagonal())
    apart = (np.cov(draws.T) - expected) / size / size[:, None]
    assert np.abs(apart).max() < 0.2
    correlation = expected / size / size[:, None]
    assert correlation[10, 11] > 0.2  # there was something to get right
    part = result[2:4, 1:3].sample(5, seed=1)["velocity"]
    np.testing.assert_allclose(part, result.sample(5, seed=1)["velocity"][:, 2:4, 1:3])


def test_draws_know_the_middle_of_a_hole():
    shape = (14, 16)
    cube = smooth_scene(shape)
    mask = np.zeros(cube.data.shape, bool)
    mask[:, 6:] = True
    model = line().fix(amplitude=100, width=35 * u.mAA, c0=10)
    prior = specfit.Smooth("velocity", scale=3 * KMS)
    result = specfit.fit(cube, model, prior, mask=mask, dtype="float64")
    problem = problem_of(cube, model, prior, mask=mask)
    factor, offset = problem.layout.scales()
    row = problem.layout.rows["center"].start
    free = torch.as_tensor((result["center"].data.reshape(1, -1) - offset[row]) / factor[row])
    curvature = Curvature(problem, free)
    exact = torch.linalg.inv(dense(curvature.product, free.numel())).diagonal().sqrt().numpy() * factor[row]
    spread = result.sample(400, seed=2)["center"].value.std(0).reshape(-1)
    assert np.median(spread / exact) == pytest.approx(1, abs=0.05)
    assert np.all(np.abs(spread / exact - 1)[exact > 1.5 * np.median(exact)] < 0.15)


def test_a_prior_fills_pixels_without_data_and_says_so():
    cube = smooth_scene((12, 13), signal_to_noise=20)
    mask = np.zeros(cube.data.shape, bool)
    mask[5, 6] = True
    result = specfit.fit(cube, line(), mask=mask, priors=specfit.Smooth("velocity", scale=5 * KMS))
    velocity = result["velocity"]
    around = velocity.data[4:7, 5:8]
    assert abs(velocity.data[5, 6] - np.median(around)) < 5
    assert velocity.uncertainty.array[5, 6] > 1.3 * velocity.uncertainty.array[5, 5]
    assert int(result.status.data[5, 6]) & int(Status.MASKED)
    # Nothing says what the amplitude is there.
    assert np.isnan(result["amplitude"].data[5, 6])
    assert result.dof.data[5, 6] == 0


def test_calibration_where_the_truth_is_drawn_from_the_prior():
    rng = np.random.default_rng(5)
    scale, shape = 3.0, (40, 40)
    laplacian = np.zeros(shape)
    laplacian += 2 - 2 * np.cos(np.pi * np.arange(shape[0]) / shape[0])[:, None]
    laplacian = laplacian + 2 - 2 * np.cos(np.pi * np.arange(shape[1]) / shape[1])
    laplacian[0, 0] = np.inf
    from scipy.fft import idctn

    velocity = idctn(rng.standard_normal(shape) * scale / np.sqrt(laplacian), norm="ortho")
    cube = smooth_scene(shape, 10.0)
    wavelength = cube.axis_world_coords_values("em.wl")[0].to_value(u.AA)
    center = REST.value * (1 + velocity / 299792.458)
    light = 100 * np.exp(-0.5 * ((wavelength - center[..., None]) / 0.035) ** 2) + 10
    data = light + 10 * rng.standard_normal(light.shape)
    seen = NDCube(data, wcs=cube.wcs, unit=u.DN, uncertainty=StdDevUncertainty(np.full(light.shape, 10.0)))
    result = specfit.fit(seen, line(), priors=specfit.Smooth("velocity", scale=scale * KMS))
    pull = (result["velocity"].data - velocity) / result["velocity"].uncertainty.array
    assert 0.93 < pull.std() < 1.07
    assert abs(np.mean(np.abs(pull) < 1) - 0.683) < 0.04
    plain = specfit.fit(seen, line())
    assert result["velocity"].uncertainty.array.mean() < 0.8 * plain["velocity"].uncertainty.array.mean()


@pytest.mark.parametrize("prior", [specfit.Smooth("velocity"), specfit.TotalVariation("velocity")], ids=repr)
def test_the_scale_that_is_found_is_nearly_the_best(prior, monkeypatch):
    monkeypatch.setattr(risk, "_MOST_PROBES", 2)  # more take minutes where maps are no linear functions of the data
    cube = smooth_scene((18, 18), 4.0)
    truth = cube.meta["velocity"]

    def error(result):
        return float(np.sqrt(np.mean((result["velocity"].data - truth) ** 2)))

    automatic = specfit.fit(cube, line(), priors=prior)
    given = [error(specfit.fit(cube, line(), priors=type(prior)("velocity", scale=s * KMS))) for s in (2, 4, 8, 16, 32)]
    assert error(automatic) < 1.1 * min(given)
    assert error(automatic) < 0.5 * error(specfit.fit(cube, line()))
    entry = automatic.meta["prior_scales"][f"{prior.name}:velocity"]
    assert entry["unit"] == "km / s"
    assert entry["tried"][int(np.argmin(entry["error_of_prediction"]))] == pytest.approx(entry["scale"], rel=0.16)


def test_scales_do_not_depend_on_the_map_size_or_a_crop_of_wavelengths():
    cube = smooth_scene((24, 24), 6.0)
    prior = specfit.Smooth("velocity", scale=6 * KMS)
    whole = specfit.fit(cube, line(), priors=prior)["velocity"]
    part = specfit.fit(cube[4:20, 4:20], line(), priors=prior)["velocity"]
    inner = np.abs(whole.data[8:16, 8:16] - part.data[4:12, 4:12]) / whole.uncertainty.array[8:16, 8:16]
    assert inner.max() < 0.3
    cropped = specfit.fit(cube[..., 3:-3], line(), priors=prior)["velocity"]
    assert np.median(np.abs(whole.data - cropped.data) / whole.uncertainty.array) < 0.5


def test_an_operator_that_mixes_pixels_needs_a_given_scale():
    class Through(specfit.Operator):
        name = "through"
        mixes_pixels = True

        def apply(self, light, x, shape):
            return light

    with pytest.raises(ValueError, match="give the scale"):
        specfit.fit(smooth_scene((3, 4)), line() | Through(), priors=specfit.Smooth("velocity"))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_descent_ends_where_gauss_newton_does(solver):
    cube = smooth_scene((8, 9), 8.0)
    priors = (specfit.Smooth("velocity", scale=8 * KMS), specfit.Hinge("width", lower=36 * u.mAA, scale=1 * u.mAA))
    best = specfit.fit(cube, line(), priors, solver=specfit.GaussNewton(tolerance=1e-4))
    other = specfit.fit(cube, line(), priors, solver=solver)
    for key in best.parameters:
        distance = np.abs(other[key].data - best[key].data) / best[key].uncertainty.array
        assert distance.max() < 0.05, key
    assert np.all(other.status.data & int(Status.CONVERGED))


def test_bounds_hold_on_coupled_maps_whoever_solves():
    cube = smooth_scene((8, 9), 5.0)
    model = specfit.Gaussian(REST).bound(width=(36 * u.mAA, 60 * u.mAA)) + specfit.Polynomial(0)
    prior = specfit.Smooth("velocity", scale=8 * KMS)
    for solver in ("gauss_newton", "lbfgs", "adam"):
        result = specfit.fit(cube, model, prior, solver=solver)
        width = result["width"].data
        assert width.min() >= 0.036 - 1e-12
        assert width.max() <= 0.060 + 1e-12
        at_bound = (result.status.data & int(Status.AT_BOUND)) > 0
        assert at_bound.any()
        assert not at_bound.all()


@pytest.mark.parametrize(("low", "high"), [(None, 0.25), (0.15, None), (0.1, 0.25)])
def test_bounded_linear_maps_are_those_of_bounded_least_squares(low, high):
    shape, rng = (7, 8), np.random.default_rng(3)
    noisy = rng.normal(0.2, 0.5, (*shape, 3))
    cube = NDCube(
        noisy, wcs=spectral_wcs(shape, np.arange(3) * u.AA), uncertainty=StdDevUncertainty(np.full_like(noisy, 0.3))
    )
    limits = tuple(None if v is None else v * u.one for v in (low, high))
    found = specfit.fit(cube, specfit.Polynomial(0).bound(c0=limits), specfit.Smooth("c0", scale=0.1))["c0"].data
    place = np.arange(56).reshape(shape)
    pairs = [(place[1:], place[:-1]), (place[:, 1:], place[:, :-1])]
    ends = np.concatenate([np.stack([a.ravel(), b.ravel()], 1) for a, b in pairs])
    rows = np.zeros((len(ends), 56))
    rows[np.arange(len(ends)), ends[:, 0]], rows[np.arange(len(ends)), ends[:, 1]] = 1 / 0.1, -1 / 0.1
    matrix = np.concatenate([np.eye(56) * np.sqrt(3) / 0.3, rows])
    right = np.concatenate([noisy.mean(-1).ravel() * np.sqrt(3) / 0.3, np.zeros(len(ends))])
    bounds = (-np.inf if low is None else low, np.inf if high is None else high)
    best = lsq_linear(matrix, right, bounds, method="bvls", tol=1e-12).x.reshape(shape)
    assert 0.05 < np.mean(np.isin(best, bounds)) < 0.95
    assert np.abs(found - best).max() < 0.01 * 0.1


def test_a_prior_with_nothing_but_an_energy_goes_to_a_solver_of_gradients():
    prior = specfit.Penalty("velocity", lambda v: ((v - v.mean()) / 5).square().sum(), couples_pixels=True)
    cube = gaussian_cube((4, 5), signal_to_noise=10, seed=1)
    result = specfit.fit(cube, line(), prior)
    assert result.meta["solver"] == "Adam()"
    assert np.std(result["velocity"].data) < np.std(specfit.fit(cube, line())["velocity"].data)
    with pytest.raises(ValueError, match="use solver='lbfgs'"):
        specfit.fit(cube, line(), prior, solver="gauss_newton")


def test_a_singular_operator_leaves_degrees_of_freedom_within_their_bounds():
    class Average(specfit.Operator):
        """All pixels see the mean of the map: nothing tells one from another."""

        name = "average"
        mixes_pixels = True

        def apply(self, light, x, shape):
            return light.mean(-1, keepdim=True).expand(light.shape)

    result = specfit.fit(smooth_scene((4, 5)), line() | Average())
    samples = np.isfinite(result.residual().data).sum(-1)
    assert (result.dof.data <= samples).all()
    assert (result.dof.data >= samples - 4).all()


class Bins(specfit.Model):
    """A row of overlapping bands, each with a strength: a vector in every pixel."""

    name = "bins"
    linear = ("bins",)
    bins = specfit.Parameter("data", shape=(3,))

    def evaluate(self, x, bins):
        return sum(bins[number] * torch.exp(-0.5 * ((x - 5000 - place) / 0.6) ** 2) for number, place in PLACES)


PLACES = tuple(enumerate((-1.0, 0.0, 1.0)))


@pytest.mark.parametrize("order", [1, 1.5, 2])
def test_maps_of_a_vector_are_those_of_the_dense_system(order):
    shape, rng = (5, 6), np.random.default_rng(0)
    x = 5000 + np.linspace(-2.5, 2.5, 9)
    bands = np.stack([np.exp(-0.5 * ((x - 5000 - place) / 0.6) ** 2) for _, place in PLACES])
    light = rng.normal(size=(*shape, 3)).cumsum(0).cumsum(1) @ bands
    sigma = rng.uniform(0.5, 1.0, light.shape)
    data = light + sigma * rng.standard_normal(light.shape)
    wcs = spectral_wcs(shape, x * u.AA)
    cube = NDCube(data, wcs=wcs, unit=u.DN, uncertainty=StdDevUncertainty(sigma))
    result = specfit.fit(cube, Bins(), specfit.Smooth("bins", scale=0.7, order=order))
    # Differences of neighbours, of differences, and (order 1.5) the power of a matrix by its eigenvectors.
    eye = [np.eye(n) for n in shape]
    step = [np.diff(one, axis=0) for one in eye]
    if order == 2:
        rows = [np.kron(np.diff(eye[0], 2, axis=0), eye[1]), np.kron(eye[0], np.diff(eye[1], 2, axis=0))]
        rows += [np.sqrt(2) * np.kron(*step)]
    else:
        rows = [np.kron(step[0], eye[1]), np.kron(eye[0], step[1])]
    values, vectors = np.linalg.eigh(np.concatenate(rows).T @ np.concatenate(rows))
    power = 1.5 if order == 1.5 else 1
    stiffness = (vectors * np.where(values > 1e-9, np.maximum(values, 1e-9) ** power, 0)) @ vectors.T / 0.7**2
    weight = sigma.reshape(-1, 9) ** -2.0
    matrix = np.zeros((30, 3, 30, 3))
    for row in range(3):
        matrix[:, row, :, row] = stiffness
    for pixel in range(30):
        matrix[pixel, :, pixel] += (bands * weight[pixel]) @ bands.T
    right = (weight * data.reshape(-1, 9)) @ bands.T
    inverse = np.linalg.inv(matrix.reshape(90, 90))
    expected = (inverse @ right.reshape(-1)).reshape(30, 3).T
    error = np.sqrt(inverse.diagonal()).reshape(30, 3).T
    found = result["bins"]
    assert np.abs(found.data.reshape(3, -1) - expected).max() < 0.01 * error.min()
    np.testing.assert_allclose(found.uncertainty.array.reshape(3, -1), error, rtol=0.2)
    assert np.all(np.isfinite(specfit.fit(cube, Bins(), specfit.Smooth("bins", order=order))["bins"].data))


class Lost(specfit.Solver):
    """Loses a pixel, and says that all is well."""

    name = "lost"

    def solve(self, problem, start):
        free = start[0].clone()
        free[:, 3] = torch.nan
        status = torch.full((problem.n_pixels,), int(specfit.Status.CONVERGED), dtype=torch.int32)
        return specfit.Solution(free=free, status=status)


def test_what_is_not_a_number_has_not_converged():
    cube = gaussian_cube((2, 3), seed=1)
    result = specfit.fit(cube, specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0), solver=Lost())
    lost = result.status.data.ravel() & specfit.Status.FAILED > 0
    assert lost.tolist() == [False, False, False, True, False, False]
    assert np.array_equal(result.status.data.ravel() & specfit.Status.CONVERGED > 0, ~lost)
    assert np.isnan(result["amplitude"].data.ravel()[3])
    assert result["amplitude"].mask.ravel().tolist() == lost.tolist()
