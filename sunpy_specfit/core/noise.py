"""Noise that depends on the light itself."""

from __future__ import annotations

from abc import abstractmethod

import astropy.units as u
import torch

from .arguments import Configurable

__all__ = ["Noise"]


class Noise(Configurable):
    """The variance of the data as a function of the light that a model predicts.

    Given as ``uncertainty=`` to `~sunpy_specfit.fit`. The weights are made from the model and renewed as
    the fit goes on, for weights made from noisy data bias weak lines low.
    """

    def in_unit(self, unit: u.UnitBase) -> Noise:
        """The same noise for data in ``unit``; by default itself, its numbers being in that unit already.

        Raises
        ------
        astropy.units.UnitConversionError
            If the noise is stated in units that do not convert.
        """
        return self

    @abstractmethod
    def variance(self, light: torch.Tensor) -> torch.Tensor:
        """The variance, in data units squared, for expected light in data units; elementwise, above zero."""
