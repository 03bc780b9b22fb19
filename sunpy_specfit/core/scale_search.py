"""The search for the best scales: one after the other, in coarse and then fine steps of a factor, and between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence

__all__ = ["search"]

# Steps of a scale (factors).
_COARSE, _FINE = 10**0.5, 10**0.125
# A scale is sought within this factor of where the search begins.
_RANGE = 1e4
# The curve that is reported, in fine steps about the place chosen.
_CURVE = (-8, -4, -2, -1, 0, 1, 2, 4, 8)
# A step must gain this much chi², or it is not worth leaving the place for.
_GAIN = 1e-2

Asking = Generator[tuple[float, ...], float, tuple[list[float], list[dict[float, float]]]]


def search(
    values: Sequence[float], groups: Sequence[Sequence[int]], errors: Callable[[Sequence[float]], Sequence[float]]
) -> tuple[list[float], list[dict[float, float]]]:
    """Find the scales of the smallest error.

    Parameters
    ----------
    values : sequence of float
        Where to begin.
    groups : sequence of sequence of int
        Which scales bear on the same error. Those of different groups do not know of each other, and one trial serves
        a scale of each.
    errors : callable
        Takes all scales and returns the error of each group.

    Returns
    -------
    values : list of float
    curves : list of dict
        For each scale the error, as a function of that scale alone, about the place chosen.

    Examples
    --------
    >>> import math
    >>> from sunpy_specfit.core.scale_search import search
    >>> values, _ = search([1.0, 1.0], [[0], [1]], lambda v: [math.log(v[0] / 7) ** 2, 9 * math.log(v[1] / 0.3) ** 2])
    >>> [round(v, 3) for v in values]
    [7.0, 0.3]
    """
    values, curves = list(values), [{} for _ in values]
    known: list[dict[tuple[float, ...], float]] = [{} for _ in groups]
    asking = [_descend([values[i] for i in group]) for group in groups]
    wanted: dict[int, tuple[float, ...]] = {}

    def answer(number: int, error: float | None) -> None:
        """Give a group's search its answer, and those that follow as long as they are known."""
        while True:
            try:
                wanted[number] = asking[number].send(error)
            except StopIteration as end:
                wanted.pop(number, None)
                for i, value, curve in zip(groups[number], *end.value, strict=True):
                    values[i], curves[i] = value, curve
                return
            error = known[number].get(wanted[number])
            if error is None:
                return

    for number in range(len(groups)):
        answer(number, None)
    while wanted:
        trial = list(values)
        for number, candidate in wanted.items():
            for i, value in zip(groups[number], candidate, strict=True):
                trial[i] = value
        found = errors(trial)
        for number, candidate in list(wanted.items()):
            known[number][candidate] = found[number]
            answer(number, found[number])
    return values, curves


def _descend(values: list[float]) -> Asking:
    """The search in one group: it yields the scales whose error it asks for."""
    for factor in (_COARSE, _FINE):
        for _ in range(2 if len(values) > 1 else 1):
            for i in range(len(values)):
                yield from _improve(values, i, factor)
    curves = []
    for i, value in enumerate(values):
        curve = {}
        for n in _CURVE:
            scale = value * _FINE**n
            curve[scale] = yield (*values[:i], scale, *values[i + 1 :])
        curves.append(curve)
    # A bump in a curve may have stopped the search beside the lowest place.
    for i, curve in enumerate(curves):
        lowest = min(curve, key=curve.get)
        if curve[lowest] < curve[values[i]] - _GAIN:
            values[i] = lowest
    between = [_between_steps(curve, value) for curve, value in zip(curves, values, strict=True)]
    here, there = (yield tuple(values)), (yield tuple(between))
    # Each was sought with the others where they were: together they may be a worse place, by more than rounding.
    return between if there <= here + _GAIN else values, curves


def _between_steps(curve: Mapping[float, float], value: float) -> float:
    """Where the parabola through a scale and its neighbours, along the logarithm, is lowest."""
    scales = sorted(curve)
    place = scales.index(value)
    if not 0 < place < len(scales) - 1:
        return value
    left, middle, right = (curve[scale] for scale in scales[place - 1 : place + 2])
    below, above = (math.log(scales[place + side] / value) for side in (-1, 1))
    slopes = (left - middle) / below, (right - middle) / above
    bend = (slopes[1] - slopes[0]) / (above - below)
    if not (left > middle < right and math.isfinite(bend) and bend > 0):
        return value
    return value * math.exp(-0.5 * (slopes[0] - bend * below) / bend)


def _improve(values: list[float], i: int, factor: float):
    """Move one scale up or down as long as it helps, in place."""
    begin = values[i]
    least = yield tuple(values)
    for step in (factor, 1 / factor):
        moved = False
        while 1 / _RANGE < values[i] * step / begin < _RANGE:
            scale = values[i] * step
            error = yield (*values[:i], scale, *values[i + 1 :])
            if not error < least - _GAIN:
                break
            values[i], least, moved = scale, error, True
        if moved:
            break
