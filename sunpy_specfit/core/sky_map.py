"""From an NDCube with two axes on the sky to a sunpy Map."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from ndcube import NDCube

__all__ = ["to_sunpy_map"]

_TOLERANCE = 0.1  # pixels


def to_sunpy_map(cube: NDCube, name: str):
    """A `sunpy.map.GenericMap` of the same pixels, in the gnomonic projection about the middle of the map.

    The map's header is made from the coordinates themselves, so that it does not matter how the cube's WCS came to
    be (sliced from a cube, tabulated, generalised), and the corners are checked against them.

    Raises
    ------
    ValueError
        If the cube is not a plane on the sky, or its coordinates do not tell when it was observed.
    """
    # It costs seconds, which nobody should pay who does not ask for a Map.
    import sunpy.map
    from sunpy.map.header_helper import make_fitswcs_header

    kinds = ", ".join(map(str, cube.wcs.world_axis_physical_types))
    if cube.data.ndim != 2:
        raise ValueError(
            f"a sunpy Map has two axes, {name!r} has the shape {cube.shape}: slice the result first, result[0]"
        )
    middle = np.array([(n - 1) / 2 for n in cube.shape[::-1]])
    step = np.eye(2)
    points = np.array([middle, middle + step[0], middle - step[0], middle + step[1], middle - step[1]])
    sky = cube.wcs.pixel_to_world(*points.T)
    if not isinstance(sky, SkyCoord) or not hasattr(sky, "Tx"):
        raise ValueError(f"a sunpy Map needs solar coordinates on the sky, the axes of {name!r} are {kinds}")
    if sky.obstime is None:
        raise ValueError(
            f"a sunpy Map needs the time of observation, and the WCS of {name!r} has none: set it in the cube that "
            "is fitted, cube.wcs.wcs.dateobs"
        )
    center = sky[0] if sky.observer is not None else _from_earth(sky[0])
    offsets = sky.transform_to(sky[0].skyoffset_frame())
    lon, lat = offsets.lon.wrap_at(180 * u.deg).to_value(u.arcsec), offsets.lat.to_value(u.arcsec)
    matrix = 0.5 * np.array([[lon[1] - lon[2], lon[3] - lon[4]], [lat[1] - lat[2], lat[3] - lat[4]]])
    scale = np.hypot(*matrix)
    header = make_fitswcs_header(
        cube.shape,
        center,
        reference_pixel=middle * u.pix,
        scale=scale * u.arcsec / u.pix,
        rotation_matrix=matrix / scale[:, None],
        unit=cube.unit,
    )
    result = sunpy.map.Map(np.asarray(cube.data), header, mask=cube.mask, uncertainty=cube.uncertainty)
    _check_corners(cube, result.wcs, name)
    return result


def _from_earth(coordinate: SkyCoord) -> SkyCoord:
    from sunpy.coordinates import Helioprojective

    return SkyCoord(coordinate.Tx, coordinate.Ty, frame=Helioprojective(observer="earth", obstime=coordinate.obstime))


def _check_corners(cube: NDCube, wcs, name: str) -> None:
    y, x = (np.array(v, float).ravel() for v in np.meshgrid(*[(0, n - 1) for n in cube.shape], indexing="ij"))
    before, after = cube.wcs.pixel_to_world(x, y), wcs.pixel_to_world(x, y)
    step = min(abs(v) for v in wcs.wcs.cdelt) * u.Unit(wcs.wcs.cunit[0])
    error = np.hypot(before.Tx - after.Tx, before.Ty - after.Ty).max()
    if error > _TOLERANCE * step:
        raise ValueError(
            f"the coordinates of {name!r} are not those of a plane, to which a sunpy Map is limited: they would be "
            f"off by {error.to(u.arcsec):.2f}. Use the NDCube, or reproject it"
        )
