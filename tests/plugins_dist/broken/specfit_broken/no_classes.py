"""Returns something else than classes."""

from sunpy_specfit import hookimpl


@hookimpl
def specfit_plugins():
    return 42
