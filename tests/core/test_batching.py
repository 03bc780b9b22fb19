"""One pixel's physics for many pixels: which way is chosen, and that all ways agree."""

import pytest
import torch

from sunpy_specfit import Model, Parameter
from sunpy_specfit.core.batching import BatchedModel

X = torch.linspace(-3, 3, 21, dtype=torch.float64)[:, None]
VALUES = {
    "amplitude": torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64),
    "center": torch.tensor([0.0, 0.3, -0.5, 0.1, 0.7], dtype=torch.float64),
    "width": torch.tensor([0.5, 0.8, 1.0, 0.4, 0.6], dtype=torch.float64),
}


class Line(Model):
    name = "line"
    amplitude = Parameter("data", lower=0)
    center = Parameter("spectral", location=True)
    width = Parameter("spectral", lower=0)

    def evaluate(self, x, amplitude, center, width):
        return amplitude * torch.exp(-0.5 * ((x - center) / width) ** 2)


class WithHand(Line):
    def linearize(self, x, amplitude, center, width):
        t = (x - center) / width
        e = torch.exp(-0.5 * t**2)
        return amplitude * e, {
            "amplitude": e,
            "center": amplitude * e * t / width,
            "width": amplitude * e * t**2 / width,
        }


class WrongHand(WithHand):
    def linearize(self, x, amplitude, center, width):
        light, derivatives = super().linearize(x, amplitude, center, width)
        return 1.1 * light, derivatives


class Normalised(Line):
    """Mixes samples: its broadcast form would mix pixels."""

    def evaluate(self, x, amplitude, center, width):
        profile = torch.exp(-0.5 * ((x - center) / width) ** 2)
        return amplitude * profile / profile.sum()


class Matrix(Line):
    """Works on one pixel only, but `vmap` follows."""

    def evaluate(self, x, amplitude, center, width):
        stacked = torch.stack([x, x - center], dim=-1)
        return amplitude * torch.exp(-0.5 * (stacked @ torch.tensor([0.0, 1.0], dtype=x.dtype) / width) ** 2)


class Branching(Line):
    """A branch on a value and an iteration to convergence: nothing can batch this."""

    def evaluate(self, x, amplitude, center, width):
        t = ((x - center) / width) ** 2
        if width > 0.55:
            return amplitude * torch.exp(-0.5 * t)
        # exp(-t/2) as the square root of exp(-t), by Heron's iteration
        square, y = torch.exp(-t), torch.ones_like(t)
        for _ in range(200):
            previous, y = y, 0.5 * (y + square / y)
            if bool(((previous - y).abs() <= 1e-15 * y).all()):
                break
        return amplitude * y


@pytest.mark.parametrize(
    ("model", "strategy", "analytic"),
    [
        (Line(), "broadcast", False),
        (WithHand(), "broadcast", True),
        (WrongHand(), "broadcast", False),
        (Normalised(), "vmap", False),
        (Matrix(), "vmap", False),
        (Branching(), "loop", False),
    ],
)
def test_the_fastest_way_that_is_right_is_chosen(model, strategy, analytic):
    batched = BatchedModel.choose(model, X, VALUES, {})
    assert (batched.strategy, batched.analytic) == (strategy, analytic)


@pytest.mark.parametrize("model", [Line(), WithHand(), Normalised(), Matrix(), Branching()])
def test_every_way_gives_the_light_and_the_derivatives_of_single_pixels(model):
    batched = BatchedModel.choose(model, X, VALUES, {})
    light, derivatives = batched.linearize(X, VALUES, {}, tuple(VALUES))
    for p in range(5):
        one = {name: value[p] for name, value in VALUES.items()}
        torch.testing.assert_close(light[:, p], model.evaluate(X[:, 0], **one))
        for name in VALUES:
            step = 1e-6
            up = model.evaluate(X[:, 0], **{**one, name: one[name] + step})
            down = model.evaluate(X[:, 0], **{**one, name: one[name] - step})
            torch.testing.assert_close(derivatives[name][:, p], (up - down) / (2 * step), rtol=1e-5, atol=1e-7)


def test_the_iterating_model_matches_its_analytic_twin():
    iterating = BatchedModel.choose(Branching(), X, VALUES, {}).linearize(X, VALUES, {}, tuple(VALUES))
    twin = BatchedModel.choose(WithHand(), X, VALUES, {}).linearize(X, VALUES, {}, tuple(VALUES))
    torch.testing.assert_close(iterating[0], twin[0], rtol=1e-10, atol=1e-12)
    for name in VALUES:
        torch.testing.assert_close(iterating[1][name], twin[1][name], rtol=1e-8, atol=1e-10)


class Bins(Model):
    """A vector parameter."""

    name = "bins"
    dem = Parameter("data", shape=(3,))

    def evaluate(self, x, dem):
        return sum(dem[i] * x**i for i in range(3))


class BinsByMatrix(Bins):
    def evaluate(self, x, dem):
        return torch.stack([x**i for i in range(3)], dim=-1) @ dem


@pytest.mark.parametrize(("model", "strategy"), [(Bins(), "broadcast"), (BinsByMatrix(), "vmap")])
def test_vector_parameters(model, strategy):
    values = {"dem": torch.arange(15.0, dtype=torch.float64).reshape(3, 5).sqrt()}
    batched = BatchedModel.choose(model, X, values, {})
    assert batched.strategy == strategy
    light, derivatives = batched.linearize(X, values, {}, ("dem",))
    assert light.shape == (21, 5)
    for i in range(3):
        torch.testing.assert_close(derivatives["dem"][i].expand(21, 5), (X**i).expand(21, 5))


def test_inputs_are_not_changed():
    before = {name: value.clone() for name, value in VALUES.items()}
    for model in (Line(), Normalised(), Branching()):
        BatchedModel.choose(model, X, VALUES, {}).linearize(X, VALUES, {}, tuple(VALUES))
    for name, value in VALUES.items():
        assert torch.equal(value, before[name])
