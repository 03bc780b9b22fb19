"""Fractional powers of the Laplacian against eigenvectors of the matrix written out."""

import numpy as np
import pytest
import torch

from sunpy_specfit.plugins.priors.differences import Differences
from sunpy_specfit.plugins.priors.fractional import FractionalLaplacian


def dense(operator, pixels):
    return torch.stack([operator.product(row) for row in torch.eye(pixels, dtype=torch.float64)], dim=1)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
@pytest.mark.parametrize(("shape", "axes"), [((7,), (0,)), ((4, 5), (0, 1)), ((4, 5), (0,)), ((1, 6), (0, 1))])
def test_it_is_the_power_of_the_differences_matrix(shape, axes, power):
    pixels = int(np.prod(shape))
    values, vectors = torch.linalg.eigh(dense(Differences(shape, axes, 1), pixels))
    expected = vectors @ torch.diag(values.clamp_min(0) ** power) @ vectors.T
    operator = FractionalLaplacian(shape, axes, power)
    # The root of an eigenvalue that rounding left at 1e-16 is 1e-8.
    torch.testing.assert_close(dense(operator, pixels), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(
        operator.diagonal(torch.ones(1, dtype=torch.float64)), expected.diagonal(), rtol=0, atol=1e-7
    )
    q = torch.randn(2, pixels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(operator.energy(q), ((q @ expected) * q).sum(), rtol=1e-6, atol=1e-6)


def test_a_large_mean_does_not_cost_precision():
    operator = FractionalLaplacian((20, 20), (0, 1), 1.5)
    q = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    single = (1e4 + q).float()
    expected = operator.product(single.double())
    torch.testing.assert_close(operator.product(single).double(), expected, rtol=1e-4, atol=1e-4)
    assert float(operator.energy(torch.full((400,), 1e6))) == pytest.approx(0, abs=1e-6)


def test_an_axis_of_one_pixel_couples_nothing():
    operator = FractionalLaplacian((1, 5), (0,), 1.5)
    assert not operator.product(torch.randn(5)).any()
    assert not operator.diagonal(torch.ones(1)).any()
