"""The weak-field approximation on a sunspot: accuracy, calibration, coupled maps, speed, and Adam.

    python benchmarks/wfa.py niris_maps_256.npz [section ...] [--seeds 5] [--side 1000]

The file holds maps of an inversion of GST/NIRIS data (B_G, inc_rad, azi_rad, vlos_kms), which serve as the truth of
synthetic Stokes profiles (`sunpy_specfit.data.weak_field_cube`) with analytic derivatives. The sections are accuracy,
calibration, coupled, speed and adam; without any, all run. The exit status is 1 if a row about quality fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from itertools import product

# Else a thread of torch's that has nothing to do keeps a processor busy for a while, which others could use.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import astropy.units as u
import numpy as np
import torch
from astropy.constants import c
from averages import best, weighted_boxcar
from table import Table, header, race

import sunpy_specfit as specfit
from sunpy_specfit.core.observation import Observation
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import weak_field_cube
from sunpy_specfit.data.zeeman import LORENTZ_SPLITTING

# Lines and how many wavelengths each is seen at.
LINES = {"Mg I 5172.7": 17, "Ca II 8542.1": 25, "Fe I 6302.5": 29}
# Their usual Doppler width in the scenes, in Å.
DOPPLER = {"Mg I 5172.7": 0.12, "Ca II 8542.1": 0.25, "Fe I 6302.5": 0.05}
# Fewer pixels than this part of them with a signal tell nothing of its errors.
FEW = 0.01
SIZES = (3, 5, 7, 9, 11, 13, 17, 21, 25, 31, 41)
FITTED = ("b_los", "b_q", "b_u")
DERIVED = ("b_los", "b_trans", "azimuth")


# -- scenes and what is asked of them --------------------------------------------------------------------------------


class Scene:
    """True maps, and cubes of them.

    Parameters
    ----------
    path : str
    side : int, optional
        Of the part cut out.
    place : {"middle", "corner"}
        Where from.
    """

    def __init__(self, path: str, side: int | None = None, place: str = "middle"):
        maps = np.load(path)
        rows, columns = maps["B_G"].shape
        y, x = ((n - (side or n)) // 2 if place == "middle" else 0 for n in (rows, columns))
        part = np.s_[y : y + (side or rows), x : x + (side or columns)]
        strength, inclination, azimuth, velocity = (
            maps[name][part].astype(float) for name in ("B_G", "inc_rad", "azi_rad", "vlos_kms")
        )
        across = strength * np.sin(inclination)
        self.truth = {
            "b_los": strength * np.cos(inclination),
            "b_trans": across,
            "azimuth": np.rad2deg(azimuth) % 180,
            "b_q": across**2 * np.cos(2 * azimuth),
            "b_u": across**2 * np.sin(2 * azimuth),
            "velocity": velocity,
        }
        self.shape = strength.shape

    def cube(self, line: str, seed: int, noise: float = 1e-3):
        """Noisy profiles."""
        given = {name: self.truth[name] for name in (*DERIVED, "velocity")}
        return weak_field_cube(
            self.shape, line=line, n_wavelengths=LINES[line], noise=noise, truth=given, seed=seed, dtype=np.float32
        )

    def shape_of_v(self, line: str, seed: int) -> np.ndarray:
        """-C g dI/dλ of the same profiles, exact: V without noise where the field is 1 G."""
        given = {name: np.zeros(self.shape) for name in ("b_trans", "azimuth")}
        given |= {"b_los": np.ones(self.shape), "velocity": self.truth["velocity"]}
        cube = weak_field_cube(
            self.shape, line=line, n_wavelengths=LINES[line], noise=0.0, truth=given, seed=seed, dtype=np.float64
        )
        return cube.data[3]


def least_error(scene: Scene, cube, line: str, noise: float = 1e-3) -> float:
    """The rms that no unbiased estimate of B_los falls below (Cramér & Rao), though it knew that lines are Gaussians.

    I is as noisy as V: its depth, width and centre are unknowns beside the field.
    """
    entry = specfit.data.line(line)
    rest = entry.air.to_value(u.AA)
    x = (Observation.from_cube(cube, stokes="IQUV", spectral_unit=u.AA).x - rest)[:, None]
    width, depth = (cube.meta["profile"][name].ravel() for name in ("width", "depth"))
    z = (x - rest * scene.truth["velocity"].ravel() / c.to_value(u.km / u.s)) / width
    dip = np.exp(-z * z)
    splitting = LORENTZ_SPLITTING * rest**2 * entry.g_eff
    field = -splitting * scene.truth["b_los"].ravel() / width * depth * dip
    # Derivatives of I and V by depth, width, centre and field.
    of_i = [-dip, -2 * depth * z * z * dip / width, -2 * depth * z * dip / width, np.zeros_like(z)]
    of_v = [
        2 * z * field / depth,
        2 * z * (2 * z * z - 2) * field / width,
        2 * (2 * z * z - 1) * field / width,
        -splitting * 2 * z / width * depth * dip,
    ]
    jacobian = np.concatenate([of_i, of_v], axis=1) / noise
    information = np.einsum("inp,jnp->pij", jacobian, jacobian)
    return float(np.sqrt(np.linalg.inv(information)[:, 3, 3].mean()))


def wrapped(difference: np.ndarray) -> np.ndarray:
    """Differences of azimuths, -90 to 90 degrees."""
    return (difference + 90) % 180 - 90


def errors(maps, truth) -> dict[str, float]:
    """Root-mean-square errors of B_los, B_t (G) and azimuth (deg)."""
    found = {}
    for name in DERIVED:
        difference = maps[name] - truth[name]
        found[name] = float(np.sqrt(np.mean((wrapped(difference) if name == "azimuth" else difference) ** 2)))
    return found


def derived(b_los, b_q, b_u) -> dict[str, np.ndarray]:
    """What follows from the linear maps."""
    return {
        "b_los": b_los,
        "b_trans": (b_q**2 + b_u**2) ** 0.25,
        "azimuth": np.rad2deg(0.5 * np.arctan2(b_u, b_q)) % 180,
    }


def maps_of(result) -> dict[str, np.ndarray]:
    """Its maps as arrays."""
    return {name: result[name].data for name in result}


# -- accuracy and calibration --------------------------------------------------------------------------------------


def accuracy(scene: Scene, options) -> list[Table]:
    """B_los with the derivative from noisy samples, against B_los with the exact one."""
    tables = []
    for line, n in LINES.items():
        squares: dict[str, list[float]] = {}
        limits: list[float] = []
        for seed in range(options.seeds):
            cube, kernel = scene.cube(line, seed), scene.shape_of_v(line, seed)
            limits.append(least_error(scene, cube, line) ** 2)
            exact = (kernel * cube.data[3]).sum(0) / (kernel * kernel).sum(0)
            squares.setdefault("exact", []).append(np.mean((exact - scene.truth["b_los"]) ** 2))
            for method in ("spline", "cubic_spline", "three_point"):
                found = specfit.fit(cube, specfit.WeakField(line, derivative=method))["b_los"].data
                squares.setdefault(method, []).append(np.mean((found - scene.truth["b_los"]) ** 2))
        rms = {name: float(np.sqrt(np.mean(values))) for name, values in squares.items()}
        table = Table(f"accuracy: {line}, {n} wavelengths, sigma 1e-3, seeds 0 to {options.seeds - 1}")
        table.note("B_los rms with the exact derivative (G)", rms["exact"], "{:.3f}")
        table.note("B_los rms (G)", rms["spline"], "{:.3f}")
        limit = np.sqrt(np.mean(limits)) / rms["exact"]
        table.note("at best over that with the exact derivative (Cramér-Rao)", limit, "{:.3f}")
        table.quality("over that with the exact derivative", rms["spline"] / rms["exact"], at_most=1.1, form="{:.3f}")
        for method in ("cubic_spline", "three_point"):
            table.note(f"derivative={method!r}: B_los rms (G)", rms[method], "{:.3f}")
            table.note(f"derivative={method!r}: over the exact one's", rms[method] / rms["exact"], "{:.3f}")
        tables.append(table)
    return tables


def calibration(scene: Scene, options) -> list[Table]:
    """Errors over the errors stated, for all field strengths."""
    tables = []
    strong = np.hypot(scene.truth["b_los"], scene.truth["b_trans"]) > 1000
    # Where the scene goes from the core's formula to the wing's, at a Doppler width of each pixel, 15 per cent to
    # either side of the usual one, neither is exact for a fit with one core_width: 1.2 stays clear of that, and 1.3
    # of that by three times the noise that 5e-3 brings to the centre of Fe I 6302.5.
    for noise, (line, n), default in product((1e-3, 5e-3), LINES.items(), (True, False)):
        guard = None if default else {1e-3: 1.2, 5e-3: 1.3}[noise]
        model = specfit.WeakField(line, core_width=None if guard is None else guard * DOPPLER[line] * u.AA)
        pulls, seen = pulls_of(scene, line, model, options.seeds, noise)
        core = "by default" if guard is None else f"{guard} Doppler widths"
        table = Table(
            f"calibration: {line}, {n} wavelengths, core_width {core}, sigma {noise:g}, seeds 0 to {options.seeds - 1}"
        )
        for name in FITTED:
            table.quality(f"pull of {name}", pulls[name].std(), near=(1.0, 0.05), form="{:.3f}")
            table.note(f"pull of {name}, mean", pulls[name].mean(), "{:.3f}")
            for where, use in (("fields above 1 kG", strong), ("fields below 1 kG", ~strong)):
                table.note(f"pull of {name}, {where}", pulls[name][:, use].std(), "{:.3f}")
        table.note("pixels with a transverse signal above 4.5 sigma", seen.mean(), "{:.2%}")
        for name in ("b_trans", "azimuth"):
            if seen.mean() < FEW:
                continue
            what = f"pull of {name}, signal above 4.5 sigma"
            table.quality(what, pulls[name][seen].std(), near=(1.0, 0.05), form="{:.3f}")
        tables.append(table)
    return tables


def pulls_of(scene: Scene, line: str, model, seeds: int, noise: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Errors over stated errors, ``(seeds, y, x)``, and where the true transverse signal exceeds 4.5 sigma."""
    pulls: dict[str, list[np.ndarray]] = {}
    seen = []
    for seed in range(seeds):
        result = specfit.fit(scene.cube(line, seed, noise), model)
        for name in (*FITTED, "b_trans", "azimuth"):
            difference = result[name].data - scene.truth[name]
            difference = wrapped(difference) if name == "azimuth" else difference
            pulls.setdefault(name, []).append(difference / result[name].uncertainty.array)
        spread = np.sqrt(result["b_q"].uncertainty.array * result["b_u"].uncertainty.array)
        seen.append(scene.truth["b_trans"] ** 2 > 4.5 * spread)
    return {name: np.array(values) for name, values in pulls.items()}, np.array(seen)


