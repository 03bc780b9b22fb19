"""Models written in another language."""

from ...core.hooks import hookimpl
from .model import ExternalModel

__all__ = ["ExternalModel"]


@hookimpl
def specfit_plugins():
    return [ExternalModel]
