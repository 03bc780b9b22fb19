"""Conjugate gradients for symmetric positive (semi-)definite systems that are known by their products only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .compiled import suit_loops
from .memory import room_like

__all__ = ["Solved", "conjugate_gradient"]

# The gains of so many steps are added, or of this part of all, for they go up and down: longer where many are needed.
_WINDOW, _PART = 2, 0.25


class Solved(NamedTuple):
    """What `conjugate_gradient` found.

    Attributes
    ----------
    x : `torch.Tensor`
        Shaped as the right-hand side.
    iterations : int
        Products with the matrix, for the slowest right-hand side.
    residual : `torch.Tensor`
        |b - A x| / |b| in the norm of the preconditioner, one for each right-hand side.
    rest : `torch.Tensor`
        b - A x, as the steps foretell it: what the product with x says beside that is rounding.
    stuck : bool
        Whether a right-hand side met a direction of no positive curvature, or none that is a number.
    """

    x: torch.Tensor
    iterations: int
    residual: torch.Tensor
    rest: torch.Tensor
    stuck: bool


def conjugate_gradient(
    matvec: Callable[[torch.Tensor], torch.Tensor],
    b: torch.Tensor,
    *,
    preconditioner: Callable[[torch.Tensor], torch.Tensor] | None = None,
    tolerance: float = 1e-6,
    error: float = 0.0,
    max_iterations: int = 500,
    x0: torch.Tensor | None = None,
    split: bool = False,
) -> Solved:
    """Solve A x = b.

    Parameters
    ----------
    matvec : callable
        A x. It is given tensors shaped as ``b``.
    b : `torch.Tensor`
        ``(n,)``, or ``(batch, n)`` for several right-hand sides at once.
    preconditioner : callable, optional
        Roughly A⁻¹ r; symmetric and positive definite.
    tolerance : float
        A right-hand side is solved when its residual has fallen to this fraction of ``b``, in the norm of the
        preconditioner.
    error : float
        Or when what is left of the error e is below this, as √(eᵀ A e): where A is a curvature, in sigma. It is
        foretold from what the last steps gained, which does not depend on the preconditioner.
    max_iterations : int
    x0 : `torch.Tensor`, optional
        Where to start; zero by default.
    split : bool
        Whether ``matvec`` is A x less M x, with M the inverse of the preconditioner: M times the directions then
        follows from the residuals, and is never worked out. Without ``x0``.

    Returns
    -------
    `Solved`
        A direction without positive curvature ends the search of its right-hand side: x is then the best so far.

    References
    ----------
    Hestenes & Stiefel (1952), https://doi.org/10.6028/jres.049.044; the error from the gains: Strakoš & Tichý (2002),
    Electronic Transactions on Numerical Analysis 13, 56

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.numerics.conjugate_gradient import conjugate_gradient
    >>> a = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> conjugate_gradient(lambda v: a @ v, torch.tensor([1.0, 2.0])).x
    tensor([0.0909, 0.6364])
    """
    if preconditioner is None:
        preconditioner = torch.clone
    x = room_like(b).zero_() if x0 is None else x0.clone()
    r = room_like(b).copy_(b) if x0 is None else b - matvec(x)
    z = preconditioner(r)
    p = room_like(z).copy_(z)
    mp = r.clone() if split else None
    rz = _dot(r, z)
    size = _dot(b, preconditioner(b)) if x0 is not None else rz
    goal = size.clamp_min(0) * tolerance**2
    active, stuck = rz > goal, ~torch.isfinite(rz)
    gains: list[torch.Tensor] = []
    iterations = 0
    while iterations < max_iterations and bool(active.any()):
        iterations += 1
        ap = matvec(p)
        if mp is not None:
            ap = ap.add_(mp)
        curvature = _dot(p, ap)
        stuck = stuck | (active & ~(curvature > 0))
        active &= curvature > 0
        alpha = torch.where(active, rz / torch.where(active, curvature, 1.0), 0.0)
        # In place: fresh memory for large maps costs more than the sums.
        x.addcmul_(alpha, p)
        r.addcmul_(alpha, ap, value=-1)
        z = preconditioner(r)
        renewed = _dot(r, z)
        if error:
            gains.append(alpha * rz)
        beta = torch.where(active, renewed / torch.where(active, rz, 1.0), 0.0)
        rz = torch.where(active, renewed, rz)
        _renew(p, beta, z)
        if mp is not None:
            _renew(mp, beta, r)
        active &= rz > goal
        if len(gains) >= 2 * _WINDOW:
            active &= _left(gains) > error**2
    residual = (rz.clamp_min(0) / size.clamp_min(torch.finfo(b.dtype).tiny)).sqrt()
    return Solved(x, iterations, residual[..., 0], r, bool(stuck.any()))


def _left(gains: list[torch.Tensor]) -> torch.Tensor:
    """About eᵀ A e after the last step, if it goes on falling as it did."""
    window = max(_WINDOW, int(_PART * len(gains)))
    before, now = sum(gains[-2 * window : -window]), sum(gains[-window:])
    rate = torch.where(before > 0, now / torch.where(before > 0, before, 1.0), 0.0).clamp(0.01, 0.95)
    return now * rate / (1 - rate)


def _renew(p: torch.Tensor, beta: torch.Tensor, z: torch.Tensor) -> None:
    """p = z + beta p, in one look at both where no derivatives are taken."""
    if suit_loops(p, z):
        torch.addcmul(z, beta, p, out=p)
    else:
        p.mul_(beta).add_(z)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # Of one long vector without its products in fresh memory, which would cost more than the sum.
    return torch.dot(a, b)[None] if a.ndim == 1 else (a * b).sum(-1, keepdim=True)
