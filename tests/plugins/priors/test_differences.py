"""Differences of neighbours against matrices written out."""

import numpy as np
import pytest
import torch

from sunpy_specfit.plugins.priors import differences
from sunpy_specfit.plugins.priors.differences import Differences


def dense(operator, pixels):
    """Dᵀ D as a matrix, column by column."""
    return torch.stack([operator.product(row) for row in torch.eye(pixels, dtype=torch.float64)], dim=1)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("shape", "axes"), [((7,), (0,)), ((4, 5), (0, 1)), ((4, 5), (1,)), ((3, 4, 2), (0, 2))])
def test_products_are_those_of_a_symmetric_matrix_with_the_stated_diagonal(shape, axes, order):
    operator = Differences(shape, axes, order)
    pixels = int(np.prod(shape))
    matrix = dense(operator, pixels)
    torch.testing.assert_close(matrix, matrix.T)
    torch.testing.assert_close(matrix.diagonal(), operator.diagonal(torch.zeros(1, dtype=torch.float64)))
    q = torch.randn(pixels, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    energy = sum(d.square().sum() for d in operator.forward(q))
    torch.testing.assert_close(q @ matrix @ q, energy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "axes", "lead"),
    [((7,), (0,), ()), ((4, 5), (0, 1), ()), ((4, 5), (1,), (3,)), ((4, 5), (0,), ()), ((2, 2), (0, 1), ())]
    + [((3, 4, 2), (0,), ()), ((3, 4, 2), (1, 2), (2,)), ((3, 4, 2), (0, 2), ()), ((3, 1, 2), (0, 1), ())],
)
def test_compiled_products_are_those_of_plain_code(shape, axes, lead, dtype, monkeypatch):
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(3)
    q, other = torch.randn(2, *lead, int(np.prod(shape)), dtype=dtype, generator=generator)
    operator = Differences(shape, axes, 1)
    expected = operator.transpose(operator.forward(q))
    for least in (differences._WORTH_COMPILING, 1):
        monkeypatch.setattr(differences, "_WORTH_COMPILING", least)
        out = other.clone()
        assert operator.product(q, -0.3, out) is out
        torch.testing.assert_close(out, other - 0.3 * expected)
        torch.testing.assert_close(operator.product(q), expected)


@pytest.mark.parametrize("axes", [(0, 1), (0,), (1,)])
def test_threads_share_the_rows(axes, monkeypatch):
    pytest.importorskip("numba")
    q = torch.randn(2, 301 * 170, generator=torch.Generator().manual_seed(4))
    operator, found = Differences((301, 170), axes, 1), []
    monkeypatch.setattr(differences, "_A_THREAD", 1)
    for number in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        found.append(operator.product(q))
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], operator.transpose(operator.forward(q)), rtol=1e-5, atol=1e-5)


def test_first_order_against_numpy():
    image = np.random.default_rng(0).normal(size=(4, 6))
    rows, columns = Differences((4, 6), (0, 1), 1).forward(torch.as_tensor(image.reshape(-1)))
    np.testing.assert_allclose(rows, np.diff(image, axis=0))
    np.testing.assert_allclose(columns, np.diff(image, axis=1))


def test_second_order_likes_planes_and_bends_alike_in_every_direction():
    y, x = np.mgrid[:40, :40] - 19.5
    operator = Differences((40, 40), (0, 1), 2)

    def energy(image):
        return float(sum(d.square().sum() for d in operator.forward(torch.as_tensor(image.reshape(-1)))))

    assert energy(3 + 2 * x - y) == pytest.approx(0, abs=1e-18)

    def ripple(angle):
        return np.cos(0.1 * (np.cos(angle) * x + np.sin(angle) * y)) * np.exp(-(x**2 + y**2) / 60)

    assert energy(ripple(0.0)) == pytest.approx(energy(ripple(np.pi / 4)), rel=0.01)


def test_several_maps_at_once_are_those_one_by_one():
    maps = torch.randn(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    operator = Differences((4, 5), (0, 1), 2)
    torch.testing.assert_close(operator.product(maps), torch.stack([operator.product(m) for m in maps]))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("shape", "axes"), [((1, 5), (0,)), ((1, 1), (0, 1)), ((2, 1), (1,))])
def test_an_axis_too_short_for_differences_has_none(shape, axes, order):
    operator, pixels = Differences(shape, axes, order), int(np.prod(shape))
    assert operator.product(torch.ones(pixels)).tolist() == [0] * pixels
    assert operator.diagonal(torch.ones(pixels)).tolist() == [0] * pixels
    assert sum(d.square().sum() for d in operator.forward(torch.ones(3, pixels))) == 0


@pytest.mark.parametrize(("shape", "axes"), [((1, 6), (0, 1)), ((6, 1), (0, 1)), ((1, 6, 1), (0, 1, 2))])
@pytest.mark.parametrize("order", [1, 2])
def test_a_map_one_pixel_wide_is_a_line(shape, axes, order):
    line, thin = Differences((6,), (0,), order), Differences(shape, axes, order)
    torch.testing.assert_close(dense(thin, 6), dense(line, 6))
    torch.testing.assert_close(thin.diagonal(torch.ones(1)), line.diagonal(torch.ones(1)))


def test_two_pixels_across_have_no_bending_but_a_twist():
    operator = Differences((2, 2), (0, 1), 2)
    q = torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert sum(d.square().sum() for d in operator.forward(q)).item() == pytest.approx(2 * 2**2)
    torch.testing.assert_close(q @ operator.product(q), torch.tensor(8.0))


def test_what_is_kept_belongs_to_no_transform():
    operator = Differences((4, 5), (0, 1), 1)
    torch.func.vmap(lambda scale: operator.diagonal(scale) * scale)(torch.ones(2, 20))
    with torch.inference_mode():
        expected = operator.diagonal(torch.ones(20))
    factor = torch.ones(20, requires_grad=True)
    (slope,) = torch.autograd.grad((operator.diagonal(factor) * factor).sum(), factor)
    assert torch.equal(slope, expected)
