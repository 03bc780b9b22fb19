"""Does a prior keep the rules?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import astropy.units as u
import torch

from ..core.gaussian import BoundGaussian
from ..core.grid import Grid
from ..core.prior import BoundPrior, Prior, Quadratic
from ..numerics.cosine_transform import cosine_transform
from .common import check_configurable, peak, require, unchanged

__all__ = ["check_prior"]


def check_prior(
    prior: Prior,
    *,
    units: Mapping[str, u.UnitBase] | None = None,
    shape: tuple[int, ...] = (6, 7),
    kinds: Sequence[str] | None = None,
    maps: Mapping[str, torch.Tensor] | None = None,
    beside: Sequence[BoundPrior] = (),
    seed: int = 0,
) -> None:
    """Hold a prior against the rules that solvers rely on.

    Its energy must be finite and differentiable, at flat maps too, its gradient right (against finite differences), its
    quadratic form true to the energy's gradient, symmetric, positive semi-definite and with the right diagonal (and the
    right cosines where it tells them, on maps of more than four pixels along each axis); its proximal operator, if it
    has one, must lead to the minimum; what it makes of a vector's Gaussian prior must be its energy, positive definite,
    and as it tells; pixels must only be coupled by one that says so.

    Parameters
    ----------
    prior : `~sunpy_specfit.Prior`
        An instance whose scale is a number or a quantity, not ``"auto"``.
    units : mapping of str to `astropy.units.Unit`, optional
        The unit of each quantity it acts on; by default that of its ``scale``, or none.
    shape, kinds : tuple
        The shape of the maps and the meaning of their axes, by default ``"space"`` for each.
    maps : mapping of str to `torch.Tensor`, optional
        Maps ``([k,] pixels)`` about which to check, by default random ones around 2 with a spread of 1.
    beside : sequence of BoundPrior, optional
        Other priors on its first quantity that it has to know of, such as the Gaussian one that it changes.
    seed : int
        For what is drawn.

    Raises
    ------
    AssertionError
        With a sentence that says what to change.

    Examples
    --------
    >>> from sunpy_specfit import Prior
    >>> from sunpy_specfit.core.prior import BoundPrior
    >>> from sunpy_specfit.testing import check_prior
    >>> class Zero(BoundPrior):
    ...     def __init__(self, name):
    ...         self.name = name
    ...     def energy(self, maps):
    ...         return 0.5 * maps[self.name] ** 2
    >>> class Small(Prior):
    ...     name = "small"
    ...     def __init__(self, quantity):
    ...         self.quantity = quantity
    ...     @property
    ...     def quantities(self):
    ...         return (self.quantity,)
    ...     def bind(self, units, grid):
    ...         return Zero(self.quantity)
    >>> check_prior(Small("velocity"))
    """
    check_configurable(prior, "prior")
    who = type(prior).__name__
    names = prior.quantities
    require(
        names is None or (isinstance(names, tuple) and all(isinstance(name, str) for name in names)),
        f"{who}.quantities should be a tuple of names, or None for what the model names as smooth; found {names!r}",
    )
    if units is None:
        unit = getattr(getattr(prior, "scale", None), "unit", u.dimensionless_unscaled)
        units = dict.fromkeys(names or ("first", "second"), unit)
    grid = Grid(tuple(shape), tuple(kinds or ["space"] * len(shape)))
    bound = prior.bind(units, grid)
    require(
        isinstance(bound, BoundPrior),
        f"{who}.bind should return a BoundPrior, found {type(bound).__name__}: a class with `energy(maps)`",
    )
    require(
        bool(bound.couples_pixels) == bool(prior.couples_pixels),
        f"{who}.couples_pixels is {prior.couples_pixels} and that of what bind returns {bound.couples_pixels}",
    )
    if beside:
        first = next(iter(units))
        bound = bound.beside([(other, first) for other in (bound, *beside)], first)
    generator = torch.Generator().manual_seed(seed)

    def draw(name):
        shape = maps[name].shape if maps else (grid.size,)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    values = {name: maps[name].double() if maps else 2.0 + draw(name) for name in units}
    directions = [{name: draw(name) for name in units} for _ in range(2)]
    _check_energy(who, bound, values, grid)
    gradient = _check_gradient(who, bound, values, directions[0])
    quadratic = bound.quadratic(values)
    if quadratic is not None:
        _check_quadratic(who, quadratic, values, gradient, directions, generator)
        _check_cosine(who, quadratic, values, directions[0], grid)
    elif not bound.couples_pixels:
        raise AssertionError(
            f"{who}: a prior that does not couple pixels needs a quadratic; leave the default in place"
        )
    if type(bound).proximal is not BoundPrior.proximal:
        _check_proximal(who, bound, values, directions)
    gaussian = next((other for other in beside if isinstance(other, BoundGaussian)), None)
    if gaussian is not None and bound.among_pixels is not None:
        _check_among(who, bound, gaussian, values, grid, generator)
    _check_flat(who, bound, values)
    _check_pixels(who, bound, values)


def _check_energy(who: str, bound: BoundPrior, values, grid: Grid) -> None:
    before = {name: value.clone() for name, value in values.items()}
    energy = bound.energy(values)
    allowed = ((),) if bound.couples_pixels else ((grid.size,),)
    if bound.couples_pixels:
        allowed += ((grid.size,),)
    require(
        tuple(energy.shape) in allowed,
        f"{who}: its energy has the shape {tuple(energy.shape)}; expected {' or '.join(map(str, allowed))}: "
        "one number a pixel, or, only where pixels are coupled, one for the map",
    )
    require(energy.isfinite().all(), f"{who}: its energy is not finite at finite maps")
    changed = unchanged(before, values)
    require(not changed, f"{who}: its energy changes the map of {' and '.join(changed)} in place: work on a copy")
    require(torch.equal(energy, bound.energy(values)), f"{who}: its energy is another the second time")
    single = bound.energy({name: value.float() for name, value in values.items()})
    require(
        single.dtype == torch.float32, f"{who}: its energy turns float32 maps into {single.dtype}: use `.to(maps[...])`"
    )


def _gradient(bound: BoundPrior, values) -> dict[str, torch.Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    total = bound.energy(leaves).sum()
    if not total.requires_grad:
        return {name: torch.zeros_like(value) for name, value in values.items()}
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {name: torch.zeros_like(values[name]) if g is None else g for name, g in zip(leaves, found, strict=True)}


def _check_gradient(who: str, bound: BoundPrior, values, direction) -> dict[str, torch.Tensor]:
    gradient = _gradient(bound, values)
    slope = _dot(gradient, direction)
    step = 1e-5

    def energy(t):
        return float(bound.energy({name: v + t * direction[name] for name, v in values.items()}).sum())

    measured = (energy(step) - energy(-step)) / (2 * step)
    size = sum(float(g.norm() * direction[name].norm()) for name, g in gradient.items())
    # Rounding of the energy itself limits what a difference can show.
    noise = 1e-15 * abs(energy(0.0)) / step
    require(
        abs(slope - measured) <= 1e-5 * max(size, abs(measured)) + 10 * noise,
        f"{who}: the gradient of its energy by automatic differentiation gives a slope of {slope:.6g} where finite "
        f"differences give {measured:.6g}: `energy` must consist of torch operations, without `.item()`, `.detach()` "
        "or numpy",
    )
    return gradient


def _check_quadratic(who: str, quadratic: Quadratic, values, gradient, directions, generator) -> None:
    p, q = directions
    for name, g in gradient.items():
        error = peak(quadratic.gradient[name] - g) / max(map(peak, gradient.values()))
        require(
            error < 1e-8,
            f"{who}.quadratic: its gradient for {name!r} differs from that of the energy by {error:.1e} of the peak",
        )
    product_p, product_q = quadratic.matvec(p), quadratic.matvec(q)
    require(
        all(product_p[name].shape == values[name].shape for name in values),
        f"{who}.quadratic: its matvec should return maps of the shape that it is given",
    )
    if quadratic.add_product is not None:
        added = {name: q[name].clone() for name in values}
        quadratic.add_product(p, added)
        away = max(peak(added[name] - q[name] - product_p[name]) for name in values)
        require(
            away < 1e-8 * max(map(peak, (*q.values(), *product_p.values()))),
            f"{who}.quadratic: its add_product does not add what its matvec gives",
        )
    left, right = _dot(q, product_p), _dot(p, product_q)
    size = _norm(p) * _norm(product_q) + 1e-300
    require(
        abs(left - right) < 1e-10 * size, f"{who}.quadratic: its matvec is not symmetric, {left:.9g} and {right:.9g}"
    )
    for direction, product in ((p, product_p), (q, product_q)):
        curvature = _dot(direction, product)
        require(
            curvature >= -1e-10 * _norm(direction) * _norm(product),
            f"{who}.quadratic: its curvature is {curvature:.3g} along some direction; it must never be negative",
        )
    for name, value in values.items():
        for index in torch.randint(value.numel(), (4,), generator=generator).tolist():
            unit = {other: torch.zeros_like(v) for other, v in values.items()}
            unit[name].view(-1)[index] = 1.0
            expected = float(quadratic.matvec(unit)[name].reshape(-1)[index])
            found = float(quadratic.diagonal[name].expand(value.shape).reshape(-1)[index])
            require(
                abs(found - expected) <= 1e-8 * max(abs(expected), abs(found)) + 1e-300,
                f"{who}.quadratic: its diagonal for {name!r} is {found:.9g} where its matvec has {expected:.9g}",
            )


def _check_cosine(who: str, quadratic: Quadratic, values, direction, grid: Grid) -> None:
    """Hold the curvature's cosines against its products, on maps that vanish near the edges."""
    for name, cosine in (quadratic.cosine or {}).items():
        require(
            tuple(cosine.eigenvalues.shape) == (grid.size,) and bool((cosine.eigenvalues >= 0).all()),
            f"{who}.quadratic: the eigenvalues of its cosine curvature for {name!r} should be {grid.size} numbers, "
            "none negative",
        )
        inner = torch.zeros(grid.shape, dtype=torch.float64)
        inner[tuple(slice(2, -2) if n > 4 else slice(None) for n in grid.shape)] = 1.0
        inside = {other: v * inner.reshape(-1) for other, v in direction.items()}
        if any(2 <= n <= 4 for n in grid.shape):
            continue  # no room away from the edges
        own = {other: v if other == name else torch.zeros_like(v) for other, v in inside.items()}
        product = quadratic.matvec(own)
        require(
            all(not bool(product[other].any()) for other in own if other != name),
            f"{who}.quadratic: it has a cosine curvature for {name!r}, which its matvec joins to another quantity",
        )
        image = (own[name] if cosine.slope is None else cosine.slope * own[name]).reshape(-1, *grid.shape)
        cosines = cosine_transform(image, range(1, image.ndim))
        found = float((cosine.eigenvalues.reshape(grid.shape) * cosines.square()).sum())
        expected = float((own[name] * product[name]).sum())
        require(
            abs(found - expected) <= 1e-8 * abs(expected) + 1e-300,
            f"{who}.quadratic: along some direction its cosine curvature for {name!r} is {found:.9g} where its matvec "
            f"has {expected:.9g}",
        )


