"""Priors with automatic scales on a real raster of Hinode/EIS, against boxcar averages and a constant map.

    python benchmarks/priors.py [--line "Fe XII 192.394"] [--seeds 5] [--noise 3 8]

A line of the raster that ships with eispac is fitted at its full signal, pixel by pixel; that is the reference. Then
noise is added until it is three and eight times what it was, with several seeds, and the velocity is sought again:
pixel by pixel, with priors, from boxcar averages of the spectra, and by averaging the velocities. The reference serves
for the table, and for choosing the best of the averages, whose size it is a prior's business not to need.

The reference has noise too, and the noisier data contain it: whoever takes the reference for the truth takes that noise
for a part of the Sun, and what is noise to him is what was added. That is declared as the data's uncertainty; and, for
comparison, all noise, as a user would: scales are smaller then than those that come nearest to the reference.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from contextlib import redirect_stdout
from importlib.resources import files

import astropy.units as u
import eispac
import numpy as np
from astropy import table as astropy_table
from astropy.constants import c
from astropy.nddata import StdDevUncertainty
from averages import best, boxcar, weighted_boxcar
from ndcube import NDCube
from table import Table, header

import sunpy_specfit as specfit

# Where they are, in Å, and how far from there a single line can be seen, in km/s.
LINES = {
    "Fe XII 192.394": (192.394, 250),
    "Fe XII 186.887": (186.887, 140),
    "Fe XIII 201.126": (201.126, 180),
    "Fe XIV 270.521": (270.521, 200),
}
SIZES = (3, 5, 7, 9, 11, 13, 17, 21, 25, 31)
# The width of the instrument and of the ion's thermal motion leave no room for lines narrower than this.
FLOOR = 20 * u.mAA
PRIORS = {
    "Smooth, velocity": [specfit.Smooth("velocity")],
    "Smooth, velocity and width": [specfit.Smooth("velocity", "width")],
    "Smooth, everything": [specfit.Smooth()],
}


def read(rest: float) -> tuple[NDCube, u.Quantity]:
    """The raster about a line, and its wavelengths, which vary from pixel to pixel."""
    with redirect_stdout(io.StringIO()):  # eispac tells on stdout which files it reads
        eis = eispac.read_cube(str(files("eispac") / "data" / "test" / "eis_20210306_064444.data.h5"), window=rest)
    good = ~eis.mask & (eis.uncertainty.array > 0) & np.isfinite(eis.data)
    cube = NDCube(
        np.where(good, eis.data, np.nan),
        wcs=eis.wcs,
        unit=eis.unit / u.AA,
        uncertainty=StdDevUncertainty(np.where(good, eis.uncertainty.array, np.nan)),
    )
    return cube, eis.wavelength * u.AA


class Line:
    """One line on a constant; the line stays in the window.

    Parameters
    ----------
    rest : float
        Å.
    reach : float
        Half the window in km/s.
    """

    def __init__(self, rest: float, reach: float):
        self.window = [-reach, reach] * u.km / u.s
        center = rest * u.AA * (1 + (self.window / c).to_value(u.one))
        line = specfit.Gaussian(rest * u.AA).bound(width=(FLOOR, 80 * u.mAA), center=tuple(center))
        self.model = line + specfit.Polynomial(0)

    def fit(self, cube: NDCube, wavelength: u.Quantity, *priors, **options):
        """A fit, without a word on pixels that fail."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", specfit.SpecfitWarning)
            return specfit.fit(cube, self.model, priors, spectral_axis=wavelength, window=self.window, **options)


def noisier(cube: NDCube, factor: float, seed: int) -> dict[str, NDCube]:
    """The same with that many times the noise; its uncertainty is what was added, or all."""
    sigma = cube.uncertainty.array
    added = np.sqrt(factor**2 - 1) * sigma
    data = cube.data + added * np.random.default_rng(seed).standard_normal(sigma.shape)
    return {
        declared: NDCube(data, wcs=cube.wcs, unit=cube.unit, uncertainty=StdDevUncertainty(error))
        for declared, error in (("added", added), ("all", factor * sigma))
    }


