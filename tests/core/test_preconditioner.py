"""The inverse among cosines against dense matrices, and what it saves."""

import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit.core import curvature as curvature_module
from sunpy_specfit.core import preconditioner
from sunpy_specfit.core.curvature import Curvature
from sunpy_specfit.core.engine import pixel_solution
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import gaussian_cube
from sunpy_specfit.numerics.conjugate_gradient import conjugate_gradient
from sunpy_specfit.plugins.priors.differences import Differences

KMS = u.km / u.s
LINE = specfit.Gaussian(195.119 * u.AA).bound(center=(194, 196) * u.AA) + specfit.Polynomial(0).bound(c0=(0, None))
STRONG = {
    "velocity": [specfit.Smooth("velocity", scale=0.3 * KMS)],
    "bending": [specfit.Smooth("velocity", scale=0.3 * KMS, order=2)],
    "several": [specfit.Smooth("velocity", "width", scale={"velocity": 0.3 * KMS, "width": 0.2 * u.mAA}, order=1.5)],
    "derived": [specfit.Smooth("intensity", scale=0.1), specfit.Smooth("velocity", scale=0.3 * KMS)],
    "logarithm": [specfit.Smooth("amplitude", scale=0.003, logarithm=True)],
    "all": [specfit.Smooth("amplitude", "center", "width", "c0", scale=0.01, logarithm=True, order=1.5)],
}


def curvature_of(priors, model=LINE, shape=(7, 8), dtype="float64", masked=True):
    cube = gaussian_cube(shape, signal_to_noise=8, seed=2)
    mask = np.zeros(cube.data.shape, bool)
    if masked:
        mask[2:4, 3:5] = True
    problem = build_problem([cube], [model], priors=priors, mask=mask, dtype=dtype)
    free = pixel_solution(problem, specfit.LevenbergMarquardt(), {})[0]
    return Curvature(problem, problem.unflatten(problem.flatten(free)))


def dense(product, n):
    return torch.stack([product(row) for row in torch.eye(n, dtype=torch.float64)], dim=1)


@pytest.fixture
def blocks_only(monkeypatch):
    def without():
        monkeypatch.setattr(curvature_module, "cosine_preconditioner", lambda *arguments: None)

    return without


@pytest.mark.parametrize("priors", STRONG.values(), ids=STRONG)
def test_it_is_symmetric_and_never_negative(priors):
    curvature = curvature_of(priors)
    inverse = dense(curvature.preconditioner(), curvature.free.numel())
    torch.testing.assert_close(inverse, inverse.T, rtol=1e-9, atol=1e-12 * float(inverse.abs().max()))
    values = torch.linalg.eigvalsh(inverse)
    assert values[0] > -1e-12 * values[-1]


@pytest.mark.parametrize("priors", ["several", "all"])
def test_it_is_the_inverse_where_all_pixels_are_alike(priors):
    curvature = curvature_of(STRONG[priors], masked=False)
    # Every pixel as the first: what is left to differ is nothing.
    alike = torch.ones_like(curvature.free) * curvature.free[:, :1]
    problem = curvature.problem
    one = Curvature(problem, alike)
    matrix = one.data.matrix[:, :1].expand(-1, problem.n_pixels).clone()
    one = Curvature(problem, alike, data=(one.pixel_objective, type(one.data)(matrix), one.vector))
    n = alike.numel()
    product = dense(one.preconditioner(), n) @ dense(one.product, n)
    torch.testing.assert_close(product, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("priors", STRONG.values(), ids=STRONG)
def test_strongly_coupled_maps_take_few_steps(priors, dtype, blocks_only):
    curvature = curvature_of(priors, shape=(20, 21), dtype=dtype)
    right = -curvature.gradient
    rounding = 1e-6 if dtype == "float32" else 1e-10
    found = curvature.solve(right, tolerance=rounding, error=1e-3)
    exact = curvature.solve(right, tolerance=rounding)
    apart = found.x - exact.x
    blocks_only()
    other = curvature.solve(right, tolerance=rounding, error=1e-3, max_iterations=3000)
    assert found.iterations < 0.3 * other.iterations
    left = float((apart * curvature.product(apart)).sum().clamp_min(0) / curvature.problem.n_pixels) ** 0.5
    assert left < 2e-3


def test_a_shared_number_stands_alone():
    curvature = curvature_of(STRONG["velocity"], model=LINE.share("width"))
    n = len(curvature.gradient)
    inverse = dense(curvature.preconditioner(), n)
    torch.testing.assert_close(inverse, inverse.T)
    matrix = dense(curvature.product, n)
    assert inverse[-1, -1] == pytest.approx(1 / matrix[-1, -1])
    solved = curvature.solve(-curvature.gradient, tolerance=1e-12)
    torch.testing.assert_close(matrix @ solved.x, -curvature.gradient, rtol=1e-6, atol=1e-6)


def test_weak_coupling_is_left_to_the_blocks(blocks_only):
    curvature = curvature_of([specfit.Smooth("velocity", scale=100 * KMS)])
    right = torch.randn(curvature.free.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = curvature.preconditioner()(right)
    blocks_only()
    assert torch.equal(curvature.preconditioner()(right), found)


@pytest.mark.parametrize("ratio", [3.0, 30.0, 300.0])
def test_the_steps_of_blocks_are_as_foretold(ratio):
    # Pixels that all know the same of themselves, and neighbours' differences: what the choice is made by.
    shape = (48, 50)
    differences = Differences(shape, (0, 1), 1)
    stiffness = ratio / 8
    block = 1 + stiffness * differences.diagonal(torch.zeros(48 * 50, dtype=torch.float64))
    data = torch.randn(48 * 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = conjugate_gradient(
        lambda v: v + stiffness * differences.product(v),
        data,
        preconditioner=lambda r: r / block,
        tolerance=1e-9,
        error=preconditioner._ERROR * len(data) ** 0.5,
    )
    highest, own = torch.tensor([[ratio]]), torch.ones(1, 4)
    # It is a bound for the worst data; the error that ends the steps is itself an estimate.
    assert 0.6 < found.iterations / preconditioner.steps_of_blocks(highest, own).item() < 1.3
