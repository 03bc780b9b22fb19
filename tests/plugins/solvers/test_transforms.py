"""Numbers without limits that stand for numbers with them."""

import pytest
import torch

from sunpy_specfit.plugins.solvers.transforms import Transform

LOWER = torch.tensor([[-torch.inf], [1.0], [-torch.inf], [2.0]], dtype=torch.float64)
UPPER = torch.tensor([[torch.inf], [torch.inf], [3.0], [4.0]], dtype=torch.float64)
SCALE = torch.full((4, 1), 0.1, dtype=torch.float64)


def test_there_and_back():
    transform = Transform(LOWER, UPPER, SCALE)
    free = torch.tensor([[-5.0, 7.0], [1.2, 90.0], [-40.0, 2.9], [2.3, 3.9]], dtype=torch.float64)
    torch.testing.assert_close(transform.forward(transform.inverse(free)), free)


def test_whatever_comes_in_limits_hold():
    transform = Transform(LOWER, UPPER, SCALE)
    free = transform.forward(torch.linspace(-50, 50, 101, dtype=torch.float64).repeat(4, 1))
    assert torch.all((free >= LOWER) & (free <= UPPER))
    assert torch.all(free.diff(dim=1) >= 0)


def test_what_sits_on_a_limit_starts_a_little_inside():
    transform = Transform(LOWER, UPPER, SCALE)
    free = torch.tensor([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0], [2.0, 4.0]], dtype=torch.float64)
    unlimited = transform.inverse(free)
    assert torch.isfinite(unlimited).all()
    assert torch.all(transform.slope(unlimited) > 0)


def test_slope_is_the_derivative():
    transform = Transform(LOWER, UPPER, SCALE)
    unlimited = torch.tensor([[0.3], [0.2], [-0.1], [0.7]], dtype=torch.float64)
    step = 1e-6
    measured = (transform.forward(unlimited + step) - transform.forward(unlimited - step)) / (2 * step)
    assert transform.slope(unlimited).flatten().tolist() == pytest.approx(measured.flatten().tolist(), rel=1e-6)
