"""A zero point for velocities."""

from __future__ import annotations

import astropy.units as u
import numpy as np

from .result import FitResult
from .status import Status

__all__ = ["velocity_reference"]

# Pixels whose velocities a zero point may rest on have none of these flags.
_UNFIT = Status.MASKED | Status.FAILED | Status.UNDERDETERMINED | Status.LOW_SIGNAL | Status.UNCONSTRAINED
# Of a median of Gaussian numbers, relative to that of their mean; and of the median absolute deviation.
_MEDIAN, _DEVIATION = 1.2533, 1.4826


def velocity_reference(result: FitResult, *, region=None, line: str | None = None, value=None) -> FitResult:
    """Count velocities from a zero point.

    Wavelength scales of space spectrographs are relative: EIS has no absolute one, that of IRIS drifts by some pixels.
    `fit` removes nothing, so that solar rotation, orbit and gravitational redshift are in its velocities too. This
    subtracts what the user takes for rest.

    Parameters
    ----------
    result : `FitResult`
        It is not changed. A zero point that it has already is replaced.
    region : slice, tuple of them, or array of bool
        A part of the map, such as the quiet Sun: each velocity's median there is its zero point.
    line : str
        The label of a component, such as a photospheric line in the same window: the median of its velocity over the
        map is the zero point of all.
    value : `~astropy.units.Quantity`
        The zero point of all, a speed.

    Returns
    -------
    `FitResult`
        With other velocities; everything else, ``center`` and the model's light too, is as before. What was
        subtracted, and its error (the same for all pixels, and not in the velocities' own), stand in
        ``meta["velocity_reference"]``.

    Raises
    ------
    ValueError
        If not exactly one of the three is given, there is no velocity, or no good pixel to take it from.
    KeyError
        If there is no such line; close matches are named.

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> result = specfit.fit(gaussian_cube((8, 9)), specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0))
    >>> relative = specfit.velocity_reference(result, region=(slice(2, 8), slice(None)))
    >>> abs(round(float(np.median(relative["velocity"].data[2:8])), 6))
    0.0
    >>> relative.meta["velocity_reference"]["by"]
    'region'
    """
    given = {name: v for name, v in (("region", region), ("line", line), ("value", value)) if v is not None}
    if len(given) != 1:
        raise ValueError(
            f"a velocity reference is one of region=, line= and value=; found {' and '.join(given) or 'none'}"
        )
    keys = velocity_keys(result)
    if not keys:
        raise ValueError(f"this result has no velocity; its quantities are {', '.join(result)}")
    raw = result._with_meta(velocity_reference=None)
    if value is not None:
        zero = _speed(value)
        zero_points, errors = dict.fromkeys(keys, zero), dict.fromkeys(keys, 0.0)
    elif line is not None:
        key = raw._layout.resolve(f"{line}.velocity")
        zero, error = _rest(raw, key, np.ones(raw._canvases[0].shape, bool))
        zero_points, errors = dict.fromkeys(keys, zero), dict.fromkeys(keys, error)
    else:
        inside = _inside(region, raw._canvases[0].shape)
        found = {key: _rest(raw, key, inside) for key in keys}
        zero_points, errors = ({key: pair[i] for key, pair in found.items()} for i in (0, 1))
    record = {"by": next(iter(given)), "zero_points": zero_points, "errors": errors, "unit": "km / s"}
    if line is not None:
        record["line"] = line
    return raw._with_meta(velocity_reference=record)


def velocity_keys(result: FitResult) -> list[str]:
    """The names of a result's velocities along the line of sight."""
    return [key for key in result if key.rpartition(".")[2] == "velocity" and result._unit(key) == u.km / u.s]


def _speed(value) -> float:
    if not isinstance(value, u.Quantity) or not value.isscalar or not value.unit.is_equivalent(u.km / u.s):
        raise ValueError(f"value is one speed such as 1.2 * u.km / u.s, found {value!r}")
    if not np.isfinite(value.value):
        raise ValueError(f"value is a finite speed, found {value}")
    return float(value.to_value(u.km / u.s))


def _inside(region, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(region.data if hasattr(region, "wcs") else region) if not _is_index(region) else None
    if array is None:
        inside = np.zeros(shape, bool)
        inside[region] = True
        return inside
    if array.dtype != bool or array.shape != shape:
        raise ValueError(
            f"region is a slice, a tuple of slices or an array of bool shaped as the map, {shape}; found an array of "
            f"{array.dtype} of shape {array.shape}"
        )
    return array


def _is_index(region) -> bool:
    parts = region if isinstance(region, tuple) else (region,)
    return all(isinstance(part, (slice, int, np.integer)) or part is Ellipsis for part in parts)


def _rest(result: FitResult, key: str, inside: np.ndarray) -> tuple[float, float]:
    """The median of a velocity's good pixels, and its error from their scatter."""
    value = result._value(key)
    good = inside.reshape(-1) & np.isfinite(value) & ((result._status & int(_UNFIT)) == 0)
    if not good.any():
        raise ValueError(f"no pixel there has a trustworthy {key!r} to take the zero point from")
    zero = float(np.median(value[good]))
    scatter = _DEVIATION * float(np.median(np.abs(value[good] - zero)))
    return zero, _MEDIAN * scatter / float(np.sqrt(good.sum()))
