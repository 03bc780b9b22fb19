"""Gaussian lines: sunpy_specfit, astropy, eispac and scipy on the same pixels, with the same starts and bounds.

    python benchmarks/gaussian.py [section ...]

The sections are eis-one, eis-two, eis-six, synthetic and errors; without any, all run. The exit status is 1 if a row
about quality fails. What each code is asked to do stands in peers.py.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from statistics import median

import astropy.units as u
import eispac
import numpy as np
import peers
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from peers import Spectra
from table import Table, header, peak_memory, race

import sunpy_specfit as specfit
from sunpy_specfit.data import gaussian_cube
from sunpy_specfit.data.synthetic import spectral_wcs

EISPAC_DATA = files("eispac") / "data"
REST = 195.119 * u.AA
# Chi-squared within this factor of the best that any code found: the same minimum.
SAME = 1.01


# -- Hinode/EIS ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raster:
    """A window of the raster that ships with eispac, as a cube for us and as `Spectra` for everybody.

    Attributes
    ----------
    cube : `~ndcube.NDCube`
    wavelength : `~astropy.units.Quantity`
        It varies from pixel to pixel.
    mask : `numpy.ndarray`
        True where a sample is not used.
    spectra : `Spectra`
        Of the pixels in `fitted` only.
    fitted : `numpy.ndarray`
        Which pixels (flat) have enough samples.
    """

    cube: NDCube
    wavelength: u.Quantity
    mask: np.ndarray
    spectra: Spectra
    fitted: np.ndarray

    def model(self):
        """Our model with the same bounds and ties."""
        return our_model(self.spectra, self.wavelength.unit)

    def fit(self, **options):
        """Our fit, with the error of every map."""
        result = specfit.fit(self.cube, self.model(), spectral_axis=self.wavelength, mask=self.mask, **options)
        return with_errors(result)

    def start_maps(self) -> dict[str, np.ndarray]:
        """The start values of the peers, as maps for ``init=``."""
        shape = self.cube.data.shape[:-1]
        columns = np.tile(self.spectra.template, (np.prod(shape), 1))
        columns[self.fitted] = peers.starts(self.spectra)
        names = parameter_names(self.spectra)
        return {
            name: column.reshape(shape)
            for name, column, free in zip(names, columns.T, self.spectra.free, strict=True)
            if free
        }

    def parameters(self, result) -> np.ndarray:
        """Our answer as the peers give theirs."""
        return our_parameters(result, self.spectra)[self.fitted]


# Window of the raster, and the templates whose lines are fitted there (with shifts of their centers in Angstrom).
SCENES = {
    "Fe XII 192.394": (192.394, [("fe_12_192_394.1c", 0.0)]),
    # eispac has no template for both lines of this window: two are joined.
    "Fe VIII 186.60 + Fe XII 186.88": (1, [("fe_08_186_601.1c", 0.0), ("fe_12_186_880.1c", 0.0)]),
    # Where hardly any pixel shows a second line.
    "Fe XII 186.75 + Fe XII 186.88": (1, [("fe_12_186_880.1c", -0.13), ("fe_12_186_880.1c", 0.0)]),
    "Ca XV 200.97 + Fe XIII 201.12": (4, [("fe_13_201_121.2c", 0.0)]),
    "Fe X 193.715 to Ar XIV 194.396": (3, [("ca_14_193_874.6c", 0.0)]),
}


@cache
def raster(name: str) -> Raster:
    """One of `SCENES`."""
    window, templates = SCENES[name]
    # eispac tells on stdout which files it reads.
    with redirect_stdout(io.StringIO()):
        eis = eispac.read_cube(str(EISPAC_DATA / "test" / "eis_20210306_064444.data.h5"), window=window)
        read = [eispac.read_template(str(EISPAC_DATA / "templates" / f"{t}.template.h5")) for t, _ in templates]
    parts = [_lines(template, shift) for template, (_, shift) in zip(read, templates, strict=True)]
    values, lower, upper = np.concatenate([*(part[:, :-1] for part in parts), parts[-1][:, -1:]], axis=1)
    low = min(t.template["wmin"] + min(shift, 0.0) for t, (_, shift) in zip(read, templates, strict=True))
    high = max(t.template["wmax"] for t in read)
    used = ~eis.mask & (eis.uncertainty.array > 0) & np.isfinite(eis.data)
    used &= (eis.wavelength >= low) & (eis.wavelength <= high)
    n = eis.data.shape[-1]
    spectra = Spectra(
        x=eis.wavelength.reshape(-1, n),
        y=np.where(used, eis.data, 0.0).reshape(-1, n).astype(float),
        sigma=np.where(used, eis.uncertainty.array, 0.0).reshape(-1, n).astype(float),
        template=values,
        lower=lower,
        upper=upper,
        shared_width=any(str(p["tied"]).strip() for t in read for p in t.parinfo),
    )
    fitted = np.flatnonzero(used.reshape(-1, n).sum(1) >= max(7, spectra.free.sum() + 1))
    cube = eis.to_nddata(unit=eis.unit / u.AA, uncertainty=StdDevUncertainty(eis.uncertainty.array), nddata_type=NDCube)
    return Raster(cube, eis.wavelength * u.AA, ~used, spectra[fitted], fitted)


def _lines(template, shift: float) -> np.ndarray:
    """Values, lower and upper limits of a template's parameters, ``(3, k)``."""
    found = np.array(
        [
            [
                p["value"],
                p["limits"][0] if p["limited"][0] else -np.inf,
                p["limits"][1] if p["limited"][1] else np.inf,
            ]
            for p in template.parinfo
        ]
    ).T
    found[:, 1:-1:3] += shift
    return found


