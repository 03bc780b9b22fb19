"""Which of several models each pixel asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from ndcube import NDCube

from .result import FitResult

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Maps that tell which model the data prefer.

    `compare` makes it.

    Attributes
    ----------
    names : tuple of str
        Of the models compared.
    criterion : {"bic", "aic"}
    values : dict of str to `~ndcube.NDCube`
        The criterion of each model; the lower the better. NaN and masked where there is no fit.
    best : `~ndcube.NDCube`
        int: the position in ``names`` of the model with the lowest value; -1 and masked where there is none.
    margin : `~ndcube.NDCube`
        How much the runner-up lies above the best: beyond 6 the evidence is called strong, beyond 10 very strong
        (Kass & Raftery 1995, https://doi.org/10.1080/01621459.1995.10476572).
    """

    names: tuple[str, ...]
    criterion: str
    values: dict[str, NDCube]
    best: NDCube
    margin: NDCube

    def __repr__(self) -> str:
        numbers = np.asarray(self.best.data)
        share = ", ".join(f"{name} {100 * np.mean(numbers == i):.1f} %" for i, name in enumerate(self.names))
        return f"Comparison by {self.criterion.upper()}: {share}"


def compare(
    results: Sequence[FitResult] | Mapping[str, FitResult], criterion: str = "bic", *, margin: float = 0.0
) -> Comparison:
    """Compare fits of several models to the same data, pixel by pixel.

    The information criteria weigh the misfit against the number of free parameters k,

    - BIC = χ² + k ln n, with n the samples in use (Schwarz 1978, https://doi.org/10.1214/aos/1176344136);
    - AIC = χ² + 2 k (Akaike 1974, https://doi.org/10.1109/TAC.1974.1100705).

    They trust the stated noise: where it is too small, the richer model wins everywhere. A second line may sit
    anywhere, so that chance alone finds one in a few percent of the pixels by BIC; a ``margin`` of 6 asks for strong
    evidence.

    Parameters
    ----------
    results : sequence of `FitResult`, or mapping of names to them
        Of the same cube, each with another model, the simplest first.
    criterion : {"bic", "aic"}
    margin : float
        A model is taken in place of an earlier one only if its value is lower by more than this.

    Returns
    -------
    `Comparison`

    Raises
    ------
    ValueError
        If there are fewer than two results, their maps differ in shape, or they used another cube, other samples,
        uncertainties or another loss, as far as that can be known; or priors were at work: then the number of
        parameters is not what it seems.

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> cube, rest = gaussian_cube((4, 5), signal_to_noise=30), 195.119 * u.AA
    >>> one = specfit.fit(cube, specfit.Gaussian(rest) + specfit.Polynomial(0))
    >>> two = specfit.fit(
    ...     cube,
    ...     specfit.Gaussian(rest, label="a") + specfit.Gaussian(195.179 * u.AA, label="b") + specfit.Polynomial(0),
    ... )
    >>> comparison = specfit.compare({"one line": one, "two lines": two}, margin=6)
    >>> comparison
    Comparison by BIC: one line 100.0 %, two lines 0.0 %
    >>> comparison.best.data.shape
    (4, 5)
    """
    named = dict(results) if _is_plain_mapping(results) else {str(i): result for i, result in enumerate(results)}
    penalties = {"bic": np.log, "aic": lambda n: np.full(np.shape(n), 2.0)}
    if criterion not in penalties:
        raise ValueError(f"criterion is one of {', '.join(map(repr, penalties))}; found {criterion!r}")
    if len(named) < 2:
        raise ValueError(f"a comparison needs at least two results, found {len(named)}")
    first = next(iter(named.values()))
    for name, result in named.items():
        _check(name, result, first)
    with np.errstate(divide="ignore"):
        values = np.stack(
            [r._chi2 + r._layout.n_free * penalties[criterion](np.maximum(r._n_valid, 1)) for r in named.values()]
        )
    lowest = np.where(np.isnan(values), np.inf, values)
    best = np.zeros(values.shape[1], np.int16)
    for number in range(1, len(values)):
        current = np.take_along_axis(lowest, best[None].astype(int), 0)[0]
        # Infinity minus infinity: neither has a fit.
        with np.errstate(invalid="ignore"):
            best[lowest[number] < current - margin] = number
    none = np.isinf(lowest).all(0)
    best[none] = -1
    ordered = np.sort(lowest, 0)
    runner_up = np.where(np.isfinite(ordered[1]), ordered[1] - np.where(none, 0.0, ordered[0]), np.nan)
    one = u.dimensionless_unscaled
    draw = first._canvases[0].map_cube
    return Comparison(
        names=tuple(named),
        criterion=criterion,
        values={name: draw(v, one, mask=np.isnan(v)) for name, v in zip(named, values, strict=True)},
        best=draw(best, one, mask=none),
        margin=draw(runner_up, one, mask=np.isnan(runner_up)),
    )


def _is_plain_mapping(results) -> bool:
    # A FitResult is a mapping too: given alone by mistake it must not be taken for several.
    if isinstance(results, FitResult):
        raise ValueError("a comparison needs at least two results, found one: pass a list or a mapping of them")
    return isinstance(results, Mapping)


def _check(name: str, result: FitResult, first: FitResult) -> None:
    if not isinstance(result, FitResult):
        raise TypeError(f"compare takes results of fit, found {type(result).__name__} as {name!r}")
    if result._priors:
        raise ValueError(f"the fit {name!r} used priors, so that its number of parameters is not defined: fit without")
    if result._chi2.shape != first._chi2.shape or result._canvases[0].shape != first._canvases[0].shape:
        raise ValueError(
            f"the maps differ in shape: {first._canvases[0].shape} and, of {name!r}, {result._canvases[0].shape}"
        )
    loss, other = first.meta.get("loss"), result.meta.get("loss")
    if loss != other:
        raise ValueError(f"the fit {name!r} had loss={other!r}, the first {loss!r}: their misfits are not comparable")
    if len(result._canvases) != len(first._canvases):
        raise ValueError(f"the fit {name!r} is of {len(result._canvases)} cubes, the first of {len(first._canvases)}")
    for mine, theirs in zip(result._canvases, first._canvases, strict=True):
        difference = mine.difference(theirs)
        if difference is not None:
            raise ValueError(f"the fit {name!r} used {difference} than the first: only models may differ")
    # A pixel that one model could not be fitted to still counts its samples.
    if np.any(result._n_valid != first._n_valid):
        raise ValueError(
            f"the fit {name!r} used other samples than the first: fit the same cube with the same mask and window"
        )
