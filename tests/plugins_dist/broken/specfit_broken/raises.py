"""Fails only when it is asked."""

from sunpy_specfit import hookimpl


@hookimpl
def specfit_plugins():
    raise RuntimeError("no licence file found")
