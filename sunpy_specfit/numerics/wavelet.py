"""Orthonormal wavelets of maps of any size: a map in, as many coefficients out, and exactly back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import qr

__all__ = ["Wavelet"]


class Wavelet:
    """The wavelet transform W of maps along some of their axes, with W Wᵀ = Wᵀ W = 1 for any shape.

    At the ends of an axis, where a filter would reach beyond, stand filters of their own: an orthonormal basis of what
    the inner filters leave, split so that polynomials stay in the approximation. So a flat map or a ramp has no detail
    at all, at the borders neither, which neither padding nor periodic continuation nor plain orthonormalisation of
    truncated filters gives. Odd lengths need nothing special.

    Parameters
    ----------
    shape : tuple of int
        The shape of the map.
    axes : tuple of int
        Array axes to transform. One too short for the filter's moments stays as it is.
    low_pass : sequence of float
        The orthonormal scaling filter, of even length.
    moments : int
        How many vanishing moments the wavelet has: polynomials below this degree have no detail.
    levels : int, optional
        At most so many levels; by default as many as the axes are long enough for.

    Attributes
    ----------
    detail : `torch.Tensor`
        bool ``(pixels,)``: which coefficients are details; the others are the approximation.
    extent : `torch.Tensor`
        float64 ``(pixels,)``: over how many pixels each coefficient's function extends, 2 a level and axis. Its values
        have the size of the coefficient over the square root of that.

    References
    ----------
    Daubechies (1988), https://doi.org/10.1002/cpa.3160410705; wavelets on an interval: Cohen, Daubechies & Vial (1993),
    https://doi.org/10.1006/acha.1993.1005

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.numerics.wavelet import Wavelet
    >>> haar = Wavelet((4,), (0,), [0.5**0.5, 0.5**0.5], 1)
    >>> haar.forward(torch.tensor([1.0, 1.0, 3.0, 3.0])).round().int().tolist()
    [4, -2, 0, 0]
    """

    def __init__(self, shape: Sequence[int], axes: Sequence[int], low_pass: Sequence[float], moments: int, levels=None):
        self.shape = tuple(shape)
        low = np.asarray(low_pass, float)
        steps = {axis: _axis_steps(self.shape[axis], low, moments, levels) for axis in axes}
        # The transform goes on in the corner that holds the approximation.
        self._levels: list[list[tuple[int, _Step]]] = []
        self._corners: list[tuple[slice, ...]] = []
        corner, covered = list(self.shape), 1.0
        extent = torch.ones(self.shape, dtype=torch.float64)
        for level in range(max(map(len, steps.values()), default=0)):
            self._corners.append(tuple(slice(n) for n in corner))
            present = [(axis, steps[axis][level]) for axis in axes if level < len(steps[axis])]
            self._levels.append([(axis - len(self.shape), step) for axis, step in present])
            covered *= 2.0 ** len(present)
            extent[self._corners[-1]] = covered
            for axis, step in present:
                corner[axis] = step.n_low
        detail = torch.ones(self.shape, dtype=torch.bool)
        detail[tuple(slice(n) for n in corner)] = False
        self.detail, self.extent = detail.reshape(-1), extent.reshape(-1)
        self._steps = {axis - len(self.shape): steps[axis] for axis in axes}

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """W q, ``(..., pixels)``; differentiable."""
        return self._forward(maps.reshape(*maps.shape[:-1], *self.shape), 0).reshape(maps.shape)

    def _forward(self, image: torch.Tensor, level: int) -> torch.Tensor:
        if level == len(self._levels):
            return image
        for dim, step in self._levels[level]:
            image = step.forward(image.movedim(dim, -1)).movedim(-1, dim)
        if level + 1 < len(self._levels):
            corner = (..., *self._corners[level + 1])
            deeper = self._forward(image[corner], level + 1)
            image = image.clone()
            image[corner] = deeper
        return image

    def transpose(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Wᵀ c, the inverse of `forward`."""
        image = coefficients.reshape(*coefficients.shape[:-1], *self.shape).clone()
        for level in reversed(range(len(self._levels))):
            corner = (..., *self._corners[level])
            part = image[corner]
            for dim, step in reversed(self._levels[level]):
                part = step.transpose(part.movedim(dim, -1)).movedim(-1, dim)
            image[corner] = part
        return image.reshape(coefficients.shape)

    def diagonal(self, weight: torch.Tensor) -> torch.Tensor:
        """The diagonal of Wᵀ diag(weight) W, ``(..., pixels)``: each coefficient times its function's square."""
        image = weight.reshape(*weight.shape[:-1], *self.shape)
        total = torch.zeros_like(image)
        n_levels = len(self._levels)
        for level in range(n_levels):
            # Of this level: everything in its corner but the next one.
            part = image[(..., *self._corners[level])]
            if level + 1 < n_levels:
                part = part.clone()
                part[(..., *self._corners[level + 1])] = 0.0
            moved = {dim for dim, _ in self._levels[level]}
            for dim in self._steps:
                done = min(level + (dim in moved), len(self._steps[dim]))
                # An axis that has come to its end before keeps the last approximation, the first rows.
                square = self._squares[dim][done][: part.shape[dim]].to(part)
                part = torch.tensordot(part, square, dims=([part.ndim + dim], [0])).movedim(-1, dim)
            total = total + part
        return (total if n_levels else image).reshape(weight.shape)

    @cached_property
    def _squares(self) -> dict[int, list[torch.Tensor]]:
        """Squares of the functions along each axis after each level, ``(coefficients of this level, n)``."""
        found = {}
        for dim, steps in self._steps.items():
            functions = torch.eye(self.shape[dim], dtype=torch.float64)
            found[dim] = [functions.square()]
            for step in steps:
                functions = step.forward(functions.mT).mT
                found[dim].append(functions.square())
                functions = functions[: step.n_low]
        return found


