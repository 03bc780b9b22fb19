"""Claims the name of another distribution's model."""

from sunpy_specfit import Model, Parameter, hookimpl


class Lorentzian(Model):
    """A Lorentzian by its full width."""

    name = "lorentzian"
    amplitude = Parameter("data", lower=0)
    center = Parameter("spectral", location=True)
    fwhm = Parameter("spectral", lower=0)

    def evaluate(self, x, amplitude, center, fwhm):
        return amplitude / (1 + (2 * (x - center) / fwhm) ** 2)


@hookimpl
def specfit_plugins():
    return [Lorentzian]
