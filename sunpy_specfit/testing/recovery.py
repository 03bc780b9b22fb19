"""Does a model find the truth again in its own light?"""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import numpy as np
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

from ..core.fit import fit
from ..core.model import Model
from ..core.observation import Observation
from ..core.status import Status
from .common import require
from .scenario import Scenario
from .scene import cube_of, empty_cube

__all__ = ["check_recovery"]

_SIGNAL_TO_NOISE = 100.0
_UNUSABLE = Status.MASKED | Status.FAILED | Status.UNDERDETERMINED | Status.UNCONSTRAINED | Status.AT_BOUND


def check_recovery(model: Model, cube: NDCube | None, *, truth: Mapping | None, who: str, seed: int) -> None:
    """Fit the model to its own light with noise, and count how far the answers are from the truth in sigma."""
    generator = np.random.default_rng(seed)
    if cube is None:
        made, expected, start = _own_scene(model, truth, who, generator, seed)
    else:
        made, expected, start = _around(model, cube, generator)
    result = fit(made, model, init=start, seed=seed, progress=False)
    status = np.asarray(result.status.data)
    usable = (status & int(_UNUSABLE) == 0) & (status & int(Status.CONVERGED) > 0)
    require(
        usable.mean() >= 0.8,
        f"{who}: only {usable.mean():.0%} of the pixels of its own light (signal to noise {_SIGNAL_TO_NOISE:.0f}) was "
        f"fitted; the commonest status is {_commonest(status)}. Are there parameters that cannot be told apart in the "
        "light, or bad starts? Offer `start_values` or `start_grid`, or pass plausible ranges as `truth=`",
    )
    for name in result.parameters:
        if model.parameters[name].fixed or model.parameters[name].tie is not None:
            continue
        found = result[name]
        sigma = found.uncertainty.represent_as(StdDevUncertainty).array
        difference = u.Quantity(found.data, found.unit).to_value(expected[name].unit) - expected[name].value
        with np.errstate(invalid="ignore", divide="ignore"):
            pull = (difference / (sigma * found.unit.to(expected[name].unit)))[..., usable]
        inside = np.mean(np.abs(pull) <= 5)
        require(
            inside >= 0.95,
            f"{who}: {name!r} is within five sigma of the truth in only {inside:.0%} of the pixels. Several sets of "
            "parameters with one light, or a start too far off? Offer `start_values` or `start_grid`, or set bounds",
        )
        scatter = float(np.sqrt(np.mean(np.square(pull[np.abs(pull) <= 5]))))
        require(
            0.5 < scatter < 2.0,
            f"{who}: {name!r} scatters about the truth by {scatter:.2f} times its own sigma: is the derivative right "
            "everywhere, or does the parameter wrap?",
        )


def _own_scene(model, truth, who, generator, seed):
    """Light at random parameters on a synthetic cube."""
    cube = empty_cube(model)
    observation = Observation.from_cube(cube, data_axis=model.data_axis, stokes=model.stokes)
    shape = observation.grid.shape
    scenario = Scenario.draw(model, observation, truth=truth, pixels=observation.grid.size, seed=seed)
    light = scenario.light().numpy()
    light = light[None] if len(model.stokes) == 1 else light
    sigma = np.broadcast_to(_noise_level(light), light.shape)
    noisy = light + sigma * generator.standard_normal(light.shape)
    x = u.Quantity(np.asarray(observation.x, float).reshape(light.shape[1], -1)[:, 0], observation.spectral_unit)
    made = cube_of(
        noisy.reshape(*light.shape[:2], *shape), x, stokes=model.stokes, sigma=sigma.reshape(*light.shape[:2], *shape)
    )
    reading = Observation.from_cube(made, data_axis=model.data_axis, stokes=model.stokes)
    again = Scenario.draw(model, reading, truth=truth, pixels=reading.grid.size, seed=seed).auxiliary
    changed = [name for name, value in scenario.auxiliary.items() if not torch.allclose(value, again[name], rtol=1e-9)]
    require(
        not changed,
        f"{who}.prepare reads {changed} from the data, so that a synthetic cube cannot be made: pass a `cube=` to "
        "start from, or fit=False",
    )
    expected = {
        name: u.Quantity(
            value.reshape(*value.shape[:-1], *shape).numpy(), scenario.frame.unit(model.parameters[name].unit)
        )
        for name, value in scenario.parameters.items()
    }
    # Which of two like components is which cannot be seen in the light: a sum is told where to begin.
    start = {name: value.mean() for name, value in expected.items()} if len(model.components) > 1 else None
    return made, expected, start


def _around(model, cube, generator):
    """The light of what fits a given cube, with noise of its own."""
    first = fit(cube, model, progress=False)
    light = first.model()
    modelled = np.isfinite(light.data)
    # What the model takes as given, such as Stokes I for the fit of V, stays as it is.
    given = ~modelled & np.isfinite(cube.data)
    values = np.where(modelled, light.data, np.where(given, cube.data, 0.0))
    level = np.ptp(light.data[modelled]) / _SIGNAL_TO_NOISE
    known = cube.uncertainty.represent_as(StdDevUncertainty).array if cube.uncertainty is not None else level
    sigma = np.where(given, known, level)
    made = NDCube(
        values + np.where(modelled, level, 0.0) * generator.standard_normal(values.shape),
        wcs=cube.wcs,
        unit=light.unit,
        uncertainty=StdDevUncertainty(sigma),
        mask=~(modelled | given),
    )
    return made, {name: u.Quantity(first[name].data, first[name].unit) for name in first.parameters}, None


def _noise_level(light: np.ndarray) -> np.ndarray:
    """One sigma a pixel, small against what varies along the spectrum (or against the light, where nothing does)."""
    varies = np.ptp(light, axis=(0, 1))
    return np.where(varies > 1e-6 * np.abs(light).max(), varies, np.abs(light).max()) / _SIGNAL_TO_NOISE


def _commonest(status: np.ndarray) -> str:
    values, counts = np.unique(status, return_counts=True)
    return Status(int(values[counts.argmax()])).name or "0"
