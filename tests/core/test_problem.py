"""The three views of one problem agree: per-pixel quadratics, matrix-free products, a scalar."""

import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit.core.quantities import Quantities
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import gaussian_cube, weak_field_cube

REST = 195.119 * u.AA


def make(model=None, *, loss="gaussian", **options):
    cube = gaussian_cube((3, 5), signal_to_noise=8, seed=2)
    model = model or specfit.Gaussian(REST) + specfit.Polynomial(1)
    return build_problem([cube], [model], loss=loss, dtype="float64", **options)


def numbers(problem, seed=0):
    """Plausible free numbers, different in every pixel."""
    generator = torch.Generator().manual_seed(seed)
    typical = {"amplitude": 0.8, "center": 0.1, "width": 1.5, "c0": 0.1, "c1": 0.01}
    rows = [typical[key.rpartition(".")[2]] for key in problem.layout.free_keys]
    free = torch.tensor(rows, dtype=torch.float64)[:, None]
    return free * (1 + 0.2 * torch.rand(len(rows), problem.n_pixels, generator=generator, dtype=torch.float64))


VARIANTS = {
    "plain": {},
    "tied": {
        "model": (specfit.Gaussian(REST, label="a") + specfit.Gaussian(REST, label="b") + specfit.Polynomial(0))
        .tie("b.center", "a.center", offset=60 * u.mAA)
        .tie("b.width", "a.width", factor=1.5)
    },
    "fixed map": {
        "model": specfit.Gaussian(REST).fix(width=np.linspace(0.03, 0.04, 15).reshape(3, 5) * u.AA)
        + specfit.Polynomial(0)
    },
    "shared": {"model": specfit.Gaussian(REST).share("width") + specfit.Polynomial(0)},
    "student_t": {"loss": "student_t"},
    "huber": {"loss": "huber"},
}
each_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=list(VARIANTS))


@each_variant
def test_the_objective_is_one(options):
    problem = make(**options)
    free = numbers(problem)
    objective, _, _ = problem.linearize(free)
    assert float(objective.sum()) == pytest.approx(float(problem.loss(free)), rel=1e-12)
    assert float(problem.whole().objective(free).sum()) == pytest.approx(float(problem.loss(free)), rel=1e-12)


@each_variant
def test_the_blocks_gradient_is_that_of_the_scalar(options):
    problem = make(**options)
    free = numbers(problem)
    _, _, vector = problem.linearize(free)
    gradient = torch.func.grad(problem.loss)(free)
    torch.testing.assert_close(-vector, gradient, rtol=1e-8, atol=1e-8 * float(gradient.abs().max()))


@each_variant
def test_matrix_free_products_are_the_blocks(options):
    problem = make(**options)
    if problem.loss_name != "gaussian":
        pytest.skip("the residual is that of Gaussian noise; robust weights come on top")
    free = numbers(problem)
    direction = torch.randn(free.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, blocks, vector = problem.linearize(free)
    product = problem.vjp(free, problem.jvp(free, direction))
    torch.testing.assert_close(blocks.matvec(direction), product, rtol=1e-8, atol=1e-8 * float(product.abs().max()))
    torch.testing.assert_close(-vector, problem.vjp(free, problem.residual(free)), rtol=1e-8, atol=1e-6)


def test_the_adjoint_is_the_transpose():
    problem = make()
    free = numbers(problem)
    generator = torch.Generator().manual_seed(3)
    direction = torch.randn(free.shape, generator=generator, dtype=torch.float64)
    image = problem.jvp(free, direction)
    other = torch.randn(image.shape, generator=generator, dtype=torch.float64)
    left, right = float((image * other).sum()), float((direction * problem.vjp(free, other)).sum())
    assert left == pytest.approx(right, rel=1e-10)


def test_a_block_does_not_depend_on_how_the_map_is_cut():
    cube = gaussian_cube((9, 11), signal_to_noise=6, seed=5)
    model = specfit.Gaussian(REST) + specfit.Polynomial(0)
    whole = specfit.fit(cube, model)
    cut = specfit.fit(cube, model, chunks=7)
    for key in whole:
        np.testing.assert_allclose(
            (whole[key].data - cut[key].data) / whole[key].uncertainty.array, 0.0, atol=1e-3, err_msg=key
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_changes_nothing_that_matters(dtype):
    cube = gaussian_cube((9, 11), signal_to_noise=1000, seed=6)
    model = specfit.Gaussian(REST) + specfit.Polynomial(0)
    result = specfit.fit(cube, model, dtype=dtype)
    truth = cube.meta["truth"]
    for key, name in (("velocity", "velocity"), ("width", "width"), ("amplitude", "amplitude"), ("c0", "background")):
        pull = (result[key].data - truth[name]) / result[key].uncertainty.array
        assert 0.8 < pull.std() < 1.25, key
        assert abs(pull.mean()) < 0.4, key
    reference = specfit.fit(cube, model, dtype="float64", solver=specfit.LevenbergMarquardt(tolerance=1e-8))
    for key in result:
        distance = (result[key].data - reference[key].data) / reference[key].uncertainty.array
        assert np.abs(distance).max() < 1e-3, key


def test_what_is_one_quadratic_says_so():
    cube, model = weak_field_cube((4, 5), seed=1), specfit.WeakField("Mg I 5172.7")
    flat = specfit.Smooth("b_los", scale=50 * u.G)

    def quadratic(*priors, model=model):
        return build_problem([cube], [model], priors=priors).is_quadratic

    assert quadratic()
    assert quadratic(flat)
    assert not quadratic(flat, specfit.Smooth("b_trans", scale=50 * u.G))  # of a quantity that is no linear one
    assert not quadratic(specfit.TotalVariation("b_los", scale=50 * u.G))
    assert not quadratic(flat, model=model.bound(b_los=(-100, 100) * u.G))


@each_variant
def test_derivatives_of_quantities_are_those_of_their_maps(options):
    problem = make(**options)
    names, transform = [*problem.layout.parameters, *problem.layout.derived], problem.transform
    quantities, whole, free = (
        Quantities(problem.layout, names, problem.physical_auxiliary),
        problem.whole(),
        numbers(problem),
    )
    maps, columns = quantities.linearize(whole.theta(free), transform)
    for j, column in enumerate(columns):
        unit = torch.zeros_like(free)
        unit[j] = 1.0
        found, along = torch.func.jvp(lambda f: quantities.maps(transform @ f + whole.base), (free,), (unit,))
        for name in names:
            torch.testing.assert_close(maps[name], found[name])
            torch.testing.assert_close(column[name], along[name])
