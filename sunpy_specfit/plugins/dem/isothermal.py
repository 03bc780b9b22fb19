"""Plasma of one temperature, seen in two channels or more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import astropy.units as u
import numpy as np
import torch

from ...core.model import Model
from ...core.parameter import Parameter
from .images import gather, without_pixels
from .response import TemperatureResponse

__all__ = ["Isothermal"]


class Isothermal(Model):
    """One temperature and one emission measure a pixel: I_c = EM · R_c(T).

    The ratio of two filters in the form of a fit: with errors, for any number of channels. Where no single temperature
    explains the channels, chi² says so.

    Parameters
    ----------
    responses : mapping of channel to `~astropy.units.Quantity`, or `TemperatureResponse`
    temperature : `~astropy.units.Quantity`, optional
        Of the responses; not needed with a `TemperatureResponse`. Fits stay within it.
    label : str, optional

    References
    ----------
    Narukage et al. (2011), https://doi.org/10.1007/s11207-010-9685-2

    Examples
    --------
    >>> import astropy.units as u
    >>> import numpy as np
    >>> import sunpy_specfit as specfit
    >>> t = np.geomspace(1e6, 1e7, 21) * u.K
    >>> unit = u.Unit("DN cm5 / (s pix)")
    >>> thin, thick = 1e-26 * t.value / 1e6 * unit, 1e-27 * (t.value / 1e6) ** 2 * unit
    >>> model = specfit.Isothermal({"thin": thin, "thick": thick}, t)
    >>> list(model.parameters)
    ['log_temperature', 'log_emission_measure']
    """

    name = "isothermal"
    references = ("10.1007/s11207-010-9685-2",)
    data_axis = "channel"

    def __init__(
        self, responses: Mapping[Any, u.Quantity], temperature: u.Quantity | None = None, *, label: str | None = None
    ):
        if isinstance(responses, TemperatureResponse) and temperature is None:
            temperature = responses.temperature
        if temperature is None:
            raise TypeError("Isothermal needs the temperatures that the responses are given at: temperature=")
        self.responses = dict(responses) if isinstance(responses, Mapping) else responses
        self.temperature = temperature
        self.label = label
        self._table = TemperatureResponse(self.responses, temperature)
        self._unit = next(iter(self._table.values())).unit
        values = np.stack([value.to_value(self._unit) for value in self._table.values()])
        seen = np.flatnonzero((values > 0).all(0))
        if len(seen) < 2:
            raise ValueError("no temperature is seen by all channels: leave out those that see nothing of the others'")
        self._log_t = np.log10(self._table.temperature.value[seen[0] : seen[-1] + 1])
        self._log_r = np.log10(np.maximum(values[:, seen[0] : seen[-1] + 1], values.max() * 1e-30))
        self._parameters = {
            "log_temperature": Parameter(
                u.dimensionless_unscaled, lower=float(self._log_t[0]), upper=float(self._log_t[-1])
            ),
            "log_emission_measure": Parameter(u.dimensionless_unscaled, lower=15.0, upper=40.0),
        }

    def declare(self) -> Mapping[str, Parameter]:
        return self._parameters

    def __repr__(self) -> str:
        return f"Isothermal({', '.join(self._table)})"

    def gather(self, data, *, uncertainty=None, mask=None):
        """One cube of count rates from a mapping of channels to NDCubes or sunpy Maps, or from a cube."""
        return gather(data, tuple(self._table), self._unit * u.Unit("cm-5"), uncertainty=uncertainty, mask=mask)

    def prepare(self, observation) -> dict[str, torch.Tensor]:
        factor = float((without_pixels(self._unit) * u.Unit("cm-5")).to(without_pixels(observation.data_unit)))
        return {"log_response": torch.as_tensor(self._log_r + np.log10(factor))[:, :, None]}

    def evaluate(self, x, log_temperature, log_emission_measure, log_response):
        grid = torch.as_tensor(self._log_t).to(log_temperature)
        segment = (torch.searchsorted(grid, log_temperature.detach().contiguous(), right=True) - 1).clamp(
            0, len(grid) - 2
        )
        share = (log_temperature - grid[segment]) / (grid[segment + 1] - grid[segment])
        rows = log_response[..., 0] if log_response.ndim == 3 else log_response
        low, high = rows[:, segment], rows[:, segment + 1]
        return 10 ** (low + (high - low) * share + log_emission_measure)

    def start_values(self, x, data, weight, log_response):
        """The best of all temperatures of the table, each with its own emission measure."""
        rows = 10 ** (log_response[..., 0] - log_response.amax())  # (m, n)
        cross = torch.einsum("mn,mp->np", rows, weight * data)
        norm = torch.einsum("mn,mp->np", rows.square(), weight).clamp_min(1e-300)
        amount = (cross / norm).clamp_min(1e-30)
        best = (cross.clamp_min(0).square() / norm).argmax(0)
        grid = torch.as_tensor(self._log_t).to(data)
        middle = grid[best].clamp(grid[0] + 1e-3, grid[-1] - 1e-3)
        amount = amount.gather(0, best[None])[0].log10() - float(log_response.amax())
        return {"log_temperature": middle, "log_emission_measure": amount.clamp(16.0, 39.0)}
