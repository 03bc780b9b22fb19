import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit import Status, WeakField
from sunpy_specfit.data import weak_field_cube
from sunpy_specfit.numerics import compiled as guard
from sunpy_specfit.plugins.wfa import compiled
from sunpy_specfit.plugins.wfa.faint import spread_of_transverse


def integrated(mean, covariance):
    """Deviations of √|b| and of half the direction of b (deg), summed over a fine polar grid."""
    angle = np.linspace(0, 2 * np.pi, 361)[:-1]
    radius = (np.arange(4000) + 0.5) * 6e-3
    b = radius[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    away = b - mean
    weight = radius[:, None] * np.exp(-0.5 * np.einsum("rai,ij,raj->ra", away, np.linalg.inv(covariance), away))
    weight /= weight.sum()
    root = np.sqrt(radius)[:, None]
    spread = np.sqrt((weight * root**2).sum() - (weight * root).sum() ** 2)
    length = abs((weight * np.exp(1j * angle)).sum())
    return spread, min(np.rad2deg(0.5 * np.sqrt(-2 * np.log(max(length, 1e-9)))), 180 / np.sqrt(12))


@pytest.mark.parametrize("signal", [0.0, 0.3, 1.0, 2.2, 4.0])
@pytest.mark.parametrize(("unequal", "turn", "within"), [(0.0, 0.0, 1e-4), (0.05, 0.4, 2e-3), (0.25, 1.3, 1.5e-2)])
def test_spread_is_that_of_the_gaussian(signal, unequal, turn, within):
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    covariance = 4.0 * axes @ np.diag([1 + unequal, 1 - unequal]) @ axes.T
    mean = 2.0 * signal * np.array([0.6, 0.8])
    found = spread_of_transverse(
        *(torch.tensor([v]).double() for v in (*mean, covariance[0, 0], covariance[1, 1], covariance[0, 1]))
    )
    expected = integrated(mean, covariance)
    assert float(found[0]) == pytest.approx(expected[0], rel=within)
    assert float(found[1]) == pytest.approx(expected[1], rel=within)


@pytest.mark.parametrize(
    "numbers", [(9.0, 0.0, 1.0, 1.0, 0.0), (1.0, 0.0, 2.0, 0.5, 0.0), (1.0, 0.0, np.inf, 1.0, 0.0)]
)
def test_what_it_cannot_tell(numbers):
    for found in spread_of_transverse(*(torch.tensor([v]).double() for v in numbers)):
        assert np.isnan(float(found))


def test_errors_without_draws_are_those_of_draws():
    class Drawn(WeakField):
        name = "drawn"
        spread = None

    cube = weak_field_cube((12, 15), line="Fe I 6302.5", noise=7e-4, seed=5)
    told, drawn = (specfit.fit(cube, model("Fe I 6302.5")) for model in (WeakField, Drawn))
    weak = (told.status.data & int(Status.NO_LINEAR_SIGNAL)) > 0
    assert 20 < weak.sum() < weak.size
    for name in ("b_trans", "azimuth"):
        own, other = (result[name].uncertainty.array for result in (told, drawn))
        # 64 points tell a deviation to a few per cent.
        np.testing.assert_allclose(own[weak], other[weak], rtol=0.08)
        assert np.abs(own[weak] / other[weak] - 1).mean() < 0.02
        np.testing.assert_array_equal(own[~weak], other[~weak])


def test_compiled_loops_tell_the_same_fields_and_errors(monkeypatch):
    pytest.importorskip("numba")
    cube = weak_field_cube((40, 41), line="Fe I 6302.5", noise=7e-4, seed=5)
    cube.mask = np.zeros(cube.data.shape, bool)
    cube.mask[:, :, 3, 4] = True
    model = WeakField("Fe I 6302.5", stokes_reference=25 * u.deg)
    plain, fast = specfit.fit(cube, model), specfit.fit(cube, model)
    for result in (plain, fast):
        # No signal in one, nothing known of the other, far more known of Q than of U.
        propagation = result._propagation
        for name in ("b_q", "b_u"):
            propagation.values[name][7] = 0.0
        propagation.covariance_rows[2, 8], propagation.covariance_rows[4, 8] = np.inf, 0.0
        propagation.covariance_rows[5, 9], propagation.covariance_rows[4, 9] = 1e8, 0.0
    expected = {name: (plain[name].data, plain[name].uncertainty.array) for name in ("b_trans", "azimuth")}
    monkeypatch.setattr(guard, "_failures", [])
    monkeypatch.setattr(compiled, "_WORTH_COMPILING", 1)
    values, rows = fast._propagation.values, fast._propagation.covariance_rows
    _, settled = model.derive_with_errors(values, lambda a, b: rows[{"b_qb_q": 2, "b_ub_u": 5}.get(a + b, 4)])
    assert not settled[7:10].any()
    assert settled.mean() > 0.99
    for name, numbers in expected.items():
        for own, other in zip((fast[name].data, fast[name].uncertainty.array), numbers, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-11, atol=1e-11)
    assert not guard._failures
