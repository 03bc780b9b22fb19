"""What a prior has to beat: means over neighbouring pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from scipy.ndimage import uniform_filter

__all__ = ["best", "boxcar", "weighted_boxcar"]


def weighted_boxcar(values: np.ndarray, sigma: np.ndarray | None, size: tuple[int, ...]) -> np.ndarray:
    """Running means of what is finite, with weights 1/sigma² where ``sigma`` is given; at an edge, of what is inside.

    Parameters
    ----------
    values, sigma : `numpy.ndarray`
    size : tuple of int
        For each axis.
    """
    weight = np.ones(values.shape) if sigma is None else np.asarray(sigma, float) ** -2.0
    weight = np.where(np.isfinite(values) & np.isfinite(weight), weight, 0.0)
    total = uniform_filter(weight, size, mode="constant")
    summed = uniform_filter(weight * np.where(weight > 0, values, 0.0), size, mode="constant")
    # A running sum leaves rounding where there is nothing.
    return np.where(total > 1e-9 * weight.max(), summed / np.where(total > 0, total, 1.0), np.nan)


def boxcar(cube: NDCube, size: tuple[int, ...]) -> NDCube:
    """A cube of running means of what is there, with their errors.

    Parameters
    ----------
    cube : `~ndcube.NDCube`
        With uncertainties.
    size : tuple of int
        For each axis.
    """
    good = np.isfinite(cube.data)
    sigma = np.where(good, cube.uncertainty.array, 0.0)
    number = np.prod(size)
    count = number * uniform_filter(good.astype(float), size, mode="nearest")
    count[count < 0.5] = np.nan
    mean = number * uniform_filter(np.where(good, cube.data, 0.0), size, mode="nearest") / count
    error = np.sqrt(np.clip(number * uniform_filter(sigma**2, size, mode="nearest"), 0.0, None)) / count
    return NDCube(mean, wcs=cube.wcs, unit=cube.unit, uncertainty=StdDevUncertainty(error), mask=cube.mask)


def best(errors: Mapping[str, float]) -> str:
    """The name of the smallest."""
    return min(errors, key=errors.get)
