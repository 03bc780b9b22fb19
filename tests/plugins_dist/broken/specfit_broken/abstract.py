"""Returns a class whose physics is missing."""

from sunpy_specfit import Model, Parameter, hookimpl


class Unfinished(Model):
    name = "unfinished"
    amplitude = Parameter("data")


@hookimpl
def specfit_plugins():
    return [Unfinished]
