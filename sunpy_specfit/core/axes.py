"""Which array axis is what: found by physical type, never by position."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.wcs import WCS
from astropy.wcs.wcsapi import SlicedLowLevelWCS
from ndcube import ExtraCoords, NDCube
from ndcube.wcs.wrappers import CompoundLowLevelWCS

__all__ = [
    "Axes",
    "behind_axes",
    "copy_coordinates",
    "drop_wavelengths",
    "find_axes",
    "map_wcs",
    "plain_wcs",
    "spectral_values",
    "stokes_index",
    "stokes_names",
    "with_own_coordinates",
]

_STOKES = {1: "I", 2: "Q", 3: "U", 4: "V"}


@dataclass(frozen=True)
class Axes:
    """The array axes of a cube by their meaning.

    Attributes
    ----------
    sample : int or None
        The spectral or channel axis.
    stokes : int or None
    grid : tuple of int
        What is left, in array order: the axes of the maps.
    kinds : tuple of str
        For each of ``grid``: "space", "time" or "other".
    """

    sample: int | None
    stokes: int | None
    grid: tuple[int, ...]
    kinds: tuple[str, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """Array axes as the package works with them: maps, Stokes, samples."""
        return (*self.grid, *(axis for axis in (self.stokes, self.sample) if axis is not None))


def _is(physical_type: str | None, *starts: str) -> bool:
    return (physical_type or "").removeprefix("custom:").startswith(starts)


def _is_spectral(physical_type: str | None) -> bool:
    return _is(physical_type, "em.", "spect.")


def find_axes(cube: NDCube, data_axis: str | None, spectral_axis: u.Quantity | None = None) -> Axes:
    """Tell the axes of a cube apart.

    Parameters
    ----------
    cube : `~ndcube.NDCube`
    data_axis : {"spectral", "channel", None}
        What the samples of a pixel lie along.
    spectral_axis : `~astropy.units.Quantity`, optional
        Wavelengths given by the user: a cube whose WCS knows none may then be used, if one axis alone fits.

    Raises
    ------
    ValueError
        If there is no such axis, or more than one could be meant.
    """
    types = cube.array_axis_physical_types
    stokes = next((i for i, t in enumerate(types) if any(_is(p, "phys.polarization.stokes") for p in t)), None)
    sample = None
    if data_axis == "spectral":
        sample = _spectral_axis(cube, types, spectral_axis)
    elif data_axis == "channel":
        known = ("pos.", "time", "phys.polarization", "em.", "spect.")
        candidates = [i for i, t in enumerate(types) if not any(_is(p, *known) for p in t)]
        # An axis that says what it is needs no guess.
        candidates = [i for i in candidates if any(_is(p, "channel") for p in types[i])] or candidates
        if len(candidates) != 1:
            raise ValueError(
                "these data need one channel axis, which is neither celestial nor time, Stokes or spectral; found "
                f"{len(candidates)} among the physical types {types}"
            )
        sample = candidates[0]
    grid = tuple(i for i in range(cube.data.ndim) if i not in (stokes, sample))
    kinds = tuple(
        "space"
        if any(_is(p, "pos.") for p in types[i])
        else "time"
        if any(_is(p, "time") for p in types[i])
        else "other"
        for i in grid
    )
    return Axes(sample, stokes, grid, kinds)


def _spectral_axis(cube: NDCube, types, given: u.Quantity | None) -> int:
    candidates = [i for i, t in enumerate(types) if any(_is_spectral(p) for p in t)]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        if given is not None:
            shape = np.shape(given)
            fitting = [i for i, n in enumerate(cube.data.shape) if len(shape) == 1 and n == shape[0]]
            if len(fitting) == 1:
                return fitting[0]
        raise ValueError(
            f"the cube has no spectral axis: its physical types are {types}, and none starts with 'em.' or 'spect.'. "
            "Give the axis one in the WCS; spectral_axis= alone helps only where its length fits one axis"
        )
    # Wavelength may depend on the slit's axis too (a rotated slit): the spectral axis is where it runs most.
    wcs, world = _world(cube, "em.", "spect.")
    ndim = cube.data.ndim
    middle = [(n - 1) / 2 for n in reversed(cube.data.shape)]
    runs = []
    for axis in candidates:
        ends = []
        for end in (0, max(cube.data.shape[axis] - 1, 1)):
            pixel = list(middle)
            pixel[ndim - 1 - axis] = end
            ends.append(np.atleast_1d(wcs.pixel_to_world_values(*pixel))[world] if wcs.world_n_dim > 1 else end)
        runs.append(abs(float(ends[1]) - float(ends[0])))
    return candidates[int(np.argmax(runs))]


def _world(cube: NDCube, *starts: str):
    """The low-level WCS that knows a physical type, and which of its world axes that is."""
    for wcs in (cube.wcs, cube.combined_wcs):  # the latter adds the extra coordinates
        wcs = getattr(wcs, "low_level_wcs", wcs)
        for number, physical in enumerate(wcs.world_axis_physical_types):
            if _is(physical, *starts):
                return wcs, number
    raise ValueError(f"neither the WCS nor the extra coordinates have a physical type that starts with {starts}")


def spectral_values(cube: NDCube, axes: Axes) -> u.Quantity:
    """Wavelengths (or frequencies, ...) from the WCS: ``(n,)``, or shaped as the cube where they vary over the map."""
    wcs, world = _world(cube, "em.", "spect.")
    ndim = cube.data.ndim
    correlated = wcs.axis_correlation_matrix[world]
    # Only the pixel axes that the wavelength depends on are run through; the others stay at their first pixel.
    ranges = [np.arange(n) if correlated[ndim - 1 - i] else np.zeros(1) for i, n in enumerate(cube.data.shape)]
    grid = np.meshgrid(*ranges, indexing="ij")
    # Flat, because some WCS of one dimension take no other arrays.
    values = wcs.pixel_to_world_values(*(axis.ravel() for axis in reversed(grid)))
    values = np.asarray(values[world] if wcs.world_n_dim > 1 else values, float).reshape(grid[0].shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)  # of units that the VO standard has no word for
        unit = u.Unit(wcs.world_axis_units[world])
    if not any(correlated[ndim - 1 - i] for i in (*axes.grid, *([axes.stokes] if axes.stokes is not None else []))):
        return values.reshape(-1) * unit
    return np.broadcast_to(values, cube.data.shape) * unit


def stokes_names(cube: NDCube, axes: Axes) -> str:
    """The Stokes parameters along the Stokes axis, in its order."""
    wcs, world = _world(cube, "phys.polarization.stokes")
    ndim = cube.data.ndim
    pixels = [np.zeros(cube.data.shape[axes.stokes])] * ndim
    pixels[ndim - 1 - axes.stokes] = np.arange(cube.data.shape[axes.stokes])
    values = wcs.pixel_to_world_values(*pixels)
    values = np.atleast_1d(values[world] if wcs.world_n_dim > 1 else values)
    return "".join(_STOKES.get(int(round(float(v))), "?") for v in values)


def stokes_index(cube: NDCube, axes: Axes, stokes: str) -> tuple[int, ...] | None:
    """Where the Stokes parameters that a model speaks of stand on the cube's axis; None where there is no such axis.

    Raises
    ------
    ValueError
        If the cube has not all that the model needs.
    """
    if axes.stokes is None:
        if stokes != "I":
            raise ValueError(
                f"the model speaks of Stokes {stokes}, but the cube has no axis of physical type "
                f"'phys.polarization.stokes'; its physical types are {cube.array_axis_physical_types}"
            )
        return None
    offered = stokes_names(cube, axes)
    missing = [s for s in stokes if s not in offered]
    if missing:
        raise ValueError(f"the model needs Stokes {stokes}, the cube has {offered}: {', '.join(missing)} missing")
    return tuple(offered.index(s) for s in stokes)


def plain_wcs() -> WCS:
    """The WCS of a map without coordinates: a single spectrum's."""
    wcs = WCS(naxis=1)
    wcs.wcs.ctype = ["PIXEL"]
    wcs.wcs.set()
    return wcs


