"""Model expressions as plain data: the same physics comes back, and what cannot says what is missing."""

import json

import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit import ExternalModel, Model, Operator, Parameter, Prior
from sunpy_specfit.core import registry
from sunpy_specfit.core.expression import from_plain, missing, model_from_plain, model_to_plain, to_plain

REST = 195.119 * u.AA


class Ramp(Model):
    """Options of every kind of argument."""

    name = "test_ramp"
    slope = Parameter("data / spectral", default=1.0)

    def __init__(self, first, *numbers, label=None, table=None):
        self.first = first
        self.numbers = numbers
        self.label = label
        self.table = table

    def evaluate(self, x, slope):
        return self.first * slope * x


class Halve(Operator):
    name = "test_halve"

    def __init__(self, kernel):
        self.kernel = kernel

    def apply(self, light, x, shape):
        return light / 2


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2.5,
        "text",
        [1, [2, 3]],
        (1, ("a", None)),
        {"a": 1, 2: {"b": (1,)}},
        30 * u.mAA,
        [1, 2, 3] * u.Unit("erg / (cm2 s sr Angstrom)"),
        u.km / u.s,
        Parameter("data", lower=0 * u.DN, shape=(3,)),
    ],
    ids=repr,
)
def test_plain_values_come_back_as_they_were(value):
    again = from_plain(to_plain(value))
    assert type(again) is type(value)
    assert repr(again) == repr(value)


def test_arrays_and_tensors_come_back():
    array = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(from_plain(to_plain(array)), array)
    words = np.array(["a", "bc"])
    np.testing.assert_array_equal(from_plain(to_plain(words)), words)
    tensor = torch.tensor([1, 2, 3])
    assert torch.equal(from_plain(to_plain(tensor)), tensor)
    assert from_plain(to_plain(np.float32(0.5))) == 0.5


def test_a_sum_with_every_constraint_comes_back():
    model = (
        specfit.Gaussian(REST, label="a").fix(width=30 * u.mAA).bound(center=(195.0, 195.2) * u.AA)
        + specfit.Gaussian(195.179 * u.AA, label="b").share("width")
        + specfit.Polynomial(2)
    ).tie("b.center", "a.center", factor=1.0, offset=60 * u.mAA)
    again = model_from_plain(model_to_plain(model))
    assert repr(again) == repr(model)
    assert {k: repr(p) for k, p in again.parameters.items()} == {k: repr(p) for k, p in model.parameters.items()}


def test_positional_and_keyword_arguments_come_back():
    model = Ramp(2.0, 3, 4, label="r", table={"x": [1, 2]})
    with registry.registered(Ramp):
        again = model_from_plain(model_to_plain(model))
    assert (again.first, again.numbers, again.label, again.table) == (2.0, (3, 4), "r", {"x": [1, 2]})


def test_operators_keep_their_place():
    model = (specfit.Gaussian(REST) + specfit.Polynomial(0)) | Halve(np.eye(3)) | Halve(np.zeros(2))
    with registry.registered(Halve):
        again = model_from_plain(model_to_plain(model))
    assert [o.kernel.shape for o in again.operators] == [(3, 3), (2,)]


def test_nothing_but_plain_data():
    plain = model_to_plain(Ramp(1, 2, label="r") + Ramp(3))
    assert json.loads(json.dumps(plain, default=str))["is"] == "sum"


def external():
    def profile(x, height):
        return height + 0 * x

    return ExternalModel(profile, {"height": Parameter("data")}, label="mine")


def test_a_function_is_named_and_its_absence_explained():
    model = external() + specfit.Polynomial(0)
    plain = model_to_plain(model)
    assert missing(plain) == ["the function external.<locals>.profile"]
    again = model_from_plain(plain)
    assert list(again.parameters) == list(model.parameters)
    assert again.components[0].component_label() == "mine"
    with pytest.raises(ValueError, match=r"external.*'function'.*profile.*FitResult\.load\(path, model=\.\.\.\)"):
        again.components[0].evaluate(torch.zeros(3), height=torch.tensor(1.0))
    # What stood in for it can be stored again, and nothing is lost by that.
    assert model_to_plain(again) == plain


def test_a_model_whose_plugin_is_not_here_keeps_its_names():
    plain = model_to_plain(Ramp(2.0))
    again = model_from_plain(plain)
    assert list(again.parameters) == ["slope"]
    with pytest.raises(ValueError, match="'test_ramp'.*not registered here"):
        again.evaluate(torch.zeros(3), slope=torch.tensor(1.0))


def test_an_operator_whose_plugin_is_not_here_says_so():
    again = model_from_plain(model_to_plain(specfit.Polynomial(0) | Halve(np.eye(2))))
    with pytest.raises(ValueError, match="'test_halve'.*not registered here"):
        again.operators[0].apply(torch.zeros(2, 3), torch.zeros(2, 1), (3,))
    assert to_plain(again.operators[0])["name"] == "test_halve"


def test_a_plugin_that_changed_is_not_mistaken_for_the_old_one():
    plain = model_to_plain(Ramp(2.0))

    class Ramp2(Ramp):
        name = "test_ramp"
        curvature = Parameter("data")

    with registry.registered(Ramp2):
        again = model_from_plain(plain)
    with pytest.raises(ValueError, match="had the parameters slope .* has slope, curvature"):
        again.derive()


def test_a_constructor_that_changed_is_explained():
    plain = model_to_plain(Ramp(2.0, table=1))

    class Short(Model):
        name = "test_ramp"
        slope = Parameter("data / spectral", default=1.0)

        def __init__(self, first):
            self.first = first

        def evaluate(self, x, slope):
            return slope * x

    with registry.registered(Short):
        again = model_from_plain(plain)
    with pytest.raises(ValueError, match="no longer takes these arguments"):
        again.derive()


def test_without_strictness_a_text_stands_for_what_is_missing():
    class Wish(Prior):
        name = "test_wish"
        quantities = ("velocity",)

        def __init__(self, function):
            self.function = function

        def bind(self, units, grid):
            raise NotImplementedError

    plain = to_plain({"prior": Wish(abs), "thing": object()})
    with pytest.raises(ValueError, match="test_wish"):
        from_plain(plain)
    again = from_plain(plain, strict=False)
    assert again["prior"].startswith("Wish(")
    assert again["thing"] == "<an object of class object>"
