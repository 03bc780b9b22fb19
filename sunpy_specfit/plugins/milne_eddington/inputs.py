"""What a Milne-Eddington model takes from the observation beside the data that it fits."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import torch
from astropy.constants import c
from scipy.ndimage import uniform_filter

from ...data.zeeman import LORENTZ_SPLITTING
from ...numerics.kernel import compiler
from .observed import reach_of

__all__ = ["prepared"]

_SPEED_OF_LIGHT = c.to_value(u.km / u.s)
# Pixels a side of the square whose mean is local stray light; the pixel itself is left out.
_AROUND = 5
# Fewer pixels are done before a compiler is.
_MANY = 100_000


def prepared(model, observation, names, rests) -> dict[str, torch.Tensor]:
    """Rest wavelengths, splittings and shifts of the lines, mu, and stray light.

    Raises
    ------
    ValueError
        If a line does not lie among the wavelengths, or maps do not fit the data.
    """
    unit = observation.spectral_unit
    x = np.asarray(observation.x, float)
    for name, rest in zip(names, rests, strict=True):
        place = rest.to_value(unit)
        if not x.min() <= place <= x.max():
            raise ValueError(
                f"{name} at {place:.8g} {unit} lies outside the wavelengths of the data, {x.min():.8g} to "
                f"{x.max():.8g}: leave it out. Or is it in another medium (air or vacuum) or unit?"
            )
    places = torch.tensor([[rest.to_value(unit)] for rest in rests], dtype=torch.float64)
    splitting = [[LORENTZ_SPLITTING * rest.to_value(u.AA) ** 2 * u.AA.to(unit)] for rest in rests]
    found = {
        "rest": places,
        "splitting": torch.tensor(splitting, dtype=torch.float64),
        "doppler": places / _SPEED_OF_LIGHT,
        "mu": _cosines(model.mu, observation.grid),
        "compiled": torch.tensor([float(_worth_compiling(model, observation.grid))], dtype=torch.float64),
    }
    if model.macroturbulence:
        mean = x if x.ndim == 1 else x.mean(1)
        steps = np.diff(mean)
        if len(steps) < 2 or not np.allclose(steps, steps.mean(), rtol=0.05):
            raise ValueError(
                "macroturbulence needs evenly spaced wavelengths: fit the windows as cubes of their own, or "
                "resample them"
            )
        samples = float(places[0, 0]) / _SPEED_OF_LIGHT / abs(steps.mean())
        widest = float(u.Quantity(model.parameters["macroturbulence"].upper, u.km / u.s).value)
        found["macroturbulence_samples"] = torch.tensor([samples], dtype=torch.float64)
        # Its length is how far the kernel reaches: shapes may not depend on what is fitted.
        found["macroturbulence_reach"] = torch.zeros((min(reach_of(samples, widest), len(mean)) + 1, 1)).double()
    if model.stray_light is not None:
        found["stray_light"] = _stray_light(model.stray_light, observation)
    return found


def _worth_compiling(model, grid) -> bool:
    if model.compiled is not None:
        return bool(model.compiled)
    return grid is not None and grid.size >= _MANY and compiler() is not None


def _cosines(mu, grid) -> torch.Tensor:
    values = np.asarray(mu, float)
    if values.ndim == 0:
        return torch.tensor([float(values)], dtype=torch.float64)
    if values.shape != grid.shape:
        raise ValueError(f"mu is a number or a map of shape {grid.shape}, found the shape {values.shape}")
    return torch.as_tensor(values.reshape(-1).copy())


def _stray_light(given, observation) -> torch.Tensor:
    shape, n = observation.grid.shape, observation.x.shape[0]
    if not isinstance(given, str):
        values = np.asarray(
            u.Quantity(given).to_value(observation.data_unit) if hasattr(given, "unit") else given, float
        )
        if values.shape not in ((n,), (n, *shape)):
            raise ValueError(f"stray_light has the shape {(n,)} or {(n, *shape)}, found {values.shape}")
        return torch.as_tensor(values.reshape(n, -1).copy())
    intensity = observation.with_stokes("I").samples()[0].double().numpy()
    known = np.isfinite(intensity)
    if given == "mean":
        with np.errstate(invalid="ignore"):
            mean = np.where(known, intensity, 0.0).sum(1) / known.sum(1)
        return torch.as_tensor(mean[:, None])
    filled = np.where(known, intensity, 0.0).reshape(n, *shape)
    size = (1, *(min(_AROUND, k) for k in shape))
    count = np.prod(size)
    known = known.reshape(n, *shape).astype(float)
    around = uniform_filter(filled, size, mode="constant") * count - filled
    number = np.rint(uniform_filter(known, size, mode="constant") * count) - known
    with np.errstate(invalid="ignore", divide="ignore"):
        return torch.as_tensor(np.where(number > 0, around / number, np.nan).reshape(n, -1))
