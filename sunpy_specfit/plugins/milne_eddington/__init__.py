"""Milne-Eddington atmospheres."""

from ...core.hooks import hookimpl
from .milne_eddington import MilneEddington
from .pair import two_atmospheres

__all__ = ["MilneEddington", "two_atmospheres"]


@hookimpl
def specfit_plugins():
    return [MilneEddington]
