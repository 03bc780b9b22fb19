"""Solvers, one algorithm a file."""

from ...core.hooks import hookimpl
from .levenberg_marquardt import LevenbergMarquardt

__all__ = ["LevenbergMarquardt"]


@hookimpl
def specfit_plugins():
    return [LevenbergMarquardt]
