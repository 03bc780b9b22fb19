"""Few wavelets against smooth neighbours, on maps of a magnetic field.

    python benchmarks/sparsity.py niris_maps_256.npz

The truth is B cos(inclination) of an inversion of NIRIS data. Each pixel's light is that number at all wavelengths,
with noise such that one pixel's error is 0.3 or 1 times the map's standard deviation. It is sought pixel by pixel, from
boxcar averages, from a constant map, and with `Smooth` and `Sparse`; their scales are the best by the truth, and those
chosen from the data. The truth serves for nothing else. The number to look at is the ratio Sparse / Smooth.
"""

import argparse
import time
import warnings

import astropy.units as u
import numpy as np
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from scipy.ndimage import uniform_filter

import sunpy_specfit as specfit
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.core.solver_choice import choose_solver
from sunpy_specfit.data import spectral_wcs

NOISE = (0.3, 1.0)
BOXES = (3, 5, 7, 9, 13, 17, 25, 35, 51)
N_WAVELENGTHS = 4


def cube_of(truth, noise, seed):
    sigma = noise * truth.std() * N_WAVELENGTHS**0.5
    data = truth[..., None] + sigma * np.random.default_rng(seed).standard_normal((*truth.shape, N_WAVELENGTHS))
    wcs = spectral_wcs(truth.shape, np.arange(1, N_WAVELENGTHS + 1) * u.AA)
    return NDCube(data, wcs=wcs, unit=u.G, uncertainty=StdDevUncertainty(np.full(data.shape, sigma)))


def fit(cube, *priors, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specfit.SpecfitWarning)
        return specfit.fit(cube, specfit.Polynomial(0), priors, progress=False, **options)


def rmse(found, truth):
    return float(np.sqrt(np.mean((found - truth) ** 2)))


def maps_only(cube, prior):
    """The fitted map without its errors, which take longer than the map."""
    problem = build_problem([cube], [specfit.Polynomial(0)], priors=[prior])
    own = problem.linearize(torch.zeros(1, problem.n_pixels, dtype=problem.dtype))
    start = own[1].solve(own[2])
    (factor,), (offset,) = problem.layout.scales()
    found = choose_solver(problem).solve(problem, start[None]).free
    return (found[0].numpy() * factor + offset).reshape(problem.grid.shape)


def best_scale(cube, truth, make, first):
    """The scale of least error, by golden section in its logarithm; the error there."""

    def error(log):
        return rmse(maps_only(cube, make(np.exp(log) * u.G)), truth)

    low, high, golden = np.log(first / 30), np.log(first * 30), (5**0.5 - 1) / 2
    inner = [high - golden * (high - low), low + golden * (high - low)]
    values = [error(v) for v in inner]
    while high - low > 0.1:
        if values[0] < values[1]:
            high, inner, values = inner[1], [0, inner[0]], [0, values[0]]
            inner[0] = high - golden * (high - low)
            values[0] = error(inner[0])
        else:
            low, inner, values = inner[0], [inner[1], 0], [values[1], 0]
            inner[1] = low + golden * (high - low)
            values[1] = error(inner[1])
    best = int(np.argmin(values))
    return float(np.exp(inner[best])), values[best]


def compare(truth, noise, seed, wavelet, automatic):
    cube = cube_of(truth, noise, seed)
    alone = fit(cube)["c0"].data
    found = {
        "pixel by pixel": rmse(alone, truth),
        "best boxcar": min(rmse(uniform_filter(alone, n, mode="nearest"), truth) for n in BOXES),
        "constant": rmse(np.full_like(truth, alone.mean()), truth),
    }
    first = noise * truth.std()
    priors = {
        "Smooth": specfit.Smooth,
        "Smooth, order 2": lambda *names, **options: specfit.Smooth(*names, order=2, **options),
        "Sparse": lambda *names, **options: specfit.Sparse(*names, wavelet=wavelet, **options),
    }
    for name, make in priors.items():
        scale, error = best_scale(cube, truth, lambda s, make=make: make("c0", scale=s), first)
        found[f"{name}, best scale"] = error
        if not automatic:
            print(f"  seed {seed} {name}: best scale {scale:.0f} G", flush=True)
            continue
        begin = time.perf_counter()
        result = fit(cube, make("c0"))
        seconds = time.perf_counter() - begin
        found[f"{name}, auto"] = rmse(result["c0"].data, truth)
        chosen = next(iter(result.meta["prior_scales"].values()))["scale"]
        pull = (result["c0"].data - truth) / result["c0"].uncertainty.array
        print(
            f"  seed {seed} {name}: best scale {scale:.0f} G, chosen {chosen:.0f} G, {seconds:.1f} s, "
            f"errors hold the truth in {100 * np.mean(np.abs(pull) < 1):.0f} % of pixels",
            flush=True,
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("maps", help="niris_maps_256.npz")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--automatic", type=int, default=1, help="seeds with automatic scales and errors: slow")
    parser.add_argument("--wavelet", default="db4")
    options = parser.parse_args()
    maps = np.load(options.maps)
    truth = (maps["B_G"] * np.cos(maps["inc_rad"])).astype(float)
    for noise in NOISE:
        print(f"one pixel's error: {noise} x the map's standard deviation of {truth.std():.0f} G")
        rows = [compare(truth, noise, seed, options.wavelet, seed < options.automatic) for seed in range(options.seeds)]
        for name in rows[0]:
            values = [row[name] for row in rows if name in row]
            print(f"  {name:27s} {np.mean(values):7.1f} +- {np.std(values):.1f} G")
        for kind in ("best scale", "auto")[: 1 + (options.automatic > 0)]:
            for other in ("Smooth", "Smooth, order 2"):
                ratio = [row[f"Sparse, {kind}"] / row[f"{other}, {kind}"] for row in rows if f"{other}, {kind}" in row]
                print(f"  Sparse / {other}, {kind}: {np.mean(ratio):.3f} +- {np.std(ratio):.3f}")


if __name__ == "__main__":
    main()
