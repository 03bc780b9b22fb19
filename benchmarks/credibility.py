"""Do the errors of coupled maps hold the truth as often as they say?

    python benchmarks/credibility.py [section ...] [--seeds 5] [--side 64] [--maps niris_maps_256.npz]

The maps are drawn from the Gaussian that `Smooth` stands for, exactly: of order 1 and 1.5 among cosines, of order 2
from its differences. Then 68 % of the pixels should lie within one sigma of the truth, and 95 % within two. ``linear``
sees them through the weak-field approximation, ``velocity`` through a Gaussian line, and ``scene``, which needs the
file, takes maps of a sunspot, which no such prior would draw. ``scatter`` tells how well a scale can be known from one
map at all. The exit status is 1 if a row about quality fails.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator

import astropy.units as u
import numpy as np
import scipy.fft
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import splu
from table import Table, header

import sunpy_specfit as specfit
from sunpy_specfit.data import gaussian_cube, weak_field_cube

ORDERS = (1, 1.5, 2)
LINE, N_WAVELENGTHS, NOISE = "Mg I 5172.7", 17, 1e-3
# Clear of the place where the profiles go from the core's formula to the wing's, see wfa.py.
CORE_WIDTH = 1.2 * 0.12 * u.AA
# Scales over the error of one pixel: at the first the prior matters most, at the last the data.
STRENGTHS = (0.1, 0.5)
DRAWS = 100


def draw(shape: tuple[int, int], order: float, rng) -> np.ndarray:
    """A map drawn from ``Smooth(order=order, scale=1)``, which leaves its mean (and slope, for order 2) open: zero."""
    if order == 2:
        differences = _second_differences(shape)
        curvature = (differences.T @ differences + 1e-9 * sp.eye(differences.shape[1])).tocsc()
        q = splu(curvature).solve(differences.T @ rng.standard_normal(differences.shape[0])).reshape(shape)
        y, x = np.indices(shape)
        planes = np.stack([np.ones(shape), y, x], -1).reshape(-1, 3)
        return q - (planes @ np.linalg.lstsq(planes, q.reshape(-1), rcond=None)[0]).reshape(shape)
    steps = [2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in shape]
    squared = steps[0][:, None] + steps[1]
    squared[0, 0] = np.inf
    return scipy.fft.idctn(rng.standard_normal(shape) * squared ** (-order / 2), norm="ortho")


def _second_differences(shape: tuple[int, int]):
    """The steps between steps along both axes, and across both, twice."""
    one = [sp.eye(n) for n in shape]
    first = [sp.diags([-1.0, 1.0], [0, 1], shape=(n - 1, n)) for n in shape]
    second = [sp.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(n - 2, n)) for n in shape]
    return sp.vstack([sp.kron(second[0], one[1]), sp.kron(one[0], second[1]), 2**0.5 * sp.kron(first[0], first[1])])


def wrapped(difference: np.ndarray) -> np.ndarray:
    """Differences of azimuths, -90 to 90 degrees."""
    return (difference + 90) % 180 - 90


def quiet_fit(cube, model, *priors, **options):
    """A fit, without a word on pixels that fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specfit.SpecfitWarning)
        return specfit.fit(cube, model, priors, progress=False, **options)


class Score:
    """How often the truth was within one and two sigma, over seeds."""

    def __init__(self):
        self.pulls: dict[str, list[np.ndarray]] = {}
        self.spread: dict[str, list[np.ndarray]] = {}
        self.scales: list[list[float]] = []

    def add(self, result, truth, names, seen=None, *, where=True, draws: bool = False) -> None:
        """One fit; ``seen`` says where B_t and azimuth mean something, ``where`` which pixels to look at."""
        sample = result.sample(DRAWS) if draws else {}
        for name in names:
            difference = result[name].data - truth[name]
            use = np.broadcast_to(where & seen if name in ("b_trans", "azimuth") else where, difference.shape)
            difference = wrapped(difference) if name == "azimuth" else difference
            sigma = result[name].uncertainty.array
            self.pulls.setdefault(name, []).append((difference / sigma)[use])
            if draws:
                moved = sample[name].value - result[name].data
                moved = wrapped(moved) if name == "azimuth" else moved
                self.spread.setdefault(name, []).append((np.sqrt(np.mean(moved**2, 0)) / sigma)[use])
        self.scales.append([entry["scale"] for entry in result.meta["prior_scales"].values()])

    def rows(self, table: Table, *, goal: bool = True, where: str = "") -> None:
        """Add what was found to a table."""
        for name, parts in self.pulls.items():
            pull = np.abs(np.concatenate(parts))
            for sigma, percent, tolerance in ((1, 68, 4), (2, 95, 2)):
                what, share = f"{name}{where}: truth within {sigma} sigma (%)", 100 * float(np.mean(pull < sigma))
                table.quality(what, share, near=(percent, tolerance)) if goal else table.note(what, share)
            if name in self.spread:
                ratio = float(np.nanmedian(np.concatenate(self.spread[name])))
                table.quality(f"{name}: spread of the draws over sigma", ratio, near=(1.0, 0.05), form="{:.3f}")


