"""Images in several channels as one cube with a channel axis."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from ndcube import NDCube

from .axes import behind_axes, copy_coordinates
from .drawing import with_tables

__all__ = ["check_same_grid", "stack"]

# Grids that differ by less than so many pixels are the same.
_TOLERANCE = 0.5


def stack(images: Mapping[str, NDCube], data: np.ndarray, unit: u.UnitBase, *, uncertainty=None, mask=None) -> NDCube:
    """One cube, a leading axis of physical type ``custom:channel`` in front of the axes of the images.

    Parameters
    ----------
    images : mapping of str to `~ndcube.NDCube` or anything with data and WCS
        Channels in order; the first gives the coordinates.
    data : `numpy.ndarray`
        ``(channels, *shape)``.
    uncertainty, mask
        As `~ndcube.NDCube` takes them.

    Raises
    ------
    ValueError
        If the images are not on one grid.
    """
    check_same_grid(images)
    first = next(iter(images.values()))
    numbers = np.arange(len(images)) * u.dimensionless_unscaled
    cube = NDCube(
        data,
        wcs=with_tables(first.wcs, [("channel", numbers)]),
        unit=unit,
        uncertainty=uncertainty,
        mask=mask,
        meta={"channels": list(images)},
    )
    if isinstance(first, NDCube):
        if not first.extra_coords.is_empty:
            cube._extra_coords = behind_axes(first.extra_coords, 1)
            cube._extra_coords._ndcube = cube
        copy_coordinates(first, cube)
    return cube


def check_same_grid(images: Mapping[str, NDCube], tolerance: float = _TOLERANCE) -> None:
    """Refuse images whose shapes differ, or whose pixels look at other places.

    Raises
    ------
    ValueError
        It names the channels, and how far they are apart.
    """
    names = list(images)
    first = images[names[0]]
    shape = first.data.shape
    corners = np.array(np.meshgrid(*[(0.0, (n - 1) / 2, n - 1.0) for n in reversed(shape)], indexing="ij"))
    corners = corners.reshape(len(shape), -1)
    for name in names[1:]:
        image = images[name]
        if image.data.shape != shape:
            raise ValueError(
                f"channel {name!r} has the shape {image.data.shape}, channel {names[0]!r} {shape}: reproject all "
                "channels onto one grid first, as with sunpy's map.reproject_to(wcs)"
            )
        away = _pixels_apart(first.wcs, image.wcs, corners)
        if away > tolerance:
            raise ValueError(
                f"the pixels of channel {name!r} look up to {away:.3g} pixels away from those of channel "
                f"{names[0]!r}: bring all channels onto one grid first, as with aiapy's register and sunpy's "
                "map.reproject_to(wcs)"
            )


def _pixels_apart(wcs, other, corners: np.ndarray) -> float:
    """How far apart two WCS see the same pixels, in pixels of the first; only numbers are compared, not frames."""
    wcs, other = (getattr(one, "low_level_wcs", one) for one in (wcs, other))
    if wcs.world_n_dim != other.world_n_dim or list(wcs.world_axis_units) != list(other.world_axis_units):
        return np.inf
    here, there = (np.atleast_2d(np.asarray(one.pixel_to_world_values(*corners), float)) for one in (wcs, other))
    # The step of each world coordinate along a pixel, from neighbours of the corners.
    steps = np.zeros(len(here))
    for axis in range(len(corners)):
        moved = corners.copy()
        moved[axis] += 1
        step = np.atleast_2d(np.asarray(wcs.pixel_to_world_values(*moved), float)) - here
        steps = np.maximum(steps, np.nanmax(np.abs(_wrapped(step, wcs)), axis=1, initial=0.0))
    apart = np.abs(_wrapped(there - here, wcs)) / np.where(steps > 0, steps, 1.0)[:, None]
    # Time: channels are never taken at the same moment.
    kept = [not (kind or "").startswith("time") for kind in wcs.world_axis_physical_types]
    apart = apart[kept]
    return float(np.nanmax(apart)) if np.isfinite(apart).any() else 0.0


def _wrapped(difference: np.ndarray, wcs) -> np.ndarray:
    """Differences of angles, the short way round."""
    out = np.array(difference)
    for row, (kind, unit) in enumerate(zip(wcs.world_axis_physical_types, wcs.world_axis_units, strict=True)):
        if (kind or "").startswith(("pos.", "custom:pos")) and u.Unit(unit).is_equivalent(u.deg):
            turn = (360 * u.deg).to_value(unit)
            out[row] = (out[row] + turn / 2) % turn - turn / 2
    return out