# -- ours ----------------------------------------------------------------------------------------------------------


def parameter_names(spectra: Spectra) -> list[str]:
    """Our names of the parameters of `Spectra`, in its order."""
    lines = [f"line{i}.{name}" for i in range(spectra.lines) for name in ("amplitude", "center", "width")]
    return [*lines, "c0"]


def our_model(spectra: Spectra, unit=u.AA):
    """Lines on a constant with the bounds and ties of `Spectra`."""
    model = specfit.Polynomial(0)
    for i in reversed(range(spectra.lines)):
        model = specfit.Gaussian(spectra.template[3 * i + 1] * unit, label=f"line{i}") + model
    limits = zip(parameter_names(spectra), spectra.lower, spectra.upper, strict=True)
    model = model.bound(
        {name: (low, high) * unit for name, low, high in limits if np.isfinite(low) and np.isfinite(high)}
    )
    if spectra.shared_width:
        for i in range(1, spectra.lines):
            model = model.tie(f"line{i}.width", "line0.width")
    return model


def our_parameters(result, spectra: Spectra) -> np.ndarray:
    """``(pixels, k)``."""
    return np.stack([result[name].data.reshape(-1) for name in parameter_names(spectra)], axis=1)


def with_errors(result):
    """Every map with its error: what a user waits for."""
    for name in result:
        assert result[name].uncertainty.array.shape == result[name].data.shape
    return result


# -- EIS sections ----------------------------------------------------------------------------------------------------

OURS, GIVEN = "sunpy_specfit", "sunpy_specfit, peers' starts"
ASTROPY, ASTROPY_SUM = "astropy, own class", "astropy, Gaussian1D + Const1D"
EISPAC, SCIPY = "eispac", "scipy"


