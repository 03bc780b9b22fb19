"""Differential emission measures from images in several channels."""

from ...core.hooks import hookimpl
from .dem import DEM
from .isothermal import Isothermal
from .plot import plot_dem
from .resolution import temperature_resolution
from .response import TemperatureResponse
from .temperature_prior import TemperaturePrior

__all__ = ["DEM", "Isothermal", "TemperaturePrior", "TemperatureResponse", "plot_dem", "temperature_resolution"]


@hookimpl
def specfit_plugins():
    return [DEM, Isothermal, TemperaturePrior]