@dataclass
class _Step:
    """One level along one axis: coefficients come out as approximation, then detail.

    Attributes
    ----------
    n : int
        Length of what comes in.
    left, right : `torch.Tensor`
        Filters at the ends, one a row, approximation first.
    left_low, right_low : int
        How many of their rows are approximation.
    begin, count : int
        Where the first inner filter starts, and how many there are of each kind.
    filters : `torch.Tensor`
        ``(length, 2)``: the inner filters.
    """

    n: int
    left: torch.Tensor
    right: torch.Tensor
    left_low: int
    right_low: int
    begin: int
    count: int
    filters: torch.Tensor

    @property
    def n_low(self) -> int:
        """How many coefficients are approximation."""
        return self.left_low + self.count + self.right_low

    def _on(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.left.to(like), self.filters.to(like), self.right.to(like)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., n)`` to ``(..., n)``."""
        left, filters, right = self._on(x)
        first = x[..., : left.shape[1]] @ left.T
        last = x[..., self.n - right.shape[1] :] @ right.T
        parts = [first[..., : self.left_low], last[..., : self.right_low]]
        parts += [first[..., self.left_low :], last[..., self.right_low :]]
        if self.count:
            length = filters.shape[0]
            reach = x[..., self.begin : self.begin + 2 * self.count + length - 2]
            inner = reach.unfold(-1, length, 2) @ filters
            parts = [parts[0], inner[..., 0], parts[1], parts[2], inner[..., 1], parts[3]]
        return torch.cat(parts, -1)

    def transpose(self, y: torch.Tensor) -> torch.Tensor:
        """The transpose of `forward`."""
        left, filters, right = self._on(y)
        n_left, n_right = left.shape[0] - self.left_low, right.shape[0] - self.right_low
        sizes = [self.left_low, self.count, self.right_low, n_left, self.count, n_right]
        a, low, b, c, high, d = y.split(sizes, -1)
        x = y.new_zeros((*y.shape[:-1], self.n))
        x[..., : left.shape[1]] += torch.cat([a, c], -1) @ left
        x[..., self.n - right.shape[1] :] += torch.cat([b, d], -1) @ right
        if self.count:
            length = filters.shape[0]
            spread = torch.stack([low, high], -1) @ filters.T
            spread = spread.reshape(*spread.shape[:-1], length // 2, 2)
            total = y.new_zeros((*y.shape[:-1], self.count + length // 2 - 1, 2))
            for shift in range(length // 2):
                total[..., shift : shift + self.count, :] += spread[..., shift, :]
            x[..., self.begin : self.begin + 2 * self.count + length - 2] += total.reshape(*y.shape[:-1], -1)
        return x


def _axis_steps(n: int, low: np.ndarray, moments: int, levels: int | None) -> list[_Step]:
    """All levels along one axis."""
    length = len(low)
    place = np.arange(n)[:, None] / length
    ends = [place ** np.arange(moments), place[::-1] ** np.arange(moments)]
    steps: list[_Step] = []
    at_left = at_right = 0
    while levels is None or len(steps) < levels:
        count = (n - at_left - at_right - length) // 2 + 1
        if count >= 1:
            step = _step(n, at_left, at_right, count, low, moments, ends)
        elif n > moments:
            step = _short_step(n, moments, ends[0], length)
        else:
            break
        steps.append(step)
        at_left, at_right = step.left_low, step.right_low
        ends = [step.forward(torch.as_tensor(polynomials.T)).numpy()[:, : step.n_low].T for polynomials in ends]
        n = step.n_low
        if not step.count:
            break
    return steps


def _step(n, at_left, at_right, count, low, moments, ends) -> _Step:
    """Inner filters where they fit, beside the functions that the level before put at the ends."""
    length = len(low)
    high = low[::-1] * (-1.0) ** np.arange(length)
    left = _end_filters(at_left, at_left + length - 2, low, high, moments, ends[0])
    rest = n - at_left - 2 * count  # what is right of the inner filters' starts
    right = _end_filters(at_right, rest, low[::-1], high[::-1], moments, ends[1][::-1])
    return _Step(
        n=n,
        left=torch.as_tensor(left[0]),
        right=torch.as_tensor(right[0][:, ::-1].copy()),
        left_low=left[1],
        right_low=right[1],
        begin=at_left,
        count=count,
        filters=torch.as_tensor(np.stack([low, high], -1)),
    )


def _end_filters(begin, reach, low, high, moments, polynomials) -> tuple[np.ndarray, int]:
    """What the inner filters leave at an end, as orthonormal rows; how many of them hold the polynomials.

    The inner filters' own functions are orthonormal, so what they leave is the range of one minus their projector;
    near an end it touches only the first ``reach`` numbers. ``begin`` of these no inner filter touches.
    """
    length = len(low)
    # At the far end of an axis of odd length the filters stand one further away.
    offset = begin + (reach - begin - (length - 2))
    size = reach + length
    projector = np.eye(size)
    for start in range(offset, reach, 2):
        for one in (low, high):
            projector[start : start + length, start : start + length] -= np.outer(one, one)
    value, vector = np.linalg.eigh(projector[:reach, :reach])
    left_over = vector[:, value > 0.5]
    if not left_over.shape[1]:
        return np.zeros((0, reach)), 0
    polynomials = polynomials[:reach] / np.abs(polynomials[:reach]).max(0)
    flat, _ = np.linalg.qr(left_over.T @ np.linalg.qr(polynomials)[0])
    flat = left_over @ flat
    return np.concatenate([flat, _localized(left_over, flat)], 1).T, flat.shape[1]


def _localized(space: np.ndarray, without: np.ndarray) -> np.ndarray:
    """An orthonormal basis of a space less another, of functions as narrow as may be."""
    rank = space.shape[1] - without.shape[1]
    return qr(space @ space.T - without @ without.T, pivoting=True)[0][:, :rank]


def _short_step(n: int, moments: int, polynomials: np.ndarray, length: int) -> _Step:
    """An axis shorter than the filter: polynomials, and what is not."""
    flat = np.linalg.qr(polynomials / np.abs(polynomials).max(0))[0]
    rows = np.concatenate([flat, _localized(np.eye(n), flat)], 1).T
    none = torch.zeros((0, 0), dtype=torch.float64)
    filters = torch.zeros((length, 2), dtype=torch.float64)
    return _Step(n, torch.as_tensor(rows), none, moments, 0, 0, 0, filters)