def _check_among(who: str, bound: BoundPrior, gaussian: BoundGaussian, values, grid: Grid, generator) -> None:
    """½ zᵀ A z of the white numbers z is the energy, and 1 + A the curvature that is left."""
    among = bound.among_pixels
    z = gaussian.white(values)
    energy, expected = float(bound.energy(values).sum()), float(0.5 * (z * among.product(z)).sum())
    require(
        abs(energy - expected) <= 1e-6 * abs(expected),
        f"{who}.among_pixels: ½ zᵀ A z is {expected:.9g} where its energy is {energy:.9g}",
    )
    matrix = among.product(torch.eye(grid.size, dtype=torch.float64))
    require(peak(matrix - matrix.T) <= 1e-10 * peak(matrix), f"{who}.among_pixels: its product is not symmetric")
    require(
        peak(matrix.diagonal() - among.diagonal) <= 1e-8 * peak(matrix),
        f"{who}.among_pixels: its diagonal is not that of its product",
    )
    left = matrix + torch.eye(grid.size, dtype=torch.float64)
    require(
        bool((torch.linalg.eigvalsh(left) > 0).all()) and bool((among.eigenvalues > -1).all()),
        f"{who}.among_pixels: 1 + A is not positive definite",
    )
    direction = torch.randn(grid.size, generator=generator, dtype=torch.float64)
    like = z.new_empty((4096, grid.size))
    found, expected = float((among.noise(like, generator) @ direction).var()), float(direction @ left @ direction)
    require(
        abs(found / expected - 1) < 0.15,  # six sigma and more
        f"{who}.among_pixels: its noise has the variance {found:.4g} along some direction, where 1 + A has "
        f"{expected:.4g}",
    )


