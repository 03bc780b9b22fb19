"""Air or vacuum: whether rest wavelengths and the data's wavelengths are in one medium."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from ndcube import NDCube

from .status import Status
from .warnings import SpecfitWarning

if TYPE_CHECKING:
    from .model import Model

__all__ = ["MediumWarning", "check_media", "in_medium_of", "medium_of"]

# What the refraction of air does to a line that is measured in the one medium and looked up in the other.
_OFFSET = (60.0, 110.0)  # km/s
# Wavelengths below are always those of the vacuum.
_AIR_FROM = 2000 * u.AA
_DOUBTFUL = Status.LOW_SIGNAL | Status.MASKED | Status.FAILED | Status.UNDERDETERMINED


class MediumWarning(SpecfitWarning):
    """A line stands where it would if its rest wavelength were in air and the data's in vacuum, or the other way."""


def medium_of(cube: NDCube, wavelength: u.Quantity) -> str:
    """The medium of a cube's wavelengths: "air", "vacuum" or "unknown".

    Air where the header says AWAV; vacuum for IRIS, and below 2000 Å. Above, headers say WAVE for either.
    """
    if any(kind.startswith("AWAV") for kind in _axis_types(getattr(cube, "wcs", None))):
        return "air"
    if not wavelength.unit.is_equivalent(u.AA) or np.max(wavelength) < _AIR_FROM:
        return "vacuum"
    meta = cube.meta if hasattr(getattr(cube, "meta", None), "get") else {}
    names = (str(meta.get(key, "")) for key in ("TELESCOP", "telescope", "observatory"))
    return "vacuum" if "IRIS" in " ".join(names).upper() else "unknown"


def _axis_types(wcs) -> list[str]:
    """The axes' types by the FITS header, below the wrappers that slicing a cube leaves."""
    while wcs is not None and not hasattr(wcs, "wcs"):
        inner = getattr(wcs, "low_level_wcs", None)
        wcs = inner if inner is not None and inner is not wcs else getattr(wcs, "_wcs", None)
    return [str(kind) for kind in wcs.wcs.ctype] if wcs is not None else []


def in_medium_of(cubes: Sequence[NDCube], models: Sequence[Model]) -> list[Model]:
    """Models with their lines in the media of the cubes' wavelengths; a model that serves several stays one."""
    made: dict[tuple[int, str], Model] = {}
    found = []
    for cube, model in zip(cubes, models, strict=True):
        rests = [rest for c in model.components if (rest := getattr(c, "rest_wavelength", None)) is not None]
        key = id(model), medium_of(cube, max(rests)) if rests else "unknown"
        if key not in made:
            made[key] = model.in_medium(key[1]) if rests else model
        found.append(made[key])
    return found


def check_media(result, observations) -> list[str]:
    """The medium of each cube's wavelengths; warns if the median velocity of a line is what the wrong one makes of it.

    Parameters
    ----------
    result : `~sunpy_specfit.FitResult`
    observations : sequence of `~sunpy_specfit.core.observation.Observation`
    """
    layout, media = result._layout, []
    for observation, components in zip(observations, layout.term_components, strict=True):
        if observation.spectral_unit is None:
            media.append("unknown")
            continue
        medium = medium_of(observation.cube, u.Quantity(observation.x, observation.spectral_unit, copy=False))
        media.append(medium)
        for component, keys in ((layout.components[i], layout.keys[i]) for i in components):
            rest = getattr(component, "rest_wavelength", None)
            if isinstance(rest, u.Quantity) and rest > _AIR_FROM and "velocity" in keys:
                _check(keys["velocity"], rest, result._propagation.value(keys["velocity"]), result._status, medium)
    return media


def _check(key: str, rest: u.Quantity, velocity: np.ndarray, status: np.ndarray, medium: str) -> None:
    good = velocity[np.isfinite(velocity) & ((status & int(_DOUBTFUL)) == 0)]
    median = float(np.median(good)) if good.size else 0.0
    if _OFFSET[0] <= abs(median) <= _OFFSET[1]:
        likely = "in air and the data's in vacuum" if median > 0 else "in vacuum and the data's in air"
        warnings.warn(
            f"air or vacuum? The median {key} of the line at {rest:.8g} is {median:.0f} km/s, as if the rest "
            f"wavelength were {likely} (by the header the data's are in: {medium}). Give the rest wavelength in the "
            "medium of the data",
            MediumWarning,
            stacklevel=5,
        )
