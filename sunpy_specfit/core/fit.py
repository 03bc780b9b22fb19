"""The main job: an NDCube goes in, maps come out."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch

from . import registry
from .engine import run
from .factored import FactoredCovariance
from .gaussian import BoundGaussian
from .map_sampler import MapSampler
from .medium import check_media, in_medium_of
from .members import as_cubes
from .metropolis import Metropolis
from .model import Model
from .mosaic import mosaic
from .perturbation import Perturbation
from .prior import Prior
from .problem import Problem
from .result import FitResult
from .setup import as_model, as_priors, as_solver, bind_prior, build_problem, smooth_names, start_from
from .solver import Solver
from .solver_choice import accepting_solver, local_solver
from .status import Status
from .warnings import SpecfitWarning

__all__ = ["fit"]


def fit(
    data,
    model,
    priors=(),
    solver="auto",
    *,
    init=None,
    uncertainty=None,
    mask=None,
    spectral_axis=None,
    window=None,
    loss="gaussian",
    device="auto",
    dtype="auto",
    chunks="auto",
    seed=0,
    progress=None,
    compute=True,
):
    """Fit a model to every pixel of a spectral data cube.

    Minimises ½ Σ ((data - model) / sigma)² + Σ priors over whole maps. In a joint fit of several cubes
    ``uncertainty``, ``mask``, ``spectral_axis`` and ``window`` may each be a list with one value for each cube (None
    where there is none), or one value for all.

    Parameters
    ----------
    data : `~ndcube.NDCube`, list of them, `~ndcube.NDCubeSequence` or `~ndcube.NDCollection`
        A cube with a spectral axis, found by its physical type, in any axis order. A list is fitted jointly,
        over one grid of maps; the members of a sequence or collection are fitted one by one. For a model of channels
        (`DEM`) also a mapping of channels to NDCubes or sunpy Maps.
    model : `Model`, str, or list
        A model, a sum of models, a registered name that needs no arguments; a list with one for each cube
        fitted jointly.
    priors : `Prior` or sequence of `Prior`
        What the maps should look like.
    solver : `Solver` or str
        Who searches; ``"auto"`` takes the one of highest preference that accepts the problem.
    init : mapping or `FitResult`, optional
        Start values by name: a `~astropy.units.Quantity`, a number in the parameter's unit, a map, or an
        earlier result. ``"previous"`` starts each frame along the time axis from the one before. What is not given is
        found in the data.
    uncertainty : `~astropy.units.Quantity`, `~astropy.nddata.NDUncertainty` or `Noise`, optional
        Overrides the cube's. Where there is none at all, the noise is estimated, with a warning.
    mask : array of bool, optional
        True where a sample must not be used; joined with the cube's.
    spectral_axis : `~astropy.units.Quantity`, optional
        Wavelengths, ``(n,)`` or one per sample, in place of those of the WCS.
    window : `~astropy.units.Quantity` or list, optional
        Ranges ``[low, high]`` to use, as wavelengths or in km/s about the line. Outside, samples weigh
        nothing; the output's grid stays.
    loss : {"gaussian", "student_t", "huber"}
        The noise's tails; the latter two bear cosmic rays. ``"student_t"`` forgets a spike of 50 sigma; ``"huber"``
        still feels its direction, and moves some pixels by a few tenths of a sigma.
    device : str
        "auto" (CUDA where there is one), "cpu", "cuda".
    dtype : {"auto", "float32", "float64"}
        The precision of the search; "auto" takes float32 where the model commutes with the internal
        scaling. The last step and the errors are in float64 in any case.
    chunks : int or "auto"
        Pixels worked on at a time.
    seed : int
        For whatever is drawn.
    progress : bool, optional
        Whether to show a progress bar; None shows one on a terminal when there is much to do.
    compute : bool
        False returns a `dask.delayed.Delayed` whose ``compute()`` is the result.

    Returns
    -------
    `FitResult`
        A mapping of names to NDCubes. For a sequence a list of them, for a collection a dict.

    Raises
    ------
    ValueError
        If there is no spectral axis, shapes do not match, bounds leave no room, ...; the message says what was
        found, what was expected and what to do.
    astropy.units.UnitConversionError
        If a unit does not convert to what it should be.
    KeyError
        If a name is unknown; close matches are named.

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> cube = gaussian_cube(shape=(4, 5), seed=1)
    >>> result = specfit.fit(cube, specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0))
    >>> result["velocity"].data.shape, str(result["velocity"].unit)
    ((4, 5), 'km / s')
    """
    options = {
        "init": init,
        "uncertainty": uncertainty,
        "mask": mask,
        "spectral_axis": spectral_axis,
        "window": window,
        "loss": loss,
        "device": device,
        "dtype": dtype,
        "chunks": chunks,
        "seed": seed,
        "progress": progress,
    }
    if not compute:
        from dask import delayed

        return delayed(fit, pure=False)(data, model, priors, solver, **options)
    if isinstance(model, (Model, str, type)) and as_model(model).gather is not None:
        data, options["uncertainty"], options["mask"] = as_model(model).gather(data, uncertainty=uncertainty, mask=mask)
    members = as_cubes(data)
    if isinstance(members, Mapping):
        return {key: fit(cube, model, priors, solver, **options) for key, cube in members.items()}
    if not isinstance(data, (list, tuple)) and isinstance(members, (list, tuple)):
        return [fit(cube, model, priors, solver, **options) for cube in members]
    cubes = list(data) if isinstance(data, (list, tuple)) else [data]
    if not cubes:
        raise ValueError("there is nothing to fit: an empty list was given as data")
    models = _models(model, len(cubes))
    return _fit_jointly(cubes, models, as_priors(priors), as_solver(solver), **options)


def _models(model, n: int) -> list[Model]:
    if isinstance(model, (list, tuple)):
        if len(model) != n:
            raise ValueError(f"{n} cubes need as many models (or one for all), found {len(model)}")
        return [as_model(m) for m in model]
    return [as_model(model)] * n


def _fit_jointly(cubes, models, priors, solver, *, init, progress, **options) -> FitResult:
    begin = time.perf_counter()
    models = in_medium_of(cubes, models)
    follow = isinstance(init, str)
    if follow and init != "previous":
        raise ValueError(f"init is a mapping, an earlier result or 'previous'; found {init!r}")
    given = {} if follow or init is None else init
    priors = [*priors, *_own_priors(models, priors)]
    automatic = [prior for prior in priors if getattr(prior, "automatic", False)]
    learning = [prior for prior in priors if prior.learns]
    known = [prior for prior in priors if prior not in automatic and prior not in learning]
    coupled = any(prior.couples_pixels for prior in automatic)
    problem = build_problem(cubes, models, priors=known, init=given, coupled=coupled, **options)
    values = start_from(problem.layout, given or None, problem.grid)
    scales = {}
    learned = [prior.learn(problem) for prior in learning]
    if learned:
        known += learned
        bound = [bind_prior(prior, problem.layout, problem.grid, models) for prior in learned]
        problem = problem.with_priors([*problem.priors, *bound])
        problem = problem.with_light_error(max(prior.light_error for prior in learned))
        scales |= {prior.name: prior.learned() for prior in learned}
    if automatic:
        from .scale import choose_scales

        sample, own = mosaic(problem, automatic, values)
        automatic, chosen = choose_scales(
            sample, automatic, models, own, local_solver(problem), lambda trial: accepting_solver(solver, trial)
        )
        scales |= chosen
        bound = [bind_prior(prior, problem.layout, problem.grid, models) for prior in automatic]
        problem = problem.with_priors([*problem.priors, *bound])
        for entry in chosen.values():
            entry["pixels"] = sample.n_pixels
    solver = accepting_solver(solver, problem)
    _warn_of_a_shared_error(problem, solver)
    frames = _frames(problem) if follow else None
    outcome = run(
        problem,
        solver,
        init=values,
        follow=frames,
        progress=progress,
        local=solver.starter(problem) or local_solver(problem) if solver.whole_map else None,
    )
    _warn_where_nothing_is_usable(outcome.status)
    meta = _provenance(problem, models, solver, priors, time.perf_counter() - begin)
    meta["prior_scales"] = scales
    meta["solver_info"] = outcome.info
    if outcome.weights:
        meta["operator_weights"] = outcome.weights
    for component in problem.layout.components:
        meta |= component.remarks()
    result = _result(problem, outcome, [*known, *automatic], solver, meta)
    for prior in result._priors:
        if prior.positive_only:
            _warn_where_not_positive(result, prior)
    return result._with_meta(medium=check_media(result, [term.observation for term in problem.terms]))


def _warn_where_nothing_is_usable(status: np.ndarray) -> None:
    # A mask was meant; this was not.
    unmeant = int(Status.MASKED | Status.BAD_DATA)
    if status.size and np.all(status & unmeant == unmeant):
        warnings.warn(
            "no pixel has a usable sample, so that every value is NaN: all samples are NaN or infinite, or their "
            "sigma is not positive and finite",
            SpecfitWarning,
            stacklevel=4,
        )


def _warn_of_a_shared_error(problem: Problem, solver: Solver) -> None:
    """Where a solver of coupled maps does not know what pixels share."""
    gaussian = [prior for prior, _ in problem.priors if isinstance(prior, BoundGaussian)]
    if problem.couples_pixels and not solver.factored and any(prior.shared is not None for prior in gaussian):
        warnings.warn(
            f"{solver.name} leaves the error of a prior's learned mean, which all pixels share, out of the errors of "
            "coupled maps: where the data say little these are too small",
            SpecfitWarning,
            stacklevel=4,
        )


def _own_priors(models: Sequence[Model], given: Sequence[Prior]) -> list[Prior]:
    """Priors that models bring with them, but for those of a kind that the user gave one of."""
    own, kinds = [], {prior.name for prior in given}
    for model in models:
        for component in model.components:
            own += [prior for prior in component.own_priors() if prior.name not in kinds and prior not in own]
    return own


def _warn_where_not_positive(result: FitResult, prior) -> None:
    layout = result._layout
    for name in prior.quantities or smooth_names(layout):
        if layout.resolve(name) in layout.free_keys:  # bounded from below, or refused
            continue
        cube = result[name]
        share = 100 * np.mean((cube.data <= 0)[~cube.mask]) if not cube.mask.all() else 0.0
        if share > 0:
            warnings.warn(
                f"{prior!r} is for positive quantities, but {name!r} is not in {share:.3g} % of its pixels: what the "
                "prior made of them means nothing",
                SpecfitWarning,
                stacklevel=4,
            )


def _frames(problem: Problem) -> list[slice]:
    kinds, shape = problem.grid.kinds, problem.grid.shape
    if "time" not in kinds:
        raise ValueError(f"init='previous' needs a time axis; this map's axes are {', '.join(kinds)}")
    if kinds[0] != "time":
        raise ValueError(
            f"init='previous' needs time as the first axis of the map, found axes {', '.join(kinds)}: "
            "reorder the cube's axes"
        )
    length = int(np.prod(shape[1:], dtype=int))
    return [slice(i * length, (i + 1) * length) for i in range(shape[0])]


def _result(problem: Problem, outcome, priors, solver, meta) -> FitResult:
    layout = problem.layout
    factor, offset = layout.scales()
    theta = np.asarray(layout.transform) @ outcome.free if not problem.simple else outcome.free
    if not problem.simple:
        theta = theta + problem.base.cpu().numpy()
    # Internal to physical: rows of θ by their own factors, free numbers by those of the row they stand in.
    values = {}
    for key, parameter in layout.parameters.items():
        rows = layout.rows[key]
        physical = theta[rows]
        if np.any(factor[rows] != 1.0) or np.any(offset[rows] != 0.0):
            physical = physical * factor[rows, None] + offset[rows, None]
        values[key] = physical if parameter.shape else physical[0]
    free_factor = (
        np.concatenate([factor[layout.rows[key]] for key in layout.free_keys]) if layout.free_keys else factor[:0]
    )
    covariance = outcome.covariance
    if isinstance(covariance, np.ndarray):
        i, j = np.tril_indices(problem.n_free)
        factors = (free_factor[i] * free_factor[j])[:, None]
        if np.all(factors == 1.0):
            pass
        elif np.all((factors > 1e-20) & (factors < 1e20)):
            with np.errstate(over="ignore"):  # beyond what the type holds a variance is infinite, as good as unknown
                covariance *= factors.astype(covariance.dtype)
        else:  # variances in the data's unit that single precision could not hold
            covariance = covariance * factors
    transform = factor[:, None] * layout.transform / free_factor[None, :]
    auxiliary = [{k: v.cpu().numpy() for k, v in inputs.items()} for inputs in problem.physical_auxiliary]
    return FitResult(
        observations=[term.observation for term in problem.terms],
        layout=layout,
        values=values,
        covariance=covariance,
        transform=transform,
        chi2=outcome.chi2,
        dof=outcome.dof,
        status=outcome.status,
        n_valid=outcome.n_valid,
        auxiliary=auxiliary,
        priors=tuple(priors),
        solver=solver,
        meta=meta,
        sampler=_sampler(problem, outcome),
    )


def _sampler(problem: Problem, outcome) -> Metropolis | MapSampler | None:
    if not problem.n_free or isinstance(outcome.covariance, FactoredCovariance):
        return outcome.sampler
    return Perturbation(problem, outcome.free) if problem.couples_pixels else Metropolis(problem)


@cache
def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("sunpy_specfit", "torch", "numpy", "astropy", "ndcube")}


def _provenance(problem: Problem, models: Sequence[Model], solver, priors, seconds: float) -> dict:
    used = (
        {type(c) for model in models for c in (*model.components, *model.operators)}
        | {type(solver)}
        | {type(p) for p in priors}
    )
    distributions = {cls.name: " ".join(map(str, registry.origin(cls))) for cls in used if cls.name}
    references = sorted({reference for cls in used for reference in cls.references})
    return {
        "model": [repr(model) for model in models],
        "solver": repr(solver),
        "priors": [repr(prior) for prior in priors],
        "loss": problem.loss_name,
        "versions": {
            "python": platform.python_version(),
            **_versions(),
        },
        "plugins": distributions,
        "references": references,
        "seed": problem.seed,
        "device": str(problem.device),
        "dtype": str(problem.dtype).removeprefix("torch."),
        "noise": [term.observation.noise_origin for term in problem.terms],
        "frame_is_physical": [term.frame.is_identity for term in problem.terms],
        "batching": {
            c.component_label(): b.strategy
            for t in problem.terms
            for c, b in zip(t.model.components, t.batched, strict=True)
        },
        "seconds": seconds,
        "threads": torch.get_num_threads(),
    }