def _check_proximal(who: str, bound: BoundPrior, values, directions) -> None:
    """Its maps minimise energy + ½ ‖maps - values‖² / step: whatever leads away costs more, by how far it does."""
    for size in (1e-2, 1.0, 1e2):
        step = {
            name: torch.full((*v.shape[:-1], 1)[-2:] if v.ndim > 1 else (), size).to(v) for name, v in values.items()
        }
        found = bound.proximal(values, step)
        require(
            set(found) == set(values) and all(found[name].shape == values[name].shape for name in values),
            f"{who}.proximal: it should return maps of the names and shapes that it is given",
        )
        require(
            all(
                v.dtype == torch.float32
                for v in bound.proximal({n: v.float() for n, v in values.items()}, step).values()
            ),
            f"{who}.proximal: it changes the precision of its maps: use `.to(maps[...])`",
        )

        def objective(maps, size=size):
            moved = {name: maps[name] - values[name] for name in values}
            return float(bound.energy(maps).sum()) + 0.5 * _norm(moved) ** 2 / size

        lowest = objective(found)
        back = {name: values[name] - found[name] for name in values}
        for direction in (*directions, back):
            length = _norm(direction)
            for t in (1e-4, -1e-4, 1e-2, -1e-2, 1.0, -1.0):
                apart = {name: found[name] + t * direction[name] for name in values}
                # A convex energy lies above its tangent, so that all of the square's growth remains.
                least = lowest + 0.5 * (t * length) ** 2 / size
                require(
                    objective(apart) >= least - 1e-3 * (least - lowest) - 1e-12 * abs(lowest),
                    f"{who}.proximal: its maps are not the minimum of energy + ½ ‖difference‖² / step for a step of "
                    f"{size:g}: others nearby are lower",
                )


