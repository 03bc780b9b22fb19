"""The wavelet transform against its matrix, PyWavelets, and what polynomials must do."""

import numpy as np
import pytest
import pywt
import torch

from sunpy_specfit.numerics.wavelet import Wavelet

SHAPES = [(64,), (37,), (7,), (50, 33), (6, 7), (1, 20), (3, 4), (5, 6, 7)]


def transform(name, shape, axes=None, levels=None):
    wavelet = pywt.Wavelet(name)
    axes = range(len(shape)) if axes is None else axes
    return Wavelet(shape, tuple(axes), wavelet.rec_lo, wavelet.vanishing_moments_psi, levels)


def dense(w, shape, **options):
    return w.forward(torch.eye(int(np.prod(shape)), **(options or {"dtype": torch.float64}))).T


@pytest.mark.parametrize("name", ["haar", "db2", "db4", "sym5", "coif2"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_orthonormal_on_any_shape_and_its_transpose_is_the_way_back(name, shape):
    w = transform(name, shape)
    matrix = dense(w, shape)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    torch.testing.assert_close(matrix.T @ matrix, eye, atol=1e-10, rtol=0)
    torch.testing.assert_close(w.transpose(eye).T, matrix.T, atol=1e-12, rtol=0)
    weight = torch.rand(len(matrix), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = (matrix.T @ torch.diag(weight) @ matrix).diagonal()
    torch.testing.assert_close(w.diagonal(weight), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("name", "degree"), [("haar", 0), ("db2", 1), ("db4", 3), ("sym5", 4)])
@pytest.mark.parametrize("shape", [(37,), (40, 27)], ids=str)
def test_polynomials_have_no_detail_up_to_the_borders(name, degree, shape):
    w = transform(name, shape)
    place = sum(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    for power in range(degree + 1):
        detail = w.forward(torch.as_tensor(place**power).reshape(-1))[w.detail]
        assert detail.abs().max() < 1e-9
    detail = w.forward(torch.as_tensor(place ** (degree + 1)).reshape(-1))[w.detail]
    assert detail.abs().max() > 1e-6


def test_away_from_the_borders_the_details_are_those_of_pywavelets():
    x = np.random.default_rng(0).standard_normal(64)
    w = transform("db4", (64,), levels=1)
    detail = w.forward(torch.as_tensor(x))[w.detail].abs()
    theirs = np.abs(pywt.dwt(x, "db4", mode="zero")[1])
    inner = theirs[8:-8]
    distance = (detail[:, None] - torch.as_tensor(inner)).abs().amin(0)
    assert distance.max() < 1e-10


def test_haar_by_hand_on_an_odd_length():
    w = Wavelet((5,), (0,), [0.5**0.5] * 2, 1, levels=1)
    found = w.forward(torch.tensor([1.0, 1.0, 3.0, 5.0, 7.0]))
    root = 2**0.5
    # Approximation of two pairs and of the last pixel, then what the pairs differ by.
    torch.testing.assert_close(found.abs(), torch.tensor([2 / root, 8 / root, 7.0, 0.0, 2 / root]))
    assert w.detail.tolist() == [False, False, False, True, True]


def test_a_longer_wavelet_goes_as_deep_as_the_axis_allows_and_levels_stop_it():
    assert int((~transform("haar", (256,)).detail).sum()) == 1
    assert int((~transform("db4", (256, 255)).detail).sum()) == 4 * 4
    assert int((~transform("haar", (256,), levels=3).detail).sum()) == 32


def test_values_of_a_function_have_the_size_of_one_over_the_root_of_its_extent():
    for shape in ((64,), (32, 16)):
        w = transform("haar", shape)
        size = w.transpose(torch.eye(int(np.prod(shape)), dtype=torch.float64)).abs().amax(-1)
        torch.testing.assert_close(size, w.extent.rsqrt())


def test_other_axes_are_left_alone():
    scan = torch.randn(4, 6 * 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = transform("db2", (4, 6, 9), axes=(1, 2)).forward(scan.reshape(-1)).reshape(4, -1)
    single = transform("db2", (6, 9))
    torch.testing.assert_close(together, torch.stack([single.forward(frame) for frame in scan]))
    torch.testing.assert_close(single.forward(scan), together)


def test_float32_stays_and_derivatives_pass():
    w = transform("db4", (19, 21))
    q = torch.randn(19 * 21, generator=torch.Generator().manual_seed(2))
    assert w.forward(q).dtype == w.transpose(q).dtype == torch.float32
    torch.testing.assert_close(w.transpose(w.forward(q)), q, atol=1e-5, rtol=0)
    leaf = q.double().requires_grad_()
    w.forward(leaf).square().sum().backward()
    torch.testing.assert_close(leaf.grad, 2 * leaf.detach())
