"""Solvers, one algorithm a file."""

from ...core.hooks import hookimpl
from .adam import Adam
from .gauss_newton import GaussNewton
from .lbfgs import LBFGS
from .levenberg_marquardt import LevenbergMarquardt
from .proximal_gradient import ProximalGradient

__all__ = ["LBFGS", "Adam", "GaussNewton", "LevenbergMarquardt", "ProximalGradient"]


@hookimpl
def specfit_plugins():
    return [Adam, GaussNewton, LBFGS, LevenbergMarquardt, ProximalGradient]
