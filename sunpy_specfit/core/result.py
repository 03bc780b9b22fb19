"""What a fit found: maps by name, with units, errors, status and WCS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table
from ndcube import NDCollection, NDCube

from ..numerics.threads import copied, in_pieces
from .canvas import Canvas
from .covariance import Propagation
from .draws import draw_maps, turned_draws
from .layout import Layout
from .observation import Observation
from .prediction import Prediction, Profile, Surroundings
from .status import Status
from .summary import CovarianceView, as_html, as_text, summary_table

__all__ = ["FitResult"]

_NO_VALUE = int(Status.MASKED | Status.FAILED | Status.UNDERDETERMINED)


class FitResult(Mapping):
    """An ordered, read-only mapping from the name of a fitted or derived quantity to its map.

    `fit` makes it. A map is an `~ndcube.NDCube` with unit, WCS, the standard deviation of every pixel and a mask
    that is True where there is no trustworthy number, be it for want of a value or because the data do not determine
    it (an infinite standard deviation); ``status`` says why.

    Parameters
    ----------
    observations : sequence of `Observation` or `Canvas`
        What was fitted; a canvas where the data are not at hand.
    layout : `Layout`
        The parameters and how they follow from the free numbers.
    values : dict of str to `numpy.ndarray`
        Physical values of every parameter, fixed and tied ones too, ``(pixels,)`` or ``(k, pixels)``.
    covariance : `numpy.ndarray`, optional
        Packed lower triangle, (0,0), (1,0), (1,1), (2,0), ..., of the free numbers in physical units,
        ``(t, pixels)``; infinite where the data determine nothing.
    transform : `numpy.ndarray`
        dθ/dfree in physical units, ``(rows, free)``.
    chi2, dof, status, n_valid : `numpy.ndarray`
        ``(pixels,)``; the last tells how many samples were used.
    auxiliary : sequence of dict
        Physical inputs of each component beside its parameters, the pixels' axis last.
    priors, solver
        What was used.
    meta : dict
        Provenance.
    sampler : `Metropolis` or `MapSampler`, optional
        Draws from the posterior itself, where the data are at hand and pixels are not coupled.

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
        observations: Sequence[Observation | Canvas],
        layout: Layout,
        values: Mapping[str, np.ndarray],
        covariance: np.ndarray | None,
        transform: np.ndarray,
        chi2: np.ndarray,
        dof: np.ndarray,
        status: np.ndarray,
        n_valid: np.ndarray,
        auxiliary: Sequence[Mapping[str, np.ndarray]],
        priors: Sequence[Any] = (),
        solver: Any = None,
        meta: Mapping[str, Any] | None = None,
        sampler=None,
    ):
        self._canvases = tuple(
            one if isinstance(one, Canvas) else Canvas.of(one, model)
            for one, model in zip(observations, layout.models, strict=True)
        )
        self._layout = layout
        self._propagation = Propagation(layout, values, covariance, transform, auxiliary)
        self._chi2, self._dof, self._status = np.asarray(chi2), np.asarray(dof), np.asarray(status)
        self._n_valid = np.asarray(n_valid)
        self._priors, self._solver, self._sampler = tuple(priors), solver, sampler
        self._surroundings: Surroundings | None = None
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
        value, sigma = self._value(key), self._propagation.sigma(key)
        # A copy, so that whoever changes a map does not change what other maps are made from.
        return self._map(copied(value), self._unit(key), sigma, of=(key,))

    def _value(self, key: str, draws: np.ndarray | None = None) -> np.ndarray:
        """The numbers of a quantity: velocities from their zero point, azimuths turned where `disambiguate` did so."""
        numbers = self._propagation.value(key) if draws is None else draws
        zero_point, turned = self._zero_point(key), self._propagation.turned.get(key)
        if turned is not None and draws is not None:
            numbers = turned_draws(draws, self._propagation.value(key), turned, self._status)
        elif turned is not None:
            numbers = numbers + 180.0 * turned
        return numbers - zero_point if zero_point else numbers

    def _zero_point(self, key: str) -> float:
        """What `velocity_reference` subtracts, in km/s; only velocities have one."""
        return self._meta.get("velocity_reference", {}).get("zero_points", {}).get(key, 0.0)

    def _with_meta(self, **changes) -> FitResult:
        new = copy(self)
        new._meta, new._maps = {k: v for k, v in (self._meta | changes).items() if v is not None}, {}
        return new

    def _map(self, value: np.ndarray, unit, sigma: np.ndarray | None = None, *, of: Sequence[str] = ()) -> NDCube:
        """A map ``([k, ...] pixels)`` of some quantities; the vectors among them give it its leading axes."""
        mask = np.empty(value.shape, bool)
        # Nor is a number worth anything of which the data say nothing.
        numbers = [one for one in (value, sigma) if one is not None and one.dtype.kind == "f"]

        def fill(part: slice) -> None:
            mask[..., part] = (self._status[part] & _NO_VALUE) > 0
            for one in numbers:
                mask[..., part] |= ~np.isfinite(one[..., part])

        in_pieces(fill, value.shape[-1])
        axes = self._propagation.vector_axes(of)
        return self._canvases[0].map_cube(value, unit, sigma=sigma, mask=mask, leading=axes)

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
        whole = self._propagation.with_undefined(self._status, but=_NO_VALUE)
        return self._canvases[0].map_cube(whole, u.dimensionless_unscaled)

    @property
    def covariance(self) -> CovarianceView:
        """Covariances by pairs of names, ``result.covariance["amplitude", "width"]``."""
        return CovarianceView(self)

    # -- light -----------------------------------------------------------------------------------

    @property
    def _prediction(self) -> Prediction:
        weights = self._meta.get("operator_weights")
        return Prediction(self._layout, self._propagation, self._canvases, weights, self._surroundings)

    def model(self) -> NDCube | list[NDCube]:
        """The light that the model predicts, on the grid of the data; a list where cubes were fitted jointly."""
        prediction = self._prediction
        cubes = [canvas.light_cube(prediction.light(number)) for number, canvas in enumerate(self._canvases)]
        return cubes if len(cubes) > 1 else cubes[0]

    def residual(self, data: NDCube | Sequence[NDCube] | None = None) -> NDCube | list[NDCube]:
        """Data minus model, on the grid of the data and with its uncertainty and mask.

        Parameters
        ----------
        data : `~ndcube.NDCube` or list of them, optional
            What was fitted, where the result comes from a file and does not hold it.

        Raises
        ------
        ValueError
            If the data are needed and not given, or do not fit this result.
        """
        whole = self if data is None else self.with_data(data)
        if any(canvas.cube is None for canvas in whole._canvases):
            raise ValueError("this result comes from a file and does not hold the data: pass them, residual(data=cube)")
        predicted = whole.model()
        predicted = predicted if isinstance(predicted, list) else [predicted]
        cubes = [canvas.minus(light) for canvas, light in zip(whole._canvases, predicted, strict=True)]
        return cubes if len(cubes) > 1 else cubes[0]

    def with_data(self, data: NDCube | Sequence[NDCube]) -> FitResult:
        """The same result, holding the cube (or cubes) that was fitted, as after a fit."""
        cubes = list(data) if isinstance(data, (list, tuple)) else [data]
        if len(cubes) != len(self._canvases):
            raise ValueError(f"this result is of {len(self._canvases)} cubes fitted jointly, found {len(cubes)}")
        canvases = [canvas.with_data(cube) for canvas, cube in zip(self._canvases, cubes, strict=True)]
        return self._with(canvases, self._propagation, slice(None))

    def _profile(self, number: int, index: tuple[int, ...]) -> Profile:
        return self._prediction.profile(number, int(np.ravel_multi_index(index, self._canvases[0].shape)))

    # -- parts and other forms -------------------------------------------------------------------

    def _part(self, item) -> FitResult:
        parts = [canvas.part(item) for canvas in self._canvases]
        pixels = parts[0][1]
        part = self._with([canvas for canvas, _ in parts], self._propagation.select(pixels), pixels)
        if any(operator.mixes_pixels for model in self._layout.models for operator in model.operators):
            around = self._surroundings or Surroundings(
                self._propagation, self._canvases, np.arange(self._propagation.n_pixels)
            )
            part._surroundings = replace(around, pixels=around.pixels[pixels])
        return part

    def _with(self, canvases: Sequence[Canvas], propagation: Propagation, pixels) -> FitResult:
        new = copy(self)
        new._canvases, new._propagation, new._maps = tuple(canvases), propagation, {}
        for name in ("_chi2", "_dof", "_status", "_n_valid"):
            setattr(new, name, getattr(self, name)[pixels])
        if self._sampler is not None:
            new._sampler = self._sampler.select(pixels)
        return new

    def to_collection(self) -> NDCollection:
        """The maps as an `~ndcube.NDCollection`, their common axes aligned."""
        maps = [(key, self[key]) for key in self]
        n = len(self._canvases[0].shape)
        aligned = tuple(tuple(range(cube.data.ndim - n, cube.data.ndim)) for _, cube in maps)
        return NDCollection(maps, aligned_axes=aligned)

    def to_map(self, name: str):
        """One map as a `sunpy.map.GenericMap`.

        Raises
        ------
        ValueError
            If it is not a picture of the sky with two axes, or its coordinates are not those of a plane.
        """
        from .sky_map import to_sunpy_map

        return to_sunpy_map(self[name], name)

    def save(self, path) -> None:
        """Write everything but the data to an ASDF file; `load` reads it.

        The maps also stand there as NDCubes, for readers without this package. A file of that name is replaced.

        Parameters
        ----------
        path : str or `~pathlib.Path`
        """
        from .storage import save

        save(self, path)

    @classmethod
    def load(cls, path, *, model=None, data=None) -> FitResult:
        """Read a result that `save` wrote.

        Parameters
        ----------
        path : str or `~pathlib.Path`
        model : `Model` or list of them, optional
            The model that was fitted, where the file could not hold all of it (a function, a method that is
            not installed).
        data : `~ndcube.NDCube` or list of them, optional
            The data that were fitted, for `residual` and `plot_spectrum`.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> import astropy.units as u
        >>> import sunpy_specfit as specfit
        >>> from sunpy_specfit.data import gaussian_cube
        >>> result = specfit.fit(gaussian_cube((4, 5)), specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0))
        >>> path = Path(tempfile.mkdtemp()) / "result.asdf"
        >>> result.save(path)
        >>> specfit.FitResult.load(path).model().data.shape
        (4, 5, 32)
        """
        from .storage import load

        result = load(cls, path, model)
        return result if data is None else result.with_data(data)

    def plot(self, names: str | Sequence[str] | None = None, **options):
        """A figure of all maps; see `sunpy_specfit.visualization.plot_maps`."""
        from ..visualization import plot_maps

        return plot_maps(self, names, **options)

    def plot_spectrum(self, pixel=None, *, data=None, **options):
        """Data, fit and residual of one pixel; see `sunpy_specfit.visualization.plot_spectrum`."""
        from ..visualization import plot_spectrum

        return plot_spectrum(self if data is None else self.with_data(data), pixel, **options)

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

        Raises
        ------
        ValueError
            If n is not a positive whole number or the seed no whole number, or there is no covariance to draw from.

        Notes
        -----
        Draws come from the Gaussian of the covariance. Where the signal is low (`~sunpy_specfit.Status.LOW_SIGNAL`)
        the likelihood is not like that: there a Markov chain draws from the posterior itself, which takes a few
        hundred evaluations of the model (independence Metropolis; Hastings 1970, https://doi.org/10.1093/biomet/57.1.97).
        Coupled maps are drawn as wholes, with neighbours' errors in step, at the cost of one coupled solution a draw
        (perturb and solve); what would leave the bounds stays on them. A result that was loaded from a file has the
        covariance of single pixels only.
        """
        draws = draw_maps(self._propagation, self._sampler, self._status, n, seed)
        shape = self._canvases[0].shape
        maps = {key: self._value(key, draws[key]) for key in self}
        return {
            key: u.Quantity(m.reshape(*m.shape[:-1], *shape), self._unit(key), copy=False) for key, m in maps.items()
        }

    # -- for people ------------------------------------------------------------------------------

    def summary(self) -> Table:
        """Parameter, unit, median, median sigma and the percentage of pixels that converged."""
        return summary_table(
            [(key, self._unit(key), self._value(key), self._propagation.sigma(key)) for key in self],
            self._status,
        )

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)
