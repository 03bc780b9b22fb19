"""The weak-field approximation."""

from ...core.hooks import hookimpl
from .weak_field import WeakField

__all__ = ["WeakField"]


@hookimpl
def specfit_plugins():
    return [WeakField]
