"""Noise that depends on the light itself."""

from __future__ import annotations

from abc import abstractmethod

import torch

from .arguments import Configurable

__all__ = ["Noise"]


class Noise(Configurable):
    """The variance of the data as a function of the light that a model predicts.

    Given as ``uncertainty=`` to `~sunpy_specfit.fit`. The weights are made from the model and renewed as
    the fit goes on, for weights made from noisy data bias weak lines low.
    """

    @abstractmethod
    def variance(self, light: torch.Tensor) -> torch.Tensor:
        """The variance, in data units squared, for expected light in data units; elementwise, above zero."""
