"""Sums over the eigenvalues of a matrix from few products, against all its eigenvalues."""

import numpy as np
import pytest
import torch

from sunpy_specfit.numerics.lanczos import LanczosRule


@pytest.fixture
def matrices():
    """Two symmetric matrices of rows that do not know of each other, the second joining two rows."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for n in (60, 120):
        root = torch.randn((n, n), generator=generator, dtype=torch.float64)
        found.append(root @ root.T / n)
    return found


def rule_of(matrices, start):
    def product(v):
        return torch.cat([(matrices[0] @ v[0])[None], (matrices[1] @ v[1:].reshape(-1)).reshape(2, -1)])

    return LanczosRule(product, start, [[0], [1, 2]])


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_sums_are_those_over_all_eigenvalues(matrices, factor):
    start = torch.randn((3, 60), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    rule = rule_of(matrices, start)
    for group, rows in enumerate((start[0], start[1:].reshape(-1))):
        values, vectors = torch.linalg.eigh(matrices[group])
        power = (vectors.T @ rows).square().numpy()
        exact = float(np.sum(power / (1 + factor * values.numpy())))
        for _ in range(3):
            rule.extend(8)
            found = rule.sum(group, lambda x: 1 / (1 + factor * x))
            # The rule is below what it tends to, by no more than it says.
            assert exact - rule.residual(group, factor) ** 2 - 1e-9 <= found <= exact + 1e-9
        assert found == pytest.approx(exact, rel=1e-3)
    assert rule.steps == 48


def test_a_start_that_sees_little_ends_the_search(matrices):
    values, vectors = torch.linalg.eigh(matrices[0])
    start = torch.zeros((3, 60), dtype=torch.float64)
    start[0] = vectors[:, 5] + 2 * vectors[:, 40]
    rule = rule_of(matrices, start)
    rule.extend(6)
    assert rule.sum(0, np.log1p) == pytest.approx(float(values[5].log1p() + 4 * values[40].log1p()), rel=1e-9)
    assert rule.sum(1, np.exp) == 0.0
    assert rule.residual(1, 1.0) == 0.0


def test_products_that_are_not_finite_make_sums_that_are_none():
    rule = LanczosRule(lambda v: v / torch.zeros_like(v), torch.ones((1, 4)), [[0]])
    rule.extend(3)
    assert np.isnan(rule.sum(0, np.ones_like))
