"""The polynomial background."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...core.model import Model
from ...core.parameter import Auxiliary, Parameter

__all__ = ["Polynomial"]


class Polynomial(Model):
    r"""A polynomial in wavelength, such as the continuum under a line.

    .. math:: \sum_i c_i (\lambda - \lambda_m)^i

    λm is the middle of the wavelengths in use (of the window, if there is one), where the coefficients are least
    correlated.

    Parameters
    ----------
    degree : int
        0 for a constant.
    label : str, optional
        What distinguishes it in a sum; by default "polynomial".

    Raises
    ------
    ValueError
        If the degree is not an integer from 0 to 9.

    Notes
    -----
    Fitted: ``c0`` (data), ``c1`` (data / spectral), ``c2`` (data / spectral²), ... All enter linearly.

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit import Polynomial
    >>> line = Polynomial(1)
    >>> {name: parameter.unit for name, parameter in line.parameters.items()}
    {'c0': 'data', 'c1': 'data / spectral'}
    >>> line.evaluate(torch.tensor([1.0, 2.0]), c0=torch.tensor(3.0), c1=torch.tensor(0.5), middle=torch.tensor(1.5))
    tensor([2.7500, 3.2500])
    """

    name = "polynomial"

    def __init__(self, degree: int = 0, *, label: str | None = None):
        if isinstance(degree, bool) or not isinstance(degree, (int, np.integer)) or not 0 <= degree <= 9:
            raise ValueError(f"Polynomial: degree is an integer from 0 to 9, found {degree!r}")
        self.degree = degree
        self.label = label

    def declare(self) -> Mapping[str, Parameter]:
        units = ["data", "data / spectral", *(f"data / spectral**{i}" for i in range(2, self.degree + 1))]
        return {f"c{i}": Parameter(units[i]) for i in range(self.degree + 1)}

    @property
    def linear_parameters(self) -> tuple[str, ...]:
        return tuple(f"c{i}" for i in range(self.degree + 1))

    @property
    def auxiliaries(self) -> dict[str, Auxiliary]:
        return {"middle": Auxiliary("spectral", location=True)} if self.degree else {}

    def prepare(self, observation) -> dict[str, torch.Tensor]:
        if not self.degree:
            return {}
        return {"middle": torch.tensor([observation.window_middle], dtype=torch.float64)}

    def evaluate(self, x, *, middle=0.0, **coefficients):
        light = coefficients[f"c{self.degree}"]
        if not self.degree:
            return torch.broadcast_tensors(x, light)[1]
        distance = x - middle
        for i in reversed(range(self.degree)):
            light = coefficients[f"c{i}"] + light * distance
        return light

    def linearize(self, x, *, middle=0.0, **coefficients):
        light = self.evaluate(x, middle=middle, **coefficients)
        power = x.new_ones((1, 1))
        derivatives = {"c0": power}
        for i in range(1, self.degree + 1):
            power = power * (x - middle)
            derivatives[f"c{i}"] = power
        return light, derivatives
