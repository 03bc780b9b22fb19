"""Where a result draws its maps and its light: the axes of one observation, with or without its data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import astropy.units as u
import numpy as np
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

from .axes import behind_axes, with_own_coordinates
from .drawing import Drawing
from .expression import from_plain, to_plain
from .noise import Noise
from .observation import Observation
from .warnings import SpecfitWarning

__all__ = ["Canvas"]


@dataclass(frozen=True)
class Canvas:
    """The grid, the coordinates and the units of one observation.

    Attributes
    ----------
    observation : `Observation`
        Gives maps and light their axes. For a part of a result, or one from a file, it holds no data.
    options : dict
        What `Observation.from_cube` needs beside a cube to find the same axes again.
    source : `Observation` or None
        The data, if they are at hand.
    pixels : `numpy.ndarray` or None
        Which pixels of the source these are; None means all of them.
    cube : `~ndcube.NDCube` or None
        The data as given, of this part.
    uncertainty : `Noise`, `~astropy.units.Quantity`, "given" or None
        What `Observation.from_cube` needs to find the errors again that were fitted with: nothing where they are the
        cube's; where they were given as an array, that word alone, for nobody would keep them twice.
    """

    observation: Observation
    options: Mapping[str, Any]
    source: Observation | None = None
    pixels: np.ndarray | None = None
    cube: NDCube | None = field(default=None, repr=False)
    uncertainty: Noise | u.Quantity | str | None = None

    @classmethod
    def of(cls, observation: Observation, model) -> Canvas:
        """The canvas of an observation that a model was fitted to."""
        options = {"data_axis": model.data_axis, "stokes": model.stokes}
        return cls(observation, options, observation, None, observation.cube, _uncertainty_of(observation))

    # -- drawing ---------------------------------------------------------------------------------

    @cached_property
    def _drawing(self) -> Drawing:
        return Drawing(self.observation)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of maps."""
        return self.observation.grid.shape

    @property
    def x(self) -> np.ndarray:
        """The data axis, ``(n,)`` or ``(n, pixels)``, in `spectral_unit`."""
        return self.observation.x

    @property
    def data_unit(self) -> u.UnitBase:
        """The unit of light."""
        return self.observation.data_unit

    @property
    def spectral_unit(self) -> u.UnitBase | None:
        """The unit of the data axis."""
        return self.observation.spectral_unit

    def map_cube(self, values, unit, **options) -> NDCube:
        """A map ``([k,] pixels)`` with its coordinates."""
        return self._drawing.map_cube(values, unit, **options)

    def light_cube(self, values) -> NDCube:
        """Light ``([stokes,] n, pixels)`` with its coordinates."""
        return self._drawing.light_cube(values, self.data_unit)

    # -- axes ------------------------------------------------------------------------------------

    @property
    def _map_axes(self) -> tuple[int, ...]:
        """Which of the light's axes are the map's."""
        return self.observation.axes.grid

    @cached_property
    def _template(self) -> NDCube:
        """A cube of the light's axes."""
        grid, samples = self.observation.grid, self.observation.sample_shape
        return _empty(self.light_cube(np.broadcast_to(np.float32(0), (*samples, grid.size))))

    @cached_property
    def spectral_axis(self) -> u.Quantity | None:
        """The data axis as `Observation.from_cube` takes it: along the light's axis, or one number a sample."""
        if self.spectral_unit is None:
            return None
        x, axes = np.asarray(self.x, float), self.observation.axes
        if x.ndim == 1:
            return u.Quantity(x, self.spectral_unit)
        full = np.empty(self._template.data.shape)
        rows = x.T.reshape(*(self.shape if axes.grid else ()), *([1] if axes.stokes is not None else []), len(x))
        full.transpose(axes.order)[...] = rows
        return u.Quantity(full, self.spectral_unit)

    def part(self, item) -> tuple[Canvas, np.ndarray]:
        """Some of the pixels, and their numbers among all.

        Parameters
        ----------
        item
            What one would index a map with: integers and slices.

        Raises
        ------
        IndexError
            If it is something else, leaves no pixel, or a slice has a step, which a WCS cannot have.
        """
        template, map_axes = self._template, self._map_axes
        item = _from_the_front(item, self.shape)
        chosen = np.arange(self.observation.grid.size).reshape(self.shape)[item]
        if not chosen.size:
            raise IndexError(f"{item!r} leaves no pixel of a map of shape {self.shape}")
        if not map_axes:
            return self, chosen.ravel()
        full = [slice(None)] * template.data.ndim
        for axis, one in zip(map_axes, item, strict=True):
            full[axis] = one
        full = tuple(full)
        axis = self.spectral_axis
        if axis is not None and axis.ndim > 1:
            axis = axis[full]
        observation = _observe(_noiseless(with_own_coordinates(template)[full]), axis, self.options, self.spectral_unit)
        numbers = np.arange(self.observation.grid.size) if self.pixels is None else self.pixels
        cube = None if self.cube is None else with_own_coordinates(self.cube)[full]
        part = replace(self, observation=observation, pixels=numbers[chosen.ravel()], cube=cube)
        return part, chosen.ravel()

    # -- data ------------------------------------------------------------------------------------

    def with_data(self, cube: NDCube) -> Canvas:
        """The same with the data of a cube.

        Raises
        ------
        ValueError
            If the cube has another shape.
        """
        given = self.uncertainty
        lost = isinstance(given, str) and (self.source is None or self.pixels is not None)
        if lost:
            warnings.warn(
                "this result was fitted with an array given as uncertainty=, which it no longer holds: "
                "the uncertainty of the cube stands in for it",
                SpecfitWarning,
                stacklevel=4,
            )
        stand_in = StdDevUncertainty(np.float32(1)) if isinstance(given, str) and not lost else None
        options = {**self.options, "uncertainty": stand_in if isinstance(given, str) else given}
        found = _observe(cube, self.spectral_axis, options, self.spectral_unit)
        if (found.grid.shape, found.sample_shape) != (self.shape, self.observation.sample_shape):
            raise ValueError(
                f"the cube given as data has maps of shape {found.grid.shape} with {found.sample_shape} samples, "
                f"this result {self.shape} with {self.observation.sample_shape}: give the cube that was fitted"
            )
        if found.data_unit != self.data_unit:
            raise u.UnitConversionError(
                f"the cube given as data is in {found.data_unit}, this result in {self.data_unit}: give the cube that "
                "was fitted"
            )
        if isinstance(given, str) and not lost:
            found = replace(found, sigma=self.source.sigma, noise_origin=given)
        return replace(self, source=found, pixels=None, cube=cube)

    def samples(self, pixel: int, light: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Data, sigma (infinite where a sample is not used), and use of one pixel's samples; None without data.

        The light that is predicted there tells sigma where the noise depends on it.
        """
        if self.source is None:
            return None
        number = pixel if self.pixels is None else self.pixels[pixel]
        block = self.source.block(np.array([number]))
        weight = block.weight[..., 0].numpy()
        used = weight > 0
        if self.source.noise is not None:
            variance = self.source.noise.variance(torch.as_tensor(light, dtype=torch.float64)).numpy()
            sigma = np.where(used, np.sqrt(variance), np.inf)
        else:
            with np.errstate(divide="ignore"):
                sigma = 1 / np.sqrt(weight)
        return block.data[..., 0].numpy(), sigma, used

    def minus(self, light: NDCube) -> NDCube:
        """The data minus light, with the errors and the masks that were fitted with."""
        chosen = slice(None) if self.pixels is None else self.pixels
        if self.source.noise is not None:
            sigma = self.source.noise.variance(torch.as_tensor(light.data, dtype=torch.float64)).sqrt().numpy()
        else:
            sigma = self._drawing.light_array(self.source.deviations(chosen))
        mask = self.source.masked(chosen)
        return with_own_coordinates(light).to_nddata(
            # Not in the cube's unit, which may be mislabelled: that of the light is what the values are in.
            data=np.asarray(self.cube.data) - light.data,
            uncertainty=StdDevUncertainty(sigma),
            # Stokes parameters that were not fitted have no residual.
            mask=None if mask is None else self._drawing.light_array(mask) != 0,
            nddata_type=NDCube,
            extra_coords="copy",
            global_coords="copy",
        )

    def difference(self, other: Canvas) -> str | None:
        """What tells the data behind two canvases apart, as far as can be known; None where nothing does."""
        mine, theirs = self.observation, other.observation
        if (mine.grid.shape, mine.sample_shape, mine.data_unit) != (
            theirs.grid.shape,
            theirs.sample_shape,
            theirs.data_unit,
        ):
            return "data of another shape or unit"
        if self.source is None or other.source is None:
            same = repr(self.uncertainty) == repr(other.uncertainty)
            return None if same else "other uncertainties"
        if not _alike(self.cube.data, other.cube.data):
            return "another cube"
        if self.source.noise is not None or other.source.noise is not None:
            return None if repr(self.source.noise) == repr(other.source.noise) else "another noise model"
        chosen = [slice(None) if one.pixels is None else one.pixels for one in (self, other)]
        one, two = self.source.sigma, other.source.sigma
        if one.values is two.values and (one.power, one.factor) == (two.power, two.factor):
            return None
        same = _alike(self.source.deviations(chosen[0]), other.source.deviations(chosen[1]))
        return None if same else "other uncertainties"

    # -- plain data ------------------------------------------------------------------------------

    def to_plain(self) -> dict[str, Any]:
        """All but the data, as ASDF writes it."""
        template = self._template
        # The coordinates of a cube hold on to it, so they are written with one that has no data.
        small = NDCube(np.zeros((1,) * template.data.ndim, np.float32), wcs=template.wcs)
        if not template.extra_coords.is_empty:
            small._extra_coords = copy(template.extra_coords)
            small._extra_coords._ndcube = small
        return {
            "axes": small,
            "global_coords": [
                {"name": name, "physical_type": kind, "value": value}
                for name, (kind, value) in template.global_coords._internal_coords.items()
            ],
            "shape": list(template.data.shape),
            "data_unit": self.data_unit,
            "spectral_unit": self.spectral_unit,
            "spectral_axis": self.spectral_axis,
            "options": dict(self.options),
            "uncertainty": to_plain(self.uncertainty),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Canvas:
        """The canvas again, without data."""
        small = plain["axes"]
        template = NDCube(np.broadcast_to(np.float32(0), tuple(plain["shape"])), wcs=small.wcs, unit=plain["data_unit"])
        if not small.extra_coords.is_empty:
            # ASDF gives lists of axes back where ndcube slices tuples only.
            template._extra_coords = behind_axes(small.extra_coords, 0)
        for coordinate in plain["global_coords"]:
            template.global_coords.add(coordinate["name"], coordinate["physical_type"], coordinate["value"])
        options = dict(plain["options"])
        observation = _observe(_noiseless(template), plain["spectral_axis"], options, plain["spectral_unit"])
        return cls(observation, options, uncertainty=from_plain(plain.get("uncertainty"), strict=False))


def _empty(cube: NDCube) -> NDCube:
    """The same axes and coordinates, with data that take no memory."""
    return with_own_coordinates(cube).to_nddata(
        data=np.broadcast_to(np.float32(0), cube.data.shape),
        uncertainty=None,
        mask=None,
        meta=None,
        nddata_type=NDCube,
        extra_coords="copy",
        global_coords="copy",
    )


def _noiseless(template: NDCube) -> NDCube:
    """The same with some uncertainty, for an observation that is looked at for its axes only."""
    template.uncertainty = StdDevUncertainty(np.broadcast_to(np.float32(1), template.data.shape))
    return template


def _observe(cube: NDCube, spectral_axis, options, spectral_unit) -> Observation:
    return Observation.from_cube(cube, spectral_axis=spectral_axis, spectral_unit=spectral_unit, **options)


def _alike(one, two) -> bool:
    """Whether two arrays hold the same numbers; those that would have to be computed first pass for the same."""
    if one is two or not (isinstance(one, np.ndarray) and isinstance(two, np.ndarray)):
        return True
    return np.array_equal(one, two, equal_nan=one.dtype.kind == "f" and two.dtype.kind == "f")


def _uncertainty_of(observation: Observation) -> Noise | u.Quantity | str | None:
    if observation.noise is not None:
        return observation.noise
    values = observation.sigma.values
    if observation.noise_origin != "cube" and not any(getattr(values, "strides", (1,))):
        return u.Quantity(float(observation.sigma.deviations(values.flat[0])), observation.data_unit)
    return None if observation.noise_origin == "cube" else observation.noise_origin


def _from_the_front(item, shape: tuple[int, ...]) -> tuple[int | slice, ...]:
    """One integer or slice for each axis, counted from its beginning: ndcube knows no others."""
    items = item if isinstance(item, tuple) else (item,)
    if any(one is Ellipsis for one in items):
        where = next(number for number, one in enumerate(items) if one is Ellipsis)
        items = (*items[:where], *[slice(None)] * (len(shape) - len(items) + 1), *items[where + 1 :])
    if len(items) > len(shape):
        raise IndexError(f"{item!r} has {len(items)} indices, a map of shape {shape} has {len(shape)} axes")
    found = []
    for one, n in zip((*items, *[slice(None)] * (len(shape) - len(items))), shape, strict=True):
        if isinstance(one, slice):
            begin, end, step = one.indices(n)
            if step != 1:
                raise IndexError(f"{item!r} has a step, and coordinates cannot be sliced with one: use a step of one")
            found.append(slice(begin, max(begin, end)))
        elif isinstance(one, Integral) and not isinstance(one, (bool, np.bool_)):
            if not -n <= one < n:
                raise IndexError(f"index {one} is out of bounds for an axis of {n} pixels")
            found.append(int(one) % n)
        else:
            raise IndexError(f"a part of a result is cut with integers and slices, found {one!r}")
    return tuple(found)
