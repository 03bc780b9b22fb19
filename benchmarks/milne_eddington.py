"""Milne-Eddington inversions of Fe I 6301.5 and 6302.5: agreement, accuracy, real data and speed.

    python benchmarks/milne_eddington.py FOLDER [section ...] [--side 128] [--seeds 2] [--pymilne FOLDER]

FOLDER holds milne_eddington_reference.npz (profiles by another code), niris_maps_256.npz (maps of an inversion, the
truth of synthetic profiles, whose thermodynamics are drawn from broad distributions) and hinode_sp_20070227_slit.npz (a
slit of Hinode/SP). The sections are reference, accuracy, coupled, real and speed; without any, all run. With --pymilne,
a folder in which pyMilne (https://github.com/jaimedelacruz/pyMilne) was built, that code runs beside ours from the same
start values. The exit status is 1 if a row about quality fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import astropy.units as u
import numpy as np
import torch
from averages import best, weighted_boxcar
from hinode_slit import SIGMA, real
from table import Table, header, race

import sunpy_specfit as specfit
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.core.start import find_starts
from sunpy_specfit.data import milne_eddington_cube

LINES = ["Fe I 6301.5", "Fe I 6302.5"]
X = 6300.88 + 0.0215 * np.arange(112)

# Priors of coupled maps: B_los is smooth, and b_q and b_u are the parts of one vector, whose edges are in one place.
PRIORS = {
    "Smooth": [specfit.Smooth("b_los", "b_q", "b_u")],
    "Smooth and joint TotalVariation": [
        specfit.Smooth("b_los", order=1.5),
        specfit.TotalVariation("b_q", "b_u", joint=True),
    ],
}
# One pixel in 2304 has no transverse field to speak of, and so any azimuth: it takes some seeds to even out.
SEEDS_COUPLED = 6


def model(**options):
    """Both lines."""
    return specfit.MilneEddington(LINES, **options)


def wrapped(difference):
    """Differences of azimuths, -90 to 90 degrees."""
    return (difference + 90) % 180 - 90


def rms(values) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.nanmean(np.square(values))))


# -- scenes ----------------------------------------------------------------------------------------------------------


def truth_of(folder: Path, side: int, seed: int, cut: bool = False) -> dict[str, np.ndarray]:
    """Maps of the field and the velocity as they were observed, thinned out (or cut out of the middle), and an
    atmosphere of which no start value knows: every number of every pixel drawn on its own."""
    maps = np.load(folder / "niris_maps_256.npz")
    step = 256 // side
    part = np.s_[128 - side // 2 : 128 + side // 2, 128 - side // 2 : 128 + side // 2] if cut else np.s_[::step, ::step]
    strength, inclination, azimuth, velocity = (
        maps[name][part][:side, :side].astype(float) for name in ("B_G", "inc_rad", "azi_rad", "vlos_kms")
    )
    rng = np.random.default_rng(1000 + seed)

    def drawn(low, high):
        return np.exp(rng.uniform(np.log(low), np.log(high), strength.shape))

    return {
        "field_strength": strength,
        "inclination": np.rad2deg(inclination),
        "azimuth": np.rad2deg(azimuth) % 180,
        "velocity": velocity,
        "doppler_width": drawn(0.018, 0.05),
        "line_strength": drawn(3, 40),
        "damping": drawn(0.05, 1.0),
        "source_constant": drawn(0.05, 0.4),
        "source_gradient": drawn(0.4, 1.0),
    }


def with_components(truth):
    """With what follows from it."""
    tilt = np.deg2rad(truth["inclination"])
    along, across = truth["field_strength"] * np.cos(tilt), truth["field_strength"] * np.sin(tilt)
    return {**truth, "b_los": along, "b_trans": across}


def errors_of(result, truth) -> dict[str, np.ndarray]:
    """Found less true."""
    found = {name: result[name].data - truth[name] for name in truth if name in result}
    found["azimuth"] = wrapped(found["azimuth"])
    return found


# -- sections --------------------------------------------------------------------------------------------------------


def reference(options) -> list[Table]:
    """Against profiles of another code, whose own Voigt function is good to 2e-5."""
    stored = np.load(options.folder / "milne_eddington_reference.npz")
    numbers = stored["parameters"].reshape(-1, 9).T.copy()
    numbers[1:3] = np.rad2deg(numbers[1:3])
    one = model()
    x, values, inputs = tensors(one, stored["wavelength_air_A"], numbers, torch.float64)
    expected = np.moveaxis(stored["stokes"].reshape(-1, 4, len(x)), 0, -1)
    table = Table("reference: 2304 atmospheres, by pyMilne")
    for dtype in (torch.float64, torch.float32):
        x, values, inputs = tensors(one, stored["wavelength_air_A"], numbers, dtype)
        found = one.evaluate(x, **values, **inputs).double().numpy()
        apart = np.abs((found - expected) / numbers[7:].sum(0)).max((1, 2))
        for letter, value in zip("IQUV", apart, strict=True):
            what = f"Stokes {letter}, {str(dtype)[6:]}: largest difference over the continuum"
            table.quality(what, value, at_most=2e-5, form="{:.2e}")
    return [table]


def tensors(one, wavelength, numbers, dtype):
    """Axis, parameters and auxiliary inputs, centred before they are rounded."""

    class Seen:
        """As much of an observation as the model asks for."""

        spectral_unit, x, grid = u.AA, wavelength, None

    inputs, middle = one.prepare(Seen), float(np.mean(wavelength))
    inputs["rest"] = inputs["rest"] - middle
    x = torch.as_tensor(wavelength - middle)[:, None].to(dtype)
    values = {name: torch.as_tensor(v).to(dtype) for name, v in zip(one.parameters, numbers, strict=True)}
    return x, values, {name: v.to(dtype) for name, v in inputs.items()}


def accuracy(options) -> list[Table]:
    """Maps of all pixels, from start values of the data alone."""
    tables = []
    for noise in (1e-3, 3e-4):
        collected: dict[str, list] = {}
        for seed in range(options.seeds):
            truth = truth_of(options.folder, options.side, seed)
            cube = milne_eddington_cube(truth["velocity"].shape, truth=truth, noise=noise, seed=seed)
            result = specfit.fit(cube, model(compiled=options.compiled), seed=seed)
            truth = with_components(truth)
            collected.setdefault("chi2", []).append(result.reduced_chi2.data)
            # Q or U above 4.5 sigma somewhere along the true profile.
            clean = milne_eddington_cube(truth["velocity"].shape, truth=truth, noise=0.0, seed=seed, dtype=np.float64)
            collected.setdefault("seen", []).append(np.abs(clean.data[1:3]).max((0, 1)) > 4.5 * noise)
            for name, error in errors_of(result, truth).items():
                collected.setdefault(f"error {name}", []).append(error)
                collected.setdefault(f"pull {name}", []).append(error / result[name].uncertainty.array)
        found = {name: np.stack(values) for name, values in collected.items()}
        table = Table(
            f"accuracy: {options.side} x {options.side} pixels, sigma {noise:g}, seeds 0 to {options.seeds - 1}"
        )
        bad = ~(found["chi2"] <= 1.3)
        table.quality("pixels with a reduced chi-squared above 1.3", bad.mean(), at_most=1e-3, form="{:.3%}")
        table.note("median of the reduced chi-squared", np.nanmedian(found["chi2"]), "{:.4f}")
        table.note("pixels with Q or U above 4.5 sigma", found["seen"].mean(), "{:.1%}")
        for name, where in (
            ("b_los", slice(None)),
            ("velocity", slice(None)),
            ("field_strength", found["seen"]),
            ("inclination", found["seen"]),
            ("azimuth", found["seen"]),
            ("b_trans", found["seen"]),
        ):
            pull = np.abs(found[f"pull {name}"][where])
            extra = "" if isinstance(where, slice) else ", Q or U seen"
            for width, share, tolerance in ((1.0, 0.683, 0.03), (1.96, 0.95, 0.02)):
                what = f"{name}: within {width:g} sigma{extra}"
                table.quality(what, float(np.mean(pull < width)), near=(share, tolerance), form="{:.3f}")
            table.note(f"{name}: rms error{extra}", rms(found[f"error {name}"][where]), "{:.4g}")
        tables.append(table)
    return tables


def coupled(options) -> list[Table]:
    """Priors on the field's components, scales from the data, against pixels by themselves and boxcars of those."""
    side, names = min(options.side, 48), ("b_los", "b_q", "b_u")
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(SEEDS_COUPLED):
        truth = with_components(truth_of(options.folder, side, seed, cut=True))
        cube = milne_eddington_cube((side, side), truth=truth, noise=1e-3, seed=seed)
        alone = specfit.fit(cube, model())
        spread = {n: alone[n].uncertainty.array for n in names}
        maps = {"pixel by pixel": {n: alone[n].data for n in names}}
        for key, priors in PRIORS.items():
            result = specfit.fit(cube, model(), priors, init=alone, seed=seed)
            maps[key] = {n: result[n].data for n in names}
        for size in (3, 5, 7):
            maps[f"boxcar {size}"] = {n: weighted_boxcar(alone[n].data, spread[n], (size, size)) for n in names}
        seen = truth["b_trans"] ** 2 > 4.5 * np.sqrt(spread["b_q"] * spread["b_u"])
        for key, values in maps.items():
            across = np.hypot(values["b_q"], values["b_u"]) ** 0.5
            turned = wrapped(np.rad2deg(0.5 * np.arctan2(values["b_u"], values["b_q"])) - truth["azimuth"])
            errors = {"b_trans (G)": rms(across - truth["b_trans"]), "azimuth (deg)": rms(turned)}
            errors |= {
                "azimuth where seen (deg)": rms(turned[seen]),
                "b_los (G)": rms(values["b_los"] - truth["b_los"]),
            }
            found.setdefault(key, []).append(errors)
    mean = {key: {n: np.mean([e[n] for e in rows]) for n in rows[0]} for key, rows in found.items()}
    table = Table(f"coupled: {side} x {side} pixels, sigma 1e-3, seeds 0 to {SEEDS_COUPLED - 1}")
    for name, least in mean["pixel by pixel"].items():
        box = best({key: values[name] for key, values in mean.items() if key.startswith("boxcar")})
        table.note(f"{name}: rms pixel by pixel", least, "{:.3f}")
        table.note(f"{name}: the best boxcar ({box}) over that", mean[box][name] / least, "{:.3f}")
        for key in PRIORS:
            ratio = mean[key][name] / least
            if name.startswith("b_los"):
                table.note(f"{name}: {key} over that", ratio, "{:.3f}")
            else:
                table.quality(f"{name}: {key} over that", ratio, at_most=1.0, form="{:.3f}")
    return [table]


