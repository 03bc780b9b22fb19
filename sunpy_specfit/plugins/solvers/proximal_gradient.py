"""Proximal gradients: for priors with a kink, such as sparsity in wavelets."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...core.curvature import Curvature
from ...core.prior import BoundPrior
from ...core.quantities import Quantities
from ...numerics import packed
from .gauss_newton import GaussNewton

__all__ = ["ProximalGradient"]

# Accelerated steps for one linearisation, at the most, and after how many of them to look how far they have come.
_STEPS, _LOOK = 2000, 5
# What an inner solution may miss far from the end, in sigma; near it, this part of the solver's tolerance.
_ROUGH, _PART = 0.1, 0.1
# Slopes of a quantity that agree to this are one slope.
_SAME = 1e-6


class ProximalGradient(GaussNewton):
    """Newton steps for maps whose priors have a kink: the data as quadratics, the prior by its proximal operator.

    The data are linearised as in `GaussNewton`, one small quadratic for each pixel. What no coupled prior acts on is
    eliminated from it pixel by pixel; for the rest, accelerated proximal gradients (FISTA) with restarts alternate a
    step down the quadratics with the prior's proximal operator, for `Sparse` a shrinkage of wavelet coefficients. It is
    fast where pixels know their values about equally well; thousandfold differences of that take many steps.

    Priors that couple pixels must offer a proximal operator, and act on quantities that are, up to unit and zero
    point, one fitted number each, without bounds. Other problems are refused, and `GaussNewton` takes them.

    Parameters
    ----------
    max_iterations : int
        Linearisations, at the most.
    tolerance : float
        Converged where a step is shorter than this many sigma.

    References
    ----------
    Beck & Teboulle (2009), https://doi.org/10.1137/080716542; restarts: O'Donoghue & Candès (2015),
    https://doi.org/10.1007/s10208-013-9150-3; Newton steps: Lee, Sun & Saunders (2014),
    https://doi.org/10.1137/130921428

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    >>> prior = specfit.Sparse("velocity", scale=5 * u.km / u.s)
    >>> result = specfit.fit(gaussian_cube((16, 17)), model, priors=prior, solver=specfit.ProximalGradient())
    >>> result.meta["solver"]
    'ProximalGradient()'
    """

    name = "proximal_gradient"
    references = ("10.1137/080716542", "10.1007/s10208-013-9150-3", "10.1137/130921428")
    preference = 45
    uses_proximal = True

    def accepts(self, problem) -> str | None:
        if problem.mixes_pixels or bool(problem.shared.any()):
            return (
                "proximal_gradient works with each pixel's own quadratic, and an operator or a shared parameter joins "
                "the pixels' data here; use solver='gauss_newton' (or 'adam', 'lbfgs')"
            )
        if not problem.coupled_priors():
            return (
                "proximal_gradient is for priors that couple pixels, and there is none here; "
                "use solver='levenberg_marquardt' (or 'gauss_newton')"
            )
        for prior, _ in problem.coupled_priors():
            if type(prior).proximal is BoundPrior.proximal:
                return (
                    "proximal_gradient needs the proximal operator of every prior that couples pixels, and "
                    f"{type(prior).__name__} offers none; use solver='gauss_newton' (or 'adam', 'lbfgs')"
                )
        # Any two different places show whether a quantity is a straight function of one number.
        place = torch.linspace(0.5, 1.5, problem.n_pixels).to(problem.lower).expand(problem.n_free, -1)
        coordinates = _coordinates(problem, torch.minimum(torch.maximum(place, problem.lower), problem.upper))
        taken = [j for one in coordinates for rows in one.rows.values() for j in rows]
        if None in taken or len(set(taken)) < len(taken):
            return (
                "proximal_gradient needs priors that couple pixels to act on one fitted number each, up to unit and "
                "zero point, and no two on the same; use solver='gauss_newton' (or 'adam', 'lbfgs')"
            )
        if bool((torch.isfinite(problem.lower) | torch.isfinite(problem.upper))[taken].any()):
            return (
                "proximal_gradient keeps no bounds on the quantities of a prior that couples pixels; "
                "use solver='gauss_newton', or free them with model.bound(name=(None, None))"
            )
        return None

    def _step(self, here: Curvature, held, damping, tolerance: float) -> tuple[torch.Tensor, int]:
        problem, k = here.problem, here.free.shape[0]
        coordinates = _coordinates(problem, here.free)
        kept = [j for one in coordinates for rows in one.rows.values() for j in rows]
        matrix = here.blocks.matrix.clone()
        matrix[packed.diagonal_index(k)] *= 1 + damping
        reduced = _Reduced(matrix, here.vector, problem.unflatten(held), kept)
        goal = _ROUGH if tolerance > 1e-3 else _PART * self.tolerance
        moved, steps = _accelerated(reduced, coordinates, goal) if kept else (here.free[:0], 0)
        return problem.flatten(reduced.complete(moved)), steps


@dataclass
class _Coordinates:
    """The quantities of one prior as straight functions of single free numbers.

    Attributes
    ----------
    prior : BoundPrior
    maps : dict of str to `torch.Tensor`
        Their values.
    rows : dict of str to list of (int or None)
        For each row of a quantity the free number that it is a function of; None where it is not of one alone.
    slopes : dict of str to `torch.Tensor`
        dq/dfree, ``()``, or ``(k, 1)`` for a vector.
    """

    prior: BoundPrior
    maps: dict[str, torch.Tensor]
    rows: dict[str, list[int | None]]
    slopes: dict[str, torch.Tensor]


def _coordinates(problem, free: torch.Tensor) -> list[_Coordinates]:
    theta = problem.whole().theta(free)
    found = []
    for prior, names in problem.coupled_priors():
        maps, columns = Quantities(problem.layout, names, problem.physical_auxiliary).linearize(
            theta, problem.transform
        )
        rows, slopes = {}, {}
        for name, q in maps.items():
            # (free numbers, rows of the quantity, pixels)
            derivative = torch.stack([column[name].reshape(-1, q.shape[-1]) for column in columns])
            size = derivative.abs().amax(-1)
            single = ((size > 0).sum(0) == 1) & torch.isfinite(derivative).all(-1).all(0)
            index = size.nan_to_num().argmax(0)
            own = derivative[index, torch.arange(len(index))]
            same = own.amax(-1) - own.amin(-1) <= _SAME * own.abs().amax(-1)
            rows[name] = [int(j) if good else None for j, good in zip(index, single & same, strict=True)]
            slopes[name] = own[:, :1] if q.ndim > 1 else own[0, 0]
        found.append(_Coordinates(prior, maps, rows, slopes))
    return found


class _Reduced:
    """Each pixel's quadratic in some of its numbers, the others at their best for these.

    Parameters
    ----------
    matrix, vector : `torch.Tensor`
        Packed curvature and minus the gradient, ``(k, pixels)``.
    held : `torch.Tensor`
        bool ``(k, pixels)``: numbers that stay where they are.
    kept : list of int
        The numbers that stay in the quadratic, in their order.

    Attributes
    ----------
    matrix : `torch.Tensor`
        ``(kept, kept, pixels)``.
    vector : `torch.Tensor`
        ``(kept, pixels)``.
    """

    def __init__(self, matrix: torch.Tensor, vector: torch.Tensor, held: torch.Tensor, kept: list[int]):
        k = vector.shape[0]
        full = packed.unpack(matrix).movedim(0, -1).clone()
        right = torch.where(held, 0.0, vector)
        full = torch.where(held[:, None] | held[None, :], 0.0, full)
        floor = full.diagonal().T * 8 * torch.finfo(vector.dtype).eps
        self.kept, self._eliminated = kept, []
        remaining = list(range(k))
        for i in [i for i in range(k) if i not in kept]:
            remaining.remove(i)
            # What nothing determines, or is held, stays.
            inverse = torch.where(full[i, i] > floor[i], 1 / full[i, i], 0.0)
            self._eliminated.append((i, list(remaining), full[i, remaining].clone(), right[i].clone(), inverse))
            for a in remaining:
                factor = full[a, i] * inverse
                right[a] -= factor * right[i]
                full[a, remaining] -= factor * full[i, remaining]
        self.matrix, self.vector, self._like = full[kept][:, kept], right[kept], vector

    def complete(self, moved: torch.Tensor) -> torch.Tensor:
        """Steps of all numbers, ``(k, pixels)``, from those of the kept ones."""
        step = torch.zeros_like(self._like)
        step[self.kept] = moved
        for i, others, row, right, inverse in reversed(self._eliminated):
            step[i] = inverse * (right - (row * step[others]).sum(0))
        return step


def _accelerated(reduced: _Reduced, coordinates: list[_Coordinates], goal: float) -> tuple[torch.Tensor, int]:
    """The minimum of quadratics and priors together by FISTA: steps of the kept numbers, and how many it took.

    It ends where what is still to come, told by how the last steps shrank, is below ``goal`` sigma in every pixel.
    """
    parts = [
        (one, name, q.reshape(-1, q.shape[-1]), one.slopes[name].reshape(-1, 1).expand(len(one.rows[name]), 1))
        for one in coordinates
        for name, q in one.maps.items()
    ]
    origin = torch.cat([q for _, _, q, _ in parts])
    slope = torch.cat([s for _, _, _, s in parts])
    matrix, vector = reduced.matrix / (slope * slope.mT)[..., None], reduced.vector / slope
    diagonal = matrix.diagonal().T.clamp_min(0.0)
    scale = diagonal.amax(-1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    # No eigenvalue of the scaled matrices is larger than the largest sum along a row (Gershgorin).
    largest = (matrix.abs() / (scale * scale.mT).sqrt()[..., None]).sum(1).amax().clamp_min(1.0)
    step = 1 / (largest * scale)

    def shrink(q: torch.Tensor) -> torch.Tensor:
        found, begin = [], 0
        for one in coordinates:
            maps, steps = {}, {}
            for name, value in one.maps.items():
                rows = slice(begin, begin + len(one.rows[name]))
                maps[name] = q[rows].reshape(value.shape)
                steps[name] = step[rows] if value.ndim > 1 else step[begin, 0]
                begin = rows.stop
            shrunk = one.prior.proximal(maps, steps)
            found += [shrunk[name].reshape(-1, q.shape[-1]) for name in maps]
        return torch.cat(found)

    q, ahead, momentum, last, before, steps = origin, origin, 1.0, origin, torch.inf, 0
    while steps < _STEPS:
        steps += 1
        gradient = (matrix * (ahead - origin)).sum(1) - vector
        new = shrink(ahead - step * gradient)
        if float(((ahead - new) * (new - q) / step).sum()) > 0:
            momentum = 1.0
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / grown * (new - q)
        q, momentum = new, grown
        if steps % _LOOK == 0 or steps == 1:
            change = float(((q - last).square() * diagonal).sum(0).amax().sqrt())
            ratio = min(change / before, 0.98) if before > 0 else 0.0
            last, before = q, change
            if change == 0 or (steps > _LOOK and change * ratio / (1 - ratio) < goal):
                break
    return (q - origin) / slope, steps