def map_wcs(cube: NDCube, axes: Axes):
    """A WCS of the map's axes alone, or None where slicing is the only way (and the dropped wavelength lingers)."""
    wcs = getattr(cube.wcs, "low_level_wcs", cube.wcs)
    if not axes.grid:
        return None
    if isinstance(wcs, CompoundLowLevelWCS):
        return _map_of_compound(wcs, cube.data.ndim, axes)
    if isinstance(wcs, SlicedLowLevelWCS) and isinstance(wcs._wcs, WCS):
        # The map of the whole, and then its slice.
        slices = list(wcs._slices_array)
        left = [number for number, one in enumerate(slices) if isinstance(one, slice)]
        kept = [number for number in range(len(slices)) if number not in left or left.index(number) in axes.grid]
        whole = _without(wcs._wcs, kept)
        return None if whole is None else SlicedLowLevelWCS(whole, [slices[number] for number in kept])
    return _without(wcs, axes.grid) if isinstance(wcs, WCS) else None


def _without(wcs: WCS, kept: Sequence[int]) -> WCS | None:
    """A FITS WCS of some of the array axes alone; None where what is left depends on the others."""
    pixels = sorted(wcs.pixel_n_dim - 1 - axis for axis in kept)
    others = [pixel for pixel in range(wcs.pixel_n_dim) if pixel not in pixels]
    matrix = wcs.axis_correlation_matrix
    worlds = [w for w in range(wcs.world_n_dim) if matrix[w, pixels].any() and not matrix[w, others].any()]
    if worlds != pixels or wcs.wcs.has_crota():
        return None
    # A wavelength that depends on the map's pixels (a tilted slit) goes with its axis; what it depended on stays.
    separate = wcs.deepcopy()
    coupled = np.ix_([world for world in range(wcs.world_n_dim) if world not in worlds], pixels)
    name = "cd" if wcs.wcs.has_cd() else "pc"
    linear = np.array(getattr(separate.wcs, name) if name == "cd" else separate.wcs.get_pc())
    linear[coupled] = 0
    setattr(separate.wcs, name, linear)
    return separate.sub([pixel + 1 for pixel in pixels])