# -- speed -----------------------------------------------------------------------------------------------------------


def speed(options) -> list[Table]:
    """Pixels per processor second, one thread; inversions count only where their answers are good."""
    truth = truth_of(options.folder, 64, 0)
    cube = milne_eddington_cube((64, 64), truth=truth, noise=1e-3, seed=0)
    one, pixels = model(compiled=False), 64 * 64
    numbers = np.stack([truth[name].ravel() for name in one.parameters])
    specfit.fit(cube[:, :, :8, :8], one, uncertainty=1e-3 * u.one)  # what is done once in a process is done
    runners = {}
    for dtype in (torch.float32, torch.float64):
        x, values, inputs = tensors(one, X, numbers, dtype)
        for name, function in (("forward", one.evaluate), ("Jacobian", one.linearize)):
            runners[f"{name}, {str(dtype)[6:]}"] = partial(in_blocks, function, x, values, inputs)
    runners["inversion"] = lambda: specfit.fit(cube, one)
    waited = {}
    if options.compiled:
        compiled = model(compiled=True)
        seen = torch.as_tensor(cube.data.reshape(4, len(X), -1))
        for dtype in (torch.float32, torch.float64):
            x, values, inputs = tensors(compiled, X, numbers, dtype)
            data, weight = seen.to(dtype), torch.full_like(seen, 1e6, dtype=dtype)
            for name, function, own in (
                ("forward", compiled.evaluate, ()),
                ("Jacobian", compiled.linearize, ()),
                ("Jacobian and normal equations", compiled.normal_equations, (data, weight)),
            ):
                what = f"{name}, {str(dtype)[6:]}, compiled"
                runners[what] = partial(in_blocks, function, x, values, inputs, *own)
                begin = time.perf_counter()
                runners[what]()
                waited[what] = time.perf_counter() - begin
        runners["inversion, compiled"] = lambda: specfit.fit(cube, compiled)
    peers = options.peer.runners(cube, truth, one) if options.peer else {}
    found, seconds = race({**runners, **peers}, rounds=options.rounds)
    truth = with_components(truth)
    result = found["inversion"]
    errors = errors_of(result, truth)
    table = Table("speed: 4096 pixels, 112 wavelengths, 15 components; pixels a second of one thread")
    bad = float(np.mean(~(result.reduced_chi2.data <= 1.3)))
    table.quality("inversion: reduced chi-squared above 1.3", bad, at_most=1e-3, form="{:.3%}")
    for name, value in seconds.items():
        table.note(name, pixels / value, "{:.0f}")
    for name, value in waited.items():
        table.note(f"seconds until it was there (0: for an earlier section): {name}", value, "{:.1f}")
    inversions = {"eager": errors}
    if options.compiled:
        also = found["inversion, compiled"]
        inversions["compiled"] = errors_of(also, truth)
        bad = float(np.mean(~(also.reduced_chi2.data <= 1.3)))
        table.quality("the same, compiled", bad, at_most=1e-3, form="{:.3%}")
    for kind, own in inversions.items():
        for name in ("field_strength", "b_los", "b_trans", "velocity"):
            table.note(f"inversion, {kind}: rms error of {name}", rms(own[name]), "{:.4g}")
    if options.peer:
        theirs_errors = options.peer.errors(found["pyMilne: inversion, 4 starts"], truth)
        for kind, own in inversions.items():
            for name, value in theirs_errors.items():
                what = f"{kind}: rms error of {name} over that of pyMilne's four starts"
                table.quality(what, rms(own[name]) / value, at_most=1, form="{:.3f}")
        for ours, theirs, goal in (
            ("inversion", "inversion, 4 starts", 1.0),
            ("forward, float32, compiled", "forward, float32", 3.0),
            ("forward, float64, compiled", "forward, float64", None),
            ("Jacobian, float32, compiled", "Jacobian, float32", 1.3),
            ("Jacobian, float64, compiled", "Jacobian, float64", None),
            ("inversion, compiled", "inversion, 4 starts", 5.0),
        ):
            if ours in seconds:
                ratio = seconds[f"pyMilne: {theirs}"] / seconds[ours]
                what = f"{ours}, over pyMilne's {theirs}"
                table.note(what, ratio) if goal is None else table.speed(what, ratio, at_least=goal)
    return [table]