# -- coupled maps --------------------------------------------------------------------------------------------------


def boxcars(result) -> dict[str, dict[str, np.ndarray]]:
    """Means of b_los, b_q and b_u over squares, plain and weighted by 1/sigma²."""
    found = {}
    for size in SIZES:
        for weighted in (False, True):
            linear = [
                weighted_boxcar(result[name].data, result[name].uncertainty.array if weighted else None, (size, size))
                for name in FITTED
            ]
            found[f"boxcar {size}{', weighted' if weighted else ''}"] = derived(*linear)
    return found


def constants(truth) -> dict[str, float]:
    """The errors of the best constant map, chosen with the truth, for each quantity."""
    found = {name: float(truth[name].std()) for name in ("b_los", "b_trans")}
    grid = np.arange(0.0, 180.0, 2.0)
    found["azimuth"] = min(float(np.sqrt(np.mean(wrapped(truth["azimuth"] - a) ** 2))) for a in grid)
    return found


# b_q and b_u are the parts of one vector, whose edges are in one place; B_los is a smooth map.
PRIORS = {
    "Smooth": [specfit.Smooth()],
    "Smooth and joint TotalVariation": [
        specfit.Smooth("b_los", order=1.5),
        specfit.TotalVariation("b_q", "b_u", joint=True),
    ],
}


