"""Small problems whose minimum is known by other means."""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
import numpy as np
import torch
from ndcube import NDCube
from scipy.fft import dct
from scipy.optimize import least_squares, minimize

from ..core.model import Model
from ..core.parameter import Parameter
from ..core.prior import BoundPrior, Prior, Quadratic
from .scene import cube_of

__all__ = ["UNITS", "Task", "tasks"]

UNITS = {"level": u.DN, "slope": u.DN / u.nm, "amplitude": u.DN, "center": u.nm, "width": u.nm}
"""The units of all numbers here."""

_X = np.linspace(500.0, 501.0, 24)
_PIVOT = 500.5
_SHAPE = (3, 4)
_SIGMA = 1.0


class _Ramp(Model):
    """Linear in all that it has."""

    name = "ramp"
    linear_parameters = ("level", "slope")
    level = Parameter("data")
    slope = Parameter("data / spectral")
    pivot = Parameter("spectral", location=True, default=_PIVOT * u.nm, fixed=True)

    def evaluate(self, x, level, slope, pivot):
        return level + slope * (x - pivot)


class _Line(Model):
    """A line of constant shape on nothing."""

    name = "line"
    linear_parameters = ("amplitude",)
    amplitude = Parameter("data", lower=0)
    center = Parameter("spectral", location=True)
    width = Parameter("spectral", lower=0.01 * u.nm, upper=0.5 * u.nm)

    def evaluate(self, x, amplitude, center, width):
        return amplitude / (1 + ((x - center) / width) ** 2)


class _Steps(BoundPrior):
    """½ Σ (steps between neighbours along the last axis / scale)²."""

    couples_pixels = True

    def __init__(self, name, grid, scale):
        self.name, self.shape, self.scale = name, grid.shape, scale

    def energy(self, maps):
        return 0.5 * (maps[self.name].reshape(self.shape).diff(dim=-1) / self.scale).square().sum()

    def quadratic(self, maps):
        def matvec(v):
            return {self.name: torch.func.grad(lambda m: self.energy({self.name: m}))(v[self.name])}

        ends = torch.full(self.shape, 2.0, dtype=maps[self.name].dtype, device=maps[self.name].device)
        ends[..., 0] = ends[..., -1] = 1.0
        return Quadratic(matvec(maps), matvec, {self.name: ends.reshape(-1) / self.scale**2})


class _Neighbours(Prior):
    """Smoothness in the simplest form there is."""

    name = "neighbours"
    couples_pixels = True
    quantities = ("level",)
    scale = 0.2

    def bind(self, units, grid):
        return _Steps("level", grid, self.scale)


class _Few(BoundPrior):
    """Huber's cost of the cosine coefficients of a map but the first, in scales."""

    couples_pixels = True

    def __init__(self, name, pixels, scale, softness):
        self.name, self.scale, self.softness = name, scale, softness
        self.basis = torch.as_tensor(dct(np.eye(pixels), axis=0, norm="ortho"))

    def _forward(self, q):
        return self.basis.to(q) @ q

    def energy(self, maps):
        size = (self._forward(maps[self.name]) / self.scale).abs()[1:]
        inner = size.clamp_max(self.softness)
        return (inner.square() / (2 * self.softness) + size - inner).sum()

    def quadratic(self, maps):
        basis = self.basis.to(maps[self.name])
        weight = 1 / ((self._forward(maps[self.name]) / self.scale).abs().clamp_min(self.softness) * self.scale**2)
        weight[0] = 0.0

        def matvec(v):
            return {self.name: basis.T @ (weight * (basis @ v[self.name]))}

        return Quadratic(matvec(maps), matvec, {self.name: basis.square().T @ weight})

    def proximal(self, maps, step):
        c, pull, soft = self._forward(maps[self.name]), step[self.name] / self.scale, self.softness * self.scale
        shrunk = torch.where(c.abs() <= soft + pull, c / (1 + pull / soft), c - pull * c.sign())
        shrunk[0] = c[0]
        return {self.name: self.basis.to(c).T @ shrunk}


class _FewCosines(Prior):
    """A map of few cosines."""

    name = "few_cosines"
    couples_pixels = True
    scale, softness = 1.0, 0.2

    @property
    def quantities(self):
        return ("level",)

    def bind(self, units, grid):
        return _Few("level", grid.size, self.scale, self.softness)


