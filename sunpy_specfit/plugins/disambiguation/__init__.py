"""Ways to choose between azimuths 180 degrees apart."""

from ...core.hooks import hookimpl
from .acute_angle import AcuteAngle

__all__ = ["AcuteAngle"]


@hookimpl
def specfit_plugins():
    return [AcuteAngle]
