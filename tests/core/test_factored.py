import numpy as np
import pytest

from sunpy_specfit.core.factored import FactoredCovariance


@pytest.fixture
def parts():
    rng = np.random.default_rng(3)
    covariance = FactoredCovariance(
        response=rng.random((3, 5)), root=rng.standard_normal((5, 4)), scale=rng.random((5, 7)) + 0.5,
        weight=rng.random((3, 7)) * 4, logarithm=False,
    )  # fmt: skip
    covariance.weight[1, 2] = 0.0
    dense = []
    for p in range(7):
        d = np.diag(covariance.scale[:, p])
        h = np.sqrt(covariance.weight[:, [p]]) * covariance.response @ d @ covariance.root
        inner = np.linalg.inv(np.eye(4) + h.T @ h)
        dense.append(d @ covariance.root @ inner @ covariance.root.T @ d)
    return covariance, np.stack(dense, -1)


def test_deviations_and_products_are_those_of_dense_matrices(parts):
    covariance, dense = parts
    np.testing.assert_allclose(covariance.deviation(), np.sqrt(np.einsum("iip->ip", dense)))
    rng = np.random.default_rng(0)
    left, right = rng.random((2, 5, 7)), rng.random((3, 5, 1))
    found = covariance.between(left, right, diagonal=False)
    np.testing.assert_allclose(found, np.einsum("akp,klp,blp->abp", left, dense, np.broadcast_to(right, (3, 5, 7))))
    np.testing.assert_allclose(
        covariance.between(left, left, diagonal=True), np.einsum("akp,klp,alp->ap", left, dense, left)
    )


def test_draws_have_that_covariance(parts):
    covariance, dense = parts
    draws = covariance.draws(20000, np.random.default_rng(1), np.zeros((5, 7)))
    found = np.einsum("nkp,nlp->klp", draws, draws) / len(draws)
    size = np.sqrt(np.einsum("iip,jjp->ijp", dense, dense))
    assert np.max(np.abs(found - dense) / size) < 0.05


def test_parts_of_a_map_come_together_and_apart(parts):
    covariance, _ = parts
    index = np.array([4, 1])
    part = covariance[..., index]
    np.testing.assert_allclose(part.deviation(), covariance.deviation()[:, index])
    whole = FactoredCovariance.spread(9, [(np.arange(7) + 1, covariance)])
    assert np.isnan(whole.scale[:, 0]).all()
    np.testing.assert_allclose(whole[..., 1:8].deviation(), covariance.deviation())
    again = FactoredCovariance.from_plain(covariance.to_plain())
    np.testing.assert_allclose(again.deviation(), covariance.deviation())
