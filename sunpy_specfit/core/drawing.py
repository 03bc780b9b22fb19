"""The way back: numbers of an observation's pixels as NDCubes on its axes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import astropy.units as u
import numpy as np
from astropy.nddata import StdDevUncertainty
from astropy.wcs.wcsapi import SlicedLowLevelWCS
from ndcube import NDCube
from ndcube.extra_coords import QuantityTableCoordinate
from ndcube.wcs.wrappers import CompoundLowLevelWCS

from .axes import behind_axes, copy_coordinates, drop_wavelengths, map_wcs, plain_wcs, with_own_coordinates
from .observation import Observation

__all__ = ["Drawing", "with_tables"]

# Coordinates and nothing else.
_NOTHING = dict.fromkeys(("uncertainty", "mask", "unit", "meta")) | {"nddata_type": NDCube, "extra_coords": "copy"}


class Drawing:
    """Draws maps and light with the coordinates of one observation.

    Parameters
    ----------
    observation : `Observation`
    """

    def __init__(self, observation: Observation):
        self._observation = observation
        self._cube, self._axes, self._grid = observation.cube, observation.axes, observation.grid

    @cached_property
    def _template(self) -> NDCube:
        """A cube of the map's axes, to be filled."""
        item = tuple(slice(None) if i in self._axes.grid else 0 for i in range(self._cube.data.ndim))
        # Slicing a cube of nothing spares the slicing, and copying, of what stands in it.
        bare = with_own_coordinates(self._cube).to_nddata(
            data=np.broadcast_to(np.float64(0), self._cube.data.shape), global_coords="copy", **_NOTHING
        )
        part = bare[item]
        drop_wavelengths(part)
        wcs = map_wcs(self._cube, self._axes)
        kept = {"wcs": wcs} if wcs is not None else {}
        template = part.to_nddata(data=np.broadcast_to(np.float64(0), self._grid.shape), **_NOTHING, **kept)
        copy_coordinates(self._cube, template)
        return template

    def map_cube(
        self, values, unit, *, sigma=None, mask=None, leading: Sequence[tuple[str, u.Quantity]] = ()
    ) -> NDCube:
        """A map as an NDCube on the cube's celestial (and time) axes.

        Parameters
        ----------
        values : `numpy.ndarray`
            ``(pixels,)`` or shaped as the map; with ``leading`` ``(k, ..., pixels)``.
        unit : `~astropy.units.Unit`
        sigma, mask : `numpy.ndarray`, optional
            As ``values``; none of them is copied.
        leading : sequence of (str, `~astropy.units.Quantity`)
            Name and values of each world axis in front, ``(k,)``.
        """
        lead = tuple(len(places) for _, places in leading)

        def shaped(array):
            return None if array is None else np.asarray(array).reshape(*lead, *self._grid.shape)

        errors = None if sigma is None else StdDevUncertainty(shaped(sigma), copy=False)
        contents = {"data": shaped(values), "unit": unit, "uncertainty": errors, "mask": shaped(mask), "meta": {}}
        if not self._axes.grid:
            return NDCube(wcs=with_tables(plain_wcs(), leading), **contents)
        template = with_own_coordinates(self._template)
        return template.to_nddata(
            wcs=with_tables(template.wcs, leading),
            nddata_type=NDCube,
            extra_coords=behind_axes(template.extra_coords, len(leading)) if leading else "copy",
            global_coords="copy",
            **contents,
        )

    def light_cube(self, values, unit) -> NDCube:
        """Light as an NDCube on the cube's own axes; NaN at Stokes parameters that were not used.

        Parameters
        ----------
        values : `numpy.ndarray`
            ``([stokes,] n, pixels)``.
        """
        mask = None
        if self._observation.masks:
            mask = np.logical_or.reduce([np.broadcast_to(m, self._cube.data.shape) for m in self._observation.masks])
        return with_own_coordinates(self._cube).to_nddata(
            data=self.light_array(values),
            unit=unit,
            uncertainty=None,
            mask=mask,
            meta={},
            nddata_type=NDCube,
            extra_coords="copy",
            global_coords="copy",
        )

    def light_array(self, values) -> np.ndarray:
        """Numbers ``([stokes,] n, pixels)`` along the cube's own axes; NaN at Stokes parameters that were not used."""
        values = np.asarray(values)
        out = np.full(self._cube.data.shape, np.nan, dtype=values.dtype if values.dtype.kind == "f" else float)
        view = out.transpose(self._axes.order)
        filled = np.moveaxis(values, -1, 0)
        if self._axes.sample is None:
            filled = filled[..., 0]
        shape = self._grid.shape if self._axes.grid else ()
        filled = filled.reshape(*shape, *filled.shape[1:])
        if self._observation.stokes_index is None:
            view[...] = filled
        else:
            lead = (slice(None),) * len(self._axes.grid)
            if len(self._observation.stokes) == 1:
                filled = np.expand_dims(filled, len(self._axes.grid))
            view[(*lead, list(self._observation.stokes_index))] = filled
        return out


def with_tables(wcs, axes: Sequence[tuple[str, u.Quantity]]):
    """A WCS with further world axes, each a table, in front of its array axes."""
    if not axes:
        return wcs
    wcs = getattr(wcs, "low_level_wcs", wcs)
    tables = [_table(name, places) for name, places in reversed(axes)]
    if isinstance(wcs, SlicedLowLevelWCS):
        # ASDF knows slices of a compound, but no compound of slices.
        whole = CompoundLowLevelWCS(wcs._wcs, *tables)
        return SlicedLowLevelWCS(whole, [*[slice(None)] * len(tables), *wcs._slices_array])
    return CompoundLowLevelWCS(wcs, *tables)


def _table(name: str, places: u.Quantity):
    # ndcube's own way with a table of one entry cannot be stored in ASDF: a second one that no pixel reaches can.
    places = places if len(places) > 1 else u.Quantity([places[0].value, places[0].value + 1], places.unit)
    return QuantityTableCoordinate(places, names=name, physical_types=f"custom:{name}").wcs