def in_blocks(function, x, values, inputs, *data, size: int = 512):
    """The function of all pixels, some at a time."""
    count = values["velocity"].shape[-1]
    for first in range(0, count, size):
        part = slice(first, first + size)
        function(x, *(d[..., part] for d in data), **{name: v[part] for name, v in values.items()}, **inputs)


class PyMilne:
    """That code, from our start values; what it writes to the terminal is thrown away."""

    def __init__(self, folder: str):
        sys.path.insert(0, folder)
        import MilneEddington

        self.module = MilneEddington

    def atmosphere(self, wavelength, dtype="float64"):
        return self.module.MilneEddington([[wavelength.astype(dtype), None]], [6301, 6302], nthreads=1, precision=dtype)

    @staticmethod
    def starts(cube, one, dtype="float64"):
        problem = build_problem([cube], [one])
        free = torch.cat([find_starts(problem.block(part))[0] for part in problem.slices()], -1).double().numpy()
        factor, offset = problem.layout.scales()
        values = free * factor[:, None] + offset[:, None]
        values[1:3] = np.deg2rad(values[1:3])
        return np.ascontiguousarray(values.T.reshape(*cube.data.shape[2:], 9), dtype=dtype)

    def invert(self, cube, one, wavelength, sigma, starts, dtype="float64", **limits):
        """What runs it, and the misfit of each sample of its light; with its own limits unless others are given."""
        code = self.atmosphere(wavelength, dtype)
        seen = np.ascontiguousarray(cube.data.transpose(2, 3, 0, 1), dtype=dtype)
        levels = np.broadcast_to(np.array(sigma)[:, None], seen.shape[2:])
        given = self.starts(cube, one, dtype)

        def run():
            with silence():
                return code.invert(given.copy(), seen.copy(), levels.copy(), nRandom=starts, **limits)

        return run, lambda light: ((light - seen) / levels) ** 2

    def invert_slit(self, cube, wavelength, starts):
        run, of_light = self.invert(cube, model(), wavelength, SIGMA, starts, nIter=30, chi2_thres=0.5)
        squared = of_light(run()[1])[0]
        return {"all": squared.mean((1, 2)), **dict(zip("IQUV", squared.mean(2).T, strict=True))}

    def runners(self, cube, truth, one):
        """What is to be timed, by name."""
        found = {}
        numbers = np.stack([truth[name] for name in one.parameters], -1)
        numbers[..., 1:3] = np.deg2rad(numbers[..., 1:3])
        for dtype in ("float32", "float64"):
            code, values = self.atmosphere(X, dtype), np.ascontiguousarray(numbers, dtype=dtype)
            found[f"pyMilne: forward, {dtype}"] = partial(quietly, code.synthesize, values)
            found[f"pyMilne: Jacobian, {dtype}"] = partial(quietly, code.synthesize_rf, values)
        for starts in (1, 4):
            run, _ = self.invert(cube, one, X, (1e-3,) * 4, starts)
            found[f"pyMilne: inversion, {starts} start{'s' if starts > 1 else ''}"] = run
        return found

    @staticmethod
    def errors(found, truth):
        """Root mean square errors of an inversion."""
        values = found[0]
        along, across = (values[..., 0] * f(values[..., 1]) for f in (np.cos, np.sin))
        return {
            "field_strength": rms(values[..., 0] - truth["field_strength"]),
            "b_los": rms(along - truth["b_los"]),
            "b_trans": rms(across - truth["b_trans"]),
            "velocity": rms(values[..., 3] - truth["velocity"]),
        }


