"""The polynomial background."""

import numpy as np
import pytest
import torch

from sunpy_specfit.core.batching import BatchedModel
from sunpy_specfit.plugins.gaussian import Polynomial


def coefficients(degree, pixels=5):
    g = torch.Generator().manual_seed(0)
    return {f"c{i}": torch.randn(pixels, generator=g, dtype=torch.float64) for i in range(degree + 1)}


@pytest.mark.parametrize("degree", [0, 1, 4])
@pytest.mark.parametrize("per_pixel", [False, True])
def test_light_and_jacobian(degree, per_pixel):
    model, c = Polynomial(degree), coefficients(degree)
    x = torch.linspace(2, 4, 9, dtype=torch.float64)[:, None]
    x = x + 0.1 * torch.arange(5) if per_pixel else x
    auxiliary = {"middle": torch.tensor([3.0], dtype=torch.float64)} if degree else {}
    light, derivatives = model.linearize(x, **c, **auxiliary)
    values = np.stack([v.numpy() for v in c.values()])
    distance = x.expand(-1, 5).numpy() - 3
    expected = np.stack([np.polyval(values[::-1, p], distance[:, p]) for p in range(5)], axis=-1)
    np.testing.assert_allclose(light, expected, atol=1e-12)
    chosen = BatchedModel.choose(model, x, c, auxiliary)
    assert (chosen.strategy, chosen.analytic) == ("broadcast", True)
    _, automatic = BatchedModel(model, "vmap", analytic=False).linearize(x, c, auxiliary, tuple(c))
    for name in c:
        torch.testing.assert_close(derivatives[name].expand(9, 5), automatic[name], rtol=0, atol=1e-12)


def test_everything_is_linear_and_named_by_power():
    model = Polynomial(2)
    assert tuple(model.parameters) == model.linear_parameters == ("c0", "c1", "c2")
    assert [p.unit for p in model.parameters.values()] == ["data", "data / spectral", "data / spectral**2"]


def test_powers_are_about_the_middle_of_the_window():
    class Observation:
        window_middle = 195.1

    assert Polynomial(1).prepare(Observation())["middle"].tolist() == [195.1]
    assert Polynomial(1).auxiliaries["middle"].location
    assert Polynomial(0).prepare(Observation()) == {} == Polynomial(0).auxiliaries


@pytest.mark.parametrize("degree", [-1, 1.5, True, "2", 10])
def test_wrong_degrees_are_refused(degree):
    with pytest.raises(ValueError, match="degree is an integer from 0 to 9"):
        Polynomial(degree)


def test_repr_rebuilds():
    assert repr(Polynomial(2, label="far")) == "Polynomial(2, label='far')"