# -- the weak-field approximation ------------------------------------------------------------------------------------


def field(shape, order: float, scale: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    """True maps: draws about a constant."""
    rng = np.random.default_rng(1000 + seed)
    mean = {"b_los": 300.0, "b_q": 2e5, "b_u": 1e5}
    truth = {name: mean[name] + scale[name] * draw(shape, order, rng) for name in mean}
    truth["b_trans"] = (truth["b_q"] ** 2 + truth["b_u"] ** 2) ** 0.25
    truth["azimuth"] = np.rad2deg(0.5 * np.arctan2(truth["b_u"], truth["b_q"])) % 180
    return truth


def stokes(truth, seed: int, noise: float = NOISE):
    """Noisy profiles of them."""
    given = {name: truth[name] for name in ("b_los", "b_trans", "azimuth")}
    given["velocity"] = truth.get("velocity", np.zeros(truth["b_los"].shape))
    return weak_field_cube(
        truth["b_los"].shape, line=LINE, n_wavelengths=N_WAVELENGTHS, noise=noise, truth=given, seed=seed
    )


def linear(options) -> Iterator[Table]:
    """Maps drawn from the prior, seen through the weak-field approximation."""
    shape, model = (options.side, options.side), specfit.WeakField(LINE, core_width=CORE_WIDTH)
    fitted, names = ("b_los", "b_q", "b_u"), ("b_los", "b_q", "b_u", "b_trans", "azimuth")
    alone = quiet_fit(stokes(field(shape, 1, dict.fromkeys(fitted, 0.0), 0), 0), model)
    error = {name: float(np.median(alone[name].uncertainty.array)) for name in fitted}
    for order in ORDERS:
        for strength in STRENGTHS:
            scale = {name: strength * error[name] for name in fitted}
            units = {"b_los": u.G, "b_q": u.G**2, "b_u": u.G**2}
            known = {name: value * units[name] for name, value in scale.items()}
            for how, given in (("known", known), ("auto", "auto")):
                score = Score()
                for seed in range(options.seeds):
                    truth = field(shape, order, scale, seed)
                    prior = specfit.Smooth(*fitted, scale=given, order=order)
                    result = quiet_fit(stokes(truth, seed), model, prior, seed=seed)
                    spread = np.sqrt(result["b_q"].uncertainty.array * result["b_u"].uncertainty.array)
                    score.add(result, truth, names, truth["b_trans"] ** 2 > 4.5 * spread, draws=how == "known")
                table = Table(
                    f"linear: order {order}, scale {strength} of a pixel's error, {how}; {options.side} x "
                    f"{options.side} pixels, seeds 0 to {options.seeds - 1}"
                )
                score.rows(table)
                if how == "auto":
                    for name, found in zip(fitted, np.mean(score.scales, 0), strict=True):
                        table.note(f"{name}: scale chosen over the true one", found / scale[name], "{:.2f}")
                yield table


# -- a line ------------------------------------------------------------------------------------------------------------


def velocity(options) -> Iterator[Table]:
    """Velocities drawn from the prior, of a line that a Gaussian describes."""
    shape, model = (options.side, options.side), specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    for signal in (20.0, 5.0):
        flat = gaussian_cube(shape, signal_to_noise=signal, seed=0)
        error = float(np.median(quiet_fit(flat, model)["velocity"].uncertainty.array))
        for order in ORDERS:
            for how in ("known", "auto"):
                scale, score = 0.3 * error, Score()
                for seed in range(options.seeds):
                    truth = {"velocity": scale * draw(shape, order, np.random.default_rng(1000 + seed))}
                    cube = gaussian_cube(shape, signal_to_noise=signal, truth=truth, seed=seed)
                    given = scale * u.km / u.s if how == "known" else "auto"
                    result = quiet_fit(cube, model, specfit.Smooth("velocity", scale=given, order=order), seed=seed)
                    score.add(result, truth, ("velocity",), draws=how == "known")
                table = Table(
                    f"velocity: signal-to-noise {signal:g}, order {order}, scale 0.3 of a pixel's error, {how}; "
                    f"{options.side} x {options.side} pixels, seeds 0 to {options.seeds - 1}"
                )
                score.rows(table)
                if how == "auto":
                    table.note("scale chosen over the true one", float(np.mean(score.scales)) / scale, "{:.2f}")
                yield table


# -- what no such prior would draw -------------------------------------------------------------------------------------


def scene(options) -> Iterator[Table]:
    """A sunspot, with edges: how far the errors hold there, without a goal."""
    maps = np.load(options.maps)
    y, x = ((n - options.cut) // 2 for n in maps["B_G"].shape)
    part = np.s_[y : y + options.cut, x : x + options.cut]
    strength, inclination, azimuth = (maps[name][part].astype(float) for name in ("B_G", "inc_rad", "azi_rad"))
    across = strength * np.sin(inclination)
    truth = {
        "b_los": strength * np.cos(inclination),
        "b_trans": across,
        "azimuth": np.rad2deg(azimuth) % 180,
        "b_q": across**2 * np.cos(2 * azimuth),
        "b_u": across**2 * np.sin(2 * azimuth),
        "velocity": maps["vlos_kms"][part].astype(float),
    }
    steps = np.hypot(*np.gradient(truth["b_los"]))
    steep = steps > np.quantile(steps, 0.9)
    for noise in (1e-3, 5e-3):
        for order in ORDERS:
            score, edges, rest = Score(), Score(), Score()
            for seed in range(options.seeds):
                cube = stokes(truth, seed, noise)
                prior = specfit.Smooth(order=order)
                result = quiet_fit(cube, specfit.WeakField(LINE, core_width=CORE_WIDTH), prior, seed=seed)
                spread = np.sqrt(result["b_q"].uncertainty.array * result["b_u"].uncertainty.array)
                seen = truth["b_trans"] ** 2 > 4.5 * spread
                score.add(result, truth, ("b_los", "b_q", "b_u", "b_trans", "azimuth"), seen)
                for which, where in ((edges, steep), (rest, ~steep)):
                    which.add(result, truth, ("b_los",), where=where)
            table = Table(
                f"scene: sunspot, sigma {noise:g}, order {order}, auto; {options.cut} x {options.cut} pixels, seeds 0 "
                f"to {options.seeds - 1}"
            )
            score.rows(table, goal=False)
            for where, which in (("steepest tenth", edges), ("the rest", rest)):
                which.rows(table, goal=False, where=f", {where}")
            yield table


# -- how well a scale can be known -----------------------------------------------------------------------------------


def scatter(options) -> Iterator[Table]:
    """Scales from maps seen directly, one number a cosine: nothing of the package, an exact trace, a fine grid."""
    rng = np.random.default_rng(0)
    table = Table(
        f"scatter: scales found over true ones, {options.side} x {options.side} pixels, 200 maps; median and, in "
        "brackets, the scatter of the logarithm"
    )
    steps = 2 - 2 * np.cos(np.pi * np.arange(options.side) / options.side)
    for order in ORDERS:
        power = np.add.outer(steps, steps).ravel()[1:] ** order
        for strength in STRENGTHS:
            factors = np.exp(np.linspace(-1.5, 1.5, 151))[:, None]
            variance = (strength * factors) ** 2 / power
            kept = variance / (1 + variance)
            found = {"SURE": [], "evidence": []}
            for _ in range(200):
                seen = rng.standard_normal(power.size) * np.sqrt(1 + strength**2 / power)
                risk = ((1 - kept) ** 2) @ seen**2 + 2 * kept.sum(1)
                surprise = np.log1p(variance).sum(1) + (1 / (1 + variance)) @ seen**2
                for name, curve in (("SURE", risk), ("evidence", surprise)):
                    found[name].append(float(factors[curve.argmin(), 0]))
            for name, values in found.items():
                what = f"order {order}, {strength} of a pixel's error, {name}"
                table.note(what, f"{np.median(values):.2f} ({np.std(np.log(values)):.3f})", "{}")
    yield table


# -- the command line ----------------------------------------------------------------------------------------------

SECTIONS = {"linear": linear, "velocity": velocity, "scatter": scatter, "scene": scene}


def main() -> int:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help="which to run; all for which there is a file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--side", type=int, default=64, help="pixels a side of the maps that are drawn (default 64)")
    parser.add_argument("--maps", help="the sunspot's maps: niris_maps_256.npz")
    parser.add_argument("--cut", type=int, default=128, help="pixels a side of the sunspot (default 128)")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if "scene" in options.sections and not options.maps:
        parser.error("the section scene needs --maps niris_maps_256.npz")
    torch.set_num_threads(1)
    print(header())
    good = True
    for name in options.sections or [name for name in SECTIONS if name != "scene" or options.maps]:
        for table in SECTIONS[name](options):
            print(f"\n{table}", flush=True)
            good = good and table.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
