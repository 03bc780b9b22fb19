"""Solvers, one algorithm a file."""

from ...core.hooks import hookimpl
from .adam import Adam
from .closed_form import ClosedForm
from .data_space import DataSpace
from .data_space_map import DataSpaceMap
from .gauss_newton import GaussNewton
from .lbfgs import LBFGS
from .levenberg_marquardt import LevenbergMarquardt
from .proximal_gradient import ProximalGradient

__all__ = [
    "LBFGS",
    "Adam",
    "ClosedForm",
    "DataSpace",
    "DataSpaceMap",
    "GaussNewton",
    "LevenbergMarquardt",
    "ProximalGradient",
]


@hookimpl
def specfit_plugins():
    return [Adam, ClosedForm, DataSpace, DataSpaceMap, GaussNewton, LBFGS, LevenbergMarquardt, ProximalGradient]
