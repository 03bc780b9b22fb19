"""The cosine transform against SciPy's, and its eigenvalues against differences written out."""

import numpy as np
import pytest
import scipy.fft
import torch

from sunpy_specfit.numerics.cosine_transform import (
    cosine_series,
    cosine_squares,
    cosine_transform,
    inverse_cosine_transform,
    laplacian_eigenvalues,
    near_cosine_series,
    series_of_near,
    through_fourier,
)

SHAPES = [
    ((1,), (0,)),
    ((2,), (0,)),
    ((7,), (-1,)),
    ((8, 5), (0, 1)),
    ((8, 5), (1,)),
    ((1, 9), (0, 1)),
    ((3, 4, 5), (0, 2)),
]


def draw(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_both_ways_of_the_transform_are_scipys(shape, axes, dtype):
    x = draw(shape, dtype)
    expected = torch.as_tensor(scipy.fft.dctn(x.double().numpy(), axes=axes, norm="ortho"))
    close = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-13}
    for transform in (cosine_transform, lambda x, axes: through_fourier(x, axes, inverse=False)):
        found = transform(x, axes)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, **close)
    for inverse in (inverse_cosine_transform, lambda x, axes: through_fourier(x, axes, inverse=True)):
        torch.testing.assert_close(inverse(cosine_transform(x, axes), axes), x, **close)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_the_same():
    x = draw((30, 41))
    torch.testing.assert_close(cosine_transform(x.cuda(), (0, 1)).cpu(), cosine_transform(x, (0, 1)))
    torch.testing.assert_close(inverse_cosine_transform(x.cuda(), (0, 1)).cpu(), inverse_cosine_transform(x, (0, 1)))


def test_it_can_be_differentiated_and_mapped():
    x = draw((4, 5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cosine_transform(x, (0, 1)), x, check_forward_ad=True)
    assert torch.autograd.gradcheck(lambda x: inverse_cosine_transform(x, (1,)), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: cosine_transform(x, (0,)).pow(3), x)
    many = draw((4, 3, 5))
    mapped = torch.func.vmap(lambda x: cosine_transform(x, (0, 1)), in_dims=1, out_dims=1)(many)
    torch.testing.assert_close(mapped, cosine_transform(many, (0, 2)))


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_eigenvalues_weigh_the_cosines_as_differences_do(shape, axes):
    x = draw(shape)
    expected = sum(float(x.diff(dim=axis).square().sum()) for axis in axes)
    found = laplacian_eigenvalues(shape, axes) * cosine_transform(x, axes).square()
    assert float(found.sum()) == pytest.approx(expected, abs=1e-12)


def test_squares_of_cosines_are_those_of_the_transform_of_single_pixels():
    expected = scipy.fft.dct(np.eye(6), axis=0, norm="ortho") ** 2
    np.testing.assert_allclose(cosine_squares(6), expected, atol=1e-14)


def test_the_beginning_of_a_series_is_that_of_the_whole():
    coefficients = draw((11, 8))
    torch.testing.assert_close(near_cosine_series(coefficients, 3), cosine_series(coefficients)[:4, :4])
    near = torch.zeros_like(coefficients)
    near[:4, :4] = coefficients[:4, :4]
    torch.testing.assert_close(series_of_near(near[:4, :4], (10, 7)), cosine_series(near)[:-1, :-1])
