"""What a fit found: maps by name, with units, errors, status and WCS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table
from ndcube import NDCube

from .covariance import Propagation
from .layout import Layout
from .observation import Observation
from .prediction import predict
from .sampling import derived_draws, gaussian_draws
from .status import Status

__all__ = ["FitResult"]

_NO_VALUE = int(Status.MASKED | Status.FAILED | Status.UNDERDETERMINED)


class FitResult(Mapping):
    """An ordered, read-only mapping from the name of a fitted or derived quantity to its map.

    `fit` makes it. A map is an `~ndcube.NDCube` with unit, WCS, the standard deviation of every pixel and a mask
    that is True where there is no trustworthy number; ``status`` says why.

    Parameters
    ----------
    observations : sequence of `Observation`
        What was fitted.
    layout : `Layout`
        The parameters and how they follow from the free numbers.
    values : dict of str to `numpy.ndarray`
        Physical values of every parameter, fixed and tied ones too, ``(pixels,)`` or ``(k, pixels)``.
    covariance : `numpy.ndarray`, optional
        Packed lower triangle, (0,0), (1,0), (1,1), (2,0), ..., of the free numbers in physical units,
        ``(t, pixels)``; infinite where the data determine nothing.
    transform : `numpy.ndarray`
        dθ/dfree in physical units, ``(rows, free)``.
    chi2, dof, status : `numpy.ndarray`
        ``(pixels,)``.
    auxiliary : sequence of dict
        Physical inputs of each component beside its parameters, the pixels' axis last.
    priors, solver
        What was used.
    meta : dict
        Provenance.
    sampler : callable, optional
        ``sampler(n, seed)`` gives draws of the parameters, key -> ``(n, [k,] pixels)``, where the solver knows
        the posterior better than its covariance tells.

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> result = specfit.fit(gaussian_cube((4, 5)), specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0))
    >>> list(result)
    ['amplitude', 'center', 'width', 'c0', 'intensity', 'velocity', 'fwhm']
    >>> result["velocity"].unit, result["velocity"].uncertainty.array.shape
    (Unit("km / s"), (4, 5))
    >>> result[1:3, :]["gaussian.velocity"].data.shape
    (2, 5)
    """

    def __init__(
        self,
        *,
        observations: Sequence[Observation],
        layout: Layout,
        values: Mapping[str, np.ndarray],
        covariance: np.ndarray | None,
        transform: np.ndarray,
        chi2: np.ndarray,
        dof: np.ndarray,
        status: np.ndarray,
        auxiliary: Sequence[Mapping[str, np.ndarray]],
        priors: Sequence[Any] = (),
        solver: Any = None,
        meta: Mapping[str, Any] | None = None,
        sampler=None,
    ):
        self._observations = tuple(observations)
        self._layout = layout
        self._propagation = Propagation(layout, values, covariance, transform, auxiliary)
        self._chi2, self._dof, self._status = np.asarray(chi2), np.asarray(dof), np.asarray(status)
        self._priors, self._solver, self._sampler = tuple(priors), solver, sampler
        self._meta = dict(meta or {})
        self._maps: dict[str, NDCube] = {}

    # -- a mapping -------------------------------------------------------------------------------

    def __getitem__(self, name) -> NDCube | FitResult:
        if not isinstance(name, str):
            return self._part(name)
        key = self._layout.resolve(name)
        if key not in self._maps:
            self._maps[key] = self._make_map(key)
        return self._maps[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*self.parameters, *self.derived))

    def __len__(self) -> int:
        return len(self.parameters) + len(self.derived)

    def __contains__(self, name) -> bool:
        try:
            self._layout.resolve(name)
        except KeyError:
            return False
        return True

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the model's parameters, in declared order; fixed and tied ones too."""
        return tuple(self._layout.parameters)

    @property
    def derived(self) -> tuple[str, ...]:
        """The names of the quantities that follow from them."""
        return tuple(self._layout.derived)

    @property
    def meta(self) -> dict[str, Any]:
        """Where the numbers come from: versions, plugins, seed, device, priors' scales, references, time."""
        return self._meta

    def _unit(self, key: str) -> u.UnitBase:
        return self._layout.units[key] if key in self._layout.units else self._layout.derived[key]

    def _make_map(self, key: str) -> NDCube:
        value, sigma = self._propagation.value(key), self._propagation.sigma(key)
        # Copies, so that whoever changes a map does not change what other maps are made from.
        return self._map(value.copy(), self._unit(key), None if sigma is None else sigma.copy())

    def _map(self, value: np.ndarray, unit, sigma: np.ndarray | None = None) -> NDCube:
        mask = np.broadcast_to((self._status & _NO_VALUE) > 0, value.shape)
        if value.dtype.kind == "f":
            mask = mask | np.isnan(value)
        return self._observations[0].map_cube(value, unit, sigma=sigma, mask=mask.copy())

    # -- how good it is --------------------------------------------------------------------------

    @property
    def chi2(self) -> NDCube:
        """The misfit of each pixel, summed over its samples."""
        return self._map(self._chi2.copy(), u.dimensionless_unscaled)

    @property
    def dof(self) -> NDCube:
        """Samples in use minus the degrees of freedom that the data spent on parameters."""
        return self._map(self._dof.copy(), u.dimensionless_unscaled)

    @property
    def reduced_chi2(self) -> NDCube:
        """chi2 / dof; NaN where there are no degrees of freedom left."""
        dof = np.where(self._dof > 0, self._dof, np.nan)
        return self._map(self._chi2 / dof, u.dimensionless_unscaled)

    @property
    def status(self) -> NDCube:
        """Flags of `~sunpy_specfit.Status`, combined by bits."""
        return self._observations[0].map_cube(self._status.copy(), u.dimensionless_unscaled)

    @property
    def covariance(self) -> CovarianceView:
        """Covariances by pairs of names, ``result.covariance["amplitude", "width"]``."""
        return CovarianceView(self)

    # -- light -----------------------------------------------------------------------------------

    def model(self) -> NDCube | list[NDCube]:
        """The light that the model predicts, on the grid of the data; a list where cubes were fitted jointly."""
        lights = predict(self._layout, self._propagation, self._observations, self._meta.get("operator_weights"))
        cubes = [
            observation.light_cube(light, observation.data_unit)
            for observation, light in zip(self._observations, lights, strict=True)
        ]
        return cubes if len(cubes) > 1 else cubes[0]

    # -- draws -----------------------------------------------------------------------------------

    def sample(self, n: int, seed: int = 0) -> dict[str, u.Quantity]:
        """Draw maps from what is known after the fit.

        Parameters
        ----------
        n : int
            How many draws.
        seed : int
            The same seed gives the same draws.

        Returns
        -------
        dict of str to `~astropy.units.Quantity`
            Every fitted and derived quantity, ``(n, *map shape)``. Draws respect the bounds; derived quantities
            are computed from the draws, so that their distributions may be skewed. A number that the data
            do not determine is drawn uniformly between its bounds, and is NaN if it has not both.
        """
        if self._sampler is not None:
            draws = self._sampler(n, seed)
        else:
            draws = gaussian_draws(self._propagation, *self._physical_bounds(), int(n), seed)
        draws |= derived_draws(self._propagation, draws)
        shape = self._observations[0].grid.shape
        return {
            key: u.Quantity(draws[key].reshape(*draws[key].shape[:-1], *shape), self._unit(key), copy=False)
            for key in self
        }

    def _physical_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        factor, offset = self._layout.scales()
        rows = np.concatenate(
            [np.arange(self._layout.n_rows)[self._layout.rows[key]] for key in self._layout.free_keys] or [[]]
        ).astype(int)
        lower, upper = self._layout.bounds()
        return lower * factor[rows] + offset[rows], upper * factor[rows] + offset[rows]

    # -- for people ------------------------------------------------------------------------------

    def summary(self) -> Table:
        """Parameter, unit, median, median sigma and the share of pixels that converged."""
        rows = []
        used = (self._status & int(Status.MASKED)) == 0
        converged = (self._status & int(Status.CONVERGED)) > 0
        for key in self:
            value, sigma = self._propagation.value(key), self._propagation.sigma(key)
            good = used & np.isfinite(np.atleast_2d(value)).all(0)
            rows.append(
                (
                    key,
                    str(self._unit(key)),
                    _median(value[..., good]),
                    np.nan if sigma is None else _median(sigma[..., good]),
                    100.0 * np.mean((good & converged)[used]) if used.any() else np.nan,
                )
            )
        table = Table(
            rows=rows,
            names=["parameter", "unit", "median", "median sigma", "% converged"],
            dtype=[str, str, float, float, float],
        )
        table["median"].format = table["median sigma"].format = ".5g"
        table["% converged"].format = ".1f"
        return table

    def _title(self) -> str:
        model = " and ".join(repr(model) for model in self._layout.models)
        shape = " x ".join(map(str, self._observations[0].grid.shape))
        return f"FitResult of {model} on a map of {shape} pixels"

    def __repr__(self) -> str:
        return "\n".join([self._title(), *self.summary().pformat(max_lines=-1, max_width=-1)])

    def _repr_html_(self) -> str:
        from html import escape

        table = "\n".join(self.summary().pformat(html=True, max_lines=-1, max_width=-1))
        return f"<p>{escape(self._title())}</p>\n{table}"


class CovarianceView:
    """Covariances of a result by pairs of names."""

    def __init__(self, result: FitResult):
        self._result = result

    def __getitem__(self, names) -> NDCube:
        result = self._result
        if not isinstance(names, tuple) or len(names) != 2:
            raise KeyError(f"a covariance belongs to two quantities, as in covariance['a', 'b']; found {names!r}")
        a, b = (result._layout.resolve(name) for name in names)
        return result._map(result._propagation.covariance(a, b), result._unit(a) * result._unit(b))


def _median(values: np.ndarray) -> float:
    finite = values[~np.isnan(values)]
    return float(np.median(finite)) if finite.size else np.nan
