"""All maps of a result in one figure."""

from __future__ import annotations

from collections.abc import Sequence

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.visualization.wcsaxes import WCSAxes
from astropy.wcs.wcsapi import BaseLowLevelWCS
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from ndcube import NDCube

__all__ = ["color_limits", "plot_maps"]

_PANEL = 2.4  # inches along the longer side
_COLORBAR = 1.15  # inches for a colour bar and its label
_WIDEST = 10.5  # inches: labels are then still legible on a page
_SLENDEREST = 5.0
_NO_DATA = "0.72"
_MOST_ROWS_OF_A_VECTOR = 6


def plot_maps(
    result, names: str | Sequence[str] | None = None, *, columns: int | None = None, figure: Figure | None = None
) -> Figure:
    """Draw maps side by side, each with its unit, its world coordinates and a colour bar.

    Parameters
    ----------
    result : `~sunpy_specfit.FitResult`
        Where a map has more than two axes, its first frame is drawn: slice the result for another.
    names : str or sequence of str, optional
        What to draw, in this order; by default every fitted and derived quantity, and ``"reduced_chi2"``.
    columns : int, optional
        Panels per row; by default what suits the shape of the maps.
    figure : `~matplotlib.figure.Figure`, optional
        Where to draw; by default a new figure.

    Returns
    -------
    `~matplotlib.figure.Figure`

    Notes
    -----
    Colours span the 1st to the 99th percentile. Velocities, and whatever else has both signs, are centred on zero
    (red: positive, which is away from the observer); angles that wrap have a cyclic map. Masked pixels are grey.

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> result = specfit.fit(gaussian_cube((8, 9)), specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0))
    >>> figure = result.plot(["intensity", "velocity"])
    >>> len(figure.axes)  # two maps, two colour bars
    4
    """
    if names is None:
        names = [*result, "reduced_chi2"]
    elif isinstance(names, str):
        names = [names]
    n = result.status.data.ndim
    panels = [
        panel
        for name in names
        for panel in _panels(name, result.reduced_chi2 if name == "reduced_chi2" else result[name], n)
    ]
    shape = panels[0][1].shape
    if len(shape) == 1:
        return _plot_lines(panels, figure)
    ratio = _shape_on_the_sky(panels[0][1])
    # A few raster steps of a long slit true to scale would be a thread: beyond this, panels are filled instead.
    stretched = not 1 / _SLENDEREST < ratio < _SLENDEREST
    ratio = min(max(ratio, 1 / _SLENDEREST), _SLENDEREST)
    if columns is None:
        columns = _columns(len(panels), ratio)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width, height = (_PANEL / ratio, _PANEL) if ratio > 1 else (_PANEL, _PANEL * ratio)
    if figure is None:
        size = (columns * (max(width, 0.9) + _COLORBAR) + 0.5, rows * (height + 0.45) + 0.5)
        figure = plt.figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)
    for number, (label, cube) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1, projection=cube.wcs)
        _draw(axes, label, cube, "auto" if stretched else _aspect(cube))
        last = number + columns >= len(panels)
        _label(axes, cube.wcs.low_level_wcs, left=number % columns == 0, bottom=last)
    return figure


def color_limits(values: np.ndarray, name: str, unit: u.UnitBase) -> tuple[float, float, str]:
    """Lower limit, upper limit and colour map for a quantity.

    Examples
    --------
    >>> import astropy.units as u
    >>> import numpy as np
    >>> from sunpy_specfit.visualization.maps import color_limits
    >>> color_limits(np.array([-10.0, 2.0, 4.0]), "velocity", u.km / u.s)
    (-9.76, 9.76, 'RdBu_r')
    """
    bare = name.rpartition(".")[2]
    finite = values[np.isfinite(values)]
    if bare == "azimuth" and unit.is_equivalent(u.deg):
        # Disambiguated azimuths go all the way round.
        around = (180 * u.deg).to_value(unit)
        return 0.0, 2 * around if finite.size and finite.max() > around else around, "twilight"
    if not finite.size:
        return 0.0, 1.0, "viridis"
    low, high = (float(v) for v in np.percentile(finite, (1, 99)))
    if bare == "velocity" or (low < 0 < high and -low > 0.2 * high):
        largest = max(abs(low), abs(high)) or 1.0
        return -largest, largest, "RdBu_r"
    if not high > low:
        margin = abs(low) * 0.01 or 1.0
        low, high = low - margin, high + margin
    return low, high, "viridis"


def _panels(name: str, cube: NDCube, n: int) -> list[tuple[str, NDCube]]:
    """The two-dimensional (or one-dimensional) pictures of a quantity on n map axes, with what they are called."""
    if cube.data.ndim > n:
        k = cube.shape[0]
        chosen = np.unique(np.linspace(0, k - 1, min(k, _MOST_ROWS_OF_A_VECTOR)).round().astype(int))
        return [(f"{name}[{i}]", _frame(cube[int(i)])) for i in chosen]
    return [(name, _frame(cube))]


def _frame(cube: NDCube) -> NDCube:
    extra = cube.data.ndim - 2
    return cube[(0,) * extra] if extra > 0 else cube


def _shape_on_the_sky(cube: NDCube) -> float:
    """Height over width, of the field of view where that can be known."""
    return cube.shape[0] / cube.shape[1] * _aspect(cube)


