"""Priors: what maps should look like, one idea a file."""

from ...core.hooks import hookimpl
from .correlated import Correlated
from .hinge import Hinge
from .penalty import Penalty
from .ridge import Ridge
from .smooth import Smooth
from .sparse import Sparse
from .total_variation import TotalVariation

__all__ = ["Correlated", "Hinge", "Penalty", "Ridge", "Smooth", "Sparse", "TotalVariation"]


@hookimpl
def specfit_plugins():
    return [Correlated, Hinge, Penalty, Ridge, Smooth, Sparse, TotalVariation]
