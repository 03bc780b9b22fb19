"""Derivatives three ways: automatic, written by hand, and by finite differences.

    python benchmarks/derivatives.py

For each model and each way: the largest error of a derivative over the peak of that derivative, against float64; the
time of one linearisation (light and all derivatives) of spectra of 32 wavelengths, in blocks as `fit` has them, over
that of the light alone; and the memory that it takes at most, over that of the light itself.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import astropy.units as u
import torch
from table import header, peak_memory, race

import sunpy_specfit as specfit
from sunpy_specfit.core.batching import BatchedModel

SAMPLES = 32
# Spectra in a block, as `fit` cuts them; blocks in a timing; and spectra for the memory, so many that the allocator
# hands every array back to the system at once.
BLOCK, BLOCKS, MANY = 4096, 16, 2**19
Tensors = dict[str, torch.Tensor]
Way = Callable[[torch.Tensor, Tensors], tuple[torch.Tensor, Tensors]]


def scene(model: specfit.Model, dtype: torch.dtype, pixels: int = BLOCK) -> tuple[torch.Tensor, Tensors]:
    """An axis about the line, and parameters that differ from pixel to pixel, both of order one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(-6.0, 6.0, SAMPLES, dtype=torch.float64)[:, None]
    ranges = {"amplitude": (0.5, 1.5), "center": (-1.0, 1.0), "width": (0.8, 1.6), "lorentz_width": (0.1, 0.8)}
    parameters = {
        name: low + (high - low) * torch.rand(pixels, generator=generator, dtype=torch.float64)
        for name, (low, high) in ranges.items()
        if name in model.parameters
    }
    return x.to(dtype), {name: value.to(dtype) for name, value in parameters.items()}


def ways(model: specfit.Model) -> dict[str, Way]:
    """Every way to a linearisation that the model allows."""
    names = tuple(model.parameters)

    def engine(strategy: str, analytic: bool) -> Way:
        batched = BatchedModel(model, strategy, analytic=analytic)
        return lambda x, parameters: batched.linearize(x, parameters, {}, names)

    return {
        "by hand": engine("broadcast", True),
        "automatic, forward, broadcast": engine("broadcast", False),
        "automatic, vmap of jacfwd": engine("vmap", False),
        "finite differences, one-sided": lambda x, parameters: differences(model, x, parameters, central=False),
        "finite differences, central": lambda x, parameters: differences(model, x, parameters, central=True),
    }


def differences(model: specfit.Model, x: torch.Tensor, parameters: Tensors, *, central: bool):
    """With steps that balance truncation and round-off for numbers of order one."""
    step = torch.finfo(x.dtype).eps ** (1 / 3 if central else 1 / 2)
    light = model.evaluate(x, **parameters)
    derivatives = {}
    for name, value in parameters.items():
        above = model.evaluate(x, **{**parameters, name: value + step})
        below = model.evaluate(x, **{**parameters, name: value - step}) if central else light
        derivatives[name] = (above - below) / (2 * step if central else step)
    return light, derivatives


def error(found: Tensors, reference: Tensors) -> float:
    """The largest of all derivatives, each over its own peak."""
    return max(
        float((found[name].double() - expected).abs().amax() / expected.abs().amax())
        for name, expected in reference.items()
    )


def memory(run: Callable) -> int:
    """Bytes that it takes at most, what it returns included."""
    before = peak_memory(reset=True)
    result = run()
    peak = peak_memory() - before
    del result
    return peak


def repeat(run: Callable, x: torch.Tensor, parameters: Tensors) -> None:
    """As many blocks as a timing takes."""
    for _ in range(BLOCKS):
        run(x, parameters)


def rows(model: specfit.Model, dtype: torch.dtype) -> list[tuple[str, str, str, str, str]]:
    """One for each way."""
    found = ways(model)
    _, reference = found["automatic, forward, broadcast"](*scene(model, torch.float64))
    x, parameters = scene(model, dtype)
    results = {name: way(x, parameters)[1] for name, way in found.items()}
    runners = {"light": lambda x, parameters: model.evaluate(x, **parameters)} | found
    _, seconds = race({name: lambda run=run: repeat(run, x, parameters) for name, run in runners.items()}, rounds=5)
    x, parameters = scene(model, dtype, MANY)
    taken = {name: memory(lambda run=run: run(x, parameters)) for name, run in runners.items()}
    label = str(dtype).removeprefix("torch.")
    return [
        (
            f"{type(model).__name__} {label}",
            name,
            f"{error(results[name], reference):.1e}",
            f"{seconds[name] / seconds['light']:.1f}",
            f"{taken[name] / (MANY * SAMPLES * x.element_size()):.1f}",
        )
        for name in found
    ]


def main() -> int:
    """Print the table; fail if a derivative that should be exact is not."""
    torch.set_num_threads(1)
    # torch scripts its own forward-mode formulas on first use, and deprecates scripting.
    warnings.filterwarnings("ignore", message="`torch.jit.script", category=DeprecationWarning)
    print(header())
    heading = ("model", "derivatives", "error", "time", "memory")
    lines = [heading]
    for model in (specfit.Gaussian(1.0 * u.AA), specfit.Voigt(1.0 * u.AA)):
        for dtype in (torch.float64, torch.float32):
            lines += rows(model, dtype)
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    for line in lines:
        words = [f"{cell:<{w}}" for cell, w in zip(line[:2], widths[:2], strict=True)]
        numbers = [f"{cell:>{w}}" for cell, w in zip(line[2:], widths[2:], strict=True)]
        print("  ".join(words + numbers))
    exact = [float(line[2]) for line in lines[1:] if "finite" not in line[1] and "float64" in line[0]]
    return 0 if max(exact) < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
