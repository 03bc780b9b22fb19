"""From images in several channels to one cube of count rates with errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import astropy.units as u
import numpy as np
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from scipy.ndimage import uniform_filter

from ...core.axes import find_axes
from ...core.channels import stack
from ...core.noise import Noise
from ...core.uncertainty import read_uncertainty
from .response import channel_name

__all__ = ["gather", "without_pixels"]

# DN for each photon, and read noise in DN, of AIA's cameras (Boerner et al. 2012, section 2.2 and table 6; the numbers
# are those of aia_bp_estimate_error in SolarSoft).
_AIA_DN_PER_PHOTON = {"94": 2.128, "131": 1.523, "171": 1.168, "193": 1.024, "211": 0.946, "304": 0.658, "335": 0.596}
_AIA_READ_NOISE = {"94": 1.14, "131": 1.18, "171": 1.15, "193": 1.20, "211": 1.20, "304": 1.14, "335": 1.18}


def without_pixels(unit: u.UnitBase) -> u.UnitBase:
    """A unit without "per pixel", and with counts of every name as DN: what remains tells rates from counts."""
    plain = u.dimensionless_unscaled
    for base, power in zip(unit.bases, unit.powers, strict=True):
        if base in (u.pix, u.beam):
            continue
        plain = plain * (u.DN if base in (u.DN, u.adu, u.ct) else base) ** power
    return plain if unit.scale == 1 else u.CompositeUnit(unit.scale, plain.bases, plain.powers)


def gather(data, channels: Sequence[str], unit: u.UnitBase, *, uncertainty=None, mask=None, response_error=None):
    """One cube with a channel axis, in the order of the channels and in the unit of the responses.

    Parameters
    ----------
    data : mapping of channel to `~ndcube.NDCube` or `~sunpy.map.GenericMap`, or an `~ndcube.NDCube`
        Of a cube with a channel axis the order is taken to be that of ``channels``, unless its meta has "channels".
    channels : sequence of str
    unit : `~astropy.units.Unit`
        What the responses predict, such as DN/s. Data in DN are divided by their exposure times.
    uncertainty
        A mapping of channel to Quantity, NDUncertainty or `Noise`, or one for all; by default that of the data, and
        for AIA maps photon and read noise.
    mask
        A mapping of channel to array, or one for all.
    response_error : float or mapping, optional
        The relative error of the responses: it adds to the noise.

    Returns
    -------
    cube : `~ndcube.NDCube`
    None
        For there is no uncertainty but the cube's.
    mask
    """
    if isinstance(data, Mapping):
        cube, mask = _from_mapping(data, channels, unit, uncertainty, mask)
    else:
        cube = _from_cube(data, channels, unit, uncertainty)
    if response_error is not None:
        cube = _with_response_error(cube, channels, response_error)
    return cube, None, mask


def _from_mapping(data, channels, unit, uncertainty, mask):
    images = {}
    for key in data:
        name = channel_name(key)
        if name in images:
            raise ValueError(f"channel {name!r} stands twice in the data")
        images[name] = data[key]
    missing = [c for c in channels if c not in images]
    extra = [c for c in images if c not in channels]
    if missing:
        left = ", ".join(repr(c) for c in channels if c in images)
        raise ValueError(
            f"the model has responses for {', '.join(channels)}, but the data have no {', '.join(missing)}: leave the "
            f"response out, as in responses.only({left}), or give the data"
        )
    if extra:
        raise ValueError(
            f"the data have the channel {', '.join(extra)}, for which the model has no response: leave it out, or add "
            f"its response; there are responses for {', '.join(channels)}"
        )
    for name, image in images.items():
        if not hasattr(image, "data") or not hasattr(image, "wcs"):
            raise TypeError(
                f"channel {name!r} is an NDCube or a sunpy Map, found {type(image).__name__}; wrap arrays in "
                "NDCube(data, wcs)"
            )
    images = {c: images[c] for c in channels}
    values, deviations, masks = [], [], []
    for name, image in images.items():
        own = _of_channel(uncertainty, name)
        rate, factor = _rate(name, image, unit)
        values.append(np.asarray(image.data, float) * factor)
        deviations.append(_deviation(name, image, own) * factor)
        hidden = _hidden(image, _of_channel(mask, name), np.shape(image.data))
        masks.append(hidden)
    shapes = {value.shape for value in values}
    any_hidden = any(hidden is not None for hidden in masks)
    if len(shapes) > 1:
        deviations, any_hidden = values, False  # it is refused in a moment, with a sentence
        cube_data = values[0]
    else:
        cube_data = np.stack(values)
    hidden = (
        np.stack([np.zeros(v.shape, bool) if m is None else m for v, m in zip(values, masks, strict=True)])
        if (any_hidden)
        else None
    )
    errors = StdDevUncertainty(np.stack(deviations)) if len(shapes) == 1 else None
    cube = stack(images, cube_data, rate, uncertainty=errors, mask=hidden)
    # A mask for every channel is in the cube; one of the map's shape, or the cube's, goes on.
    return cube, None if isinstance(mask, Mapping) else mask


def _of_channel(given, name: str):
    """What was given for one channel, or for all."""
    if not isinstance(given, Mapping):
        return given
    own = [value for key, value in given.items() if channel_name(key) == name]
    if not own:
        raise ValueError(f"nothing was given for channel {name!r}; there is {', '.join(map(str, given))}")
    return own[0]


def _hidden(image, given, shape) -> np.ndarray | None:
    found = [m for m in (getattr(image, "mask", None),) if m is not None and np.any(m)]
    if given is not None and np.shape(given) == shape:
        found.append(np.asarray(given, bool))
    return np.logical_or.reduce([np.broadcast_to(m, shape) for m in found]) if found else None


def _unit_of(image) -> u.UnitBase:
    unit = getattr(image, "unit", None)
    return u.dimensionless_unscaled if unit is None else u.Unit(unit)


def exposure_of(image) -> u.Quantity | None:
    """The exposure time of a Map, or of a cube whose meta tells it."""
    time = getattr(image, "exposure_time", None)
    if time is None:
        meta = getattr(image, "meta", None) or {}
        key = next((k for k in meta if str(k).lower() in ("exptime", "exposure_time", "xposure")), None)
        time = None if key is None else meta[key]
    if time is None:
        return None
    time = time if isinstance(time, u.Quantity) else time * u.s
    return time if np.all(np.isfinite(time.value)) and np.all(time.value > 0) else None


def _rate(name: str, image, wanted: u.UnitBase) -> tuple[u.UnitBase, float]:
    """The unit of a rate that the responses predict, and what brings the data to it."""
    own = without_pixels(_unit_of(image))
    target = without_pixels(wanted)
    if own.is_equivalent(target):
        return target, float(own.to(target))
    if (own / u.s).is_equivalent(target):
        time = exposure_of(image)
        if time is None:
            raise ValueError(
                f"channel {name!r} is in {_unit_of(image)} and the responses predict {wanted}: the exposure time is "
                "missing. Give data per second, or put the time in meta['exposure_time']"
            )
        return target, float((own / u.s).to(target)) / time.to_value(u.s)
    raise u.UnitConversionError(
        f"channel {name!r} is in {_unit_of(image)}, which does not convert to {wanted}, as the responses predict"
    )


def _deviation(name: str, image, given) -> np.ndarray:
    """Standard deviations of one channel in the unit of its data."""
    shape = np.shape(image.data)
    unit = _unit_of(image)
    own = getattr(image, "uncertainty", None)
    if given is None and (own is None or getattr(own, "array", None) is None):
        return _aia_deviation(name, image, unit)
    if isinstance(given, Noise):
        return _photon_deviation(given, image, unit)
    carrier = NDCube(np.broadcast_to(np.float64(0), shape), wcs=image.wcs, unit=unit, uncertainty=None)
    sigma, _ = read_uncertainty(given if given is not None else own, carrier, unit)
    if sigma is None:
        raise ValueError(f"the uncertainty of channel {name!r} is empty")
    return sigma.deviations(sigma.values)


def _photon_deviation(noise: Noise, image, unit) -> np.ndarray:
    """From the counts around each pixel, which scatter less than its own; noise is that of counts, not of rates."""
    counts = np.asarray(image.data, float)
    time = exposure_of(image)
    per_second = unit.is_equivalent(u.DN / u.s) or unit.is_equivalent(u.ct / u.s)
    if per_second and time is None:
        raise ValueError("photon noise of count rates needs the exposure time: put it in meta['exposure_time']")
    factor = time.to_value(u.s) if per_second else 1.0
    around = np.where(np.isfinite(counts), counts, 0.0) * factor
    if counts.ndim >= 2 and min(counts.shape[-2:]) >= 3:
        around = uniform_filter(around, size=(1,) * (counts.ndim - 2) + (3, 3), mode="nearest")
    plain = noise.in_unit(u.DN if per_second else unit)
    return np.sqrt(plain.variance(torch.as_tensor(around)).numpy()) / factor


def _aia_deviation(name: str, image, unit) -> np.ndarray:
    instrument = str(getattr(image, "instrument", "") or (getattr(image, "meta", None) or {}).get("instrume", ""))
    if not instrument.upper().startswith("AIA") or name not in _AIA_DN_PER_PHOTON:
        raise ValueError(
            f"channel {name!r} has no uncertainty: give it in the data, or as uncertainty={{channel: Quantity, "
            "NDUncertainty or CountNoise}"
        )
    time, counts = exposure_of(image), np.asarray(image.data, float)
    per_second = without_pixels(unit).is_equivalent(u.DN / u.s)
    if per_second and time is None:
        raise ValueError(f"channel {name!r} is in {unit} without an exposure time: give its uncertainty")
    factor = time.to_value(u.s) if per_second else 1.0
    around = np.where(np.isfinite(counts), counts, 0.0) * factor
    if counts.ndim >= 2 and min(counts.shape[-2:]) >= 3:
        around = uniform_filter(around, size=(1,) * (counts.ndim - 2) + (3, 3), mode="nearest")
    variance = _AIA_DN_PER_PHOTON[name] * np.maximum(around, 0.0) + _AIA_READ_NOISE[name] ** 2
    return np.sqrt(variance) / factor


def _from_cube(cube, channels, unit, uncertainty):
    if not isinstance(cube, NDCube):
        return cube  # refused later, with a sentence
    names = [channel_name(c) for c in (cube.meta or {}).get("channels", ())]
    axis = find_axes(cube, "channel").sample
    n = cube.data.shape[axis]
    if names and names != list(channels):
        raise ValueError(f"the cube's meta has the channels {', '.join(names)}, the model {', '.join(channels)}")
    if n != len(channels):
        raise ValueError(f"the cube has {n} channels, the model responses for {len(channels)}: {', '.join(channels)}")
    shape = tuple(-1 if i == axis else 1 for i in range(cube.data.ndim))
    own, target = without_pixels(_unit_of(cube)), without_pixels(unit)
    factor = np.ones(1)
    if own.is_equivalent(target):
        factor = np.full(n, own.to(target))
    elif (own / u.s).is_equivalent(target) and exposure_of(cube) is not None:
        factor = (own / u.s).to(target) / np.broadcast_to(exposure_of(cube).to_value(u.s), (n,))
    else:
        raise u.UnitConversionError(
            f"the data are in {cube.unit}, which does not convert to {unit}, as the responses predict"
            + (": the exposure time is missing in meta['exposure_time']" if (own / u.s).is_equivalent(target) else "")
        )
    if uncertainty is None and (cube.uncertainty is None or cube.uncertainty.array is None):
        raise ValueError(
            "these data have no uncertainty: give it in the cube, or as uncertainty=, a Quantity or an NDUncertainty"
        )
    if isinstance(uncertainty, Mapping):
        deviation = np.empty(cube.data.shape)
        view = np.moveaxis(deviation, axis, 0)
        for number, name in enumerate(channels):
            own_unit = u.Quantity(_of_channel(uncertainty, name))
            view[number] = own_unit.to_value(_unit_of(cube)) if own_unit.isscalar else own_unit.to_value(cube.unit)
    elif isinstance(uncertainty, Noise):
        raise ValueError("for a cube of channels give the noise of each, uncertainty={channel: Quantity}")
    else:
        sigma, _ = read_uncertainty(uncertainty, cube, _unit_of(cube))
        deviation = sigma.deviations(sigma.values)
    factor = np.asarray(factor, float).reshape(shape)
    return cube.to_nddata(
        data=np.asarray(cube.data) * factor if np.any(factor != 1) else cube.data,
        unit=target,
        uncertainty=StdDevUncertainty(deviation * factor if np.any(factor != 1) else deviation),
        nddata_type=NDCube,
        extra_coords="copy",
        global_coords="copy",
    )


def _with_response_error(cube, channels, response_error):
    axis = (
        0
        if cube.data.shape[0] == len(channels)
        else [i for i, n in enumerate(cube.data.shape) if n == len(channels)][0]
    )
    if isinstance(response_error, Mapping):
        error = np.array([float(_of_channel(response_error, c)) for c in channels])
    else:
        error = np.full(len(channels), float(response_error))
    error = error.reshape(tuple(-1 if i == axis else 1 for i in range(cube.data.ndim)))
    light = np.maximum(np.nan_to_num(np.asarray(cube.data, float)), 0.0)
    deviation = np.hypot(cube.uncertainty.array, error * light)
    return cube.to_nddata(
        uncertainty=StdDevUncertainty(deviation), nddata_type=NDCube, extra_coords="copy", global_coords="copy"
    )
