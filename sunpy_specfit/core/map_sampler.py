"""Who draws whole maps: the interface."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

__all__ = ["MapSampler"]


class MapSampler(ABC):
    """Draws of whole maps from what is known after a fit, the errors of neighbours in step with each other."""

    @abstractmethod
    def draw(self, n: int, seed: int) -> np.ndarray | None:
        """Distances of draws from the solution, physical, ``(n, k, pixels)``; None where it cannot be done."""

    @abstractmethod
    def select(self, pixels) -> MapSampler:
        """The same for some of the pixels; the maps are still drawn as a whole."""
