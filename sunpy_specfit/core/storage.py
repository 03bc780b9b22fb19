"""Results in ASDF files: plain data and arrays, no code."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path

import asdf
import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord, SpectralCoord
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from astropy.wcs.wcsapi import HighLevelWCSWrapper, SlicedLowLevelWCS
from ndcube import GlobalCoords, NDCube
from ndcube.wcs.wrappers import CompoundLowLevelWCS

from .canvas import Canvas
from .covariance import Propagation
from .expression import from_plain, missing, model_from_plain, model_to_plain, to_plain
from .factored import FactoredCovariance
from .frame import Frame
from .layout import Layout
from .prediction import Surroundings
from .warnings import SpecfitWarning

__all__ = ["load", "save"]

_FORMAT = 1


def save(result, path) -> None:
    """Write a result; see `FitResult.save`."""
    layout, propagation = result._layout, result._propagation
    maps = {key: _map_for_others(result, key) for key in result}
    models = [model_to_plain(model) for model in layout.models]
    lost = sorted({what for model in models for what in missing(model)})
    if lost:
        warnings.warn(
            f"a file cannot hold {' and '.join(lost)}: the maps are stored, but for model() and residual() one must "
            "give the model again, FitResult.load(path, model=...)",
            SpecfitWarning,
            stacklevel=3,
        )
    contents = {
        "format": _FORMAT,
        "names": list(result),
        "canvases": [canvas.to_plain() for canvas in result._canvases],
        "models": models,
        "values": [[key, value] for key, value in propagation.values.items()],
        "covariance": _covariance_to_plain(propagation.covariance_rows),
        "transform": propagation.transform,
        "derived": [[key, propagation.value(key), propagation.sigma(key)] for key in layout.derived],
        "auxiliary": to_plain(propagation.auxiliary),
        "turned": [[key, turned] for key, turned in propagation.turned.items()],
        "chi2": result._chi2,
        "dof": result._dof,
        "status": result._status,
        "n_valid": result._n_valid,
        "priors": to_plain(result._priors),
        "solver": to_plain(result._solver),
        "meta": to_plain(result.meta),
    }
    around = result._surroundings
    if around is not None:
        contents["surroundings"] = {
            "canvases": [canvas.to_plain() for canvas in around.canvases],
            "values": [[key, value] for key, value in around.propagation.values.items()],
            "auxiliary": to_plain(around.propagation.auxiliary),
            "pixels": around.pixels,
        }
    tree = {"sunpy_specfit": contents, "maps": maps}
    path = Path(path)
    # Written beside and then moved: a disk that fills up does not cost an earlier file.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _quiet_about_libraries():
            asdf.AsdfFile(tree).write_to(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(cls, path, model=None):
    """Read a result of class ``cls``; see `FitResult.load`."""
    with _quiet_about_libraries(), asdf.open(path, memmap=False, lazy_load=False) as file:
        if "sunpy_specfit" not in file.tree:
            raise ValueError(f"{path} is an ASDF file, but FitResult.save did not write it")
        contents = file.tree["sunpy_specfit"]
        if contents["format"] > _FORMAT:
            raise ValueError(
                f"{path} has format {contents['format']} of a later sunpy_specfit than this, which reads up to "
                f"format {_FORMAT}: update sunpy_specfit"
            )
        canvases = [Canvas.from_plain(plain) for plain in contents["canvases"]]
        models = _models(contents["models"], model)
        layout = Layout(models, [Frame(canvas.data_unit, canvas.spectral_unit) for canvas in canvases])
        values = {key: np.array(value) for key, value in contents["values"]}
        if set(layout.parameters) != set(values):
            raise ValueError(
                f"the model given has the parameters {', '.join(layout.parameters)}; the one that was fitted had "
                f"{', '.join(values)}"
            )
        result = cls(
            observations=canvases,
            layout=layout,
            values=values,
            covariance=_covariance_from_plain(contents["covariance"]),
            transform=_array(contents["transform"]),
            chi2=_array(contents["chi2"]),
            dof=_array(contents["dof"]),
            status=_array(contents["status"]),
            n_valid=_array(contents["n_valid"]),
            auxiliary=from_plain(contents["auxiliary"]),
            priors=from_plain(contents["priors"], strict=False),
            solver=from_plain(contents["solver"], strict=False),
            meta=from_plain(contents["meta"], strict=False),
        )
        result._propagation.remember(
            {key: (_array(value), _array(sigma)) for key, value, sigma in contents["derived"] if key in layout.derived}
        )
        result._propagation.turned = {key: np.array(turned) for key, turned in contents.get("turned", ())}
        result._surroundings = _surroundings(contents.get("surroundings"), layout, result._propagation.transform)
        return result


def _surroundings(plain, layout: Layout, transform: np.ndarray) -> Surroundings | None:
    if plain is None:
        return None
    values = {key: np.array(value) for key, value in plain["values"]}
    propagation = Propagation(layout, values, None, transform, from_plain(plain["auxiliary"]))
    canvases = tuple(Canvas.from_plain(canvas) for canvas in plain["canvases"])
    return Surroundings(propagation, canvases, np.array(plain["pixels"]))


def _models(plain: list, given) -> list:
    if given is None:
        return [model_from_plain(one) for one in plain]
    models = list(given) if isinstance(given, (list, tuple)) else [given] * len(plain)
    if len(models) != len(plain):
        raise ValueError(f"the file holds a fit of {len(plain)} models, found {len(models)}")
    return models


def _covariance_to_plain(covariance):
    return covariance.to_plain() if isinstance(covariance, FactoredCovariance) else covariance


def _covariance_from_plain(plain):
    return FactoredCovariance.from_plain(plain) if hasattr(plain, "keys") else _array(plain)


def _array(value) -> np.ndarray | None:
    return None if value is None else np.array(value)


def _map_for_others(result, key: str) -> NDCube:
    """A map that shares its numbers with the rest of the file, with what ndcube can store."""
    value, sigma = result._value(key), result._propagation.sigma(key)
    cube = result._map(value, result._unit(key), sigma, of=(key,))
    cube.meta = None
    cube._wcs = _sliced_as_a_whole(cube.wcs)
    # Coordinates hold on to a cube: one that holds on to them too is a circle that asdf cannot always read.
    own = GlobalCoords(NDCube(np.zeros((1,), np.float32), wcs=WCS(naxis=1)))
    for name, (kind, coordinate) in cube.global_coords._internal_coords.items():
        # ndcube's schema knows quantities and places; the others stand with the canvas, which loses none.
        if isinstance(coordinate, (u.Quantity, SkyCoord)) and not isinstance(coordinate, SpectralCoord):
            own.add(name, kind, coordinate)
    cube._global_coords = own
    if not cube.extra_coords.is_empty:
        cube._extra_coords = copy(cube.extra_coords)
        cube._extra_coords._ndcube = NDCube(np.zeros((1,) * cube.data.ndim, np.float32), wcs=cube.wcs)
    return cube


def _sliced_as_a_whole(wcs):
    """Side-by-side WCS, some of them sliced or made of others, as a slice of one row: ndcube's schema knows no more."""
    whole = getattr(wcs, "low_level_wcs", wcs)
    members, slices = _side_by_side(whole)
    if len(members) == 1 or (isinstance(whole, CompoundLowLevelWCS) and members == list(whole._wcs)):
        return wcs
    return HighLevelWCSWrapper(SlicedLowLevelWCS(CompoundLowLevelWCS(*members), slices))


def _side_by_side(wcs) -> tuple[list, list]:
    """What a WCS is made of, and the slice of all that, along the axes of an array."""
    if isinstance(wcs, SlicedLowLevelWCS):
        return _side_by_side(wcs._wcs)[0], list(wcs._slices_array)
    if not isinstance(wcs, CompoundLowLevelWCS) or list(wcs.mapping.mapping) != list(range(wcs.pixel_n_dim)):
        return [wcs], [slice(None)] * wcs.pixel_n_dim
    members, slices = [], []
    for member in wcs._wcs:
        own, sliced = _side_by_side(member)
        members += own
        slices = [*sliced, *slices]  # pixel axes are counted the other way round than those of arrays
    return members, slices


@contextmanager
def _quiet_about_libraries() -> Iterator[None]:
    """Without what a user can do nothing about.

    Astropy's word on spectral coordinates of cubes whose observer it knows but not their target, and on the Angstrom
    that ASDF has to spell by a standard which would rather not have it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "target cannot be converted to ICRS", AstropyWarning)
        warnings.filterwarnings("ignore", "The unit .* has been deprecated in the VOUnit standard", u.UnitsWarning)
        yield