def _aspect(cube: NDCube) -> float:
    """Height over width of a pixel; 1 where the axes are not both angles on the sky."""
    y, x = (np.array([(n - 1) / 2] * 3) for n in cube.shape)
    found = cube.wcs.pixel_to_world(x + [0, 1, 0], y + [0, 0, 1])
    if not isinstance(found, SkyCoord):
        return 1.0
    across, up = found[0].separation(found[1]), found[0].separation(found[2])
    ratio = float(up / across) if across > 0 else 1.0
    # A sit-and-stare has no width: its pixels are drawn square.
    return ratio if np.isfinite(ratio) and 0.02 < ratio < 50 else 1.0


def _columns(n: int, ratio: float) -> int:
    """So many panels in a row that the figure is about half as wide again as high, and few places stay empty."""
    width, height = (_PANEL / ratio, _PANEL) if ratio > 1 else (_PANEL, _PANEL * ratio)

    def cost(columns: int) -> float:
        rows = -(-n // columns)
        wide, high = columns * (width + _COLORBAR), rows * (height + 0.45)
        return abs(np.log(wide / high / 1.5)) + 2 * (rows * columns - n) / n + (10 if wide > _WIDEST else 0)

    return min(range(1, n + 1), key=cost)


def _draw(axes: WCSAxes, label: str, cube: NDCube, aspect: float | str) -> None:
    values = np.ma.array(np.asarray(cube.data, float), mask=_mask(cube))
    low, high, colors = color_limits(values.compressed(), label.partition("[")[0], cube.unit)
    image = axes.imshow(
        values,
        origin="lower",
        vmin=low,
        vmax=high,
        cmap=_with_grey(colors),
        aspect=aspect,
        interpolation="nearest",
    )
    beyond = values.compressed()
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
        bool((beyond < low).any()), bool((beyond > high).any())
    ]
    bar = axes.figure.colorbar(image, ax=axes, extend=extend, fraction=0.08, pad=0.03, aspect=22)
    bar.ax.tick_params(labelsize="small")
    bar.formatter = ScalarFormatter(useOffset=False, useMathText=True)
    bar.formatter.set_powerlimits((-3, 4))
    bar.formatter.set_locs(bar.get_ticks())
    # The power of ten belongs to the unit; above the bar it would collide with the next panel.
    power = bar.formatter.get_offset().replace(r"\times", "")
    bar.ax.yaxis.offsetText.set_visible(False)
    bar.set_label(" ".join(filter(None, (power, unit_text(cube.unit)))), size="small")
    axes.set_title(label, size="medium")


def _mask(cube: NDCube) -> np.ndarray:
    bad = ~np.isfinite(cube.data)
    return bad if cube.mask is None else bad | cube.mask


def _with_grey(name: str) -> Colormap:
    return plt.get_cmap(name).with_extremes(bad=_NO_DATA)


def unit_text(unit: u.UnitBase | None) -> str:
    """A unit for a label; nothing for a plain number."""
    return "" if unit is None or unit == u.dimensionless_unscaled else unit.to_string("latex_inline")


def _label(axes: WCSAxes, wcs: BaseLowLevelWCS, *, left: bool, bottom: bool) -> None:
    """World coordinates on the outer panels only, in words that observers use."""
    axes.tick_params(labelsize="small", direction="out")
    for number, coordinate in enumerate(axes.coords):
        kind = wcs.world_axis_physical_types[number] or ""
        word, unit = _axis_words(kind, wcs.world_axis_names[number])
        if unit is not None:
            coordinate.set_format_unit(unit, decimal=True, show_decimal_unit=False)
        vertical = number == 1
        if number > 1:
            coordinate.set_ticks_visible(False)
            coordinate.set_ticklabel_visible(False)
            coordinate.set_axislabel("")
            continue
        shown = left if vertical else bottom
        coordinate.set_ticks_position("l" if vertical else "b")
        coordinate.set_ticklabel_position("l" if vertical else "b")
        coordinate.set_axislabel_position("l" if vertical else "b")
        coordinate.set_ticklabel(size="small", exclude_overlapping=True)
        coordinate.set_ticks(number=4)
        coordinate.set_ticklabel_visible(shown)
        coordinate.set_axislabel(word if shown else "", minpad=0.6, size="small")
        coordinate.set_auto_axislabel(False)


def _axis_words(kind: str, name: str) -> tuple[str, u.UnitBase | None]:
    if kind.endswith("helioprojective.lon"):
        return "Solar X [arcsec]", u.arcsec
    if kind.endswith("helioprojective.lat"):
        return "Solar Y [arcsec]", u.arcsec
    if kind.startswith("time"):
        return "Time", None
    return name or kind.rpartition(":")[2] or "pixel", None


def _plot_lines(panels, figure: Figure | None) -> Figure:
    """One-dimensional maps: a slit, or a single spectrum."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    if figure is None:
        figure = plt.figure(figsize=(3.2 * columns, 2.2 * rows), layout="constrained")
    for number, (label, cube) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        good = ~_mask(cube)
        pixel = np.arange(cube.shape[0])
        sigma = (
            None
            if cube.uncertainty is None
            else np.where(np.isfinite(cube.uncertainty.array), cube.uncertainty.array, 0)
        )
        axes.errorbar(
            pixel[good], cube.data[good], None if sigma is None else sigma[good], fmt=".", ms=3, lw=0.8, color="C0"
        )
        axes.set_title(label, size="medium")
        axes.set_ylabel(unit_text(cube.unit), size="small")
        axes.set_xlabel("pixel" if number + columns >= len(panels) else "", size="small")
        axes.tick_params(labelsize="small")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure
