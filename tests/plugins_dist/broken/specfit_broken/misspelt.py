"""Implements a hook that does not exist."""

from sunpy_specfit import hookimpl

from .healthy import Flat


@hookimpl
def specfit_plugin():
    return [Flat]
