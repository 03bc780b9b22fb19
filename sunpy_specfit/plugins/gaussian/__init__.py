"""Spectral lines on a smooth background: Gaussian and Voigt profiles, polynomials."""

from ...core.hooks import hookimpl
from .gaussian import Gaussian
from .polynomial import Polynomial
from .template import from_eispac_template, options_from_eispac_template
from .voigt import Voigt

__all__ = ["Gaussian", "Polynomial", "Voigt", "from_eispac_template", "options_from_eispac_template"]


@hookimpl
def specfit_plugins():
    return [Gaussian, Polynomial, Voigt]
