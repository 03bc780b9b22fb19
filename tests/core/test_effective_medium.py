"""Errors of coupled maps from the mean field of the neighbours, against inverses of dense matrices."""

import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit.core.curvature import Curvature
from sunpy_specfit.core.effective_medium import medium_inverse
from sunpy_specfit.core.engine import pixel_solution
from sunpy_specfit.core.even_medium import Medium, _function_of
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import gaussian_cube
from sunpy_specfit.numerics import packed
from sunpy_specfit.numerics.cosine_transform import inverse_cosine_transform, laplacian_eigenvalues

KMS = u.km / u.s
SHAPE = (22, 25)
LINE = specfit.Gaussian(195.119 * u.AA).bound(center=(194, 196) * u.AA) + specfit.Polynomial(0).bound(c0=(0, None))


def coupling(eigenvalues):
    """The dense matrix of a curvature that is diagonal among cosines."""
    shape = eigenvalues.shape
    n = eigenvalues.numel()
    waves = inverse_cosine_transform(torch.eye(n, dtype=torch.float64).reshape(n, *shape), (-2, -1)).reshape(n, n)
    return waves.T @ (eigenvalues.reshape(-1, 1) * waves)


def precisions(kind):
    rng = np.random.default_rng(3)
    own = rng.uniform(0.7, 1.4, SHAPE)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    if kind == "even":
        own[:] = 1.0
    elif kind == "spot":
        own *= 10 ** -np.exp(-((x - 12) ** 2 + (y - 11) ** 2) / 40)
    elif kind == "holes":
        own[rng.random(SHAPE) < 0.05] = 1e-9
        own[4:8, 6:16] = 1e-9
    elif kind == "edge":
        own = np.where(x < 12, own, 0.05 * own)
    return torch.as_tensor(own.reshape(-1))


@pytest.mark.parametrize("strength", [1.0, 30.0])
@pytest.mark.parametrize("order", [1, 1.5, 2])
@pytest.mark.parametrize(
    ("kind", "rms"), [("even", 0.002), ("noisy", 0.02), ("spot", 0.02), ("holes", 0.03), ("edge", 0.08)]
)
def test_variances_of_one_map(kind, rms, order, strength):
    own = precisions(kind)
    eigenvalues = strength * laplacian_eigenvalues(SHAPE, [0, 1]) ** order
    sigma = torch.linalg.inv(torch.diag(own) + coupling(eigenvalues)).diagonal().sqrt()
    found = (own + Medium(eigenvalues).field(own[None])[0]).rsqrt()
    apart = (found / sigma).log()
    assert float(apart.square().mean().sqrt()) < rms
    assert float(apart.abs().max()) < 5 * rms + 0.002
    # What each pixel knows of itself is not what its neighbours add.
    assert float((own.rsqrt() / sigma).log().mean()) > 0.1


@pytest.mark.parametrize(("order", "least"), [(1, 0.78), (1.5, 0.55)])
def test_in_a_wide_hole_it_is_known_to_be_too_small(order, least):
    own = torch.ones(SHAPE, dtype=torch.float64)
    own[:, 12:] = 1e-9
    eigenvalues = laplacian_eigenvalues(SHAPE, [0, 1]) ** order
    own = own.reshape(-1)
    sigma = torch.linalg.inv(torch.diag(own) + coupling(eigenvalues)).diagonal().sqrt()
    found = (own + Medium(eigenvalues).field(own[None])[0]).rsqrt()
    ratio = (found / sigma).reshape(SHAPE)
    assert float(ratio.min()) > least
    assert float((ratio[:, :10] - 1).abs().max()) < 0.03


def test_maps_that_correlate():
    n = SHAPE[0] * SHAPE[1]
    first, second = precisions("noisy"), 3 * precisions("spot")
    generator = torch.Generator().manual_seed(0)
    common = 0.7 * (0.5 + 0.5 * torch.rand(n, generator=generator, dtype=torch.float64)) * (first * second).sqrt()
    eigenvalues = 4 * laplacian_eigenvalues(SHAPE, [0, 1])
    k = coupling(eigenvalues)
    matrix = torch.cat(
        [
            torch.cat([torch.diag(first) + k, torch.diag(common)]),
            torch.cat([torch.diag(common), torch.diag(second) + k]),
        ],
        1,
    )
    inverse = torch.linalg.inv(matrix)
    own = torch.stack([first, common, second])
    found, _ = packed.inverse(own + Medium(eigenvalues).field(own))
    for row, (i, j) in {0: (0, 0), 2: (1, 1)}.items():
        exact = inverse[i * n : (i + 1) * n, j * n : (j + 1) * n].diagonal()
        assert float((found[row] / exact).log().square().mean().sqrt()) < 0.05
    exact = inverse[:n, n:].diagonal()
    size = (found[0] * found[2]).sqrt()
    assert float(((found[1] - exact) / size).square().mean().sqrt()) < 0.03
    # Had the one map nothing to do with the other, it would be less certain.
    alone = (first + Medium(eigenvalues).field(first[None])[0]).reciprocal()
    assert float((alone / found[0]).mean()) < 0.97


