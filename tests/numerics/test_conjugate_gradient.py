import pytest
import torch

from sunpy_specfit.numerics.conjugate_gradient import conjugate_gradient


def system(n=30, seed=0, condition=1e4):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    a = q @ torch.diag(torch.logspace(0, torch.log10(torch.tensor(condition)).item(), n, dtype=torch.float64)) @ q.T
    return a, torch.randn(3, n, generator=generator, dtype=torch.float64)


def test_agrees_with_the_dense_solution():
    a, b = system()
    solved = conjugate_gradient(lambda v: v @ a, b[0], tolerance=1e-12)
    torch.testing.assert_close(solved.x, torch.linalg.solve(a, b[0]), rtol=1e-8, atol=1e-10)
    assert solved.residual.shape == ()
    assert solved.residual < 1e-12


def test_several_right_hand_sides_agree_with_one_by_one():
    a, b = system()
    b[1] = 0.0
    b[2] *= 1e-6
    together = conjugate_gradient(lambda v: v @ a, b, tolerance=1e-12)
    torch.testing.assert_close(together.x, torch.linalg.solve(a, b.T).T, rtol=1e-8, atol=1e-12)
    assert together.residual.shape == (3,)
    assert torch.all(together.x[1] == 0)


def test_a_preconditioner_saves_iterations():
    a, b = system()
    scale = torch.logspace(0, 4, 30, dtype=torch.float64)
    a = scale[:, None] * (a / 1e4 + torch.eye(30, dtype=torch.float64)) * scale
    diagonal = a.diagonal()
    solved = conjugate_gradient(
        lambda v: v @ a, b[0], preconditioner=lambda r: r / diagonal, tolerance=1e-10, max_iterations=200
    )
    plain = conjugate_gradient(lambda v: v @ a, b[0], tolerance=1e-10, max_iterations=200)
    assert solved.iterations < plain.iterations / 2
    torch.testing.assert_close(a @ solved.x, b[0], rtol=1e-5, atol=1e-5)


def test_starts_where_it_is_told():
    a, b = system()
    exact = torch.linalg.solve(a, b[0])
    assert conjugate_gradient(lambda v: v @ a, b[0], x0=exact, tolerance=1e-6).iterations == 0
    near = conjugate_gradient(lambda v: v @ a, b[0], x0=exact + 1e-3, tolerance=1e-12)
    torch.testing.assert_close(near.x, exact, rtol=1e-8, atol=1e-10)


def test_stops_at_the_limit_and_says_how_far_it_came():
    a, b = system()
    solved = conjugate_gradient(lambda v: v @ a, b[0], tolerance=1e-12, max_iterations=3)
    assert solved.iterations == 3
    assert solved.residual > 1e-12


@pytest.mark.parametrize("batch", [(), (2,)])
def test_directions_without_curvature_stay_at_zero(batch):
    curvature = torch.tensor([2.0, 0.0, 5.0], dtype=torch.float64)
    b = torch.tensor([2.0, 0.0, 5.0], dtype=torch.float64).expand(*batch, 3)
    solved = conjugate_gradient(lambda v: curvature * v, b)
    torch.testing.assert_close(solved.x, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).expand(*batch, 3))
    hopeless = conjugate_gradient(lambda v: -v, b)
    assert torch.all(torch.isfinite(hopeless.x))


@pytest.mark.parametrize("condition", [1e2, 1e6])
def test_stops_when_the_error_that_is_left_is_as_small_as_asked(condition):
    a, b = system(n=400, condition=condition)
    exact = torch.linalg.solve(a, b.T).T

    def error(x):
        e = x - exact
        return ((e @ a) * e).sum(-1).sqrt()

    goal = 0.01 * float(error(torch.zeros_like(b)).mean())
    solved = conjugate_gradient(lambda v: v @ a, b, tolerance=0.0, error=goal, max_iterations=5000)
    assert float(error(solved.x).max()) < 2 * goal
    exactly = conjugate_gradient(lambda v: v @ a, b, tolerance=1e-9, max_iterations=5000)
    assert solved.iterations < 0.7 * exactly.iterations


def test_a_split_matrix_has_the_same_solution_in_as_many_steps():
    a, b = system(condition=100.0)
    diagonal = a.diagonal()
    options = {"preconditioner": lambda v: v / diagonal, "tolerance": 1e-10}
    whole = conjugate_gradient(lambda v: v @ a, b, **options)
    split = conjugate_gradient(lambda v: v @ a - diagonal * v, b, split=True, **options)
    torch.testing.assert_close(split.x, whole.x)
    assert abs(split.iterations - whole.iterations) <= 1