def attempts(line: Line, cubes: dict[str, NDCube], wavelength: u.Quantity, seed: int):
    """Names and velocity maps of everything that is tried, and the scales chosen."""
    noisy = cubes["added"]
    alone = line.fit(noisy, wavelength)
    velocity, sigma = alone["velocity"].data, alone["velocity"].uncertainty.array
    yield "pixel by pixel", velocity, None
    for name, priors in PRIORS.items():
        for declared, cube in cubes.items():
            result = line.fit(cube, wavelength, *priors, seed=seed)
            yield called(name, declared), result["velocity"].data, result.meta["prior_scales"]
    for size in SIZES:
        box = boxcar(noisy, (size, size, 1))
        # The slit is tilted and its place drifts: what is averaged has averaged wavelengths.
        mean = np.stack([weighted_boxcar(w, None, (size, size)) for w in np.moveaxis(wavelength.value, -1, 0)], -1)
        yield f"boxcar {size} of spectra", line.fit(box, mean * wavelength.unit)["velocity"].data, None
        yield f"boxcar {size} of velocities", weighted_boxcar(velocity, sigma, (size, size)), None


def called(name: str, declared: str) -> str:
    """A recipe where the noise that was added is declared, or all."""
    return name if declared == "added" else f"{name}, all noise declared"


def compare(name_of_line, line, factor, cube, wavelength, reference, use, seeds):
    """One level of noise: a listing of everything, the goals, and the scales."""
    rms: dict[str, list[float]] = {}
    scales = []
    for seed in range(seeds):
        for name, velocity, chosen in attempts(line, noisier(cube, factor, seed), wavelength, seed):
            difference = (velocity - reference)[use]
            rms.setdefault(name, []).append(float(np.sqrt(np.nanmean(difference**2))))
            if chosen:
                scales.append(f"seed {seed}, {name}: " + ", ".join(f"{k} {v['scale']:.3g}" for k, v in chosen.items()))
    constant = float(reference[use].std())
    mean = {name: np.mean(values) for name, values in rms.items()}
    box = best({name: value for name, value in mean.items() if name.startswith("boxcar")})
    table = Table(
        f"EIS {name_of_line}, noise x {factor:g}, seeds 0 to {seeds - 1}: velocity rms from the full signal's"
    )
    for name in PRIORS:
        table.note(f"{name} (km/s)", mean[name], "{:.2f}")
        rivals = {f"{box} (the best), {mean[box]:.2f}": mean[box], f"a constant map, {constant:.2f}": constant}
        for what, other in rivals.items():
            table.quality(f"{name}: over that of {what}", mean[name] / other, at_most=1.0, form="{:.3f}")
        honest = called(name, "all")
        table.quality(f"{honest}: over that of {box}", mean[honest] / mean[box], at_most=1.0, form="{:.3f}")
    rows = [(name, np.mean(values), np.std(values)) for name, values in rms.items()] + [("constant map", constant, 0.0)]
    listing = astropy_table.Table(rows=rows, names=["method", "velocity rms (km/s)", "spread over seeds"])
    for column in listing.colnames[1:]:
        listing[column].format = ".2f"
    return listing, table, scales


def main() -> int:
    """Both levels of noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--line", default="Fe XII 192.394", choices=LINES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--noise", type=float, nargs="+", default=[3.0, 8.0], help="factors (default 3 8)")
    options = parser.parse_args()
    cube, wavelength = read(LINES[options.line][0])
    line = Line(*LINES[options.line])
    full = line.fit(cube, wavelength)
    velocity, error = full["velocity"].data, full["velocity"].uncertainty.array
    bad = int(specfit.Status.AT_BOUND | specfit.Status.MASKED | specfit.Status.FAILED)
    use = ((full.status.data & bad) == 0) & (error < 5.0)
    print(header())
    print(
        f"reference: {use.sum()} of {use.size} pixels, with errors below 5 km/s (median {np.median(error[use]):.1f}); "
        f"its velocity varies by {velocity[use].std():.2f} km/s (rms)"
    )
    good = True
    for factor in options.noise:
        listing, table, scales = compare(options.line, line, factor, cube, wavelength, velocity, use, options.seeds)
        print()
        listing.pprint_all(align=["<", ">", ">"])
        print("\n".join(scales))
        print(f"\n{table}", flush=True)
        good = good and table.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