@pytest.mark.parametrize(
    "priors",
    [
        [specfit.Smooth("velocity", scale=3 * KMS)],
        [specfit.Smooth("velocity", "width", scale={"velocity": 3 * KMS, "width": 2 * u.mAA}, order=1.5)],
        [specfit.Smooth("intensity", scale=0.1), specfit.Smooth("velocity", scale=3 * KMS)],
        [specfit.Smooth("amplitude", scale=0.05, logarithm=True)],
    ],
)
def test_errors_of_a_fit_are_those_of_the_inverse_matrix(priors):
    shape = (9, 10)
    cube = gaussian_cube(shape, signal_to_noise=8, seed=2)
    mask = np.zeros(cube.data.shape, bool)
    mask[2:4, 3:5] = True
    problem = build_problem([cube], [LINE], priors=priors, mask=mask, dtype="float64")
    free = pixel_solution(problem, specfit.LevenbergMarquardt(), {})[0]
    curvature = Curvature(problem, free)
    covariance, leverage, undetermined = medium_inverse(curvature)
    n, k, pixels = free.numel(), *free.shape
    matrix = torch.stack([curvature.product(row) for row in torch.eye(n, dtype=torch.float64)], 1)
    # Of pixels without data some numbers are known neither by themselves nor from neighbours.
    assert bool(undetermined[:, mask.any(-1).reshape(-1)].any())
    assert not bool(undetermined[:, ~mask.any(-1).reshape(-1)].any())
    inverse = torch.linalg.pinv(matrix, rtol=1e-10, hermitian=True)
    for i in range(k):
        known = ~undetermined[i]
        sigma = inverse.diagonal()[i * pixels : (i + 1) * pixels][known].sqrt()
        found = covariance[packed.index(i, i)][known].sqrt()
        assert float((found / sigma).log().square().mean().sqrt()) < 0.03
    data = torch.stack(
        [problem.reduce(curvature.data_product(problem.unflatten(row))) for row in torch.eye(n, dtype=torch.float64)], 1
    )
    assert float(leverage.sum()) == pytest.approx(float(torch.trace(inverse @ data)), rel=0.01)


def test_what_it_leaves_to_probing():
    cube = gaussian_cube((4, 5), signal_to_noise=8)
    free = None
    for model, priors in (
        (LINE.share("width"), [specfit.Smooth("velocity", scale=3 * KMS)]),
        (LINE, [specfit.TotalVariation("velocity", scale=3 * KMS)]),
    ):
        problem = build_problem([cube], [model], priors=priors, dtype="float64")
        free = problem.unflatten(problem.flatten(pixel_solution(problem, specfit.LevenbergMarquardt(), {})[0]))
        assert medium_inverse(Curvature(problem, free)) is None


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6])
def test_maps_held_flat_are_as_well_known_as_their_mean(scale):
    cube = gaussian_cube((12, 15), signal_to_noise=5, seed=2)
    model = specfit.Polynomial(0)
    alone = specfit.fit(cube, model)["c0"].uncertainty.array
    held = specfit.fit(cube, model, specfit.Smooth("c0", scale=scale * float(np.median(alone)) * cube.unit))
    expected = np.sum(alone**-2.0) ** -0.5
    assert np.abs(held["c0"].uncertainty.array / expected - 1).max() < (0.03 if scale < 1e-2 else 0.1)


@pytest.mark.parametrize("strength", [1.0, 1e4])
def test_large_maps_without_a_compiler(monkeypatch, strength):
    """Neighbours count only as far as there is something to be seen, and loops do what plain code does."""
    pytest.importorskip("numba")
    shape = (150, 170)
    eigenvalues = strength * laplacian_eigenvalues(shape, [0, 1])
    own = 10 ** -torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    own[60:70, 80:110] = 1e-6
    own = own.reshape(1, -1)
    found = Medium(eigenvalues).field(own)
    with monkeypatch.context() as plain:
        plain.setattr(f"{Medium.__module__}._WORTH_COMPILING", own.numel() + 1)
        assert torch.allclose(Medium(eigenvalues).field(own), found, rtol=1e-4)
    with monkeypatch.context() as whole:
        whole.setattr(f"{Medium.__module__}._REACHES", ())
        assert torch.allclose(Medium(eigenvalues).field(own), found, rtol=5e-3)


def test_two_maps_as_by_eigenvectors():
    """The function of a matrix of two rows by its invariants."""
    generator = torch.Generator().manual_seed(2)
    lower = torch.randn((3, 500), generator=generator, dtype=torch.float64)
    matrix = torch.stack([lower[0] ** 2, lower[0] * lower[1], lower[1] ** 2 + lower[2] ** 2])
    matrix[:, 0] = torch.tensor([2.0, 0.0, 2.0])
    values, vectors = torch.linalg.eigh(packed.unpack(matrix))
    expected = packed.pack((vectors * (1 / (1 + values))[:, None, :]) @ vectors.mT)
    assert torch.allclose(_function_of(matrix, lambda v: 1 / (1 + v)), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("m", [2, 3])
def test_related_maps_in_single_precision(m):
    generator = torch.Generator().manual_seed(5)
    n = SHAPE[0] * SHAPE[1]
    lower = 0.5 * torch.randn((m, m, n), generator=generator, dtype=torch.float64)
    own = packed.pack((lower.permute(2, 0, 1) @ lower.permute(2, 1, 0)) + torch.eye(m, dtype=torch.float64))
    eigenvalues = laplacian_eigenvalues(SHAPE, [0, 1])
    expected = Medium(eigenvalues).field(own)
    found = Medium(eigenvalues).field(own.float())
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("least", [1, 10**6])
def test_no_pixel_is_left_out_between_two_levels(monkeypatch, least):
    monkeypatch.setattr(f"{Medium.__module__}._WORTH_COMPILING", least)
    place = torch.tensor([0.5, -1e-9, -0.3, 0.0, 1.0])
    found = Medium._between(place, lambda number: torch.full_like(place, 2.0 - number))
    torch.testing.assert_close(found, 2.0 - place)