def compare(table: Table, scene: Raster, *, sample: int | None, rounds: int) -> dict[str, float]:
    """Run everybody; quality into the table, pixels per processor second of each returned.

    ``sample`` limits the pixels of the peers (drawn at random), never ours.
    """
    n = len(scene.spectra)
    chosen = np.arange(n) if sample is None else np.sort(np.random.default_rng(1).permutation(n)[:sample])
    part = scene.spectra[chosen]
    starts = scene.start_maps()
    runners = {
        OURS: scene.fit,
        GIVEN: lambda: scene.fit(init=starts),
        ASTROPY: lambda: peers.fit_astropy(part),
        ASTROPY_SUM: lambda: peers.fit_astropy_sum(part),
        EISPAC: lambda: peers.fit_eispac(part),
        SCIPY: lambda: peers.fit_scipy(part),
    }
    found, seconds = race(runners, rounds=rounds)
    parameters = {
        name: scene.parameters(value)[chosen] if name in (OURS, GIVEN) else value for name, value in found.items()
    }
    chi2 = {name: peers.chi_squared(part, value) for name, value in parameters.items()}
    best = np.min(list(chi2.values()), axis=0)
    table.shares = {name: np.mean(value <= SAME * best) for name, value in chi2.items()}
    table.worse = scene.fitted[chosen[chi2[OURS] > SAME * best]]
    pixels = {name: scene.mask[..., 0].size if name in (OURS, GIVEN) else len(part) for name in runners}
    return {name: pixels[name] / seconds[name] for name in runners}


def notes(table: Table, rates: dict[str, float], reference: str) -> None:
    """How the others fare."""
    for name, share in table.shares.items():
        if name != OURS:
            table.note(f"{name}: pixels within 1 % of the best chi2", share, "{:.2%}")
    for name, rate in rates.items():
        table.note(f"{name}: speed over {reference}'s", rate / rates[reference], "{:.2f}")


def eis_one() -> list[Table]:
    """One line and a constant: Fe XII 192.394, 3000 pixels."""
    table = Table("eis-one: Fe XII 192.394, one Gaussian and a constant, all 3000 pixels of the raster")
    scene = raster("Fe XII 192.394")
    rates = compare(table, scene, sample=None, rounds=3)
    first = scene.mask[..., 0].size / median(child("first", "Fe XII 192.394")["seconds"] for _ in range(3))
    fastest = max(rates[ASTROPY], rates[ASTROPY_SUM])
    table.quality("pixels within 1 % of the best chi2", table.shares[OURS], at_least=0.999, form="{:.2%}")
    table.quality("the same, from the peers' starts", table.shares[GIVEN], at_least=0.999, form="{:.2%}")
    table.speed("first call, errors included, over astropy LevMar", first / fastest, at_least=15)
    table.speed("warm, errors included, over astropy LevMar", rates[OURS] / fastest, at_least=25)
    table.speed("warm, from the peers' starts, over astropy LevMar", rates[GIVEN] / fastest, at_least=25)
    notes(table, rates, EISPAC)
    return [table]


def eis_two() -> list[Table]:
    """Two lines and a constant, in three ways."""
    tables = []
    for name in list(SCENES)[1:4]:
        table = Table(f"eis-two: {name}, two Gaussians and a constant, all 3000 pixels of the raster")
        scene = raster(name)
        rates = compare(table, scene, sample=None, rounds=2)
        table.quality("pixels within 1 % of the best chi2", table.shares[OURS], at_least=0.99, form="{:.2%}")
        table.speed("warm, errors included, over eispac", rates[OURS] / rates[EISPAC], at_least=40)
        notes(table, rates, EISPAC)
        tables.append(table)
    return tables


def eis_six() -> list[Table]:
    """Six lines of one width and a constant, as eispac's template has them: 14 free parameters."""
    table = Table(
        "eis-six: Fe X 193.715 to Ar XIV 194.396, six Gaussians of one width, peers on 1000 of the 3000 pixels"
    )
    scene = raster(list(SCENES)[4])
    rates = compare(table, scene, sample=1000, rounds=1)
    table.quality("pixels within 1 % of the best chi2", table.shares[OURS], at_least=0.95, form="{:.2%}")
    notes(table, rates, EISPAC)
    return [table]


# -- synthetic -----------------------------------------------------------------------------------------------------


