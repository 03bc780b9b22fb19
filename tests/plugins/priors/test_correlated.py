import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit.core.gaussian import BoundGaussian
from sunpy_specfit.core.grid import Grid

GRID = Grid((4, 5), ("space", "space"))


def dense(side_y, side_x):
    """L of a map, as a matrix."""
    number = np.arange(side_y * side_x).reshape(side_y, side_x)
    total = np.zeros((number.size, number.size))
    for a, b in [
        *zip(number[1:].flat, number[:-1].flat, strict=True),
        *zip(number[:, 1:].flat, number[:, :-1].flat, strict=True),
    ]:
        step = np.zeros(number.size)
        step[a], step[b] = 1, -1
        total += np.outer(step, step)
    return total


@pytest.mark.parametrize("order", [1, 2])
def test_what_joins_pixels_is_the_inverse_of_a_covariance_of_unit_variance(order):
    bound = specfit.Correlated("dem", length=2.5, order=order).bind({"dem": u.one}, GRID)
    among = bound.among_pixels
    joined = among.product(torch.eye(20, dtype=torch.float64)).numpy() + np.eye(20)
    power = np.linalg.matrix_power(np.eye(20) + 2.5**2 * dense(4, 5), order)
    covariance = np.linalg.inv(joined)
    np.testing.assert_allclose(covariance.diagonal(), 1)
    plain = np.linalg.inv(power)
    np.testing.assert_allclose(covariance, plain / np.sqrt(np.outer(plain.diagonal(), plain.diagonal())), atol=1e-10)
    np.testing.assert_allclose(among.diagonal + 1, joined.diagonal())
    # Edges apart, the cosines' part.
    assert float((1 / (among.eigenvalues + 1)).mean()) == pytest.approx(1)
    shares = np.linalg.eigvalsh(power) / (among.eigenvalues.sort().values.numpy() + 1)
    np.testing.assert_allclose(shares, shares[0])


def test_with_the_pixels_own_prior_it_is_the_separable_gaussian():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((3, 3))
    scatter = root @ root.T
    mean = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    gaussian = BoundGaussian("dem", mean, torch.as_tensor(scatter), logarithm=True)
    bound = specfit.Correlated("dem", length=2.0).bind({"dem": u.one}, GRID)
    bound = bound.beside([(bound, "dem"), (gaussian, "dem")], "dem")
    q = torch.as_tensor(np.exp(rng.standard_normal((3, 20))))
    away = (q.log() - mean[:, None]).numpy()
    between = bound.among_pixels.product(torch.eye(20, dtype=torch.float64)).numpy() + np.eye(20)
    expected = 0.5 * np.sum(away * (np.linalg.inv(scatter) @ away @ between))
    assert float(bound.energy({"dem": q}) + gaussian.energy({"dem": q}).sum()) == pytest.approx(expected)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="order is 1"):
        specfit.Correlated("dem", order=1.5)
    with pytest.raises(ValueError, match="number of pixels"):
        specfit.Correlated("dem", length="long")
    with pytest.raises(ValueError, match="must be positive"):
        specfit.Correlated("dem", length=0)
    with pytest.raises(u.UnitConversionError, match="is in pixels, found"):
        specfit.Correlated("dem", length=3 * u.km)
    for length in (301, [2.0, 3.0]):
        with pytest.raises(ValueError, match="one number of pixels, 300 at the most"):
            specfit.Correlated("dem", length=length)
    with pytest.raises(TypeError, match="name of a vector"):
        specfit.Correlated(3)
    with pytest.raises(ValueError, match="still 'auto'"):
        specfit.Correlated("dem").bind({"dem": u.one}, GRID)
    bound = specfit.Correlated("dem", length=2).bind({"dem": u.one}, GRID)
    with pytest.raises(ValueError, match="given twice"):
        bound.beside([(bound, "dem"), (bound, "dem")], "dem")
    with pytest.raises(ValueError, match="'dem' has none"):
        bound.beside([(bound, "dem")], "dem").energy({"dem": torch.ones(2, 20)})
