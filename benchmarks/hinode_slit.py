"""The quiet Sun as Hinode saw it along one slit: the section `real` of milne_eddington.py, and its figure."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from table import Table

import sunpy_specfit as specfit
from sunpy_specfit.core.observation import Observation
from sunpy_specfit.data import stokes_wcs

LINES = ["Fe I 6301.5", "Fe I 6302.5"]
# Per Stokes parameter: that of I is what a Milne-Eddington atmosphere leaves, not noise.
SIGMA = (6e-3, 3e-4, 3e-4, 3e-4)


def real(options) -> list[Table]:
    """The quiet Sun as Hinode saw it, along one slit."""
    cube, stored = slit(options.folder)
    # The file's wavelengths are rounded to half a milliångström, as the other code's known figures have them.
    result = specfit.fit(cube, specfit.MilneEddington(LINES, compiled=options.compiled), spectral_axis=stored)
    squared = misfit(result, cube)
    ours = {"all": squared.mean((0, 1)).ravel(), **dict(zip("IQUV", squared.mean(1)[:, 0], strict=True))}
    peer = options.peer and options.peer.invert_slit(cube, stored.to_value(u.AA), starts=6)
    # Known to the digits given: half a digit more is the same.
    known = peer or {"all": 2.305, "I": 4.45, "Q": 1.155, "U": 1.115, "V": 1.865}
    table = Table("real: Hinode/SP slit, 1024 pixels, nine parameters; medians over the pixels of chi-squared a sample")
    for name, values in ours.items():
        goal = 1.001 * float(np.median(known[name])) if peer else known[name]
        table.quality(f"{name}; goal: pyMilne's", float(np.median(values)), at_most=goal, form="{:.4f}")
    result = specfit.fit(cube, specfit.MilneEddington(LINES))
    ours["even"] = misfit(result, cube).mean((0, 1)).ravel()
    table.note("all, with even wavelengths", float(np.median(ours["even"])), "{:.4f}")
    table.note("median field strength (G)", np.median(result["field_strength"].data), "{:.1f}")
    table.note("largest |B_los| (G)", np.abs(result["b_los"].data).max(), "{:.1f}")
    table.note("pixels that did not converge", float(np.mean((result.status.data & 1) == 0)), "{:.2%}")
    worst = np.argsort(ours["even"])[::-1][:100]
    local = specfit.fit(cube, specfit.MilneEddington(LINES, stray_light="mean"))
    with_stray = misfit(local, cube).mean((0, 1)).ravel()
    table.note("all pixels, with mean stray light", np.median(with_stray), "{:.4f}")
    some = pixels_of(cube, worst)
    pairs = {
        "two atmospheres": specfit.two_atmospheres(LINES),
        "two, with thermodynamics of their own": specfit.two_atmospheres(
            LINES, shared=("source_constant", "source_gradient")
        ),
    }
    fits = {name: specfit.fit(some, pair) for name, pair in pairs.items()}
    chi2 = {
        "one atmosphere": ours["even"][worst],
        "and stray light": with_stray[worst],
        **{name: misfit(fit, some).mean((0, 1)).ravel() for name, fit in fits.items()},
    }
    for name, values in chi2.items():
        table.note(f"the hundred worst: {name}", np.median(values), "{:.2f}")
    for name, values in chi2.items():
        table.note(f"the eight worst: {name}", values[:8].mean(), "{:.2f}")
    table.quality(
        "the eight worst: two over one", (chi2["two atmospheres"] / chi2["one atmosphere"])[:8].max(), at_most=1.0
    )
    if options.plot:
        light = {
            "one atmosphere": result.model().data[:, :, 0, worst],
            "and stray light": local.model().data[:, :, 0, worst],
        }
        light |= {name: fit.model().data[:, :, 0] for name, fit in fits.items()}
        plot_worst(some, worst, light, chi2, options.plot)
    return [table]


def misfit(result, cube) -> np.ndarray:
    """Chi-squared of each sample."""
    return (result.residual().data / cube.uncertainty.array) ** 2


def slit(folder: Path) -> tuple[NDCube, u.Quantity]:
    """The slit as a map of one row, on even wavelengths, and those that the file gives."""
    stored = np.load(folder / "hinode_sp_20070227_slit.npz")
    data = stored["stokes"].transpose(0, 2, 1)[:, :, None, :].astype(np.float32)
    sigma = np.broadcast_to(np.array(SIGMA, np.float32)[:, None, None, None], data.shape)
    wcs = stokes_wcs((1, data.shape[-1]), stored["wave_A"] * u.AA)
    cube = NDCube(data, wcs=wcs, unit=u.dimensionless_unscaled, uncertainty=StdDevUncertainty(sigma))
    return cube, stored["wave_A"] * u.AA


def wavelengths(cube) -> np.ndarray:
    """In Å."""
    seen = Observation.from_cube(cube)
    return (seen.x * seen.spectral_unit).to_value(u.AA)


def pixels_of(cube, numbers) -> NDCube:
    """Some pixels of a slit as a slit."""
    data = np.ascontiguousarray(cube.data[..., numbers])
    sigma = StdDevUncertainty(np.ascontiguousarray(cube.uncertainty.array[..., numbers]))
    wcs = stokes_wcs((1, len(numbers)), wavelengths(cube) * u.AA)
    return NDCube(data, wcs=wcs, unit=cube.unit, uncertainty=sigma)


def plot_worst(cube, numbers, light, chi2, path) -> None:
    """I and V of the eight worst pixels, and what each model makes of them."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    x = wavelengths(cube)
    figure, axes = plt.subplots(4, 4, figsize=(14, 9), sharex=True, layout="constrained")
    for pixel in range(8):
        column, first = pixel % 4, 2 * (pixel // 4)
        for axis, stokes in ((axes[first, column], 0), (axes[first + 1, column], 3)):
            scale = 1 if stokes == 0 else 100
            axis.plot(x, scale * cube.data[stokes, :, 0, pixel], "k.", ms=2.5)
            for values, colour in zip(light.values(), ("tab:red", "tab:orange", "tab:blue", "tab:green"), strict=True):
                axis.plot(x, scale * values[stokes, :, pixel], lw=1, color=colour)
        found = " / ".join(f"{values[pixel]:.0f}" for values in chi2.values())
        axes[first, column].set_title(f"pixel {numbers[pixel]}: chi² {found}", fontsize=8)
    for row, label in zip(axes, ("I / Ic", "V / Ic (%)") * 2, strict=True):
        row[0].set_ylabel(label)
    for axis in axes[-1]:
        axis.set_xlabel("wavelength (Å)")
    figure.legend(["data", *light], loc="outside upper center", ncols=5, fontsize=9)
    figure.savefig(path, dpi=80)
