"""Are a model's derivatives right, and is what it declares linear?"""

from __future__ import annotations

import torch

from ..core.batching import BatchedModel
from ..numerics import packed
from .common import peak, require
from .scenario import Scenario

__all__ = ["check_derivatives", "check_linear", "check_quadratic"]


def check_derivatives(scenario: Scenario, who: str) -> None:
    """Automatic differentiation against finite differences, then every faster form against the plain one."""
    model = scenario.model
    names = tuple(scenario.parameters)
    x, parameters, auxiliary = scenario.x, scenario.parameters, scenario.auxiliary
    plain = BatchedModel(model, "loop", analytic=False)
    try:
        light, derivatives = plain.linearize(x, parameters, auxiliary, names)
    except Exception as error:
        raise AssertionError(
            f"{who}.evaluate cannot be differentiated: {type(error).__name__}: {error}. Use torch operations, or wrap "
            "a foreign function in ExternalModel"
        ) from error
    _check_finite_differences(scenario, who, light, derivatives)
    _check_reverse_mode(scenario, who, derivatives)
    chosen = BatchedModel.choose(model, x, parameters, auxiliary)
    _compare(f"{who}, batched by {chosen.strategy!r}", light, chosen.light(x, parameters, auxiliary), 1e-9)
    if model.linearize is not None:
        _check_analytic(scenario, who, light, derivatives)
        return
    batched_light, batched = chosen.linearize(x, parameters, auxiliary, names)
    _compare(f"{who}, batched by {chosen.strategy!r}", light, batched_light, 1e-9)
    for name in names:
        _compare(
            f"{who}, batched by {chosen.strategy!r}: the derivative to {name!r}", derivatives[name], batched[name], 1e-6
        )


def _check_finite_differences(scenario: Scenario, who: str, light, derivatives) -> None:
    for name, value in scenario.parameters.items():
        step = 1e-5 * scenario.spread[name]
        vector = value.ndim > 1
        for row in range(value.shape[0] if vector else 1):
            moved = torch.zeros_like(value)
            (moved[row] if vector else moved).fill_(step)
            measured = (scenario.light(**{name: value + moved}) - scenario.light(**{name: value - moved})) / (2 * step)
            found = derivatives[name][row] if vector else derivatives[name]
            size = peak(measured)
            # Below this the difference is rounding.
            noise = 1e-14 * peak(light) / step
            require(
                peak(found) > 1e-6 * size or size <= 10 * noise,
                f"{who}.evaluate: automatic differentiation knows nothing of {name!r}, on which the light depends: "
                "avoid `.item()`, `.detach()`, float() and numpy, or wrap a foreign function in ExternalModel",
            )
            error = peak(found - measured)
            require(
                error <= 1e-4 * size + 10 * noise,
                f"{who}.evaluate: its derivative to {name!r} by automatic differentiation differs from finite "
                f"differences by {error / size:.1e} of the peak",
            )


def _check_reverse_mode(scenario: Scenario, who: str, derivatives) -> None:
    """Solvers that follow a gradient go backwards through the model."""
    leaves = {name: value.clone().requires_grad_() for name, value in scenario.parameters.items()}
    light = scenario.light(**leaves)
    weight = torch.linspace(0.5, 1.5, light.numel(), dtype=light.dtype).reshape(light.shape)
    try:
        found = torch.autograd.grad((light * weight).sum(), list(leaves.values()), allow_unused=True)
    except RuntimeError as error:
        raise AssertionError(
            f"{who}.evaluate can be differentiated forwards, but not backwards as gradient solvers do: {error}"
        ) from error
    for (name, value), gradient in zip(scenario.parameters.items(), found, strict=True):
        samples = tuple(range(derivatives[name].ndim - light.ndim, derivatives[name].ndim - 1))
        expected = (derivatives[name] * weight).sum(samples)
        gradient = torch.zeros_like(value) if gradient is None else gradient
        size = peak((derivatives[name] * weight).abs().sum(samples))
        require(
            peak(gradient - expected) <= 1e-6 * size,
            f"{who}.evaluate: its gradient with respect to {name!r} is another in reverse mode than in forward mode",
        )


