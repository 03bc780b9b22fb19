"""One pixel's DEM with its errors, and what single channels would allow."""

from __future__ import annotations

import astropy.units as u
import numpy as np

from .dem import DEM

__all__ = ["plot_dem"]


def plot_dem(result, pixel=None, *, axes=None, loci: bool = True):
    """The DEM of one pixel with its error band, and the EM-loci curves of its channels.

    On each locus a plasma of that temperature alone would give all that the channel sees: as emission in a bin, no DEM
    lies above them. The plot is of T · DEM, emission in equal steps of ln T, so that areas can be compared by eye.

    Parameters
    ----------
    result : `~sunpy_specfit.FitResult`
        Of a `DEM`.
    pixel : tuple of int, optional
        On the map; the middle one by default.
    axes : `~matplotlib.axes.Axes`, optional
    loci : bool
        Whether to draw the EM-loci curves, I / R(T), in emission measure.

    Returns
    -------
    `~matplotlib.axes.Axes`

    Raises
    ------
    ValueError
        If it is no result of a DEM.
    """
    import matplotlib.pyplot as plt

    model = next((c for c in result._layout.components if isinstance(c, DEM)), None)
    if model is None:
        raise ValueError("plot_dem shows results of a DEM")
    axes = plt.subplots(layout="constrained")[1] if axes is None else axes
    cube = result["dem"]
    shape = cube.data.shape[1:]
    pixel = tuple(n // 2 for n in shape) if pixel is None else tuple(np.atleast_1d(pixel))
    index = (slice(None), *pixel)
    temperature = model.centers.to_value(u.K)
    value, sigma = cube.data[index] * temperature, cube.uncertainty.array[index] * temperature
    edges = np.log10(model.bins.to_value(u.K))
    if model.form == "log":
        # The error is that of the logarithm: the band stays above zero.
        spread = np.exp(np.minimum(sigma / np.maximum(value, 1e-300), 50.0))
        low, high = value / spread, value * spread
    else:
        low, high = value - sigma, value + sigma
    axes.fill_between(edges, np.append(low, low[-1]), np.append(high, high[-1]), step="post", alpha=0.3, lw=0)
    axes.stairs(value, edges, lw=1.8, label="T · DEM", baseline=None)
    axes.set_yscale("log")
    if loci:
        light = result.model().data
        for name, amount, mean_response in zip(model.channels, light[index], model.mean_response, strict=True):
            with np.errstate(divide="ignore"):
                locus = amount / mean_response
            axes.plot(np.log10(temperature), locus, lw=0.8, ls="--", label=f"locus of {name}")
    top = np.nanmax(value)
    axes.set_ylim(top * 1e-4, top * 1e2)
    axes.set_xlabel("log T (K)")
    axes.set_ylabel(r"T · DEM, loci (cm$^{-5}$)")
    axes.legend(fontsize="small", ncols=2)
    return axes