def wavelengths(n: int = 32) -> u.Quantity:
    """As `gaussian_cube` has them."""
    return REST + 0.0223 * (np.arange(n) - (n - 1) / 2) * u.AA


class PlainGaussian(specfit.Model):
    """What a third party may write: no derivative, no start values."""

    name = "plain_gaussian"
    amplitude = specfit.Parameter("data", lower=0)
    center = specfit.Parameter("spectral", location=True)
    width = specfit.Parameter("spectral", lower=0)

    def evaluate(self, x, amplitude, center, width):
        return amplitude * torch.exp(-0.5 * ((x - center) / width) ** 2)


def synthetic_spectra(cube: NDCube, pixels: np.ndarray) -> Spectra:
    """Some spectra of a synthetic cube."""
    y = cube.data.reshape(-1, cube.data.shape[-1])[pixels].astype(float)
    sigma = cube.uncertainty.array.reshape(-1, y.shape[1])[pixels].astype(float)
    rest = REST.to_value(u.AA)
    return Spectra(
        x=np.tile(wavelengths(y.shape[1]).value, (len(y), 1)),
        y=y,
        sigma=sigma,
        template=np.array([1000.0, rest, 0.033, 70.0]),
        lower=np.array([0.0, -np.inf, 0.0, -np.inf]),
        upper=np.full(4, np.inf),
    )


def synthetic() -> list[Table]:
    """1e5 and 1e6 spectra of 32 wavelengths in one call."""
    table = Table("synthetic: one Gaussian and a constant, 1e5 and 1e6 spectra of 32 wavelengths, peers on 2000")
    model = specfit.Gaussian(REST, label="line0") + specfit.Polynomial(0)
    cubes = {100_000: gaussian_cube((250, 400), seed=1), 1_000_000: gaussian_cube((1000, 1000), seed=2)}
    chosen = np.sort(np.random.default_rng(1).permutation(100_000)[:2000])
    part = synthetic_spectra(cubes[100_000], chosen)
    with_errors(specfit.fit(gaussian_cube((64, 64)), model))
    runners = {n: lambda n=n: our_parameters(with_errors(specfit.fit(cubes[n], model)), part) for n in cubes}
    runners |= {ASTROPY: lambda: peers.fit_astropy(part), ASTROPY_SUM: lambda: peers.fit_astropy_sum(part)}
    found, seconds = race(runners, rounds=3)
    found[100_000] = found[100_000][chosen]
    del found[1_000_000]
    chi2 = {name: peers.chi_squared(part, value) for name, value in found.items()}
    best = np.min(list(chi2.values()), axis=0)
    share = np.mean(chi2[100_000] <= SAME * best)
    plain, automatic = without_jacobian(cubes[100_000])
    fastest = 2000 / min(seconds[ASTROPY], seconds[ASTROPY_SUM])
    rates = {n: n / seconds[n] for n in cubes}
    memory = child("memory", "1000000")
    table.quality("pixels within 1 % of the best chi2", share, at_least=0.999, form="{:.2%}")
    table.quality("the same, without a Jacobian of its own", plain, at_least=0.999, form="{:.2%}")
    table.speed("1e5 spectra, errors included, over astropy LevMar", rates[100_000] / fastest, at_least=150)
    table.speed("1e6 spectra, errors included, over astropy LevMar", rates[1_000_000] / fastest, at_least=150)
    # A few per cent is what the clock itself scatters by.
    table.speed("time per spectrum, 1e6 over 1e5", rates[100_000] / rates[1_000_000], at_most=1.05, form="{:.2f}")
    table.speed("peak memory at 1e6, over the input's (data and sigma)", memory["ratio"], at_most=3, form="{:.2f}")
    table.speed("time with a model without a Jacobian, over the built-in's", automatic, at_most=5, form="{:.2f}")
    for name in (ASTROPY, ASTROPY_SUM):
        table.note(f"{name}: pixels within 1 % of the best chi2", np.mean(chi2[name] <= SAME * best), "{:.2%}")
    table.note("of that memory, what the result's maps hold", memory["kept"], "{:.2f}")
    return [table]