def _check_flat(who: str, bound: BoundPrior, values) -> None:
    """Differences of neighbours vanish on a flat map: the place where a square root has no derivative."""
    flat = {name: torch.full_like(value, 2.0) for name, value in values.items()}
    energy = bound.energy(flat)
    require(energy.isfinite().all(), f"{who}: its energy is not finite at a flat map")
    for name, g in _gradient(bound, flat).items():
        require(
            g.isfinite().all(),
            f"{who}: its gradient for {name!r} is not finite at a flat map: soften what has no derivative there, "
            "such as sqrt(d² + epsilon²) - epsilon for |d|",
        )
    quadratic = bound.quadratic(flat)
    if quadratic is not None:
        finite = all(d.isfinite().all() for d in (*quadratic.diagonal.values(), *quadratic.gradient.values()))
        require(finite, f"{who}.quadratic: not finite at a flat map")


def _check_pixels(who: str, bound: BoundPrior, values) -> None:
    if bound.couples_pixels:
        return
    energy = bound.energy(values)
    moved = {name: value.clone() for name, value in values.items()}
    for value in moved.values():
        value[..., 0] += 0.5
    leak = peak((bound.energy(moved) - energy)[1:])
    require(
        leak <= 1e-12 * peak(energy),
        f"{who}: its energy in one pixel depends on another: set `couples_pixels = True` on it and on its bound form",
    )
    index = torch.tensor([4, 1])
    part = bound.select(index).energy({name: value[..., index] for name, value in values.items()})
    require(
        part.shape == index.shape and peak(part - energy[index]) <= 1e-12 * peak(energy),
        f"{who}.select: some of the pixels have another energy than among all; take along what belongs to pixels",
    )


def _dot(a, b) -> float:
    return sum(float((a[name] * b[name]).sum()) for name in a)


def _norm(a) -> float:
    return sum(float(value.square().sum()) for value in a.values()) ** 0.5