def coupled(scene: Scene, options) -> list[Table]:
    """Priors with scales chosen from the data, against what beats noise without them."""
    tables = []
    flat = constants(scene.truth)
    for noise in (1e-3, 5e-3):
        for line, n in LINES.items():
            found: dict[str, list[dict[str, float]]] = {}
            chosen: dict[tuple[str, str], list[float]] = {}
            for seed in range(options.seeds):
                cube = scene.cube(line, seed, noise)
                model = specfit.WeakField(line)
                alone = specfit.fit(cube, model)
                everything = {"alone": maps_of(alone)} | boxcars(alone)
                for name, priors in PRIORS.items():
                    fitted = specfit.fit(cube, model, priors, seed=seed)
                    everything[name] = maps_of(fitted)
                    for key, entry in fitted.meta["prior_scales"].items():
                        chosen.setdefault((name, key), []).append(entry["scale"])
                for name, maps in everything.items():
                    found.setdefault(name, []).append(errors(maps, scene.truth))
            mean = {name: {q: np.mean([e[q] for e in rows]) for q in DERIVED} for name, rows in found.items()}
            table = Table(
                f"coupled: {line}, {n} wavelengths, sigma {noise:g}, {scene.shape[0]} x {scene.shape[1]} pixels, "
                f"seeds 0 to {options.seeds - 1}"
            )
            for name, unit in zip(DERIVED, ("G", "G", "deg"), strict=True):
                rows = {key: values[name] for key, values in mean.items()}
                box = best({key: value for key, value in rows.items() if key.startswith("boxcar")})
                for prior in PRIORS:
                    table.note(f"{name}: rms with {prior} ({unit})", rows[prior], "{:.2f}")
                table.note(f"{name}: over that of {box} (the best), with Smooth", rows["Smooth"] / rows[box], "{:.3f}")
                for what, other in (("pixel-wise", rows["alone"]), (box, rows[box]), ("a constant map", flat[name])):
                    label = f"{name}: over that of {what}" + (" (the best)" if what == box else "")
                    table.quality(f"{label}, {other:.2f}", rows[prior] / other, at_most=1.0, form="{:.3f}")
            for (prior, key), scales in chosen.items():
                table.note(f"scale chosen for {key}, with {prior}", np.mean(scales), "{:.4g}")
            tables.append(table)
    return tables


