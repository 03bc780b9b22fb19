"""Milne-Eddington atmospheres."""

from ...core.hooks import hookimpl
from .milne_eddington import MilneEddington

__all__ = ["MilneEddington"]


@hookimpl
def specfit_plugins():
    return [MilneEddington]