def _map_of_compound(wcs: CompoundLowLevelWCS, ndim: int, axes: Axes):
    """What is left of side-by-side WCS without those of the dropped axes; None where one has axes of both kinds."""
    if list(wcs.mapping.mapping) != list(range(ndim)):
        return None
    kept, begin = [], 0
    for member in wcs._wcs:
        stands_in_map = {ndim - 1 - pixel in axes.grid for pixel in range(begin, begin + member.pixel_n_dim)}
        begin += member.pixel_n_dim
        if len(stands_in_map) > 1:
            return None
        if stands_in_map == {True}:
            kept.append(member)
    return kept[0] if len(kept) == 1 else CompoundLowLevelWCS(*kept)


def drop_wavelengths(part: NDCube) -> None:
    """Forget, in place, the wavelengths of an extra coordinate that slicing has left over."""
    coordinates = part.extra_coords
    coordinates._dropped_tables = [
        table
        for table in coordinates._dropped_tables or ()
        if not any(_is_spectral(physical_type) for physical_type in table.physical_types or ())
    ]


def behind_axes(coordinates: ExtraCoords, n: int) -> ExtraCoords:
    """Extra coordinates of a map for one that has ``n`` more array axes in front."""
    moved = copy(coordinates)
    # Tables are numbered from the first array axis; a WCS is numbered from the last, and stays what it is.
    moved._lookup_tables = [
        (tuple(int(axis) + n for axis in np.atleast_1d(axes)), table) for axes, table in coordinates._lookup_tables
    ]
    return moved


def with_own_coordinates(cube: NDCube) -> NDCube:
    """The same cube, whose extra and global coordinates are nobody else's.

    Coordinates know their cube, and ndcube lets what is sliced or made from a cube take hold of those of the first:
    the cube that a user has at hand would then answer for another.
    """
    own = copy(cube)
    own._extra_coords, own._global_coords = copy(cube.extra_coords), copy(cube.global_coords)
    return own


def copy_coordinates(cube: NDCube, part: NDCube) -> None:
    """Add a cube's own global coordinates, in place, to what was made of it; its WCS brings the others."""
    for name, (physical_type, value) in cube.global_coords._internal_coords.items():
        if not _is_spectral(physical_type):
            part.global_coords.add(name, physical_type, value)
