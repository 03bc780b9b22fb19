"""Packed triangles against dense linear algebra."""

import pytest
import torch

from sunpy_specfit.numerics import compiled, packed, packed_compiled


def systems(k, pixels=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(pixels, k + 3, k, generator=generator, dtype=dtype)
    full = half.mT @ half
    return full, packed.pack(full), torch.randn(k, pixels, generator=generator, dtype=dtype)


@pytest.mark.parametrize("k", [1, 2, 4, 9, 10, 19])
def test_pack_and_unpack_are_inverse(k):
    full, matrix, _ = systems(k)
    assert matrix.shape == (k * (k + 1) // 2, 7)
    torch.testing.assert_close(packed.unpack(matrix), full)


@pytest.mark.parametrize("k", [1, 3, 9, 10, 19])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_solve_agrees_with_dense(k, damping):
    full, matrix, vector = systems(k)
    damped = full + damping * torch.diag_embed(full.diagonal(dim1=-2, dim2=-1))
    expected = torch.linalg.solve(damped, vector.T[..., None])[..., 0].T
    torch.testing.assert_close(packed.solve(matrix, vector, torch.full((7,), damping).double()), expected)


@pytest.mark.parametrize("k", [1, 3, 9, 10, 19])
def test_inverse_agrees_with_dense_whatever_the_units(k):
    full, _, _ = systems(k)
    units = torch.logspace(-6, 8, k, dtype=torch.float64)
    full = full * units[:, None] * units[None, :]
    inverse, undetermined = packed.inverse(packed.pack(full))
    assert not undetermined.any()
    relative = packed.unpack(inverse) / torch.linalg.inv(full)
    torch.testing.assert_close(relative, torch.ones_like(relative), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [4, 12])
def test_singular_directions_have_infinite_variance_and_leave_the_rest_alone(k):
    full, _, _ = systems(k)
    full[2] = 0
    full[2, 0, 0] = 4.0  # only the first unknown is seen
    full[3, 1, :] = full[3, 0, :]
    full[3, :, 1] = full[3, :, 0]  # the first two are seen only as their sum
    full[3, 1, 1] = full[3, 0, 1] = full[3, 1, 0] = full[3, 0, 0]
    inverse, undetermined = packed.inverse(packed.pack(full))
    diagonal = inverse[packed.diagonal_index(k)]
    assert diagonal[0, 2] == pytest.approx(0.25)
    assert torch.isinf(diagonal[1:, 2]).all()
    assert undetermined[1:, 2].all()
    assert not undetermined[0, 2]
    assert undetermined[:2, 3].all()
    assert torch.isinf(diagonal[:2, 3]).all()
    assert not undetermined[2:, 3].any()
    assert torch.isfinite(diagonal[2:, 3]).all()
    untouched = [0, 1, 4, 5, 6]
    torch.testing.assert_close(packed.unpack(inverse)[untouched], torch.linalg.inv(full[untouched]))


def test_an_unknown_that_nothing_sees_stays_at_zero():
    full, _, vector = systems(3)
    full[0, 1] = full[0, :, 1] = 0
    vector[1, 0] = 5.0
    step = packed.solve(packed.pack(full), vector)
    assert step[1, 0] == 0
    assert torch.isfinite(step).all()


@pytest.mark.parametrize("constant", [0, 1, 3, None])
def test_normal_equations_agree_with_dense(constant):
    generator = torch.Generator().manual_seed(3)
    columns = [torch.randn(11, 5, generator=generator, dtype=torch.float64) for _ in range(4)]
    if constant is not None:
        columns[constant] = torch.full((1, 1), 1.7, dtype=torch.float64)
    weight = torch.rand(11, 5, generator=generator, dtype=torch.float64)
    residual = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    jacobian = torch.stack([c.expand(11, 5) for c in columns])
    matrix, vector, squared = packed.normal_equations(columns, weight, residual)
    torch.testing.assert_close(packed.unpack(matrix), torch.einsum("inp,np,jnp->pij", jacobian, weight, jacobian))
    torch.testing.assert_close(vector, torch.einsum("inp,np,np->ip", jacobian, weight, residual))
    torch.testing.assert_close(squared, torch.einsum("np,np,np->p", residual, weight, residual))


def test_matvec_agrees_with_dense():
    full, matrix, vector = systems(5)
    torch.testing.assert_close(packed.matvec(matrix, vector), (full @ vector.T[..., None])[..., 0].T)


def test_triangular_products_and_solutions_agree_with_dense_ones():
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(5, 3, 3, dtype=torch.float64, generator=generator)
    matrix = packed.pack(full @ full.mT + torch.eye(3, dtype=torch.float64))
    vector = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    lower = torch.linalg.cholesky(packed.unpack(matrix))
    factor = packed.cholesky(matrix)

    def times(matrices):
        return torch.einsum("pij,jp->ip", matrices, vector)

    torch.testing.assert_close(packed.lower_product(factor, vector), times(lower))
    torch.testing.assert_close(packed.upper_product(factor, vector), times(lower.mT))
    torch.testing.assert_close(packed.lower_solve(factor, vector), times(torch.linalg.inv(lower)))
    torch.testing.assert_close(packed.lower_solve(factor, vector, transposed=True), times(torch.linalg.inv(lower).mT))


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_loops_invert_and_solve_as_the_plain_code_does(k, dtype, monkeypatch):
    pytest.importorskip("numba")
    _, matrix, vector = systems(k, pixels=700)
    # Nothing known of one unknown, two of them alike, no number, and units far apart.
    matrix[packed.index(0, 0) : packed.index(k - 1, 0) + 1, 3] = 0
    matrix[:, 5] = torch.ones(len(matrix))
    matrix[-1, 11] = torch.nan
    matrix[0, 13] = torch.inf
    matrix[:, 17] *= 1e-20
    matrix, vector = matrix.to(dtype), vector.to(dtype)
    expected, expected_free = packed.inverse(matrix)
    solution = packed.solve(matrix.double(), vector.double())
    monkeypatch.setattr(packed_compiled, "_WORTH_COMPILING", 1)
    found, free = packed.inverse(matrix)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0.0)
    assert bool((free == expected_free).all())
    solved, inverse, undetermined = packed.solve_and_invert(matrix, vector)
    assert torch.equal(inverse.nan_to_num(), found.nan_to_num())
    assert torch.equal(undetermined, free)
    fine = ~expected_free.any(0)
    torch.testing.assert_close(solved[:, fine], solution[:, fine], rtol=1e-9, atol=1e-12)
    assert bool((solved[0, 3] == 0.0) & (solved[-1, 3] != 0.0 if k > 1 else True))


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_loops_multiply_and_substitute_as_the_plain_code_does(k, dtype, monkeypatch):
    pytest.importorskip("numba")
    _, matrix, vector = systems(k, pixels=700)
    matrix[packed.index(k - 1, 0) :, 3] = 0  # nothing known of the last
    matrix, vector = matrix.to(dtype), vector.to(dtype)
    before = vector.clone()
    expected = packed.matvec(matrix, vector), packed.solve(matrix, vector, 0.1)
    exact = packed.solve(matrix, vector)
    monkeypatch.setattr(packed_compiled, "_WORTH_COMPILING", 1)
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    out = torch.full_like(vector, torch.nan)
    assert packed.matvec(matrix, vector, out) is out
    torch.testing.assert_close(out, expected[0], **close)
    torch.testing.assert_close(packed.solve(matrix, vector, 0.1), expected[1], **close)
    left = packed.matvec(matrix, packed.solve(matrix, vector) - exact)
    assert float(left.abs().max()) < (5e-3 if dtype == torch.float32 else 1e-9)
    assert bool((packed.solve(matrix, vector, 0.1)[-1, 3] == 0) & (vector == before).all())


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("worth", [1, 10_000], ids=["compiled", "plain"])
def test_the_least_pivot_is_that_of_dense_factors(k, dtype, worth, monkeypatch):
    monkeypatch.setattr(packed_compiled, "_WORTH_COMPILING", worth)
    full, matrix, _ = systems(k, pixels=1100)
    own = torch.linalg.cholesky(full).diagonal(dim1=-2, dim2=-1).square() / full.diagonal(dim1=-2, dim2=-1)
    expected = float(own.min())
    # What nothing is known of does not count, whatever the others' units are.
    matrix[packed.index(k - 1, 0) :, 3] = 0
    matrix[:, 5] *= 1e-15
    assert packed.least_pivot(matrix.to(dtype)) == pytest.approx(expected, rel=1e-3 if dtype == torch.float32 else 1e-9)
    if k > 1:
        matrix[:3, 17] = torch.tensor([2.0, -2.0, 2.0])  # two unknowns of which only the sum is known
        assert packed.least_pivot(matrix.to(dtype)) < 1e-5


@pytest.mark.parametrize("k", [1, 3, 9])
def test_compiled_factors_are_those_of_the_plain_code(k, monkeypatch):
    full, matrix, _ = systems(k, pixels=700)
    matrix[packed.index(k - 1, 0) :, 3] = 0
    plain = packed.cholesky(matrix)
    monkeypatch.setattr(packed_compiled, "_WORTH_COMPILING", 1)
    found = packed.cholesky(matrix)
    torch.testing.assert_close(found, plain, rtol=1e-10, atol=1e-12)
    assert bool((found[packed.index(k - 1, 0) :, 3] == 0).all())
    lower = torch.linalg.cholesky(full)
    torch.testing.assert_close(packed.unpack(found)[7].tril(), lower[7])


def test_threads_share_the_pixels(monkeypatch):
    pytest.importorskip("numba")
    _, matrix, vector = systems(3, pixels=40_000)
    monkeypatch.setattr(packed_compiled, "_A_THREAD", 1)
    found = []
    for number in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        found.append((packed.matvec(matrix, vector), packed.solve(matrix, vector)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(packed.matvec(matrix, found[0][1]), vector, rtol=1e-8, atol=1e-8)


def test_compiled_loops_leave_derivatives_and_transforms_to_the_plain_code(monkeypatch):
    _, matrix, vector = systems(3, pixels=20)
    monkeypatch.setattr(packed_compiled, "_WORTH_COMPILING", 1)
    leaf = matrix.clone().requires_grad_()
    (slope,) = torch.autograd.grad(packed.matvec(leaf, vector).sum(), leaf)
    torch.testing.assert_close(slope[0], vector[0])
    again = torch.func.grad(lambda m: packed.matvec(m, vector).sum())(matrix)
    torch.testing.assert_close(again, slope)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(vector, torch.ones_like(vector))
        found = torch.autograd.forward_ad.unpack_dual(packed.matvec(matrix, dual)).tangent
    torch.testing.assert_close(found, packed.matvec(matrix, torch.ones_like(vector)))


def test_where_numba_fails_packed_matrices_are_inverted_by_the_plain_code(monkeypatch):
    class Damaged:
        @staticmethod
        def invert(*arguments):
            raise EOFError("pickle data was truncated")

    _, matrix, vector = systems(3, pixels=700)
    expected, _ = packed.inverse(matrix)
    monkeypatch.setattr(packed_compiled, "_WORTH_COMPILING", 1)
    monkeypatch.setattr(compiled, "_failures", [])
    monkeypatch.setattr(compiled, "_module", lambda name: Damaged)
    with pytest.warns(RuntimeWarning, match="plain code is: pickle data was truncated"):
        found, _ = packed.inverse(matrix)
    assert torch.equal(found, expected)
    assert packed.solve_and_invert(matrix, vector) is None