def without_jacobian(cube: NDCube) -> tuple[float, float]:
    """A third party's model against the built-in: share of pixels with the same chi-squared, and ratio of times."""
    small = cube[:100]
    runners = {
        "own": lambda: with_errors(specfit.fit(small, specfit.Gaussian(REST) + specfit.Polynomial(0))),
        "third party": lambda: with_errors(specfit.fit(small, PlainGaussian() + specfit.Polynomial(0))),
    }
    race(runners, rounds=1)
    found, seconds = race(runners, rounds=3)
    own, other = (found[name].chi2.data for name in runners)
    return np.mean(other <= SAME * own), seconds["third party"] / seconds["own"]


# -- errors --------------------------------------------------------------------------------------------------------


def coverage(result, truth: dict[str, np.ndarray]) -> dict[tuple[str, int], float]:
    """Share of truths inside one and two sigma, of all pixels."""
    shares = {}
    for name, true in truth.items():
        pull = np.abs(result[name].data - true) / result[name].uncertainty.array
        for k in (1, 2):
            shares[name, k] = np.mean(pull <= k)
    return shares


def errors() -> list[Table]:
    """Are the errors right?"""
    table = Table("errors: how often the truth lies inside them, 40000 synthetic spectra at each peak signal-to-noise")
    model = specfit.Gaussian(REST) + specfit.Polynomial(0)
    low = int(specfit.Status.LOW_SIGNAL)
    goals = {1: 0.6827, 2: 0.9545}
    for ratio in (50, 10, 5, 3):
        cube = gaussian_cube((200, 200), signal_to_noise=ratio, seed=ratio)
        truth = cube.meta["truth"]
        truth = {"velocity": truth["velocity"], "intensity": truth["amplitude"] * truth["width"] * np.sqrt(2 * np.pi)}
        result = with_errors(specfit.fit(cube, model))
        for (name, k), share in coverage(result, truth).items():
            what = f"S/N {ratio}: {name} within {k} sigma"
            if ratio >= 10:
                table.quality(what, share, near=(goals[k], 0.02 if k == 1 else 0.01), form="{:.1%}")
            else:
                table.note(what, share, "{:.1%}")
        table.note(f"S/N {ratio}: pixels flagged LOW_SIGNAL", np.mean((result.status.data & low) > 0), "{:.1%}")
    for ratio in (5, 3):
        for (name, k), share in drawn_coverage(ratio).items():
            what = f"S/N {ratio}: {name} within the central {goals[k]:.0%} of sample(), prior stated"
            table.quality(what, share, near=(goals[k], 0.04 if k == 1 else 0.02), form="{:.1%}")
    return [table]


# The truths of `drawn_coverage` come from these normal distributions, and the fit is told so: mean and spread, in units
# of the noise, Angstrom and km/s.
PRIOR = {"amplitude": (None, 0.3), "velocity": (0.0, 20.0), "width": (0.035, 0.005), "c0": (1.0, 0.5)}


