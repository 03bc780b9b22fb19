"""The conformance kit: what a plugin's author runs before publishing, and what every built-in method passes."""

from .model import check_model
from .operator import check_operator
from .prior import check_prior
from .solver import check_solver

__all__ = ["check_model", "check_operator", "check_prior", "check_solver"]
