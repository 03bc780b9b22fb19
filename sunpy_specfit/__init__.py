"""Maps of physical parameters from solar spectra, by differentiable programming."""

from .core.comparison import Comparison, compare
from .core.disambiguation import disambiguate
from .core.disambiguator import Disambiguator, FieldMaps
from .core.fit import fit
from .core.hooks import hookimpl
from .core.medium import MediumWarning
from .core.model import Model
from .core.noise import Noise
from .core.operator import Operator
from .core.parameter import Auxiliary, Parameter
from .core.prior import Prior
from .core.registry import list_plugins
from .core.result import FitResult
from .core.solver import Solution, Solver
from .core.status import Status
from .core.velocity_reference import velocity_reference
from .core.warnings import SpecfitPluginWarning, SpecfitWarning
from .plugins.dem import DEM, Isothermal, TemperaturePrior, TemperatureResponse, plot_dem, temperature_resolution
from .plugins.disambiguation import AcuteAngle
from .plugins.external import ExternalModel
from .plugins.gaussian import Gaussian, Polynomial, Voigt, from_eispac_template, options_from_eispac_template
from .plugins.milne_eddington import MilneEddington, two_atmospheres
from .plugins.noise import CountNoise
from .plugins.priors import Correlated, Hinge, Penalty, Ridge, Smooth, Sparse, TotalVariation
from .plugins.solvers import (
    LBFGS,
    Adam,
    ClosedForm,
    DataSpace,
    DataSpaceMap,
    GaussNewton,
    LevenbergMarquardt,
    ProximalGradient,
)
from .plugins.wfa import WeakField

__all__ = [
    "DEM",
    "LBFGS",
    "AcuteAngle",
    "Adam",
    "Auxiliary",
    "ClosedForm",
    "Comparison",
    "CountNoise",
    "DataSpace",
    "DataSpaceMap",
    "Disambiguator",
    "ExternalModel",
    "FieldMaps",
    "FitResult",
    "GaussNewton",
    "Gaussian",
    "Hinge",
    "Isothermal",
    "LevenbergMarquardt",
    "MediumWarning",
    "MilneEddington",
    "Model",
    "Noise",
    "Operator",
    "Parameter",
    "Penalty",
    "Polynomial",
    "Prior",
    "ProximalGradient",
    "Ridge",
    "Correlated",
    "Smooth",
    "Solution",
    "Solver",
    "Sparse",
    "SpecfitPluginWarning",
    "SpecfitWarning",
    "Status",
    "TemperaturePrior",
    "TemperatureResponse",
    "TotalVariation",
    "Voigt",
    "WeakField",
    "compare",
    "disambiguate",
    "fit",
    "from_eispac_template",
    "hookimpl",
    "list_plugins",
    "options_from_eispac_template",
    "plot_dem",
    "temperature_resolution",
    "two_atmospheres",
    "velocity_reference",
]
