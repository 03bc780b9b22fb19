"""Derivative matrices against functions whose derivatives are known."""

import numpy as np
import pytest

from sunpy_specfit.numerics.derivative import METHODS, derivative_matrix


def grid(seed=0, n=14):
    """Uneven, unsorted, far from zero."""
    rng = np.random.default_rng(seed)
    return rng.permutation(6302.0 + np.cumsum(rng.uniform(0.01, 0.05, n)))


@pytest.mark.parametrize(("method", "degree"), [("spline", 5), ("cubic_spline", 3), ("three_point", 2)])
@pytest.mark.parametrize("order", [1, 2])
def test_polynomials_are_exact(method, degree, order):
    x = grid()
    z = x - x.mean()
    for power in range(degree + 1):
        factor = power if order == 1 else power * (power - 1)
        expected = factor * z ** max(power - order, 0)
        found = derivative_matrix(x, order=order, method=method) @ z**power
        np.testing.assert_allclose(found, expected, atol=1e-6 * max(np.abs(expected).max(), 1))


def test_a_spectral_line_sampled_as_by_hinode():
    x = np.arange(29) * 0.0215 - 0.301
    line, slope = np.exp(-((x / 0.05) ** 2)), -2 * x / 0.05**2 * np.exp(-((x / 0.05) ** 2))
    error = {m: np.abs(derivative_matrix(x, method=m) @ line - slope).max() / slope.max() for m in METHODS}
    assert error["spline"] < 0.004
    assert error["spline"] < 0.35 * error["cubic_spline"] < 0.1 * error["three_point"]


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_few_samples_take_what_they_can(n):
    x = np.linspace(0, 1, n)
    np.testing.assert_allclose(derivative_matrix(x) @ x**2, 2 * x, atol=1e-12)


@pytest.mark.parametrize("x", [[1.0, 2.0], [1.0, 2.0, 2.0, 3.0], [[1.0, 2.0, 3.0]]])
def test_what_has_no_derivative(x):
    with pytest.raises(ValueError, match="three samples or more"):
        derivative_matrix(np.array(x))


def test_an_unknown_method():
    with pytest.raises(ValueError, match="'spline', 'cubic_spline', 'three_point'; found 'steffen'"):
        derivative_matrix(np.arange(5.0), method="steffen")
