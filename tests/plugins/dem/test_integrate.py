import numpy as np
import pytest
from scipy.integrate import quad

from sunpy_specfit.plugins.dem.integrate import integrate_response, response_matrix


@pytest.mark.parametrize("power", [-3.0, -1.0, 0.0, 2.5])
def test_a_power_law_is_integrated_exactly(power):
    t = np.geomspace(1e5, 1e7, 11)
    edges = np.geomspace(2e5, 9e6, 8)
    found = integrate_response((t**power)[None], t, edges)[0]
    if power == -1:
        exact = np.log(edges[1:] / edges[:-1])
    else:
        exact = (edges[1:] ** (power + 1) - edges[:-1] ** (power + 1)) / (power + 1)
    np.testing.assert_allclose(found, exact, rtol=1e-10)


@pytest.mark.parametrize("n_bins", [3, 32, 400])
def test_bins_wider_and_narrower_than_the_table_agree_with_quadrature(n_bins):
    log_t = np.arange(5.5, 7.51, 0.1)
    t, r = 10**log_t, np.exp(-0.5 * ((log_t - 6.2) / 0.12) ** 2)
    edges = np.logspace(5.73, 7.31, n_bins + 1)
    found = integrate_response(r[None], t, edges)[0]

    def curve(temperature):
        return np.exp(np.interp(np.log(temperature), np.log(t), np.log(r)))

    points = t[(t > edges[0]) & (t < edges[-1])]
    total = quad(curve, edges[0], edges[-1], points=points, limit=500, epsabs=0, epsrel=1e-10)[0]
    assert found.sum() == pytest.approx(total, rel=1e-8)
    one = n_bins // 3
    inside = points[(points > edges[one]) & (points < edges[one + 1])]
    own = quad(curve, edges[one], edges[one + 1], points=inside if inside.size else None, epsabs=0, epsrel=1e-10)[0]
    assert found[one] == pytest.approx(own, rel=1e-8)


def test_it_is_no_sampling_at_the_middle_of_wide_bins():
    log_t = np.arange(5.5, 7.51, 0.05)
    t, r = 10**log_t, np.exp(-0.5 * ((log_t - 6.2) / 0.1) ** 2)
    edges = np.logspace(5.6, 7.4, 10)
    sampled = np.interp(np.sqrt(edges[1:] * edges[:-1]), t, r) * np.diff(edges)
    assert np.max(np.abs(integrate_response(r[None], t, edges)[0] / sampled - 1)) > 0.1


def test_a_response_that_begins_at_zero_is_a_straight_line_there():
    t = np.array([1.0, 2.0, 3.0])
    found = integrate_response(np.array([[0.0, 0.0, 4.0]]), t, np.array([1.0, 2.0, 2.5, 3.0]))
    np.testing.assert_allclose(found, [[0.0, 0.5, 1.5]])


def hump():
    """A response on its temperatures, and a function that integrates its product with a DEM."""
    log_t = np.arange(5.5, 7.51, 0.05)
    t, r = 10**log_t, np.exp(-0.5 * ((log_t - 6.4) / 0.12) ** 2)

    def light(dem, low, high):
        fine = np.geomspace(low, high, 20001)
        curve = np.exp(np.interp(np.log(fine), np.log(t), np.log(r))) * dem(fine)
        return np.trapezoid(curve, fine)

    return t, r, light


@pytest.mark.parametrize(("power", "within"), [(-7.0, 7e-3), (3.0, 3e-3)])
def test_light_of_a_dem_that_changes_within_bins_is_right(power, within):
    t, r, light = hump()
    edges = np.logspace(5.7, 7.3, 33)
    means = (edges[1:] ** (power + 1) - edges[:-1] ** (power + 1)) / (power + 1) / np.diff(edges)
    exact = light(lambda x: x**power, edges[0], edges[-1])
    found, flat = (matrix(r[None], t, edges)[0] @ means for matrix in (response_matrix, integrate_response))
    assert abs(found / exact - 1) < within
    assert abs(flat / exact - 1) > 5 * abs(found / exact - 1)


@pytest.mark.parametrize(
    "edges",
    [
        np.logspace(5.7, 7.3, 33),
        np.logspace(5.7, 7.3, 5),
        np.linspace(5e5, 2e7, 13),
        10 ** np.array([5.7, 5.75, 6.2, 6.25, 7.1]),
    ],
)
def test_of_a_dem_that_is_the_same_everywhere_the_light_is_the_integral(edges):
    t, r, _ = hump()
    found = response_matrix(r[None], t, edges)
    np.testing.assert_allclose(found.sum(), integrate_response(r[None], t, edges).sum(), rtol=1e-12)


@pytest.mark.parametrize(("edges", "part"), [(np.logspace(5.7, 7.3, 13), 0.5), (np.logspace(5.7, 7.3, 9), 1.0)])
def test_wide_bins_are_no_worse_than_flat_ones(edges, part):
    t, r, light = hump()
    off = []
    for center in np.arange(5.9, 6.71, 0.1):

        def dem(temperature, center=center):
            return np.exp(-0.5 * ((np.log10(temperature) - center) / 0.25) ** 2) / temperature

        fine = [np.geomspace(*pair, 2001) for pair in zip(edges[:-1], edges[1:], strict=True)]
        means = [np.trapezoid(dem(x), x) / (x[-1] - x[0]) for x in fine]
        exact = light(dem, edges[0], edges[-1])
        off.append(
            [matrix(r[None], t, edges)[0] @ means / exact - 1 for matrix in (response_matrix, integrate_response)]
        )
    found, flat = np.abs(off).mean(0)
    assert found < part * flat


@pytest.mark.parametrize("edges", [np.logspace(5.6, 7.4, 5), np.array([6e5, 7e5, 4e6, 5e6, 2e7])])
def test_however_wide_bins_are_slopes_change_their_light_by_half_at_the_most(edges):
    t, r, _ = hump()
    ratio = response_matrix(r[None], t, edges) / integrate_response(r[None], t, edges)
    assert 0.5 - 1e-12 <= ratio.min() < 0.9
    assert ratio.max() <= 1.5 + 1e-12


def test_a_single_bin_is_flat():
    t, r, _ = hump()
    edges = np.array([1e6, 3e6])
    np.testing.assert_array_equal(response_matrix(r[None], t, edges), integrate_response(r[None], t, edges))
