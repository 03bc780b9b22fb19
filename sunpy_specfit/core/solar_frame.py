"""Where the pixels of a map are on the Sun, as far as a plane can tell."""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.constants import R_sun
from ndcube import NDCube

__all__ = ["SolarFrame", "solar_frame"]


@dataclass(frozen=True)
class SolarFrame:
    """Places on the sky, and the direction of the vertical in the middle of the map.

    Attributes
    ----------
    x, y : `numpy.ndarray`
        Towards solar west and north from disc centre, in solar radii, ``(ny, nx)``.
    """

    x: np.ndarray
    y: np.ndarray

    @property
    def mu(self) -> np.ndarray:
        """The cosine of the heliocentric angle, ``(ny, nx)``; NaN beyond the limb."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(1 - self.x**2 - self.y**2)

    @property
    def vertical(self) -> np.ndarray:
        """The unit vector (west, north, towards the observer) of the vertical in the middle of the map."""
        x, y = float(np.mean(self.x)), float(np.mean(self.y))
        return np.array([x, y, np.sqrt(max(0.0, 1 - x * x - y * y))])

    @property
    def steps(self) -> np.ndarray:
        """How far (west, north) a pixel goes along the second and the first array axis, columns of ``(2, 2)``."""
        return np.array(
            [[np.mean(np.diff(place, axis=axis)) for axis in (1, 0)] for place in (self.x, self.y)], dtype=float
        )

    @property
    def unevenness(self) -> float:
        """How far a pixel is from where even steps have it at the most, in pixels."""
        ny, nx = self.x.shape
        column, row = np.meshgrid(np.arange(nx) - (nx - 1) / 2, np.arange(ny) - (ny - 1) / 2)
        away = [
            place - place.mean() - steps[0] * column - steps[1] * row
            for place, steps in zip((self.x, self.y), self.steps, strict=True)
        ]
        return float(np.hypot(*away).max() / np.sqrt(np.abs(np.linalg.det(self.steps))))


def solar_frame(cube: NDCube) -> SolarFrame | None:
    """The frame of a map ``(ny, nx)``; None where it has no helioprojective coordinates or is a single row.

    Where the WCS does not tell the observer, that is the Earth's centre at the WCS's time; without a time, at 1 au.
    """
    kinds = [str(kind) for kind in cube.wcs.world_axis_physical_types]
    if cube.data.ndim != 2 or min(cube.data.shape) < 2:
        return None
    found = [
        next((i for i, kind in enumerate(kinds) if kind.endswith(f"helioprojective.{one}")), None)
        for one in ("lon", "lat")
    ]
    if None in found:
        return None
    wcs = getattr(cube.wcs, "low_level_wcs", cube.wcs)
    row, column = np.indices(cube.data.shape)
    world = wcs.pixel_to_world_values(column, row)
    units = [u.Unit(wcs.world_axis_units[i]) for i in found]
    lon, lat = (u.Quantity(world[i], unit).to_value(u.rad) for i, unit in zip(found, units, strict=True))
    lon = (lon + np.pi) % (2 * np.pi) - np.pi
    distance = _distance(cube)
    return SolarFrame(x=distance * np.cos(lat) * np.sin(lon), y=distance * np.sin(lat))


def _distance(cube: NDCube) -> float:
    """Of the observer from the middle of the Sun, in solar radii."""
    import sunpy.coordinates

    sky = cube.wcs.pixel_to_world(0, 0)
    sky = next(one for one in (sky if isinstance(sky, (list, tuple)) else [sky]) if hasattr(one, "Tx"))
    if sky.observer is not None and not isinstance(sky.observer, str):
        away = sky.observer.radius
    elif sky.obstime is not None:
        away = sunpy.coordinates.get_earth(sky.obstime).radius
    else:
        away = 1 * u.au
    return float(away / R_sun)