def _check_analytic(scenario: Scenario, who: str, light, derivatives) -> None:
    model = scenario.model
    for dtype in (torch.float64, torch.float32):
        inputs = {"x": scenario.x, **scenario.parameters, **scenario.auxiliary}
        own_light, own = model.linearize(**{name: value.to(dtype) for name, value in inputs.items()})
        missing = [name for name in derivatives if name not in own]
        require(not missing, f"{who}.linearize returns no derivative for {missing}; expected one for each parameter")
        for name, value in {"light": own_light, **own}.items():
            require(value.dtype == dtype, f"{who}.linearize turns {dtype} into {value.dtype} for {name!r}")
        if dtype is torch.float64:
            _compare(f"{who}.linearize: its light", light, own_light, 1e-9)
            for name in derivatives:
                _compare(f"{who}.linearize: its derivative to {name!r}", derivatives[name], own[name], 1e-6)


def check_linear(scenario: Scenario, who: str) -> None:
    """What is declared linear enters so, all of it together."""
    linear = [name for name in scenario.model.linear_parameters if name in scenario.parameters]
    if not linear:
        return
    light = scenario.light()
    for names in [*([name] for name in linear), linear]:
        plus = scenario.light(**{name: scenario.parameters[name] * 1.5 for name in names})
        minus = scenario.light(**{name: scenario.parameters[name] * 0.5 for name in names})
        error = peak(plus + minus - 2 * light) / peak(light)
        what = repr(names[0]) if len(names) == 1 else f"{', '.join(map(repr, names))} together"
        require(
            error < 1e-9,
            f"{who}.linear_parameters: the light is not linear in {what}, off by {error:.1e} of the peak: take it out "
            "of `linear_parameters`",
        )


def check_quadratic(scenario: Scenario, who: str) -> None:
    """The model's own quadratic, on its own light without noise: at the truth nothing is left, and it knows no more
    than the light does."""
    model = scenario.model
    if model.quadratic is None:
        return
    names = list(model.parameters)
    require(
        set(names) <= set(model.linear_parameters),
        f"{who}.quadratic: not all parameters are linear: {set(names) - set(model.linear_parameters)}",
    )
    plain = BatchedModel(model, "loop", analytic=False)
    light, derivatives = plain.linearize(scenario.x, scenario.parameters, scenario.auxiliary, tuple(names))
    weight = torch.full_like(light, (100.0 / peak(light)) ** 2)
    constant, matrix, vector, valid = model.quadratic(scenario.x, light, weight, **scenario.auxiliary)
    truth = torch.cat([scenario.parameters[name].reshape(-1, light.shape[-1]) for name in names])
    left = constant + (truth * (packed.matvec(matrix, truth) - 2 * vector)).sum(0)
    whole = (light.square() * weight).flatten(0, -2).sum(0)
    require(
        bool((left.abs() <= 1e-6 * whole.clamp_min(1.0)).all()),
        f"{who}.quadratic: of its own light {float((left / whole).abs().max()):.1e} of chi-squared is left at the true "
        "parameters: constant - 2 vectorᵀ θ + θᵀ matrix θ should be nothing there",
    )
    counted = weight if model.weigh is None else model.weigh(scenario.x, weight, **scenario.auxiliary)
    samples = (counted > 0).flatten(0, -2).sum(0)
    require(
        bool((valid == samples).all()),
        f"{who}.quadratic counts {valid.tolist()} samples, `weigh` leaves {samples.tolist()}",
    )
    columns = torch.cat([derivatives[n].reshape(-1, *light.shape) for n in names]).flatten(1, -2)
    known = torch.einsum("imp,jmp->pij", columns * counted.flatten(0, -2), columns)
    found = packed.unpack(matrix)
    scale = known.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()
    excess = torch.linalg.eigvalsh((found - known) * scale[:, :, None] * scale[:, None, :])
    require(
        bool((excess <= 1e-6).all()) and bool((found.diagonal(dim1=-2, dim2=-1) > 0).all()),
        f"{who}.quadratic claims more information than the samples hold: its matrix exceeds JᵀWJ",
    )


def _compare(what: str, expected: torch.Tensor, found: torch.Tensor, tolerance: float) -> None:
    try:
        found = found.expand(expected.shape)
    except RuntimeError:
        raise AssertionError(
            f"{what} has the shape {tuple(found.shape)}, which does not broadcast to {tuple(expected.shape)}"
        ) from None
    error = peak(found - expected) / peak(expected)
    require(
        peak(found - expected) <= tolerance * peak(expected) + 1e-300,
        f"{what} differs from the plain form of `evaluate` by {error:.1e} of the peak",
    )
