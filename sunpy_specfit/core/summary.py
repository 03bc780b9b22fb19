"""Small views of a result: what is printed of it, and covariances by pairs of names."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import astropy.units as u
import numpy as np
from astropy.table import Table
from ndcube import NDCube

from .status import Status

__all__ = ["CovarianceView", "as_html", "as_text", "summary_table"]


class CovarianceView:
    """Covariances of a result by pairs of names.

    A vector quantity of k numbers brings an axis of that length in front of the map's, ``(k, ny, nx)`` with a scalar
    and ``(k, k, ny, nx)`` with itself, whose world coordinates are those of the vector's own map.

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> result = specfit.fit(gaussian_cube((4, 5)), specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0))
    >>> result.covariance["width", "velocity"].unit
    Unit("Angstrom km / s")
    """

    def __init__(self, result):
        self._result = result

    def __getitem__(self, names: tuple[str, str]) -> NDCube:
        result = self._result
        if not isinstance(names, tuple) or len(names) != 2:
            raise KeyError(f"a covariance belongs to two quantities, as in covariance['a', 'b']; found {names!r}")
        a, b = (result._layout.resolve(name) for name in names)
        value = result._propagation.covariance(a, b)
        return result._map(value, result._unit(a) * result._unit(b), of=(a, b))

    def __repr__(self) -> str:
        return f"covariances of {', '.join(self._result)}, by pairs: covariance['a', 'b']"


def summary_table(
    quantities: Sequence[tuple[str, u.UnitBase, np.ndarray, np.ndarray | None]], status: np.ndarray
) -> Table:
    """The table that a result prints.

    Parameters
    ----------
    quantities : sequence of tuple
        Name, unit, value and sigma, the pixels' axis last.
    status : `numpy.ndarray`
        ``(pixels,)``.
    """
    used = (status & int(Status.MASKED)) == 0
    converged = (status & int(Status.CONVERGED)) > 0
    rows = []
    for name, unit, value, sigma in quantities:
        good = used & np.isfinite(np.atleast_2d(value)).all(0)
        share = 100.0 * np.mean((good & converged)[used]) if used.any() else np.nan
        error = np.nan if sigma is None else _median(sigma[..., good])
        rows.append((name, str(unit), _median(value[..., good]), error, share))
    table = Table(
        rows=rows,
        names=["parameter", "unit", "median", "median sigma", "% converged"],
        dtype=[str, str, float, float, float],
    )
    table["median"].format = table["median sigma"].format = ".5g"
    table["% converged"].format = ".1f"
    return table


def as_text(result) -> str:
    """What a result prints: of which model on how large a map, and its table."""
    return "\n".join([_title(result), *result.summary().pformat(max_lines=-1, max_width=-1)])


def as_html(result) -> str:
    """The same for a notebook."""
    table = "\n".join(result.summary().pformat(html=True, max_lines=-1, max_width=-1))
    return f"<p>{escape(_title(result))}</p>\n{table}"


def _title(result) -> str:
    model = " and ".join(repr(model) for model in result._layout.models)
    shape = " x ".join(map(str, result._canvases[0].shape))
    return f"FitResult of {model} on a map of {shape} pixels"


def _median(values: np.ndarray) -> float:
    finite = values[~np.isnan(values)]
    return float(np.median(finite)) if finite.size else np.nan
