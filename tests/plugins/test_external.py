"""Foreign code as a model: compiled functions, with and without a Jacobian, under every kind of differentiation."""

import numba
import numpy as np
import pytest
import torch

from sunpy_specfit import ExternalModel, Parameter
from sunpy_specfit.core.batching import BatchedModel

PARAMETERS = {
    "amplitude": Parameter("data", lower=0),
    "center": Parameter("spectral", location=True),
    "width": Parameter("spectral", lower=0),
}
X = torch.linspace(-3, 3, 21, dtype=torch.float64)[:, None]
VALUES = {
    "amplitude": torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64),
    "center": torch.tensor([0.0, 0.3, -0.5, 0.1], dtype=torch.float64),
    "width": torch.tensor([0.5, 0.8, 1.0, 0.4], dtype=torch.float64),
}


@numba.njit
def compiled(x, amplitude, center, width):
    light = np.empty_like(x)
    for i in range(x.size):
        t = (x[i] - center) / width
        light[i] = amplitude * np.exp(-0.5 * t * t)
    return light


@numba.njit
def compiled_jacobian(x, amplitude, center, width):
    out = np.empty((3, x.size))
    for i in range(x.size):
        t = (x[i] - center) / width
        e = np.exp(-0.5 * t * t)
        out[0, i] = e
        out[1, i] = amplitude * e * t / width
        out[2, i] = amplitude * e * t * t / width
    return out


def vectorized(x, amplitude, center, width):
    return amplitude * np.exp(-0.5 * ((x - center) / width) ** 2)


def twin(x, amplitude, center, width):
    return amplitude * torch.exp(-0.5 * ((x - center) / width) ** 2)


MODELS = {
    "compiled": ExternalModel(compiled, PARAMETERS, linear=("amplitude",)),
    "compiled with Jacobian": ExternalModel(compiled, PARAMETERS, jacobian=compiled_jacobian),
    "vectorized": ExternalModel(vectorized, PARAMETERS, vectorized=True),
}
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))


@each_model
def test_light_and_derivatives(model):
    batched = BatchedModel.choose(model, X, VALUES, {})
    assert batched.strategy == "broadcast"
    assert batched.analytic
    light, derivatives = batched.linearize(X, VALUES, {}, tuple(VALUES))
    torch.testing.assert_close(light, twin(X, **VALUES))
    expected = torch.func.jacfwd(lambda v: twin(X, **v))(VALUES)
    for name, d in derivatives.items():
        torch.testing.assert_close(d, expected[name].diagonal(dim1=-2, dim2=-1), rtol=1e-6, atol=1e-7)


@each_model
def test_reverse_and_forward_mode(model):
    leaves = {name: value.clone().requires_grad_() for name, value in VALUES.items()}
    weights = torch.rand(21, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.autograd.grad((model.evaluate(X, **leaves) * weights).sum(), list(leaves.values()))
    expected = torch.autograd.grad((twin(X, **leaves) * weights).sum(), list(leaves.values()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)

    def light(amplitude, center, width, function=model.evaluate):
        return function(X, amplitude=amplitude, center=center, width=width)

    tangents = tuple(torch.ones_like(v) for v in VALUES.values())
    forward = torch.func.jvp(light, tuple(VALUES.values()), tangents)[1]
    truth = torch.func.jvp(lambda *v: light(*v, function=twin), tuple(VALUES.values()), tangents)[1]
    torch.testing.assert_close(forward, truth, rtol=1e-6, atol=1e-7)
    pulled = torch.func.vjp(light, *VALUES.values())[1](weights)
    for a, b in zip(pulled, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@each_model
def test_one_pixel_needs_no_pixel_axis(model):
    one = {name: value[2] for name, value in VALUES.items()}
    torch.testing.assert_close(model.evaluate(X[:, 0], **one), twin(X[:, 0], **one))


def test_vector_parameter():
    def polynomial(x, coefficients):
        return coefficients[0] + coefficients[1] * x

    model = ExternalModel(polynomial, {"coefficients": Parameter("data", shape=(2,))})
    values = {"coefficients": torch.arange(8.0, dtype=torch.float64).reshape(2, 4)}
    light, derivatives = BatchedModel.choose(model, X, values, {}).linearize(X, values, {}, ("coefficients",))
    torch.testing.assert_close(light, values["coefficients"][0] + values["coefficients"][1] * X)
    torch.testing.assert_close(derivatives["coefficients"][1], X.expand(21, 4), rtol=1e-6, atol=1e-7)
    leaf = values["coefficients"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.evaluate(X, coefficients=leaf).square().sum(), leaf)
    torch.testing.assert_close(gradient, torch.stack([2 * light.sum(0), 2 * (light * X).sum(0)]), rtol=1e-6, atol=1e-7)


def test_what_is_no_function_or_no_parameter_is_refused():
    with pytest.raises(TypeError, match="wraps a function"):
        ExternalModel(3, PARAMETERS)
    with pytest.raises(TypeError, match="'width'"):
        ExternalModel(vectorized, {**PARAMETERS, "width": 1.0})
