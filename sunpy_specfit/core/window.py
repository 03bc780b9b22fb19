"""The spectral axis in numbers, and which part of it to use."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import astropy.units as u
import numpy as np
from astropy.constants import c
from ndcube import NDCube

from .axes import Axes
from .grid import Grid
from .warnings import SpecfitWarning

__all__ = ["read_spectral_axis", "read_window"]


def read_spectral_axis(
    values: u.Quantity,
    cube: NDCube,
    axes: Axes,
    grid: Grid,
    unit: u.UnitBase | None,
    rest_wavelengths: Sequence[u.Quantity],
) -> tuple[np.ndarray, u.UnitBase]:
    """The axis as float64 ``(n,)`` or ``(n, pixels)``, and its unit.

    Parameters
    ----------
    values : `~astropy.units.Quantity`
        ``(n,)``, or something that broadcasts to the cube's shape.
    unit : `~astropy.units.Unit` or None
        The unit to work in; by default that of the values, with Angstrom for metres.

    Raises
    ------
    TypeError
        If the values have no unit.
    ValueError
        If their shape does not fit, or they are not finite.
    astropy.units.UnitConversionError
        If they do not convert.
    """
    if not isinstance(values, u.Quantity):
        raise TypeError(f"spectral_axis is a Quantity, found {type(values).__name__}: multiply it by its unit")
    n = cube.data.shape[axes.sample]
    if unit is None:
        unit = u.AA if values.unit == u.m else values.unit
    numbers = _convert(u.Quantity(values, dtype=float), unit, rest_wavelengths)
    if numbers.ndim == 0 or (n > 1 and np.all(numbers == numbers.flat[0])):
        raise ValueError(
            f"the spectral axis has one value only, {numbers.flat[0]:.6g} {unit}, for {n} samples; "
            f"expected shape ({n},), or the cube's shape {cube.data.shape}"
        )
    if numbers.ndim == 1:
        if numbers.shape[0] != n:
            raise ValueError(f"the spectral axis has {numbers.shape[0]} values, the cube has {n} samples along it")
        result = np.array(numbers)
    else:
        try:
            full = np.broadcast_to(numbers, cube.data.shape)
        except ValueError:
            raise ValueError(
                f"the spectral axis has shape {numbers.shape}; expected ({n},), or the cube's shape {cube.data.shape}"
            ) from None
        ordered = full.transpose(axes.order)
        if axes.stokes is not None:
            ordered = ordered[..., 0, :]
        result = np.ascontiguousarray(ordered.reshape(grid.size, n).T)
        if np.all(result == result[:, :1]):
            result = np.array(result[:, 0])
    if not np.all(np.isfinite(result)):
        raise ValueError(
            f"{np.size(result) - np.isfinite(result).sum()} of {np.size(result)} values of the spectral axis are not "
            "finite; give wavelengths everywhere, and mask data, not wavelengths"
        )
    _check_lines(result, unit, rest_wavelengths)
    return result, unit


def _check_lines(x: np.ndarray, unit: u.UnitBase, rest_wavelengths: Sequence[u.Quantity]) -> None:
    """Warn where every line is farther off than 1000 km/s and the data's own extent: a slip of the unit, perhaps."""
    low, high = float(x.min()), float(x.max())
    places = [rest.to_value(unit, equivalencies=u.spectral()) for rest in rest_wavelengths]
    margin = max(high - low, abs(high) * float(1000 * u.km / u.s / c))
    if places and low < high and not any(low - margin <= place <= high + margin for place in places):
        lines = ", ".join(map(str, rest_wavelengths))
        warnings.warn(
            f"no line of the model ({lines}) lies in or near the data, whose spectral axis runs from {low:.6g} to "
            f"{high:.6g} {unit}: check the rest wavelength and its unit",
            SpecfitWarning,
            stacklevel=7,
        )


def _convert(values: u.Quantity, unit: u.UnitBase, rest_wavelengths: Sequence[u.Quantity]) -> np.ndarray:
    if values.unit.is_equivalent(u.km / u.s) and not unit.is_equivalent(u.km / u.s):
        if not rest_wavelengths:
            raise u.UnitConversionError(
                "the spectral axis is a velocity and the model names no rest wavelength to turn it into a wavelength"
            )
        return (rest_wavelengths[0] * (1 + (values / c).to_value(u.one))).to_value(unit)
    try:
        return values.to_value(unit, equivalencies=u.spectral())
    except u.UnitConversionError:
        raise u.UnitConversionError(
            f"the spectral axis is in {values.unit}, which does not convert to {unit}, the unit of the rest wavelength"
        ) from None


def read_window(
    window, x: np.ndarray, unit: u.UnitBase | None, rest_wavelengths: Sequence[u.Quantity]
) -> np.ndarray | None:
    """Which samples to use, bool shaped as ``x``; None for all.

    Parameters
    ----------
    window : `~astropy.units.Quantity`, sequence of them, or None
        One range ``[low, high]`` or several; wavelengths, or velocities about the rest wavelengths.

    Raises
    ------
    ValueError
        If no sample is inside.
    """
    if window is None:
        return None
    if unit is None:
        raise ValueError("a window needs a spectral axis, and these data have none")
    inside = np.zeros(x.shape, bool)
    for low, high in _ranges(window):
        for start, stop in _wavelengths(u.Quantity([low, high]), unit, rest_wavelengths):
            inside |= (x >= min(start, stop)) & (x <= max(start, stop))
    if not inside.any():
        raise ValueError(
            f"no sample lies in the window {window}; the spectral axis runs from {x.min():.6g} to {x.max():.6g} {unit}"
        )
    return inside


def _ranges(window) -> list:
    pairs = None
    if isinstance(window, u.Quantity):
        pairs = window.reshape(-1, 2) if window.ndim == 2 or window.shape == (2,) else None
    elif not isinstance(window, Sequence) or isinstance(window, str):
        pass
    elif len(window) == 2 and all(isinstance(w, u.Quantity) and w.ndim == 0 for w in window):
        pairs = [window]
    else:
        pairs = list(window)
    if pairs is None or any(not _is_range(pair) for pair in pairs):
        raise ValueError(f"a window is a range [low, high] with units, or a list of such ranges; found {window!r}")
    return list(pairs)


def _is_range(pair) -> bool:
    if isinstance(pair, u.Quantity):
        return pair.shape == (2,)
    return isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(end, u.Quantity) for end in pair)


def _wavelengths(pair: u.Quantity, unit: u.UnitBase, rest_wavelengths: Sequence[u.Quantity]):
    if pair.unit.is_equivalent(u.km / u.s) and not unit.is_equivalent(u.km / u.s):
        if not rest_wavelengths:
            raise ValueError("a window in velocities needs a model with a rest wavelength; give it as wavelengths")
        for rest in rest_wavelengths:
            yield (rest * (1 + (pair / c).to_value(u.one))).to_value(unit)
        return
    try:
        yield pair.to_value(unit, equivalencies=u.spectral())
    except u.UnitConversionError:
        raise u.UnitConversionError(
            f"the window is in {pair.unit}, which does not convert to {unit}, the unit of the spectral axis"
        ) from None
