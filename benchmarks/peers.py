"""Other people's codes on given spectra, each called the way that makes it fastest on one core.

Every function takes `Spectra` and returns parameters ``(pixels, 3 lines + 1)``: amplitude, center and width of each
line, then the constant. All start from the same values and keep the same bounds. None uses more than one process.
"""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace

import eispac
import numpy as np
from astropy.modeling import Fittable1DModel, Parameter
from astropy.modeling.fitting import LevMarLSQFitter, parallel_fit_dask
from astropy.modeling.models import Const1D, Gaussian1D
from scipy.optimize import curve_fit

__all__ = [
    "Spectra",
    "chi_squared",
    "fit_astropy",
    "fit_astropy_sum",
    "fit_eispac",
    "fit_scipy",
    "light",
    "starts",
]


@dataclass(frozen=True)
class Spectra:
    """Spectra to fit with lines on a constant.

    Attributes
    ----------
    x, y, sigma : `numpy.ndarray`
        ``(pixels, n)`` in float64; sigma is 0 where a sample is not used.
    template : `numpy.ndarray`
        ``(3 lines + 1,)``: what `starts` scales to each spectrum.
    lower, upper : `numpy.ndarray`
        ``(3 lines + 1,)``.
    shared_width : bool
        Whether all lines have one width.
    """

    x: np.ndarray
    y: np.ndarray
    sigma: np.ndarray
    template: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    shared_width: bool = False

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index) -> Spectra:
        return replace(self, x=self.x[index], y=self.y[index], sigma=self.sigma[index])

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return len(self.template) // 3

    @property
    def free(self) -> np.ndarray:
        """Which of the parameters are free: all, or all but the widths that follow the first line's."""
        free = np.ones(len(self.template), bool)
        if self.shared_width:
            free[5:-1:3] = False
        return free

    def complete(self, free: np.ndarray) -> np.ndarray:
        """All parameters from the free ones, ``(..., k)``."""
        full = np.empty((*free.shape[:-1], len(self.template)))
        full[..., self.free] = free
        if self.shared_width:
            full[..., 5:-1:3] = full[..., 2:3]
        return full


