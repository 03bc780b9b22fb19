"""One pixel: its spectrum, the fit, the fit's components, and what remains."""

from __future__ import annotations

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.coordinates import SkyCoord
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core.status import Status
from .maps import unit_text

__all__ = ["plot_spectrum"]


def plot_spectrum(result, pixel=None, *, figure: Figure | None = None) -> Figure:
    """Draw the spectrum of one pixel with its errors, the fit, its components, and the residual below.

    Parameters
    ----------
    result : `~sunpy_specfit.FitResult`
        One that comes from a file does not hold the data: `~sunpy_specfit.FitResult.with_data` adds them.
    pixel : tuple of int or `~astropy.coordinates.SkyCoord`, optional
        Array index on the map, or a place on the sky. Only a map of one pixel needs none.
    figure : `~matplotlib.figure.Figure`, optional
        Where to draw; by default a new figure.

    Returns
    -------
    `~matplotlib.figure.Figure`
        A column for each window fitted jointly; in it, for each Stokes parameter, the spectrum and below it the
        residual in units of sigma. Samples that the fit left out are not drawn.

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> result = specfit.fit(gaussian_cube((4, 5)), specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0))
    >>> figure = result.plot_spectrum((2, 3))
    >>> [axes.get_ylabel() for axes in figure.axes][1]
    'residual / $\\\\sigma$'
    """
    index = pixel_index(result, pixel)
    profiles = [result._profile(number, index) for number in range(len(result._canvases))]
    columns, rows = len(profiles), max(len(p.names) for p in profiles)
    if figure is None:
        size = (max(6.4, 4.6 * columns), 1.2 + 2.9 * rows) if rows > 1 or columns > 1 else (6.8, 4.6)
        figure = plt.figure(figsize=size, layout="constrained")
    figure.suptitle(_title(result, index), size="medium")
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[3, 1] * rows)
    for column, profile in enumerate(profiles):
        for row, name in enumerate(profile.names):
            upper = figure.add_subplot(grid[2 * row, column])
            lower = figure.add_subplot(grid[2 * row + 1, column], sharex=upper)
            _draw(upper, lower, profile, row)
            upper.set_ylabel(_with_unit(f"Stokes {name}" if name else "", profile.data_unit), size="small")
            lower.set_ylabel(r"residual / $\sigma$", size="small")
            if row == len(profile.names) - 1:
                lower.set_xlabel(_with_unit("wavelength", profile.spectral_unit) or "channel", size="small")
            if row == 0 and len(profile.components) > 1:
                upper.legend(fontsize="small", frameon=False)
    return figure


def pixel_index(result, pixel) -> tuple[int, ...]:
    """The array index of a pixel given as an index or as a place on the sky.

    Raises
    ------
    IndexError
        If it does not lie on the map.
    ValueError
        If none is given for a map of several, or a place on the sky does not name one.
    """
    shape = result.status.shape
    if pixel is None:
        if result.status.data.size != 1:
            raise ValueError(f"which pixel? The map has shape {shape}: give an array index or a SkyCoord")
        return (0,) * len(shape)
    if isinstance(pixel, SkyCoord):
        wcs = result.status.wcs
        try:
            found = wcs.world_to_array_index(pixel)
        except (TypeError, ValueError):
            raise ValueError(
                f"a SkyCoord alone does not name a pixel of this map, whose axes are "
                f"{', '.join(map(str, wcs.world_axis_physical_types))}: give its array index"
            ) from None
        index = tuple(int(i) for i in np.atleast_1d(found))
        what = f"{pixel.to_string()}, array index {index},"
    else:
        index = tuple(int(i) for i in np.atleast_1d(pixel))
        what = f"pixel {index}"
        if len(index) == len(shape):
            index = tuple(i + n if i < 0 else i for i, n in zip(index, shape, strict=True))
    if len(index) != len(shape) or not all(0 <= i < n for i, n in zip(index, shape, strict=True)):
        raise IndexError(f"{what} does not lie on this map of shape {shape}")
    return index


def _draw(upper: Axes, lower: Axes, profile, row: int) -> None:
    if profile.data is not None:
        x, good = profile.x, profile.used[row]
        data, sigma = profile.data[row], profile.sigma[row]
        upper.errorbar(x[good], data[good], sigma[good], fmt="o", ms=3, lw=0.9, color="0.25", label="data", zorder=2)
    if len(profile.components) > 1:
        for number, (name, light) in enumerate(profile.components.items()):
            upper.plot(profile.fine_x, light[row], "--", lw=1.1, color=f"C{number}", label=name, zorder=3)
    upper.plot(profile.fine_x, profile.fine_light[row], color="C3", lw=1.5, label="fit", zorder=4)
    upper.tick_params(labelsize="small", labelbottom=False)
    upper.ticklabel_format(axis="x", useOffset=False)
    lower.axhline(0, color="C3", lw=1)
    if profile.data is not None and 0 < profile.used[row].sum() < 0.6 * len(profile.x):
        # What a window left out would take most of the panel.
        low, high = np.min(x[good]), np.max(x[good])
        upper.set_xlim(low - 0.15 * (high - low), high + 0.15 * (high - low))
    if profile.data is not None and profile.used[row].any():
        residual = (data[good] - profile.light[row][good]) / sigma[good]
        lower.errorbar(x[good], residual, 1.0, fmt="o", ms=3, lw=0.9, color="0.25")
        largest = 1.15 * max(2.6, 1 + np.max(np.abs(residual), initial=0.0, where=np.isfinite(residual)))
        lower.set_ylim(-largest, largest)
    lower.tick_params(labelsize="small")


def _title(result, index: tuple[int, ...]) -> str:
    status = Status(int(result.status.data[index]))
    reduced = float(result.reduced_chi2.data[index])
    where = ", ".join(map(str, index))
    place = result.status.wcs.array_index_to_world(*index)
    if isinstance(place, SkyCoord) and hasattr(place, "Tx"):
        where += f" (Solar X {place.Tx.to_value(u.arcsec):.1f}, Y {place.Ty.to_value(u.arcsec):.1f} arcsec)"
    words = (status.name or "NONE").replace("|", ", ").replace("_", " ").lower()
    return f"pixel {where}: {words}, reduced chi2 {reduced:.2f}"


def _with_unit(word: str, unit) -> str:
    text = unit_text(unit)
    return f"{word} [{text}]" if word and text else word or text