@dataclass(frozen=True)
class Task:
    """A small problem whose answer is known by other means."""

    name: str
    model: Model
    cube: NDCube
    priors: tuple = ()

    def minimum(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The best value and the sigma of each parameter, ``(pixels,)``."""
        if not self.priors:
            return _reference(self)
        return _reference_coupled(self) if isinstance(self.priors[0], _Neighbours) else _reference_few(self)


def tasks(generator: np.random.Generator) -> list[Task]:
    pixels = int(np.prod(_SHAPE))

    def across(low, high):
        # Gently over the map, so that a solver that can only make smooth maps has a chance.
        return np.linspace(low, high, pixels)

    ramp = {"level": across(20, 40), "slope": across(-30, 30), "pivot": across(_PIVOT, _PIVOT)}
    line = {"amplitude": across(80, 120), "center": across(500.6, 500.4), "width": across(0.08, 0.12)}
    return [
        Task("linear", _Ramp(), _scene(_Ramp(), ramp, generator)),
        Task("nonlinear", _Line(), _scene(_Line(), line, generator)),
        # The truth lies outside of these bounds, so that the minimum lies on them.
        Task("bounded", _Ramp().bound(slope=(-10, 10) * UNITS["slope"]), _scene(_Ramp(), ramp, generator)),
        Task("coupled", _Ramp(), _scene(_Ramp(), ramp, generator), (_Neighbours(),)),
        Task("sparse", _Ramp(), _scene(_Ramp(), ramp, generator), (_FewCosines(),)),
    ]


def _scene(model: Model, values: dict[str, np.ndarray], generator: np.random.Generator) -> NDCube:
    x = torch.as_tensor(_X)[:, None]
    light = model.evaluate(x, **{name: torch.as_tensor(value) for name, value in values.items()}).numpy()
    light = light + _SIGMA * generator.standard_normal(light.shape)
    light[:, 1] = np.nan
    light[3:6, 2] = np.nan
    light = light.reshape(1, len(_X), *_SHAPE)
    return cube_of(light, _X * u.nm, sigma=np.full(light.shape, _SIGMA))


def _spectra(task: Task) -> np.ndarray:
    return task.cube.data.reshape(-1, len(_X))


def _number(bound, name: str, missing: float) -> float:
    return missing if bound is None else u.Quantity(bound, UNITS[name]).value


def _reference(task: Task):
    """The minimum of each pixel by scipy, and sigma."""
    names = [name for name, parameter in task.model.parameters.items() if not parameter.fixed]
    held = {name: torch.tensor(_PIVOT) for name, parameter in task.model.parameters.items() if parameter.fixed}
    lower = [_number(task.model.parameters[name].lower, name, -np.inf) for name in names]
    upper = [_number(task.model.parameters[name].upper, name, np.inf) for name in names]
    best = {name: [] for name in names}
    sigma = {name: [] for name in names}
    for spectrum in _spectra(task):
        used = np.isfinite(spectrum)
        x = torch.as_tensor(_X[used])

        def residual(values, x=x, spectrum=spectrum, used=used):
            light = task.model.evaluate(x, **dict(zip(names, map(torch.as_tensor, values), strict=True)), **held)
            return (light.numpy() - spectrum[used]) / _SIGMA

        start = {"level": 30.0, "slope": 0.0, "amplitude": 100.0, "center": 500.5, "width": 0.1}
        values, errors = np.full((2, len(names)), np.nan)
        if used.any():
            solution = least_squares(
                residual, [start[n] for n in names], bounds=(lower, upper), x_scale="jac", xtol=1e-14, ftol=1e-14
            )
            values = solution.x
            errors = np.sqrt(np.diag(np.linalg.inv(solution.jac.T @ solution.jac)))
        for name, value, error in zip(names, values, errors, strict=True):
            best[name].append(value)
            sigma[name].append(error)
    return {n: np.array(v) for n, v in best.items()}, {n: np.array(v) for n, v in sigma.items()}


def _reference_coupled(task: Task):
    """The minimum of the linear problem with coupled neighbours, from its normal equations."""
    matrix, vector = _normal_equations(task)
    pixels = len(vector) // 2
    for pixel in range(pixels):
        if (pixel + 1) % _SHAPE[1]:
            a, b = 2 * pixel, 2 * pixel + 2
            matrix[[a, b, a, b], [a, b, b, a]] += np.array([1, 1, -1, -1]) / _Neighbours.scale**2
    # The pixel without data has a level from its neighbours and no slope at all.
    inverse = np.linalg.pinv(matrix)
    best, errors = inverse @ vector, np.sqrt(np.diag(inverse).clip(min=0))
    return _by_name(best), _by_name(errors)


def _reference_few(task: Task):
    """The minimum of the linear problem with few cosines, by scipy, in units of the data's sigma."""
    matrix, vector = _normal_equations(task)
    errors = np.sqrt(np.diag(np.linalg.pinv(matrix)).clip(min=0))
    unit = np.where(errors > 0, errors, 1.0)
    prior = _FewCosines()
    pixels, soft, scale = len(vector) // 2, prior.softness, prior.scale

    def objective(scaled):
        values = unit * scaled
        c = dct(values[0::2], norm="ortho") / scale
        c[0] = 0.0
        inner = np.abs(c).clip(max=soft)
        slope = np.zeros_like(values)
        slope[0::2] = dct(np.clip(c / soft, -1, 1) / scale, type=3, norm="ortho")
        energy = np.sum(inner**2 / (2 * soft) + np.abs(c) - inner)
        return 0.5 * values @ matrix @ values - vector @ values + energy, unit * (matrix @ values - vector + slope)

    start = np.linalg.pinv(matrix) @ vector / unit
    options = {"maxiter": 10000, "maxfun": 100000, "ftol": 0.0, "gtol": 1e-7, "maxcor": 2 * pixels}
    best = unit * minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    return _by_name(best), _by_name(errors)


def _by_name(values: np.ndarray) -> dict[str, np.ndarray]:
    return {"level": values[0::2], "slope": values[1::2]}


def _normal_equations(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Of the data alone, level and slope of one pixel after the other."""
    spectra = _spectra(task)
    pixels = spectra.shape[0]
    used = np.isfinite(spectra)
    columns = np.stack([np.ones_like(_X), _X - _PIVOT])
    matrix, vector = np.zeros((2 * pixels, 2 * pixels)), np.zeros(2 * pixels)
    for pixel in range(pixels):
        own = columns[:, used[pixel]] / _SIGMA
        matrix[2 * pixel : 2 * pixel + 2, 2 * pixel : 2 * pixel + 2] += own @ own.T
        vector[2 * pixel : 2 * pixel + 2] += own @ spectra[pixel, used[pixel]] / _SIGMA
    return matrix, vector