def light(x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """The light at ``x (pixels, n)`` of parameters ``(pixels, k)``."""
    total = np.broadcast_to(parameters[:, -1:], x.shape).copy()
    for i in range(0, parameters.shape[1] - 1, 3):
        amplitude, center, width = (parameters[:, i + j, None] for j in range(3))
        total += amplitude * np.exp(-0.5 * ((x - center) / width) ** 2)
    return total


def chi_squared(spectra: Spectra, parameters: np.ndarray) -> np.ndarray:
    """The one measure that all codes are compared by; infinite where there is no answer or it breaks a bound."""
    used = spectra.sigma > 0
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        residual = np.where(used, (spectra.y - light(spectra.x, parameters)) / spectra.sigma, 0.0)
        slack = 1e-6 * np.maximum(np.abs(spectra.lower), np.abs(spectra.upper))
        slack = np.where(np.isfinite(slack), slack, 1e-6 * np.abs(spectra.template))
        inside = (parameters >= spectra.lower - slack) & (parameters <= spectra.upper + slack)
        chi2 = np.square(residual).sum(1)
    return np.where(inside.all(1) & np.isfinite(chi2), chi2, np.inf)


def starts(spectra: Spectra) -> np.ndarray:
    """Start values as eispac scales its templates to each spectrum, ``(pixels, k)``.

    The constant is the mean of the three lowest samples, an amplitude what the sample nearest to the template's center
    rises above it; centers and widths are the template's.
    """
    found = np.tile(spectra.template, (len(spectra), 1))
    used = spectra.sigma > 0
    found[:, -1] = np.sort(np.where(used, spectra.y, np.inf), axis=1)[:, :3].mean(1)
    for i in range(0, found.shape[1] - 1, 3):
        nearest = np.where(used, np.abs(spectra.x - spectra.template[i + 1]), np.inf).argmin(1)
        found[:, i] = np.maximum(spectra.y[np.arange(len(spectra)), nearest] - found[:, -1], 0.0)
    return found


def fit_eispac(spectra: Spectra) -> np.ndarray:
    """eispac.fit_spectra (MPFIT) in one process. It scales the template by itself, just as `starts` does."""
    names = ("amplitude", "center", "width") * spectra.lines + ("constant",)
    parinfo = [
        {
            "value": float(spectra.template[i]),
            "fixed": 0,
            "limited": np.isfinite([spectra.lower[i], spectra.upper[i]]).astype("int16"),
            "limits": np.nan_to_num([spectra.lower[i], spectra.upper[i]], posinf=0.0, neginf=0.0),
            "tied": "p[2]" if not spectra.free[i] else "",
            "parname": name,
        }
        for i, name in enumerate(names)
    ]
    template = {
        "component": 0,
        "n_gauss": spectra.lines,
        "n_poly": 1,
        "wmin": float(spectra.x.min()) - 1.0,
        "wmax": float(spectra.x.max()) + 1.0,
        "line_ids": np.array([f"line {center:.3f}" for center in spectra.template[1:-1:3]]),
        "fit": spectra.template.copy(),
    }
    # It reports its progress on stdout.
    with redirect_stdout(io.StringIO()), _quiet():
        result = eispac.fit_spectra(
            spectra.y[:, None], template, parinfo=parinfo, wave=spectra.x[:, None], errs=spectra.sigma[:, None], ncpu=1
        )
    return result.fit["params"][:, 0]


def fit_astropy(spectra: Spectra) -> np.ndarray:
    """parallel_fit_dask with LevMarLSQFitter, on one core, with a model class of one piece and its derivative.

    Such a class is faster than a sum of Gaussian1D and Const1D, and the only way to give parallel_fit_dask a start for
    each pixel: from a sum with array-valued parameters it returns NaN everywhere.
    """
    first = starts(spectra)[:, spectra.free]
    bounds = [
        (low if np.isfinite(low) else None, high if np.isfinite(high) else None)
        for low, high in zip(spectra.lower[spectra.free], spectra.upper[spectra.free], strict=True)
    ]
    names = [f"p{i}" for i in range(first.shape[1])]
    model = _one_piece(spectra)(
        **dict(zip(names, np.ascontiguousarray(first.T), strict=True)), bounds=dict(zip(names, bounds, strict=True))
    )
    return spectra.complete(_run_astropy(spectra, model))


def fit_astropy_sum(spectra: Spectra) -> np.ndarray:
    """The same with a sum of astropy's own models, as most users write it; all pixels start from the median start."""
    first = np.median(starts(spectra), axis=0)
    bounds = np.where(np.isfinite([spectra.lower, spectra.upper]), [spectra.lower, spectra.upper], None).T
    model = Const1D(first[-1])
    for i in reversed(range(0, len(first) - 1, 3)):
        limits = {name: tuple(bounds[i + j]) for j, name in enumerate(("amplitude", "mean", "stddev"))}
        line = Gaussian1D(*first[i : i + 3], bounds=limits)
        if not spectra.free[i + 2]:
            line.stddev.tied = lambda whole: whole.stddev_0
        model = line + model
    fitted = _run_astropy(spectra, model)
    return fitted


def _run_astropy(spectra: Spectra, model) -> np.ndarray:
    used = spectra.sigma > 0
    with np.errstate(divide="ignore"):
        weights = np.where(used, 1 / spectra.sigma, 0.0)
    with _quiet():
        fitted = parallel_fit_dask(
            model=model,
            # As fast as it goes: without errors, which ours include.
            fitter=LevMarLSQFitter(calc_uncertainties=False),
            # The spectral axis first: with it last, wavelengths that vary from pixel to pixel are refused.
            data=np.where(used, spectra.y, 0.0).T.copy(),
            weights=weights.T.copy(),
            world=(spectra.x.T.copy(),),
            fitting_axes=0,
            chunk_n_max=len(spectra),
            scheduler="synchronous",
        )
    return np.stack([getattr(fitted, name).value for name in fitted.param_names], axis=1)


def fit_scipy(spectra: Spectra) -> np.ndarray:
    """curve_fit (trust region reflective, which keeps bounds) pixel by pixel, with the derivative written by hand."""
    result = np.full((len(spectra), len(spectra.template)), np.nan)
    function, jacobian = _function(spectra), _jacobian(spectra)
    free = spectra.free
    bounds = spectra.lower[free], spectra.upper[free]
    for p, first in enumerate(starts(spectra)[:, free]):
        used = spectra.sigma[p] > 0
        try:
            with _quiet():
                best, _ = curve_fit(
                    function,
                    spectra.x[p, used],
                    spectra.y[p, used],
                    first,
                    sigma=spectra.sigma[p, used],
                    absolute_sigma=True,
                    bounds=bounds,
                    jac=jacobian,
                    # Parameters of 1e4 beside some of 1e-2: without this it stops early.
                    x_scale="jac",
                )
        except (RuntimeError, ValueError):  # no convergence, or a start outside of the bounds
            continue
        result[p] = spectra.complete(best)
    return result


def _function(spectra: Spectra):
    lines, constant = _positions(spectra)

    def function(x, *free):
        total = free[constant]
        for amplitude, center, width in lines:
            z = (x - free[center]) / free[width]
            total = total + free[amplitude] * np.exp(-0.5 * z * z)
        return total

    return function


def _jacobian(spectra: Spectra):
    lines, constant = _positions(spectra)

    def jacobian(x, *free):
        columns = np.zeros((constant + 1, len(x)))
        columns[constant] = 1.0
        for amplitude, center, width in lines:
            z = (x - free[center]) / free[width]
            columns[amplitude] = np.exp(-0.5 * z * z)
            columns[center] = free[amplitude] / free[width] * columns[amplitude] * z
            columns[width] += columns[center] * z
        return columns.T

    return jacobian


def _positions(spectra: Spectra) -> tuple[list[tuple[int, int, int]], int]:
    """Where each line's parameters, and the constant, stand among the free ones."""
    free = np.cumsum(spectra.free) - 1
    if spectra.shared_width:
        free[5:-1:3] = free[2]
    return [tuple(map(int, free[i : i + 3])) for i in range(0, len(free) - 1, 3)], int(free[-1])


def _one_piece(spectra: Spectra) -> type[Fittable1DModel]:
    """An astropy model class of the whole spectrum."""
    function, jacobian = _function(spectra), _jacobian(spectra)

    class Spectrum(Fittable1DModel):
        evaluate = staticmethod(function)

        @staticmethod
        def fit_deriv(x, *parameters):
            return list(jacobian(x, *parameters).T)

        vars().update({f"p{i}": Parameter(default=1.0) for i in range(spectra.free.sum())})

    return Spectrum


@contextmanager
def _quiet():
    """Without the warnings of fits that did not converge: what is found is judged by its chi-squared."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
