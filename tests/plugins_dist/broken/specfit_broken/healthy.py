"""Works, and should go on working beside its siblings."""

from sunpy_specfit import Model, Parameter, hookimpl


class Flat(Model):
    """A constant."""

    name = "flat"
    linear_parameters = ("level",)
    level = Parameter("data")

    def evaluate(self, x, level):
        return level + 0 * x


@hookimpl
def specfit_plugins():
    # An unusable class does not take the usable one with it.
    yield Flat
    yield Flat()
