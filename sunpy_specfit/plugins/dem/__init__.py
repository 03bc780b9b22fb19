"""Differential emission measures from images in several channels."""

from ...core.hooks import hookimpl
from .dem import DEM
from .resolution import temperature_resolution
from .response import TemperatureResponse
from .temperature_prior import TemperaturePrior

__all__ = ["DEM", "TemperaturePrior", "TemperatureResponse", "temperature_resolution"]


@hookimpl
def specfit_plugins():
    return [DEM, TemperaturePrior]
