"""Solvers, one algorithm a file."""

from ...core.hooks import hookimpl
from .adam import Adam
from .closed_form import ClosedForm
from .data_space import DataSpace
from .gauss_newton import GaussNewton
from .lbfgs import LBFGS
from .levenberg_marquardt import LevenbergMarquardt
from .proximal_gradient import ProximalGradient

__all__ = ["LBFGS", "Adam", "ClosedForm", "DataSpace", "GaussNewton", "LevenbergMarquardt", "ProximalGradient"]


@hookimpl
def specfit_plugins():
    return [Adam, ClosedForm, DataSpace, GaussNewton, LBFGS, LevenbergMarquardt, ProximalGradient]
