"""Spatial regularisation of noisy IRIS spectra, against boxcar averages and against a constant map.

    python benchmarks/iris.py IRIS_L2_RASTER.fits

The C II 1335.7 line of a raster is fitted at its full signal, pixel by pixel; that is the reference. Then noise is
added until it is three times what it was, with several seeds, and the velocity is sought again: pixel by pixel, from
boxcar averages along the slit, and with priors (`Smooth` with its scale chosen from the data, and a width above a
minimum). The truth, that is the reference, serves for nothing but the table.
"""

import argparse
import warnings

import astropy.units as u
import numpy as np
from astropy import table as astropy_table
from astropy.nddata import StdDevUncertainty
from averages import boxcar
from irispy.io import read_files
from ndcube import NDCube
from table import Table, header

import sunpy_specfit as specfit

REST = 1335.708 * u.AA
WINDOW = [-130, 130] * u.km / u.s
# The instrument's own width, FWHM 26 mÅ or one pixel, as a Gaussian sigma would not come out narrower than this.
FLOOR = 20 * u.mAA
NOISE = 3.0
BOXES = (3, 5, 7, 9, 13, 17, 25, 35, 51, 75, 101)


def model(floor=FLOOR):
    line = specfit.Gaussian(REST).bound(width=(floor, 400 * u.mAA))
    return line + specfit.Polynomial(0)


def cube_of(like, data, sigma):
    return NDCube(data, wcs=like.wcs, unit=u.DN, uncertainty=StdDevUncertainty(sigma), mask=like.mask)


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cube = read_files(path)["C II 1336"][0]
    data = np.asarray(cube.data, float)
    missing = ~np.isfinite(data) | (data <= -199)
    return NDCube(np.where(missing, np.nan, data), wcs=cube.wcs, unit=u.DN, mask=missing)


def fit(cube, *priors, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specfit.SpecfitWarning)
        return specfit.fit(cube, model(), priors, window=WINDOW, **options)


def rms(result, name, reference, use):
    return float(np.sqrt(np.mean((result[name].data - reference)[use] ** 2)))


def at_floor(result, use):
    return float(np.mean(u.Quantity(result["width"].data, result["width"].unit)[use] < 1.02 * FLOOR))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="an IRIS level 2 raster with a C II 1336 window")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    cube = read(arguments.path)
    full = fit(cube, uncertainty=specfit.CountNoise(4 * u.ph / u.DN, 3.1 * u.DN))
    light = np.nan_to_num(full.model().data, nan=0.0)
    sigma = np.sqrt(np.clip(light, 0, None) / 4 + 3.1**2)
    velocity, width = full["velocity"].data, full["width"].data
    error = full["velocity"].uncertainty.array
    bad = int(specfit.Status.LOW_SIGNAL | specfit.Status.AT_BOUND | specfit.Status.MASKED | specfit.Status.FAILED)
    # The reference is one where a single Gaussian describes the line; in the flare's ribbons nothing has one velocity.
    certain = ((full.status.data & bad) == 0) & np.isfinite(velocity) & (error < 2.0)
    use = certain & (full.reduced_chi2.data < 3.0)
    print(full)
    print(
        f"reference: {use.sum()} of {use.size} pixels ({certain.sum()} with errors below 2 km/s, the others' profiles "
        f"are no Gaussians); its velocity varies by {np.std(velocity[use]):.2f} km/s (rms)"
    )
    rows = {}

    def note(name, result):
        everywhere = np.median(np.abs(result["velocity"].data - velocity)[certain])
        rows.setdefault(name, []).append(
            (
                rms(result, "velocity", velocity, use),
                everywhere,
                1e3 * rms(result, "width", width, use),
                at_floor(result, use),
            )
        )

    scales = []
    for seed in range(arguments.seeds):
        extra = np.sqrt(NOISE**2 - 1) * sigma * np.random.default_rng(seed).standard_normal(cube.data.shape)
        noisy = cube_of(cube, cube.data + extra, NOISE * sigma)
        note("pixel by pixel", fit(noisy))
        for size in BOXES:
            note(f"boxcar {size}", fit(boxcar(noisy, (1, size, 1))))
        smooth = specfit.Smooth("amplitude", "velocity", "width", axes=1)
        hinge = specfit.Hinge("width", lower=1.25 * FLOOR, scale=2 * u.mAA)
        weighted = fit(noisy, smooth, hinge)
        note("Smooth + Hinge", weighted)
        scales.append({name: entry["scale"] for name, entry in weighted.meta["prior_scales"].items()})
        typical = np.nanmean(noisy.uncertainty.array[use])
        uniform = cube_of(cube, noisy.data, np.where(np.isfinite(noisy.data), typical, np.nan))
        note("Smooth + Hinge, unweighted", fit(uniform, smooth, hinge))
    constant = float(np.std(velocity[use]))
    flat = np.median(np.abs(velocity - np.mean(velocity[use]))[certain])
    found = {name: np.array(values) for name, values in rows.items()}
    print(header())
    listing = astropy_table.Table(
        rows=[(name, v[:, 0].mean(), v[:, 0].std(), *v[:, 1:].mean(0)) for name, v in found.items()]
        + [("constant map", constant, 0.0, flat, 1e3 * np.std(width[use]), 0.0)],
        names=[
            "method",
            "velocity rms (km/s)",
            "spread over seeds",
            "median error, all profiles",
            "width rms (mA)",
            "at width floor",
        ],
    )
    for column in listing.colnames[1:]:
        listing[column].format = ".4f" if "floor" in column else ".3f"
    listing.pprint_all(align=["<", ">", ">", ">", ">", ">"])
    for seed, chosen in enumerate(scales):
        print(f"seed {seed}:", ", ".join(f"{name} {value:.3g}" for name, value in chosen.items()))
    means = {name: v[:, 0].mean() for name, v in found.items()}
    best = min((name for name in means if name.startswith("boxcar")), key=means.get)
    goals = Table(f"C II 1335.7, noise x {NOISE:g}, {arguments.seeds} seeds")
    priors, alone = found["Smooth + Hinge"], found["pixel by pixel"]
    goals.quality(f"velocity rms / best boxcar ({best})", priors[:, 0].mean() / means[best], at_most=1.0, form="{:.3f}")
    goals.quality("velocity rms / constant map", priors[:, 0].mean() / constant, at_most=1.0, form="{:.3f}")
    goals.quality(
        "at width floor / pixel by pixel", priors[:, 3].mean() / alone[:, 3].mean(), at_most=1.0, form="{:.3f}"
    )
    print(goals)


if __name__ == "__main__":
    main()
