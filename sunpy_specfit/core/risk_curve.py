"""The risk at every scale of a prior at once, from the eigenvalues of what couples pixels over what they know."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..numerics import packed
from ..numerics.conjugate_gradient import conjugate_gradient
from ..numerics.lanczos import LanczosRule
from .coupling import Coupling
from .problem import Problem

if TYPE_CHECKING:
    from .risk import Quadratics

__all__ = ["RiskCurves", "Unsettled"]

# Pixels that know nothing count as if they knew this part of what is typical; no more than this part of all may.
_LIFT, _LIFTED = 1e-2, 0.05
# To how much of itself the prior's curvature must be what its scale says.
_SAME = 1e-4
# Steps at the least and at the most, and by what factor there are more at each further look.
_LEAST, _MOST, _GROWTH = 8, 250, 1.25
# What is smaller, or larger than its inverse, is not trusted to single precision; nor are maps whose rounding is more
# than this part of sigma.
_SMALL, _ROUNDING = 1e-12, 1e-2
# Where more than these are foretold for where the search begins, trials of single scales take less time.
_WORTH = 60
# A curve is settled where its error is below this part of the scatter of chi² itself; where it stands above its lowest
# place by so many times that scatter, where more steps change it by no more than this part of that height.
_SETTLED, _FAR, _ABOVE = 3e-2, 10.0, 0.05


class Unsettled(Exception):
    """More steps would be needed than may be taken, or products are not finite."""


class RiskCurves:
    """Stein's estimate of the risk as a function of one scale for each group of free numbers.

    Where a prior's curvature K goes with its scale to the power -2, the maps are (A + t K)⁻¹ A x₀, and in units of
    each pixel's own errors, M = A^-½ K A^-½, the risk is

    Σ over eigenvalues λ of M of (t λ / (1 + t λ))² · (power of x₀ there) + 2 / (1 + t λ).

    Both are sums that a few tens of products with M tell for all t (`sunpy_specfit.numerics.lanczos`), of which the
    second takes random signs.

    Parameters
    ----------
    product : callable
        K x at the scales ``values``, ``(k, pixels)``.
    precision, own, step : `torch.Tensor`
        A, packed; x₀, and how far it is from where the risk's constant is counted from, ``(k, pixels)``.
    values : sequence of float
    groups : sequence of (list of int, list of int)
        The number of the one scale of each group (or none), and its rows.
    signs : list of `torch.Tensor`
        Probes, ``(k, pixels)``.

    References
    ----------
    Golub & von Matt (1997), https://doi.org/10.1080/10618600.1997.10474725
    """

    def __init__(self, product, precision, own, step, values, groups, signs):
        self._values, self._groups = list(values), groups
        rows = [own_rows for _, own_rows in groups]
        self._root = packed.cholesky(precision)
        self._constant = [float(self._upper(step)[group].square().sum()) for group in rows]

        def whitened(v: torch.Tensor) -> torch.Tensor:
            return self._lower_solve(product(self._upper_solve(v)))

        # In single precision where that is far below the noise, which has a variance of one here.
        start, size = self._upper(own), self._root.abs()
        small = float(start.abs().max()) * torch.finfo(torch.float32).eps < _ROUNDING
        if small and bool(((size == 0) | ((size > _SMALL) & (size < 1 / _SMALL))).all()):
            self._root, start = self._root.float(), start.float()
        self._alone = 1 / self._root[packed.diagonal_index(len(own))] if max(map(len, rows)) == 1 else None
        self._data = LanczosRule(whitened, start, rows)
        self._probes = [LanczosRule(whitened, one.to(start), rows) for one in signs]
        self._scatter = [(2 * len(group) * own.shape[-1]) ** 0.5 for group in rows]
        self._least = [np.inf] * len(groups)

    @classmethod
    def of(
        cls,
        quadratics: Quadratics,
        with_scales: Callable[[Sequence[float]], Problem],
        values: Sequence[float],
        groups: Sequence[tuple[list[int], list[int]]],
        signs: Sequence[torch.Tensor],
    ) -> RiskCurves | None:
        """The curves of a problem; None where its risk is no such sum.

        That is where a group has more scales than one, other priors are at work in it, a prior's curvature does not go
        with its scale, all pixels share a number, many know nothing, or strong coupling takes too many steps, if only
        of pixels that know little.
        """
        if any(len(numbers) != 1 for numbers, _ in groups) or quadratics.problem.priors:
            return None
        if bool(quadratics.problem.shared.any()):
            return None
        problem = with_scales(values)
        if len(problem.priors) != len(problem.coupled_priors()):
            return None
        free = quadratics.free
        k = len(free)
        # Numbers that no scale bears on, and that nothing joins to others, are left out: they have nothing to tell.
        rows = [own for _, own in groups]
        coupling, doubled = Coupling(problem, free), Coupling(with_scales([2 * value for value in values]), free)
        moved = coupling.product(free)
        probe = signs[0].to(free)
        pushed = coupling.product(probe)
        for found, expected in ((coupling.gradient, moved), (4 * doubled.product(probe), pushed)):
            for own in rows:
                if not bool((found - expected)[own].norm() <= _SAME * expected[own].norm()):
                    return None
        precision = _apart(quadratics.blocks.matrix.double(), rows, k).clone()
        known = packed.factorize(quadratics.blocks.matrix.double())(quadratics.vector.double())
        nothing = torch.zeros_like(known, dtype=torch.bool)
        for own in rows:
            for i in own:
                diagonal = precision[packed.index(i, i)]
                nothing[i] = diagonal <= 0
                if float(nothing[i].double().mean()) > _LIFTED:
                    return None
                precision[packed.index(i, i)] = torch.where(
                    nothing[i], _LIFT * diagonal[~nothing[i]].median(), diagonal
                )
        # Those are no part of the risk, and what they are taken to know is what those around them tell.
        where = free.double() + known
        if bool(nothing.any()):
            where += _filled(coupling, where, nothing)
            signs = [torch.where(nothing, 0.0, one) for one in signs]
        used = [i for own in rows for i in own]
        place = {row: number for number, row in enumerate(sorted(used))}

        def part(v: torch.Tensor) -> torch.Tensor:
            return v[sorted(used)].contiguous()

        def product(v: torch.Tensor) -> torch.Tensor:
            if len(used) == k:
                return coupling.product(v)
            whole = v.new_zeros((k, v.shape[-1]))
            whole[sorted(used)] = v
            return part(coupling.product(whole))

        inner = [(numbers, [place[row] for row in own]) for numbers, own in groups]
        chosen = [packed.index(i, j) for i in sorted(used) for j in sorted(used) if j <= i]
        matrix = precision if len(used) == k else precision[chosen]
        found = cls(product, matrix, part(where), part(known), values, inner, [part(s) for s in signs])
        return found if found.foretold() <= _WORTH else None

    def errors(self, values: Sequence[float]) -> list[float]:
        """The risk of each group.

        Raises
        ------
        Unsettled
            Where steps do not suffice to tell.
        """
        return [
            self._error(number, (self._values[scale] / values[scale]) ** 2)
            for number, ((scale,), _) in enumerate(self._groups)
        ]

    def _error(self, group: int, factor: float) -> float:
        bias = self._refined([self._data], group, lambda x: (x / (1 + x)) ** 2, factor)
        spent = self._refined(self._probes, group, lambda x: 2 / (1 + x), factor, bias)
        self._least[group] = min(self._least[group], bias + spent)
        return bias + spent - self._constant[group]

    def _refined(self, rules: list[LanczosRule], group: int, function, factor: float, beside: float = 0.0) -> float:
        """The mean of a sum over some rules, with steps enough."""
        steps, before, goal = max(_LEAST, rules[0].steps), np.inf, _SETTLED * self._scatter[group]
        while steps <= _MOST:
            for rule in rules:
                rule.extend(steps - rule.steps)
            now = _mean(rule.sum(group, lambda x: function(factor * x)) for rule in rules)
            if not math.isfinite(now):
                break
            above = now + beside - self._least[group]
            if above > _FAR * self._scatter[group] and abs(now - before) < _ABOVE * above:
                return now
            # What is left unsolved of (1 + t M)⁻¹ bounds the error of the sum, which is of second order in it.
            left = _mean(rule.residual(group, factor) ** 2 for rule in rules)
            if left <= goal:
                return now
            steps, before = math.ceil(_GROWTH * steps), now
        raise Unsettled

    def foretold(self) -> float:
        """How many steps it takes to settle at the scales given, by Chebyshev's bound from x₀ on."""
        self._data.extend(max(_LEAST - self._data.steps, 0))
        found = []
        for group, scatter in enumerate(self._scatter):
            power = self._data.sum(group, lambda x: x**2 / (1 + x)) / (_SETTLED * scatter)
            condition = 1 + self._data.largest(group)
            found.append(0.25 * condition**0.5 * math.log(max(4 * power, 1.0)))
        return float(np.max(found))

    # -- L Lᵀ = A ----------------------------------------------------------------------------------

    def _upper(self, v: torch.Tensor) -> torch.Tensor:
        return packed.upper_product(self._root, v)

    def _upper_solve(self, v: torch.Tensor) -> torch.Tensor:
        return v * self._alone if self._alone is not None else packed.lower_solve(self._root, v, transposed=True)

    def _lower_solve(self, v: torch.Tensor) -> torch.Tensor:
        return v.mul_(self._alone) if self._alone is not None else packed.lower_solve(self._root, v)


def _mean(numbers: Iterable[float]) -> float:
    return float(np.mean(list(numbers)))


def _filled(coupling: Coupling, where: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
    """The step of numbers of which their pixels know nothing to where the prior has them from the others."""
    inside = nothing.to(where)

    def product(v: torch.Tensor) -> torch.Tensor:
        return (inside * coupling.product(v.reshape(where.shape))).reshape(-1)

    return conjugate_gradient(product, -product(where), tolerance=1e-3, max_iterations=_WORTH).x.reshape(where.shape)


def _apart(matrix: torch.Tensor, groups: Sequence[list[int]], k: int) -> torch.Tensor:
    """What pixels know of each group of numbers while the others are free, packed; zero between the groups."""
    if len(groups) == 1 and len(groups[0]) == k:
        return matrix
    covariance = _finite(packed.inverse(matrix)[0])
    found = torch.zeros_like(covariance)
    for rows in groups:
        pairs = [packed.index(i, j) for i in rows for j in rows if j <= i]
        found[pairs] = _finite(packed.inverse(covariance[pairs])[0])
    return found


def _finite(rows: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isfinite(rows), rows, 0.0)