# -- speed -----------------------------------------------------------------------------------------------------------


def large(scene: Scene, side: int, line: str = "Ca II 8542.1"):
    """A cube of any size, made of copies of the scene's, which costs as much as any other."""
    cube = scene.cube(line, 0)
    copies = [-(-side // n) for n in scene.shape]
    data = np.ascontiguousarray(np.tile(cube.data, (1, 1, *copies))[..., :side, :side])
    return type(cube)(
        data,
        wcs=cube.wcs,
        unit=cube.unit,
        uncertainty=type(cube.uncertainty)(np.broadcast_to(cube.uncertainty.array.flat[0], data.shape), copy=False),
    )


def with_errors(result):
    """Every map with its error: what a user waits for."""
    for name in result:
        assert result[name].uncertainty.array.shape == result[name].data.shape
    return result


def quadratics(problem) -> None:
    """What the data say of each pixel, and nothing else."""
    for part in problem.slices():
        problem.block(part)


def speed(scene: Scene, options) -> list[Table]:
    """Processor seconds on one thread, and seconds on the clock."""
    line, side = "Ca II 8542.1", options.side
    model = specfit.WeakField(line)
    with_errors(specfit.fit(scene.cube(line, 0), model))  # what is done once in a process is done
    cube = large(scene, side)
    problem = build_problem([cube], [model])
    chosen = specfit.fit(scene.cube(line, 0), model, specfit.Smooth()).meta["prior_scales"]
    known = specfit.Smooth(*FITTED, scale={key.split(":")[1]: entry["scale"] for key, entry in chosen.items()})
    runners = {
        "sum": cube.data.sum,
        "reading the cube and its lines' centres": lambda: build_problem([cube], [model]),
        "quadratics": partial(quadratics, problem),
        "closed form, errors not looked at": lambda: specfit.fit(cube, model),
        "closed form": lambda: with_errors(specfit.fit(cube, model)),
        "known scale": lambda: with_errors(specfit.fit(cube, model, known)),
        "automatic scale": lambda: with_errors(specfit.fit(cube, model, specfit.Smooth())),
    }
    _, seconds = race(runners, rounds=options.rounds, warm=True)
    table = Table(f"speed: {side} x {side} pixels, 25 wavelengths, 4 Stokes, processor seconds")
    for name, value in seconds.items():
        table.note(name, value, "{:.3f}")
    one = seconds["sum"]
    for name, value in breakdown(seconds).items():
        table.note(f"of the whole fit, over one pass: {name}", value / one)
    table.speed("quadratics over one pass (numpy sum)", seconds["quadratics"] / one, at_most=3.0)
    for name in ("closed form, errors not looked at", "closed form"):
        table.speed(f"whole fit, {name}, over one pass", seconds[name] / one, at_most=3.0)
    for name in ("known scale", "automatic scale"):
        table.speed(f"coupled, {name}, over closed form", seconds[name] / seconds["closed form"], at_most=5.0)
    clock = on_the_clock(cube, model, options)
    return [bare_passes(cube.data, options), table, clock, linear_cost(scene, model, known, options)]


def on_the_clock(cube, model, options) -> Table:
    """What two threads make of it, in seconds on the clock over numpy's sum on the clock, which has one thread."""
    table = Table("speed: seconds on the clock, by the number of threads")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        runners = {
            "sum": cube.data.sum,
            "closed form, errors not looked at": lambda: specfit.fit(cube, model),
            "closed form": lambda: with_errors(specfit.fit(cube, model)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(options.rounds + 2):
            for name, run in runners.items():
                begin = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - begin)
        own = f"{threads} thread{'s' if threads > 1 else ''}"
        found = {name: float(np.median(values)) for name, values in seconds.items()}
        for name, value in found.items():
            table.note(f"{name}, {own}", value, "{:.3f}")
        for name in list(found)[1:]:
            table.speed(f"{name}, {own}, over one pass", found[name] / found["sum"], at_most=3.0)
    torch.set_num_threads(1)
    return table


def breakdown(seconds: dict[str, float]) -> dict[str, float]:
    """Of the seconds of a whole fit those of its parts, which follow each other."""
    centers, quadratic = seconds["reading the cube and its lines' centres"], seconds["quadratics"]
    fitted, everything = seconds["closed form, errors not looked at"], seconds["closed form"]
    return {
        "lines' centres and what else is prepared": centers,
        "quadratics": quadratic,
        "solutions, their covariances, chi2 and status": fitted - centers - quadratic,
        "all maps with their errors": everything - fitted,
    }


def bare_passes(data: np.ndarray, options) -> Table:
    """What memory and its bandwidth cost: the least that anything can take which looks at all of a cube.

    Seconds on the clock, for two threads share the work.
    """
    table = Table(f"speed: one pass over {data.nbytes / 1e9:.1f} GB, milliseconds on the clock")
    flat = torch.from_numpy(data).reshape(-1)
    double = flat[: len(flat) // 4].double()
    runners = {"numpy's sum": (data.sum, 1, 1), "numpy's sum in double precision": (double.numpy().sum, 1, 4)}
    for threads in (1, 2):
        runners[f"torch's sum, {threads} thread{'s' if threads > 1 else ''}"] = flat.sum, threads, 1
    for name, (run, threads, times) in runners.items():
        torch.set_num_threads(threads)
        seconds = []
        for _ in range(options.rounds + 2):
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
        table.note(name, 1e3 * times * float(np.median(seconds)))
        table.note(f"{name}, at best", 1e3 * times * min(seconds))
    torch.set_num_threads(1)
    return table


def linear_cost(scene: Scene, model, prior, options) -> Table:
    """Time a pixel against the number of pixels."""
    table = Table("speed: microseconds a pixel, by the size of the map")
    sides = [s for s in (250, 500, 1000, 2000) if s <= 2 * options.side]
    rates: dict[str, list[float]] = {}
    for side in sides:
        cube = large(scene, side)
        runners = {
            "closed form": lambda cube=cube: with_errors(specfit.fit(cube, model)),
            "coupled, scale known": lambda cube=cube: with_errors(specfit.fit(cube, model, prior)),
        }
        _, seconds = race(runners, rounds=options.rounds, warm=True)
        for name, value in seconds.items():
            rates.setdefault(name, []).append(1e6 * value / side**2)
            table.note(f"{name}, {side} x {side}", rates[name][-1], "{:.3f}")
    for name, values in rates.items():
        what = f"{name}: {sides[-1]} over {sides[0]} squared"
        table.speed(what, values[-1] / values[0], at_most=1.25, form="{:.2f}")
    return table


# -- the way of the talk -----------------------------------------------------------------------------------------------


def adam(scene: Scene, options) -> list[Table]:
    """Gradient descent on the same coupled problem."""
    line = "Ca II 8542.1"
    model, cube = specfit.WeakField(line), scene.cube(line, 0)
    chosen = specfit.fit(cube, model, specfit.Smooth()).meta["prior_scales"]
    prior = specfit.Smooth(*FITTED, scale={key.split(":")[1]: entry["scale"] for key, entry in chosen.items()})
    slow = specfit.Adam(max_iterations=options.iterations, tolerance=1e-3)
    runners = {
        "exact": lambda: specfit.fit(cube, model, prior),
        "adam": lambda: specfit.fit(cube, model, prior, solver=slow),
    }
    found, seconds = race(runners, rounds=min(options.rounds, 3))
    steps = found["adam"].meta["solver_info"].get("iterations", np.nan)
    table = Table(f"adam: {line}, {scene.shape[0]} x {scene.shape[1]} pixels, sigma 1e-3, {steps} steps, seed 0")
    for name in FITTED:
        exact, other = found["exact"][name], found["adam"][name]
        apart = (other.data - exact.data) / exact.uncertainty.array
        what = f"{name}: rms difference from {found['exact'].meta['solver']}, in sigma"
        table.quality(what, float(np.sqrt(np.mean(apart**2))), at_most=0.01, form="{:.5f}")
        table.note(f"{name}: the largest", float(np.abs(apart).max()), "{:.5f}")
    table.note("seconds of Adam over those of the other", seconds["adam"] / seconds["exact"])
    return [table]


# -- the command line ----------------------------------------------------------------------------------------------

SECTIONS = {"accuracy": accuracy, "calibration": calibration, "coupled": coupled, "speed": speed, "adam": adam}


def main() -> int:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="the maps that are the truth: niris_maps_256.npz")
    parser.add_argument("sections", nargs="*", metavar="section", help="which to run; all by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cut", type=int, default=128, help="pixels a side of the coupled maps (default 128)")
    parser.add_argument("--place", choices=("middle", "corner"), default="middle", help="where these are cut out")
    parser.add_argument("--side", type=int, default=1000, help="pixels a side of the map that is timed (default 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (default 5)")
    parser.add_argument("--iterations", type=int, default=3000, help="of Adam, at the most (default 3000)")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    # Everything is per core. A package must not do this for its users; a benchmark may.
    torch.set_num_threads(1)
    print(header())
    good = True
    for name in options.sections or SECTIONS:
        cut = {"coupled": options.cut, "adam": min(options.cut, 64)}.get(name)
        for table in SECTIONS[name](Scene(options.path, cut, options.place), options):
            print(f"\n{table}", flush=True)
            good = good and table.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
