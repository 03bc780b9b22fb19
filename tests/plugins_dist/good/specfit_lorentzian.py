"""A Lorentzian emission line for sunpy_specfit: a whole plugin."""

import math

from sunpy_specfit import Model, Parameter, hookimpl


class Lorentzian(Model):
    """A Lorentzian emission line."""

    name = "lorentzian"
    linear_parameters = ("amplitude",)
    derived = {"fwhm": "spectral", "intensity": "data * spectral"}

    amplitude = Parameter("data", lower=0)
    center = Parameter("spectral", location=True)
    width = Parameter("spectral", lower=0)

    def evaluate(self, x, amplitude, center, width):
        return amplitude / (1 + ((x - center) / width) ** 2)

    def derive(self, amplitude, center, width):
        return {"fwhm": 2 * width, "intensity": math.pi * amplitude * width}


@hookimpl
def specfit_plugins():
    return [Lorentzian]
