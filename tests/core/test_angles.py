"""Numbers that come in again beyond their bounds."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty

import sunpy_specfit as specfit
from sunpy_specfit import Model, Parameter, Status
from sunpy_specfit.core.angles import Angle, Radius, fold
from sunpy_specfit.data import gaussian_cube
from sunpy_specfit.testing import check_model


class Vector(Model):
    """Three numbers that know a vector by its length and two angles: up to the sign of its part across."""

    name = "vector"
    length = Parameter("data", lower=0, upper=1e6, opposite="tilt")
    tilt = Parameter(u.deg, lower=0, upper=180, beyond="reflect")
    turn = Parameter(u.deg, lower=0, upper=180, beyond="wrap")

    def evaluate(self, x, length, tilt, turn):
        tilt, twice = torch.deg2rad(tilt), 2 * torch.deg2rad(turn)
        across = (length * torch.sin(tilt)) ** 2 / 100
        z = (x - x[:1]) / (x[-1:] - x[:1])
        return (
            length * torch.cos(tilt) * torch.exp(-0.5 * ((z - 0.2) / 0.05) ** 2)
            + across * torch.cos(twice) * torch.exp(-0.5 * ((z - 0.5) / 0.05) ** 2)
            + across * torch.sin(twice) * torch.exp(-0.5 * ((z - 0.8) / 0.05) ** 2)
        )


def test_wrapping_and_reflecting():
    free = torch.tensor([[-190.0, -10.0, 0.0, 170.0, 190.0, 370.0]])
    assert fold(free, [Angle(0, 0.0, 180.0, False)])[0].tolist() == [170.0, 170.0, 0.0, 170.0, 10.0, 10.0]
    assert fold(free, [Angle(0, 0.0, 180.0, True)])[0].tolist() == [170.0, 10.0, 0.0, 170.0, 170.0, 10.0]
    assert free[0, 0] == -190.0  # left as it was


def test_a_radius_comes_out_on_the_other_side():
    free = torch.tensor([[3.0, -2.0], [30.0, 30.0]])
    assert fold(free, [Radius(0, 0.0, 1, 180.0)]).tolist() == [[3.0, 2.0], [30.0, 150.0]]


def scene(length, tilt, turn, noise=0.3, seed=0):
    cube = gaussian_cube(shape=np.shape(length), seed=1)
    n = cube.data.shape[-1]
    x = torch.linspace(0, 1, n, dtype=torch.float64)[:, None]
    values = [torch.as_tensor(np.asarray(v, float).ravel()) for v in (length, tilt, turn)]
    light = Vector().evaluate(x, *values).numpy().T.reshape(cube.data.shape)
    data = light + noise * np.random.default_rng(seed).standard_normal(light.shape)
    return type(cube)(data, wcs=cube.wcs, unit=cube.unit, uncertainty=StdDevUncertainty(np.full(data.shape, noise)))


@pytest.mark.parametrize(("tilted", "turned"), [(30.0, 30.0), (-30.0, 30.0), (30.0, -30.0), (-30.0, -30.0)])
def test_fits_walk_through_the_bounds(tilted, turned):
    """To truths on the other side of each bound, from thirty degrees away, whichever way that is."""
    tilt = np.array([[2.0, 40.0, 90.0, 140.0, 178.0]] * 5)
    turn = np.array([[1.0, 45.0, 90.0, 135.0, 179.0]] * 5).T
    cube = scene(np.full((5, 5), 100.0), tilt, turn)
    start = torch.as_tensor(np.stack([tilt + tilted, turn + turned]).reshape(2, -1))
    start = fold(start, [Angle(0, 0.0, 180.0, True), Angle(1, 0.0, 180.0, False)]).reshape(2, 5, 5).numpy()
    result = specfit.fit(cube, Vector(), init={"length": 80.0, "tilt": start[0], "turn": start[1]})
    assert result.reduced_chi2.data.max() < 2.5
    assert not (result.status.data & int(Status.AT_BOUND)).any()
    for name, upper in (("tilt", 180), ("turn", 180), ("length", np.inf)):
        assert (result[name].data >= 0).all()
        assert (result[name].data <= upper).all()
    for name, truth in (("tilt", tilt), ("turn", turn)):
        apart = (result[name].data - truth + 90) % 180 - 90
        assert np.abs(apart / result[name].uncertainty.array)[:, 1:-1].max() < 5


def test_a_vector_that_points_the_other_way_is_found_through_zero():
    cube = scene(np.full((3, 3), 20.0), np.full((3, 3), 170.0), np.full((3, 3), 30.0))
    result = specfit.fit(cube, Vector(), init={"length": 20.0, "tilt": 10.0, "turn": 30.0})
    assert result.reduced_chi2.data.max() < 2.5
    assert result["tilt"].data.min() > 140


def test_bounds_that_a_user_gives_are_walls():
    model = Vector().bound(turn=(20, 60), length=(50, 200))
    assert model.parameters["turn"].beyond == "stop"
    assert model.parameters["length"].opposite is None
    cube = scene(np.full((3, 3), 100.0), np.full((3, 3), 60.0), np.full((3, 3), 100.0))
    result = specfit.fit(cube, model, init={"length": 100.0, "tilt": 60.0, "turn": 40.0})
    assert (result.status.data & int(Status.AT_BOUND)).all()
    assert set(np.unique(result["turn"].data)) <= {20.0, 60.0}


def test_a_radius_without_its_angle_has_a_wall():
    cube = scene(np.full((3, 3), 100.0), np.full((3, 3), 120.0), np.full((3, 3), 30.0))
    result = specfit.fit(cube, Vector().fix(tilt=60 * u.deg), init={"length": 10.0, "turn": 30.0})
    assert (result["length"].data >= 0).all()


def test_what_is_no_angle_is_refused():
    with pytest.raises(ValueError, match="both bounds"):
        Parameter(u.deg, beyond="wrap", lower=0)
    with pytest.raises(ValueError, match="'stop'"):
        Parameter(u.deg, beyond="bounce")
    with pytest.raises(ValueError, match="lower bound"):
        Parameter(u.G, opposite="inclination")


def test_the_kit_sees_light_that_changes_beyond_the_bounds():
    check_model(Vector(), fit=False)

    class Wrong(Vector):
        name = "wrong"
        turn = Parameter(u.deg, lower=0, upper=90, beyond="wrap")

    with pytest.raises(AssertionError, match="another light beyond its bounds"):
        check_model(Wrong(), fit=False)

    class Lopsided(Vector):
        name = "lopsided"
        tilt = Parameter(u.deg, lower=0, upper=120, beyond="reflect")

    with pytest.raises(AssertionError, match="beyond its bounds"):
        check_model(Lopsided(), fit=False)
