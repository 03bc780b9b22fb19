"""Systems of coupled maps in single and double precision."""

import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit.core.curvature import Curvature
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import gaussian_cube
from sunpy_specfit.numerics import packed


def problem_of(shape, order):
    cube = gaussian_cube(shape, signal_to_noise=4, seed=1)
    prior = specfit.Smooth("c0", scale=20)
    return build_problem([cube], [specfit.Polynomial(order)], priors=[prior], dtype="float64")


@pytest.mark.parametrize("away", [1.0, 1e4, 1e7])
def test_systems_in_single_precision_are_as_exact_as_asked(away):
    """From one sigma away and from far."""
    problem = problem_of((40, 41), 2)
    curvature = Curvature(problem, torch.zeros((3, problem.n_pixels), dtype=torch.float64))
    # The right-hand side of a step of so many sigma.
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn((3, problem.n_pixels), generator=generator, dtype=torch.float64)
    right = away * problem.reduce(packed.lower_product(packed.cholesky(curvature.blocks.matrix), noise))
    found = curvature.solve(right, tolerance=1e-12, error=1e-3)
    # With a preconditioner at hand all is in double precision.
    exact = curvature.solve(right, tolerance=1e-12, precondition=curvature.preconditioner())
    apart = found.x - exact.x
    assert float(apart @ curvature.product(apart)) ** 0.5 < 2e-3 * problem.n_pixels**0.5
    assert found.x.dtype == torch.float64


def test_what_single_precision_cannot_hold_stays_in_double():
    problem = problem_of((4, 5), 0)
    free = torch.zeros((1, problem.n_pixels), dtype=torch.float64)
    objective, blocks, vector = problem.linearize(free)
    assert Curvature(problem, free)._in_single()[0] is not None
    large = Curvature(problem, free, data=(objective, type(blocks)(1e30 * blocks.matrix), vector))
    assert large._in_single() == (None, None)
