"""Does a model keep the rules?"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import astropy.units as u
import torch

from ..core.arguments import accepted
from ..core.composite import Sum
from ..core.frame import Frame
from ..core.model import Model
from ..core.observation import Observation
from .common import check_configurable, peak, require, unchanged
from .derivatives import check_derivatives, check_linear, check_quadratic
from .recovery import check_recovery
from .scenario import Scenario
from .scene import empty_cube

__all__ = ["check_model"]

_EXACT = 1e-9


def check_model(
    model: Model,
    *,
    cube=None,
    truth: Mapping[str, u.Quantity] | None = None,
    equivariant: bool = True,
    fit: bool = True,
    seed: int = 0,
) -> None:
    """Hold a model against the rules that the engine relies on.

    Its arguments must be stored as given, its units be real, its light have the right shape and precision and be
    deterministic, its derivatives be right by automatic differentiation and its own Jacobian agree with them; what it
    declares linear must be linear, and a quadratic of its own that of its light; what it declares a location must move
    with the axis; derived quantities must be elementwise. Finally it is fitted to its own light with noise, and must
    find the truth again.

    Parameters
    ----------
    model : `~sunpy_specfit.Model`
        An instance, or a sum.
    cube : `~ndcube.NDCube`, optional
        What the model is made for: data, coordinates and units that it is evaluated on. A model of channels, or with a
        `~sunpy_specfit.Model.prepare` that reads the data, needs one. By default a small synthetic cube of spectra.
    truth : mapping of str to `~astropy.units.Quantity`, optional
        Parameter name to the range ``(low, high)`` that it is drawn from; by default guessed from unit, bounds and
        default.
    equivariant : bool
        Whether the light moves with the parameters declared as locations. False for physics that knows its absolute
        wavelength, which the engine then leaves where it is.
    fit : bool
        Whether to do the fit too, which takes about a second.
    seed : int
        For whatever is drawn.

    Raises
    ------
    AssertionError
        With a sentence that says what to change.

    Examples
    --------
    >>> from sunpy_specfit import Model, Parameter
    >>> from sunpy_specfit.testing import check_model
    >>> class Lorentzian(Model):
    ...     name = "lorentzian"
    ...     amplitude = Parameter("data", lower=0)
    ...     center = Parameter("spectral", location=True)
    ...     width = Parameter("spectral", lower=0)
    ...
    ...     def evaluate(self, x, amplitude, center, width):
    ...         return amplitude / (1 + ((x - center) / width) ** 2)
    >>> check_model(Lorentzian())

    What a mistake is told:

    >>> class Careless(Lorentzian):
    ...     name = "careless"
    ...     def evaluate(self, x, amplitude, center, width):
    ...         return amplitude / (1 + ((x - center.item()) / width) ** 2)
    >>> check_model(Careless())
    Traceback (most recent call last):
    AssertionError: Careless.evaluate: automatic differentiation knows nothing of 'center' ...
    """
    if not isinstance(model, Sum):
        check_configurable(model, "model")
    who = repr(model) if isinstance(model, Sum) else type(model).__name__
    require(
        not model.operators, f"{who} is a model behind an instrument: check the model and the operator, each on its own"
    )
    _check_declarations(model, who)
    _check_constraints(model, who)
    observation = Observation.from_cube(empty_cube(model) if cube is None else cube, **_reading(model))
    frame = Frame(observation.data_unit, observation.spectral_unit)
    _check_units(model, who, frame)
    scenario = Scenario.draw(model, observation, truth=truth, seed=seed)
    _check_signature(model, who, scenario)
    _check_evaluate(scenario, who)
    check_derivatives(scenario, who)
    check_linear(scenario, who)
    check_quadratic(scenario, who)
    if equivariant:
        _check_locations(scenario, who)
    _check_angles(scenario, who)
    _check_chart(scenario, who)
    _check_derive(scenario, who)
    _check_starts(scenario, who)
    if fit:
        check_recovery(model, cube, truth=truth, who=who, seed=seed)


def _reading(model: Model) -> dict:
    """How an observation is read for this model."""
    return {"data_axis": model.data_axis, "stokes": model.stokes}


def _check_declarations(model: Model, who: str) -> None:
    parameters, derived = model.parameters, model.derived
    require(parameters, f"{who} has no parameters: declare at least one, as in `amplitude = Parameter('data')`")
    require(
        model.data_axis in ("spectral", "channel", None),
        f"{who}.data_axis is {model.data_axis!r}; expected 'spectral', 'channel' or None",
    )
    require(
        model.stokes and set(model.stokes) <= set("IQUV") and len(set(model.stokes)) == len(model.stokes),
        f"{who}.stokes is {model.stokes!r}; expected some of the letters I, Q, U, V, each once",
    )
    for what, names, known in (
        ("linear_parameters", model.linear_parameters, parameters),
        ("smooth", model.smooth or (), {**parameters, **derived}),
    ):
        require(not isinstance(names, str), f"{who}.{what} is a string: write a tuple, ({names!r},)")
        strangers = [name for name in names if name not in known]
        require(not strangers, f"{who}.{what} names {strangers}; known are {list(known)}")
    twice = sorted(set(parameters) & set(derived))
    require(not twice, f"{who} has {twice} both as parameter and as derived quantity: rename one")
    for name in (*parameters, *derived):
        bare = name.rpartition(".")[2]
        require(bare.isidentifier() and bare == bare.lower(), f"{who}: {name!r} should be a lower-case identifier")


def _check_constraints(model: Model, who: str) -> None:
    """Models are immutable: whatever constrains them returns a new one."""
    before = repr(model.parameters)
    name = next(iter(model.parameters))
    changes = {
        "fix": lambda: model.fix({name: 1.0}),
        "bound": lambda: model.bound({name: (0.5, 2.0)}),
        "share": lambda: model.share(name),
        "free": lambda: model.free(name),
    }
    if len(model.parameters) > 1:
        changes["tie"] = lambda: model.tie(name, list(model.parameters)[1])
    for method, change in changes.items():
        new = change()
        require(isinstance(new, Model) and new is not model, f"{who}.{method} should return a new model")
        require(
            repr(model.parameters) == before,
            f"{who}.{method} changed the model itself: models are immutable",
        )
    fixed = changes["fix"]().parameters[name]
    require(
        fixed.fixed and fixed.default == 1.0,
        f"{who}.fix({name}=1) is not seen in `parameters`: override `declare`, not `parameters`",
    )


def _check_units(model: Model, who: str, frame: Frame) -> None:
    for name, parameter in model.parameters.items():
        try:
            unit = frame.unit(parameter.unit)
        except (ValueError, TypeError) as error:
            raise AssertionError(f"{who}: the unit of {name!r}, {parameter.unit!r}, cannot be read: {error}") from None
        for what in ("default", "lower", "upper"):
            value = getattr(parameter, what)
            if isinstance(value, u.Quantity):
                require(
                    value.unit.is_equivalent(unit),
                    f"{who}: {what} of {name!r} is in {value.unit}, which does not convert to {unit}",
                )
    for name, unit in model.derived.items():
        try:
            frame.unit(unit)
        except (ValueError, TypeError) as error:
            raise AssertionError(f"{who}: the unit of derived {name!r}, {unit!r}, cannot be read: {error}") from None


def _check_signature(model: Model, who: str, scenario: Scenario) -> None:
    if isinstance(model, Sum):
        return
    accepted = list(inspect.signature(model.evaluate).parameters.values())
    require(accepted and accepted[0].name == "x", f"{who}.evaluate should take `x` first: (self, x, ...)")
    if any(p.kind is p.VAR_KEYWORD for p in accepted):
        return
    names = {p.name for p in accepted[1:]}
    given = {**scenario.parameters, **scenario.auxiliary}
    missing = [name for name in given if name not in names]
    require(not missing, f"{who}.evaluate does not take {missing}, which the model declares or prepares")
    extra = [p.name for p in accepted[1:] if p.name not in given and p.default is p.empty]
    require(not extra, f"{who}.evaluate asks for {extra}: declare them as Parameter, or return them from `prepare`")
    undeclared = [name for name in model.auxiliaries if name not in scenario.auxiliary]
    require(not undeclared, f"{who} declares the auxiliary inputs {undeclared}, and `prepare` does not return them")


def _check_evaluate(scenario: Scenario, who: str) -> None:
    model, n = scenario.model, scenario.x.shape[0]
    expected = (n,) if len(model.stokes) == 1 else (len(model.stokes), n)
    for dtype in (torch.float64, torch.float32):
        inputs = scenario.one(0, dtype)
        before = {name: value.clone() for name, value in inputs.items()}
        try:
            light = model.evaluate(**inputs)
        except Exception as error:
            raise AssertionError(
                f"{who}.evaluate fails for one pixel, x {(n,)} and numbers in {dtype}: {type(error).__name__}: {error}"
            ) from error
        require(torch.is_tensor(light), f"{who}.evaluate returned {type(light).__name__}; expected a torch tensor")
        require(
            tuple(light.shape) == expected,
            f"{who}.evaluate returned the shape {tuple(light.shape)} for {n} samples; expected {expected}. "
            "A constant needs `+ 0 * x`",
        )
        require(
            light.dtype == dtype,
            f"{who}.evaluate turns {dtype} into {light.dtype}: make constants with `torch.tensor(..., dtype=x.dtype)`",
        )
        require(light.isfinite().all(), f"{who}.evaluate is not finite at plausible parameters: pass `truth=` ranges?")
        changed = unchanged(before, inputs)
        require(not changed, f"{who}.evaluate changes {' and '.join(changed)} in place: work on a copy")
        require(torch.equal(light, model.evaluate(**inputs)), f"{who}.evaluate gives another answer the second time")
    require(
        bool(scenario.light().any()),
        f"{who}.evaluate gives no light at all at plausible parameters: pass `truth=` ranges, or a `cube=` with data",
    )


def _check_locations(scenario: Scenario, who: str) -> None:
    model = scenario.model
    places = [name for name, parameter in model.parameters.items() if parameter.location]
    axes = [name for name, auxiliary in model.auxiliaries.items() if auxiliary.location]
    shift = 0.37 * float(scenario.x.max() - scenario.x.min())
    light = scenario.light()
    # What moves is the light's shape: a flat pedestal must not hide it.
    size = max(peak(light - light.mean(-2, keepdim=True)), 1e-9 * peak(light))

    def error(moving):
        inputs = {"x": scenario.x, **scenario.parameters, **scenario.auxiliary}
        moved = scenario.light(**{name: inputs[name] + shift for name in ("x", *moving, *axes)})
        return peak(moved - light) / size

    if places:
        require(
            error(places) < 1e-6,
            f"{who}: shifting the axis and {places} together changes the light by {error(places):.1e} of itself. One "
            "of them is no location (drop `location=True`), or another is one (set it), or the physics knows absolute "
            "wavelengths: then use check_model(..., equivariant=False)",
        )
        return
    others = [n for n, p in model.parameters.items() if isinstance(p.unit, str) and p.unit.strip() == "spectral"]
    for name in others:
        require(
            error([]) < 1e-6 or error([name]) > 1e-6,
            f"{who}: {name!r} is a place on the spectral axis: declare Parameter('spectral', location=True)",
        )


def _check_angles(scenario: Scenario, who: str) -> None:
    """What comes in again beyond its bounds has the same light there."""
    light = scenario.light()
    for name, parameter in scenario.model.parameters.items():
        unit = scenario.frame.unit(parameter.unit)
        low, high = (
            None if v is None else float(u.Quantity(v, unit).value) for v in (parameter.lower, parameter.upper)
        )
        value, moved = scenario.parameters[name], {}
        if parameter.beyond != "stop":
            moved[name] = value + (high - low) if parameter.beyond == "wrap" else 2 * high - value
        elif parameter.opposite is not None:
            angle = scenario.model.parameters[parameter.opposite]
            own = scenario.frame.unit(angle.unit)
            ends = sum(float(u.Quantity(end, own).value) for end in (angle.lower, angle.upper))
            moved = {name: 2 * low - value, parameter.opposite: ends - scenario.parameters[parameter.opposite]}
        if moved:
            error = peak(scenario.light(**moved) - light) / peak(light)
            require(
                error < 1e-9,
                f"{who}: {name!r} has another light beyond its bounds, by {error:.1e} of the peak: leave out "
                f"{'beyond=' if parameter.beyond != 'stop' else 'opposite='}, or correct the bounds",
            )


def _check_chart(scenario: Scenario, who: str) -> None:
    """There and back the light is the same, beyond the bounds too."""
    chart, names = scenario.model.chart, getattr(scenario.model.chart, "parameters", ())
    unknown = sorted(set(names) - set(scenario.model.parameters))
    require(not unknown, f"{who}.chart names {unknown}, which are not parameters")
    for turned in [None, *(n for n in names if scenario.model.parameters[n].beyond == "reflect")] if chart else ():
        own = {name: scenario.parameters[name] for name in names}
        if turned is not None:
            own[turned] = -own[turned]
        light = scenario.light(**own)
        back = dict(zip(names, chart.inverse(*chart.forward(*own.values())), strict=True))
        error = peak(scenario.light(**back) - light) / peak(light)
        require(error < 1e-9, f"{who}.chart: there and back the light changes by {error:.1e} of the peak")


def _check_derive(scenario: Scenario, who: str) -> None:
    model = scenario.model
    for component in model.components:
        names = component.parameters
        if model is not component:
            continue  # the components of a sum are checked on their own
        # As a fit does: of the auxiliary inputs those that it asks for.
        inputs = {**{n: scenario.parameters[n] for n in names}, **accepted(component.derive, scenario.auxiliary)}
        before = {name: value.clone() for name, value in inputs.items()}
        found = component.derive(**inputs)
        require(
            set(found) == set(component.derived),
            f"{who}.derive returned {sorted(found)}; its `derived` declares {sorted(component.derived)}",
        )
        changed = unchanged(before, inputs)
        require(not changed, f"{who}.derive changes {' and '.join(changed)} in place: work on a copy")
        alone = [
            component.derive(**{k: v[..., p : p + 1] if v.shape[-1] > 1 else v for k, v in inputs.items()})
            for p in range(scenario.pixels)
        ]
        for name, value in found.items():
            single = torch.cat([one[name] for one in alone], dim=-1)
            require(
                value.shape[-1:] == (scenario.pixels,) and value.shape == single.shape,
                f"{who}.derive returned {name!r} with the shape {tuple(value.shape)}; pixels are the last axis",
            )
            require(
                torch.allclose(value, single, rtol=1e-9, atol=0.0, equal_nan=True),
                f"{who}.derive mixes pixels in {name!r}: it is called with many pixels at once and must be elementwise",
            )


def _check_starts(scenario: Scenario, who: str) -> None:
    model, parameters = scenario.model, scenario.model.parameters
    if model.start_values is not None:
        light = scenario.light()
        found = model.start_values(scenario.x, light, torch.ones_like(light), **scenario.auxiliary)
        for name, value in found.items():
            require(name in parameters, f"{who}.start_values returned {name!r}, which is no parameter")
            require(
                value.shape[-1] in (1, scenario.pixels) and bool(value.isfinite().all()),
                f"{who}.start_values: {name!r} should be finite and end with the pixels, found {tuple(value.shape)}",
            )
    if model.restart_values is not None:
        light, draws = scenario.light(), [0.5] * len(parameters)
        found = model.restart_values(
            scenario.x, light, torch.ones_like(light), scenario.parameters, 1, draws, **scenario.auxiliary
        )
        strangers = [name for name in found if name not in parameters]
        require(not strangers, f"{who}.restart_values returned {strangers}, which are no parameters")
        unusable = [name for name, value in found.items() if not bool(value.isfinite().all())]
        require(not unusable, f"{who}.restart_values: {unusable} should be finite")
    if model.start_grid is not None:
        for name, values in model.start_grid(scenario.x[:, 0].numpy()).items():
            require(name in parameters, f"{who}.start_grid returned {name!r}, which is no parameter")
            require(
                len(values) > 0 and torch.as_tensor(values).ndim == 1,
                f"{who}.start_grid: the candidates for {name!r} should be a 1-D array",
            )
