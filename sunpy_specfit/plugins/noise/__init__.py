"""Noise that depends on the light."""

from ...core.hooks import hookimpl
from .count import CountNoise

__all__ = ["CountNoise"]


@hookimpl
def specfit_plugins():
    return [CountNoise]
