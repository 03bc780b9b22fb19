"""From what the user gives to a `Problem`: validated once, here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import astropy.units as u
import numpy as np
import torch

from . import registry
from .arguments import check_seed
from .frame import Frame
from .layout import Layout
from .loss import LOSSES
from .model import Model
from .names import unknown_name
from .observation import Observation
from .parameter import as_quantity
from .prior import Prior
from .problem import Problem
from .read_quadratics import is_read_in_place
from .solver import Solver
from .term import Term, choose_frame, prepared_inputs

__all__ = ["as_model", "as_priors", "as_solver", "bind_prior", "build_problem", "choose_device"]

# Samples per block: many enough that calls cost nothing beside the numbers, few enough for the processor's cache.
_CPU_SAMPLES = 2**20
_GPU_SAMPLES = 2**24
# Where spectra are looked at once, and a few numbers a pixel take their place, calls cost more than the cache saves.
_SAMPLES_LOOKED_AT_ONCE = 2**23
# Where a model reads them off the cube, none of them are held.
_SAMPLES_READ_IN_PLACE = 2**25


def as_model(model) -> Model:
    """A model from a model, its class, or a registered name that needs no arguments."""
    if isinstance(model, Model):
        return model
    made = _instantiate(model, "model", Model)
    if made is None:
        raise TypeError(f"a model is a Model, a sum of them, or a registered name; found {type(model).__name__}")
    return made


def as_solver(solver) -> Solver | None:
    """A solver from a solver or a registered name; None for "auto"."""
    if isinstance(solver, Solver):
        return solver
    if solver == "auto":
        return None
    made = _instantiate(solver, "solver", Solver)
    if made is None:
        raise TypeError(f"a solver is a Solver or a registered name; found {type(solver).__name__}")
    return made


def _instantiate(given, kind: str, base: type):
    if isinstance(given, str):
        cls = registry.get(kind, given)
    elif isinstance(given, type) and issubclass(given, base):
        cls = given
    else:
        return None
    try:
        return cls()
    except TypeError as error:
        raise TypeError(f"{cls.__name__} needs arguments, so make it yourself and pass the object: {error}") from None


def as_priors(priors) -> tuple[Prior, ...]:
    """A tuple of priors from one, several, or none."""
    several = isinstance(priors, Iterable) and not isinstance(priors, (Prior, str, type))
    found = []
    for prior in (priors if several else [priors]) if priors is not None else ():
        made = prior if isinstance(prior, Prior) else _instantiate(prior, "prior", Prior)
        if made is None:
            raise TypeError(
                f"priors are Prior objects, found {prior!r}; "
                "wrap a function or a torch distribution in Penalty(name, ...)"
            )
        found.append(made)
    return tuple(found)


def choose_device(device) -> torch.device:
    """A torch device; "auto" takes CUDA where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device is 'auto', 'cpu', 'cuda' or such as 'cuda:1'; found {device!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' was asked for and this machine has no CUDA device; use device='auto' or 'cpu'")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device={str(device)!r} cannot be used here: {reason}") from None
    return device


def _choose_dtype(dtype, terms: Sequence[Term], coupled: bool) -> torch.dtype:
    if dtype == "auto":
        scaled = len(terms) == 1 and not terms[0].frame.is_identity
        elementwise = all(batched.strategy == "broadcast" for term in terms for batched in term.batched)
        return torch.float32 if scaled and elementwise and not coupled else torch.float64
    names = {"float32": torch.float32, "float64": torch.float64}
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    found = names.get(np.dtype(dtype).name if not isinstance(dtype, str) else dtype)
    if found is None:
        raise ValueError(f"dtype is 'auto', 'float32' or 'float64', found {dtype!r}")
    return found


def build_problem(
    cubes: Sequence,
    models: Sequence[Model],
    *,
    priors: Sequence[Prior] = (),
    init: Mapping | None = None,
    uncertainty=None,
    mask=None,
    spectral_axis=None,
    window=None,
    loss: str = "gaussian",
    device="auto",
    dtype="auto",
    chunks="auto",
    seed: int = 0,
    coupled: bool = False,
) -> Problem:
    """Read the cubes, prepare the models, bind the priors.

    Priors with an automatic scale are left out; `sunpy_specfit.core.fit` binds them once their scale is known, and says
    beforehand whether they will couple the pixels.

    Raises
    ------
    ValueError
        If the cubes' maps differ in shape, a fixed parameter has no value or one outside its bounds, bounds leave no
        room, or no parameter is free.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss is one of {', '.join(map(repr, LOSSES))}; found {loss!r}")
    for component in (component for model in models for component in model.components):
        if component.losses is not None and loss not in component.losses:
            raise ValueError(
                f"{component.component_label()!r} takes loss={' or '.join(map(repr, component.losses))} only, found "
                f"{loss!r}: it knows more of the noise than a loss that looks at samples one by one"
            )
    check_seed(seed)
    n = len(cubes)
    each = [_per_cube(value, n) for value in (uncertainty, mask, spectral_axis, window)]
    observations, frames, inputs = [], [], []
    for number, (cube, model) in enumerate(zip(cubes, models, strict=True)):
        lines = [c.rest_wavelength for c in model.components if getattr(c, "rest_wavelength", None) is not None]
        observation = Observation.from_cube(
            cube,
            data_axis=model.data_axis,
            stokes=model.stokes,
            uncertainty=each[0][number],
            mask=each[1][number],
            spectral_axis=each[2][number],
            window=each[3][number],
            spectral_unit=lines[0].unit if lines else None,
            rest_wavelengths=lines,
        )
        observations.append(observation)
        inputs.append([prepared_inputs(component, observation) for component in model.components])
        frames.append(choose_frame(observation, model, inputs[-1]))
    grid = observations[0].grid
    for observation in observations[1:]:
        if observation.grid.shape != grid.shape:
            raise ValueError(
                f"cubes fitted jointly need maps of one shape, found {grid.shape} and {observation.grid.shape}; "
                "reproject one onto the other first"
            )
    if n > 1:
        # One frame for all: a tied or common parameter must mean the same number in every term.
        frames = [Frame(o.data_unit, o.spectral_unit) for o in observations]
    layout = Layout(models, frames)
    if not layout.n_free and not any(operator.weights for model in models for operator in model.operators):
        raise ValueError(
            f"nothing is left to fit: {', '.join(map(repr, layout.parameters))} are all fixed, or tied to what is; "
            "free some, as in model.free(...)"
        )
    fixed = _fixed_values(layout, init, grid)
    terms = [
        Term.prepare(observation, model, layout, number, frame, own)
        for number, (observation, model, frame, own) in enumerate(
            zip(observations, models, frames, inputs, strict=True)
        )
    ]
    bound = [bind_prior(prior, layout, grid, models) for prior in priors]
    coupled |= any(p.couples_pixels for p, _ in bound) or bool(layout.shared.any())
    coupled |= any(term.mixes_pixels for term in terms)
    device = choose_device(device)
    samples = max(int(np.prod(o.sample_shape)) for o in observations)
    problem = Problem(
        terms=terms,
        layout=layout,
        grid=grid,
        priors=bound,
        loss_name=loss,
        dtype=_choose_dtype(dtype, terms, coupled),
        device=device,
        fixed=fixed,
        block_size=_block_size(chunks, samples, device),
        seed=seed,
    )
    if problem.compressible:
        budget = _SAMPLES_READ_IN_PLACE if is_read_in_place(problem) else _SAMPLES_LOOKED_AT_ONCE
        problem.block_size = _block_size(chunks, samples, device, budget)
    return problem


def _per_cube(value, n: int) -> list:
    if n > 1 and isinstance(value, (list, tuple)):
        if len(value) != n:
            raise ValueError(
                f"{n} cubes are fitted jointly, but {len(value)} values were given for one of their options"
            )
        return list(value)
    return [value] * n


def _block_size(chunks, samples: int, device: torch.device, budget: int = _CPU_SAMPLES) -> int:
    if chunks == "auto":
        budget = _GPU_SAMPLES if device.type == "cuda" else budget
        return max(256, 1 << int(np.log2(max(budget // samples, 1))))
    if not isinstance(chunks, (int, np.integer)) or chunks < 1:
        raise ValueError(f"chunks is 'auto' or a positive number of pixels, found {chunks!r}")
    return int(chunks)


def _fixed_values(layout: Layout, init, grid) -> dict[str, np.ndarray]:
    """Internal values of the fixed parameters: as fixed, or from the start values where a bare name was fixed."""
    given = start_from(layout, init, grid)
    values = {}
    for key in layout.fixed_keys:
        parameter = layout.parameters[key]
        component, name = layout.origin(key)
        declared = component.declare()[name]
        bare = not declared.fixed and parameter.default is declared.default
        if key in given and (bare or parameter.default is None):
            values[key] = given[key]
        elif parameter.default is not None:
            values[key] = _read_value(layout, key, parameter.default, grid, "fixed value")
        else:
            raise ValueError(f"{key!r} is fixed but has no value: use fix({key}=...) or give it in init")
        # A map may have holes: these pixels are not fitted.
        finite = np.isfinite(values[key])
        if not finite.any() or (not finite.all() and finite.shape[-1:] != (grid.size,)):
            raise ValueError(f"{key!r} is fixed at {values[key]}, which is not finite")
        _check_within_bounds(layout, key, values[key])
    return values


def _check_within_bounds(layout: Layout, key: str, value: np.ndarray) -> None:
    parameter = layout.parameters[key]
    for bound, sign, word in ((parameter.lower, 1, "below its lower"), (parameter.upper, -1, "above its upper")):
        if bound is None:
            continue
        limit = layout.to_internal(key, bound, what="bound")
        limit = limit[..., None] if limit.ndim and value.ndim > limit.ndim else limit
        # An earlier result may have kept a bound in single precision.
        if np.any(sign * (value - limit) < -1e-6 * np.maximum(np.abs(limit), np.abs(value))):
            raise ValueError(f"{key!r} is fixed {word} bound {bound}: fix it within its bounds, or change them")


def _read_value(layout: Layout, key: str, value, grid, what: str) -> np.ndarray:
    """A number, vector or map (an NDCube too) that a user gave for a parameter, in the internal frame."""
    return spread(layout.to_internal(key, as_quantity(value), what=what), layout.parameters[key].shape, grid, key, what)


def spread(value: np.ndarray, shape: tuple[int, ...], grid, key: str, what: str = "value") -> np.ndarray:
    """A number, a vector, or a map as ``shape`` or ``shape + (pixels,)``."""
    value = np.asarray(value, float)
    if value.shape == shape or (value.ndim == 0 and not shape):
        return value
    if value.ndim == 0:
        return np.full(shape, value)
    if value.shape == (*shape, *grid.shape):
        return value.reshape(*shape, grid.size)
    raise ValueError(
        f"the {what} of {key!r} has shape {value.shape}; expected one number{' or ' + str(shape) if shape else ''}, "
        f"or a map of shape {(*shape, *grid.shape)}"
    )


def bind_prior(prior: Prior, layout: Layout, grid, models: Sequence[Model]):
    """(BoundPrior, names) for the quantities that a prior acts on."""
    names = prior.quantities
    if names is None:
        names = smooth_names(layout)
    units = {}
    for name in names:
        try:
            key = layout.resolve(name)
        except KeyError as error:
            raise KeyError(f"{type(prior).__name__}: {error.args[0]}") from None
        if prior.positive_only and key in layout.free_keys:
            lower = layout.parameters[key].lower
            if lower is None or np.any(u.Quantity(lower).value < 0):
                raise ValueError(
                    f"{prior!r} is for positive quantities, and {key!r} may be negative: leave it out, or bound it, "
                    f"model.bound({{{key!r}: (0, None)}})"
                )
        if prior.subtracts:
            component, own = layout.origin(key)
            if component.wraps(own):
                raise ValueError(
                    f"{type(prior).__name__} takes differences of neighbours, and {key!r} is an angle that wraps: name "
                    f"others instead; by default it acts on {', '.join(map(repr, smooth_names(layout)))}"
                )
        units[name] = layout.units[key] if key in layout.units else layout.derived[key]
    return prior.bind(units, grid), tuple(units)


def smooth_names(layout: Layout) -> list[str]:
    """The quantities that the models name as their smooth ones, by default all that are fitted and do not wrap."""
    smooth = [
        layout.keys[i][name]
        for i, component in enumerate(layout.components)
        for name in (component.smooth if component.smooth is not None else component.parameters)
        if component.smooth is not None or not component.wraps(name)
    ]
    return [key for key in smooth if key in layout.derived or key in layout.free_keys]


def start_from(layout: Layout, init, grid) -> dict[str, np.ndarray]:
    """Internal start values given by the user: a mapping of names, or an earlier result.

    Raises
    ------
    KeyError
        If a name is not one of the parameters.
    """
    values = {}
    if init is None:
        return values
    if not isinstance(init, Mapping):
        raise TypeError(f"init is a mapping of names to values, or a FitResult; found {type(init).__name__}")
    earlier = hasattr(init, "status")
    if earlier:
        init = init._with_meta(velocity_reference=None)  # the fit knows no zero point
    for name in init:
        try:
            key = layout.resolve(name)
        except KeyError:
            if earlier:
                continue  # an earlier result may have quantities that this model lacks
            raise
        if key in layout.derived:
            if earlier:
                continue
            raise unknown_name(name, layout.parameters, kind="fitted parameter")
        if layout.parameters[key].tie is not None:
            continue
        values[key] = _read_value(layout, key, init[name], grid, "start value")
        if not earlier:
            _check_inside(layout, key, values[key])
    return values


def _check_inside(layout: Layout, key: str, value: np.ndarray) -> None:
    """Refuse a start that the user gave outside the bounds; a start on a bound will do."""
    parameter = layout.parameters[key]
    for bound, beyond, word in ((parameter.lower, np.less, "below"), (parameter.upper, np.greater, "above")):
        if bound is not None and np.any(beyond(value, layout.to_internal(key, bound, what="bound") * 1.0)):
            raise ValueError(
                f"the start value of {key!r} lies {word} its bound of {bound}: start inside, or move the bound"
            )
