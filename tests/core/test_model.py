"""Models: declaration, names, constraints, sums, instruments."""

import astropy.units as u
import numpy as np
import pytest
import torch

from sunpy_specfit import Gaussian, Model, Operator, Parameter, Polynomial

REST = 195.119 * u.AA


class Lorentzian(Model):
    name = "lorentzian"
    amplitude = Parameter("data", lower=0)
    center = Parameter("spectral", location=True)
    width = Parameter("spectral", lower=0)
    derived = {"area": "data * spectral"}

    def __init__(self, *, label=None):
        self.label = label

    def evaluate(self, x, amplitude, center, width):
        return amplitude / (1 + ((x - center) / width) ** 2)


class Offset(Model):
    name = "offset"
    level = Parameter("data")

    def evaluate(self, x, level):
        return level * torch.ones_like(x)


class Halve(Operator):
    name = "halve"

    def apply(self, light, x, shape):
        return light / 2


def test_parameters_are_read_from_the_class_in_order():
    assert list(Lorentzian().parameters) == ["amplitude", "center", "width"]


def test_a_subclass_inherits_adds_and_drops_parameters():
    class Skewed(Lorentzian):
        name = "skewed"
        skew = Parameter(u.dimensionless_unscaled)
        width = None

    assert list(Skewed().parameters) == ["amplitude", "center", "skew"]
    assert list(Lorentzian().parameters) == ["amplitude", "center", "width"]


def test_constraints_return_new_models():
    line = Lorentzian()
    fixed = line.fix(width=30 * u.mAA)
    assert fixed is not line
    assert fixed.parameters["width"].fixed
    assert not line.parameters["width"].fixed
    assert not fixed.free("width").parameters["width"].fixed
    bounded = line.bound({"lorentzian.width": (19, 200) * u.mAA})
    assert bounded.parameters["width"].upper == 200 * u.mAA
    assert line.parameters["width"].upper is None
    assert line.share("width").parameters["width"].shared


@pytest.mark.parametrize("limits", [(2, 1), (3, 3), (5 * u.AA, 10 * u.mAA)])
def test_bounds_that_leave_no_room_are_refused(limits):
    with pytest.raises(ValueError, match="lower bound must be below"):
        Lorentzian().bound(width=limits)


def test_bounds_that_are_no_pair_are_refused():
    with pytest.raises(ValueError, match=r"pair \(lower, upper\)"):
        Lorentzian().bound(width=3)


def test_unknown_names_show_close_matches():
    with pytest.raises(KeyError, match="did you mean 'width'"):
        Lorentzian().fix(widht=1)


def test_sums_name_parameters_by_label_where_they_must():
    model = Lorentzian(label="a") + Lorentzian(label="b") + Offset()
    assert list(model.parameters) == [
        "a.amplitude",
        "a.center",
        "a.width",
        "b.amplitude",
        "b.center",
        "b.width",
        "level",
    ]
    assert model.resolve("offset.level") == "level"
    with pytest.raises(KeyError, match="ambiguous.*'a.width' or 'b.width'"):
        model.resolve("width")


def test_two_components_of_one_label_are_refused():
    with pytest.raises(ValueError, match="labels of their own"):
        Lorentzian() + Lorentzian()


def test_constraints_on_a_sum_live_on_its_components_and_survive_more_sums():
    model = (Lorentzian(label="a") + Lorentzian(label="b")).fix({"a.width": 0.1 * u.AA})
    model = model.tie("b.width", "a.width", factor=2) + Offset()
    assert model.parameters["a.width"].fixed
    assert model.parameters["b.width"].tie.target == "a.width"
    assert model.components[0].parameters["width"].default == 0.1 * u.AA


def test_a_parameter_cannot_be_tied_to_itself():
    with pytest.raises(ValueError, match="itself"):
        Lorentzian().tie("width", "lorentzian.width")


def test_a_sum_adds_light():
    x = torch.linspace(-1, 1, 5)
    model = Lorentzian() + Offset()
    light = model.evaluate(
        x, amplitude=torch.tensor(2.0), center=torch.tensor(0.0), width=torch.tensor(0.5), level=torch.tensor(1.0)
    )
    torch.testing.assert_close(light, 2 / (1 + (x / 0.5) ** 2) + 1)


def test_operators_come_after_sums():
    seen = (Lorentzian() + Offset()) | Halve() | Halve()
    assert len(seen.operators) == 2
    assert list(seen.parameters)[-1] == "level"
    assert seen.fix(level=1).parameters["level"].fixed
    assert len(seen.fix(level=1).operators) == 2
    with pytest.raises(ValueError, match="add the models first"):
        seen + Offset()


def test_models_of_different_stokes_do_not_add():
    class Polarised(Offset):
        name = "polarised"
        stokes = "IQUV"

    with pytest.raises(ValueError, match="cannot be added"):
        Lorentzian() + Polarised()


def test_repr_rebuilds():
    assert repr(Lorentzian(label="a") + Offset()) == "Lorentzian(label='a') + Offset()"


def test_a_model_is_printed_with_its_constraints():
    model = (
        (Gaussian(REST, label="a") + Gaussian(REST, label="b") + Polynomial(1))
        .fix({"a.width": 30 * u.mAA, "c1": 0})
        .bound({"b.width": (10, 60) * u.mAA})
        .tie("b.center", "a.center", offset=0.06 * u.AA)
        .tie("b.amplitude", "a.amplitude", factor=0.5)
        .share("c0")
    )
    first, second, third = repr(model).split(" + ")
    assert first == f"Gaussian({REST!r}, label='a').fix(width={30 * u.mAA!r})"
    assert second == (
        f"Gaussian({REST!r}, label='b').bound(width=({10 * u.mAA!r}, {60 * u.mAA!r}))"
        f".tie('amplitude', 'a.amplitude', factor=0.5).tie('center', 'a.center', offset={0.06 * u.AA!r})"
    )
    assert third == "Polynomial(1).fix(c1=0).share('c0')"
    assert repr(model.fix("c0")).endswith("Polynomial(1).fix('c0', c1=0).share('c0')")
    assert repr(model.free("a.width")).startswith(f"Gaussian({REST!r}, label='a') + ")
    assert "fix(width=<values of shape (3, 4)>)" in repr(Gaussian(REST).fix(width=np.ones((3, 4))))