def drawn_coverage(ratio: float, *, draws: int = 200) -> dict[tuple[str, int], float]:
    """How often the truth lies in the central intervals of `FitResult.sample`, for truths drawn from the prior."""
    rng = np.random.default_rng(ratio)
    shape, x, rest = (120, 120), wavelengths(), REST.to_value(u.AA)
    prior = PRIOR | {"amplitude": (float(ratio), 0.3 * ratio)}
    truth = {name: rng.normal(mean, spread, shape) for name, (mean, spread) in prior.items()}
    truth["amplitude"] = np.abs(truth["amplitude"])
    center = rest * (1 + truth["velocity"] / 299792.458)
    z = (x.value - center[..., None]) / truth["width"][..., None]
    data = truth["amplitude"][..., None] * np.exp(-0.5 * z * z) + truth["c0"][..., None]
    cube = NDCube(
        data + rng.standard_normal(data.shape),
        wcs=spectral_wcs(shape, x),
        unit="erg / (cm2 s sr Angstrom)",
        uncertainty=StdDevUncertainty(np.ones(data.shape)),
    )
    priors = [specfit.Penalty(name, torch.distributions.Normal(*values)) for name, values in prior.items()]
    result = specfit.fit(cube, specfit.Gaussian(REST) + specfit.Polynomial(0), priors)
    drawn = result.sample(draws, seed=1)
    true = {"velocity": truth["velocity"], "intensity": truth["amplitude"] * truth["width"] * np.sqrt(2 * np.pi)}
    shares = {}
    for name, value in true.items():
        for k, inside in ((1, 0.6827), (2, 0.9545)):
            low, high = np.quantile(drawn[name].value, [0.5 - inside / 2, 0.5 + inside / 2], axis=0)
            shares[name, k] = np.mean((value >= low) & (value <= high))
    return shares


# -- fresh processes -----------------------------------------------------------------------------------------------


def child(*arguments: str) -> dict:
    """Run this script in a fresh process and read what it measured."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def child_first(name: str) -> dict:
    """Processor seconds of the very first fit in a process, the package imported and the data read."""
    scene = raster(name)
    begin = time.process_time()
    scene.fit()
    return {"seconds": time.process_time() - begin}


def child_memory(pixels: str) -> dict:
    """The largest resident size during a fit, less that just before, over the size of data and sigma."""
    with tempfile.TemporaryDirectory() as folder:
        # Made in another process, so that what making them took is not in this one's memory.
        subprocess.run([sys.executable, __file__, "--child", "cube", pixels, folder], check=True)
        data, sigma = (np.load(Path(folder) / f"{name}.npy") for name in ("data", "sigma"))
    cube = NDCube(
        data,
        wcs=spectral_wcs(data.shape[:2], wavelengths(data.shape[-1])),
        unit="erg / (cm2 s sr Angstrom)",
        uncertainty=StdDevUncertainty(sigma),
    )
    model = specfit.Gaussian(REST) + specfit.Polynomial(0)
    # What the libraries take once and for all is none of the fit's.
    with_errors(specfit.fit(gaussian_cube((64, 64)), model))
    before = peak_memory(reset=True)
    result = with_errors(specfit.fit(cube, model))
    peak = peak_memory()
    kept = peak_memory(reset=True)
    size = data.nbytes + sigma.nbytes
    return {"ratio": (peak - before) / size, "kept": (kept - before) / size, "maps": len(result)}


def child_cube(pixels: str, folder: str) -> dict:
    """Write a cube's arrays."""
    side = int(np.sqrt(int(pixels)))
    cube = gaussian_cube((side, int(pixels) // side), seed=3)
    np.save(Path(folder) / "data.npy", cube.data)
    np.save(Path(folder) / "sigma.npy", cube.uncertainty.array)
    return {}


# -- the command line ----------------------------------------------------------------------------------------------

SECTIONS = {"eis-one": eis_one, "eis-two": eis_two, "eis-six": eis_six, "synthetic": synthetic, "errors": errors}
CHILDREN = {"first": child_first, "memory": child_memory, "cube": child_cube}


def main() -> int:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help="which to run; all by default")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    # Everything is per core. A package must not do this for its users; a benchmark may.
    torch.set_num_threads(1)
    if arguments.child:
        name, *rest = arguments.child
        print(json.dumps(CHILDREN[name](*rest)))
        return 0
    print(header())
    tables = []
    for name in arguments.sections or SECTIONS:
        for table in SECTIONS[name]():
            print(f"\n{table}", flush=True)
            tables.append(table)
    return 0 if all(table.good for table in tables) else 1


if __name__ == "__main__":
    sys.exit(main())
