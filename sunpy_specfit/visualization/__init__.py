"""Figures of results."""

from .maps import plot_maps
from .spectrum import plot_spectrum

__all__ = ["plot_maps", "plot_spectrum"]