@contextlib.contextmanager
def silence():
    """Nothing reaches the terminal, not from C++ either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    kept = [os.dup(1), os.dup(2)]
    try:
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        for number in (*kept, nowhere):
            os.close(number)


def quietly(function, values):
    """A call, in silence."""
    with silence():
        return function(values.copy())


SECTIONS = {"reference": reference, "accuracy": accuracy, "coupled": coupled, "real": real, "speed": speed}


def main() -> int:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the data are")
    parser.add_argument("sections", nargs="*", metavar="section", help="which to run; all by default")
    parser.add_argument("--side", type=int, default=128, help="pixels a side of the scene (default 128)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (default 3)")
    parser.add_argument("--pymilne", help="a folder in which pyMilne was built")
    parser.add_argument("--compiled", action="store_true", help="run compiled code, and time it beside the plain")
    parser.add_argument("--plot", help="where to write a figure of the worst pixels of the real data")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    # Everything is per core. A package must not do this for its users; a benchmark may.
    torch.set_num_threads(1)
    # Compiled code of an earlier run must not hide how long it takes to make.
    cache = tempfile.TemporaryDirectory()
    os.environ["XDG_CACHE_HOME"] = cache.name
    options.peer = PyMilne(options.pymilne) if options.pymilne else None
    print(header())
    good = True
    for name in options.sections or SECTIONS:
        for table in SECTIONS[name](options):
            print(f"\n{table}", flush=True)
            good = good and table.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
