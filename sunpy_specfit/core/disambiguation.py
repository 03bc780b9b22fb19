"""Azimuths of a result from 0 to 360 degrees, by somebody who can tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import astropy.units as u
import numpy as np

from .disambiguator import Disambiguator, FieldMaps
from .registry import get, origin
from .result import FitResult
from .solar_frame import solar_frame
from .status import Status

__all__ = ["disambiguate"]

_UNKNOWN = Status.MASKED | Status.FAILED | Status.UNDERDETERMINED | Status.NO_LINEAR_SIGNAL | Status.NO_POLARIZATION


def disambiguate(
    result: FitResult,
    by: str | Disambiguator | Callable[[FieldMaps], np.ndarray] = "acute_angle",
    *,
    stokes_reference: u.Quantity | None = None,
) -> FitResult:
    """Azimuths from 0 to 360 degrees, where something tells which of two directions the transverse field has.

    The light is the same for azimuths 180 degrees apart, so that `fit` leaves them between 0 and 180 and sets
    ``AMBIGUOUS``. What decides here is beside the data: an assumption about the field.

    Parameters
    ----------
    result : `FitResult`
        Of a model with ``b_los``, ``b_trans`` and ``azimuth``. It is not changed. What was decided earlier is
        forgotten.
    by : str, `Disambiguator` or callable
        Who decides: a registered name, an object, or a function that takes `FieldMaps` and returns what
        `Disambiguator.choose` does.
    stokes_reference : `~astropy.units.Quantity`, optional
        The angle of +Q from solar north, counter-clockwise, where the model was not told.

    Returns
    -------
    `FitResult`
        Its azimuths are turned by 180 degrees where that was decided, with the same errors; ``AMBIGUOUS`` is gone where
        the decision was convincing, one way or the other. ``meta["disambiguation"]`` tells who decided, and of how many
        of the ambiguous pixels. All else is as before.

    Raises
    ------
    ValueError
        If there is no such field, the map is no picture, or nothing tells where +Q is on the sky.
    KeyError
        If nobody of that name is registered; close matches are named.

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import milne_eddington_cube
    >>> cube = milne_eddington_cube((12, 12), noise=3e-4, seed=1)
    >>> model = specfit.MilneEddington(["Fe I 6301.5", "Fe I 6302.5"], stokes_reference=0 * u.deg)
    >>> result = specfit.fit(cube, model)
    >>> solved = specfit.disambiguate(result, specfit.AcuteAngle(margin=30 * u.deg))
    >>> solved.meta["disambiguation"]["by"]
    'AcuteAngle(margin=<Quantity 30. deg>)'
    >>> westwards = specfit.disambiguate(result, lambda field: field.transverse()[0] < 0)
    >>> bool(westwards["azimuth"].data.max() > 180)
    True
    """
    who = get("disambiguator", by)() if isinstance(by, str) else by
    choose = who.choose if isinstance(who, Disambiguator) else who
    if not callable(choose):
        raise TypeError(f"by is a name, a Disambiguator or a function of FieldMaps, found {by!r}")
    raw = _with_turned(result, {}, result._status)
    fields = _fields(raw)
    if not fields:
        raise ValueError(f"there is no field to disambiguate; this result has {', '.join(result)}")
    shape = raw._canvases[0].shape
    if len(shape) != 2:
        raise ValueError(f"azimuths are disambiguated on a map of two axes, this one has the shape {shape}")
    turned, left, ambiguous = {}, np.zeros(shape, bool), np.zeros(shape, bool)
    asked = resolved = 0
    for names, component in fields:
        field = _maps(raw, names, component, stokes_reference)
        answer = choose(field)
        turn, convinced = answer if isinstance(answer, tuple) else (answer, np.ones(shape, bool))
        for part in (turn, convinced):
            if np.shape(part) != shape or np.asarray(part).dtype != bool:
                raise ValueError(
                    f"{who!r} should return arrays of bool of shape {shape}, found {np.asarray(part).dtype} of shape "
                    f"{np.shape(part)}"
                )
        convinced = convinced & field.undecided
        turned[names["azimuth"]] = (turn & convinced).reshape(-1)
        ambiguous |= field.undecided
        left |= field.undecided & ~convinced
        asked, resolved = asked + int(field.undecided.sum()), resolved + int(convinced.sum())
    status = raw._status.copy()
    status[ambiguous.reshape(-1)] &= ~int(Status.AMBIGUOUS)
    status[left.reshape(-1)] |= int(Status.AMBIGUOUS)
    record = {
        "by": repr(who),
        "plugin": " ".join(origin(type(who))) if isinstance(who, Disambiguator) else "a function",
        "ambiguous": asked,
        "resolved": resolved,
    }
    return _with_turned(raw, turned, status)._with_meta(disambiguation=record)


def _with_turned(result, turned: dict[str, np.ndarray], status: np.ndarray) -> FitResult:
    new = result._with(result._canvases, result._propagation.select(slice(None)), slice(None))
    new._propagation.turned, new._status = turned, status
    return new


def _fields(result) -> list[tuple[dict[str, str], object]]:
    """The names of b_los, b_trans and azimuth of each component that has them."""
    found = []
    for component, keys in zip(result._layout.components, result._layout.keys, strict=True):
        if all(name in keys for name in ("b_los", "b_trans", "azimuth")):
            found.append(({name: keys[name] for name in ("b_los", "b_trans", "azimuth")}, component))
    return found


def _maps(result, names: Mapping[str, str], component, reference) -> FieldMaps:
    stated = getattr(component, "stokes_reference", None)
    if stated is None and reference is None:
        raise ValueError(
            "nothing tells where +Q is on the sky: give stokes_reference, its angle from solar north, counter-clockwise"
        )
    if stated is not None and reference is not None:
        raise ValueError(f"the model was told where +Q is already, stokes_reference={stated}: leave it out here")
    turn = 0 * u.deg if stated is not None else u.Quantity(reference)
    values, errors, status = {}, {}, result._status.reshape(result._canvases[0].shape)
    for name, key in names.items():
        cube = result[key]
        unknown = (status & int(Status.MASKED | Status.FAILED | Status.UNDERDETERMINED)) > 0
        values[name] = np.where(unknown, np.nan, cube.data) * cube.unit
        sigma = np.full(cube.data.shape, np.inf) if cube.uncertainty is None else cube.uncertainty.array
        errors[f"{name}_error"] = sigma * cube.unit
    values["azimuth"] = (values["azimuth"] + turn).to(u.deg)
    finite = np.isfinite(values["azimuth"]) & np.isfinite(errors["azimuth_error"])
    undecided = ((status & int(_UNKNOWN)) == 0) & finite & (values["b_trans"] > 0)
    return FieldMaps(**values, **errors, undecided=undecided, frame=solar_frame(result[names["b_los"]]))
