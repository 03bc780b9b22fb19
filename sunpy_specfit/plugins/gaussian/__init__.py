"""Spectral lines on a smooth background: Gaussian and Voigt profiles, polynomials."""

from ...core.hooks import hookimpl
from .gaussian import Gaussian
from .polynomial import Polynomial
from .voigt import Voigt

__all__ = ["Gaussian", "Polynomial", "Voigt"]


@hookimpl
def specfit_plugins():
    return [Gaussian, Polynomial, Voigt]
