"""Differential emission measures beside demregpy: speed, accuracy and calibration.

``python benchmarks/dem.py [speed] [accuracy] [calibration] [spatial] [temporal]``, with ``demregpy`` installed.
Families of truth: those of `sunpy_specfit.data.dem_scene`, and four more that stand here alone: a coronal hole with
bright points, the core of an active region by power laws (Warren et al. 2012,
https://doi.org/10.1088/0004-637X/759/2/141), static loops (Rosner, Tucker & Vaiana 1978,
https://doi.org/10.1086/155949), and nanoflares. Seeds 101 and up of all but nanoflares chose between priors; nanoflares
chose nothing, but were looked at. Truths lie on bins of 0.01 dex and the fit on bins of 0.05; both codes get the same
pixels, errors and responses. demregpy is given its best settings of a grid, chosen
for each family and each number with the truth at hand; ours are the defaults everywhere.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import resource
import sys
import time

import astropy.units as u
import numpy as np
import torch
from astropy.wcs import WCS
from scipy.special import ndtr
from table import Table, header

import sunpy_specfit as specfit
from sunpy_specfit.data.dem_scene import _field, _hump, dem_scene, scene_of

BINS = np.logspace(5.7, 7.3, 33) * u.K
FAMILIES = (
    "quiet_sun",
    "active_region",
    "flare",
    "isothermal",
    "coronal_hole",
    "active_region_core",
    "static_loops",
    "nanoflares",
)
HELD_OUT = ("coronal_hole", "active_region_core", "static_loops", "nanoflares")


def scene(family: str, shape=(32, 32), seed: int = 11, exposure: float = 1.0):
    """A scene of one of the families."""
    if family not in HELD_OUT:
        return dem_scene(family, shape, seed=seed, exposure=exposure)
    rng = np.random.default_rng(seed)
    log_t = np.arange(5.705, 7.3, 0.01)
    if family == "active_region_core":
        away = log_t[:, None, None] - (6.5 + 0.08 * _field(shape, rng))
        rise, fall = 2.7 + 0.5 * _field(shape, rng), 8 + _field(shape, rng)
        core = 10 ** np.where(away < 0, rise * away, -fall * away)
        core *= 10 ** (28.0 + 0.3 * _field(shape, rng)) / core.sum(0)
        return scene_of(core, rng, exposure=exposure, responses=specfit.TemperatureResponse.aia())
    if family == "static_loops":
        # Of each loop's emission measure T^1.5 up to its own highest temperature, of which there are many in a pixel.
        away = log_t[:, None, None] - (6.35 + 0.07 * _field(shape, rng))
        loops = 10 ** (1.5 * away) * ndtr(-away / (0.15 * 10 ** (0.1 * _field(shape, rng))))
        loops *= 10 ** (27.5 + 0.3 * _field(shape, rng)) / loops.sum(0)
        return scene_of(loops, rng, exposure=exposure, responses=specfit.TemperatureResponse.aia())
    if family == "nanoflares":
        # Emission measures that rise as one power of temperature and fall as another, with a rounded peak.
        turn, rise, fall = (
            6.55 + 0.06 * _field(shape, rng),
            2.2 + 0.4 * _field(shape, rng),
            7 + 1.5 * _field(shape, rng),
        )
        away = log_t[:, None, None] - turn
        storm = 10 ** (rise * away) / (1 + 10 ** ((rise + fall.clip(3)) * away))
        storm *= 10 ** (27.8 + 0.3 * _field(shape, rng)) / storm.sum(0)
        return scene_of(storm, rng, exposure=exposure, responses=specfit.TemperatureResponse.aia())
    hole = _hump(log_t, 5.92 + 0.03 * _field(shape, rng), 0.12, 10 ** (26.3 + 0.15 * _field(shape, rng)))
    points = _hump(log_t, 6.25 + 0.06 * _field(shape, rng), 0.14, 10 ** (26.2 + 0.6 * _field(shape, rng, 3.0)))
    return scene_of(hole + points, rng, exposure=exposure, responses=specfit.TemperatureResponse.aia())


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(r.ru_utime + r.ru_stime for r in used)


def demreg(one, **settings):
    """demregpy's DEM, its error, its resolution, chi², and the channels predicted again, bins or channels first."""
    from demregpy import dn2dem

    data = np.stack([image.data for image in one.images.values()], -1)
    sigma = np.stack([image.uncertainty.array for image in one.images.values()], -1)
    table = np.stack([r.value for r in one.responses.values()], -1)
    log_t = np.log10(one.responses.temperature.value)
    weighting = np.ones((*data.shape[:2], len(BINS) - 1))
    with contextlib.redirect_stderr(io.StringIO()), np.errstate(all="ignore"):
        found = dn2dem(data, sigma, table, log_t, BINS.value, dem_norm0=weighting, **settings)
    return [np.moveaxis(np.asarray(f), -1, 0) if np.ndim(f) == 3 else f for f in found]


def derived(dem: np.ndarray) -> dict[str, np.ndarray]:
    """EM and log T of a DEM ``(k, ny, nx)``."""
    model = specfit.DEM(specfit.TemperatureResponse.aia(), bins=BINS)
    found = model.derive(torch.as_tensor(dem.reshape(len(dem), -1)))
    return {name: value.numpy().reshape(dem.shape[1:]) for name, value in found.items()}


def errors(one, dem: np.ndarray, answered: np.ndarray) -> dict[str, float]:
    """RMSE over the pixels with an answer; bins at or below zero count as a thousandth of the pixel's peak."""
    true = one.dem(BINS)
    own = derived(np.where(answered, dem, 1.0))
    with np.errstate(all="ignore"):
        floored = np.maximum(dem, 1e-3 * dem.max(0))
        bins = np.log10(floored / true)[(true > 0.05 * true.max(0)) & answered]
        amount = np.log10(np.maximum(own["emission_measure"], 1e20) / one.total())[answered]
        temperature = (own["log_temperature"] - one.log_temperature())[answered]

    def rms(x):
        return float(np.sqrt(np.nanmean(np.square(x))))

    return {"log DEM": rms(bins), "log T": rms(temperature), "log EM": rms(amount)}


def ours(one, form: str = "log", priors=(), **options):
    return specfit.fit(one.images, specfit.DEM(one.responses, bins=BINS, form=form, **options), priors=priors)


# Maps of which errors are judged, each with a learned mean of its own: a hundred pixels that share it are no hundred
# witnesses.
SEEDS = range(21, 41)
GRID = [
    {"gloci": gloci, "l_emd": l_emd, "emd_int": emd_int, "max_iter": n}
    for gloci, l_emd, emd_int, n in itertools.product((0, 1), (False, True), (False, True), (10, 30))
    if not (emd_int and l_emd)
]


def accuracy() -> None:
    table = Table("Accuracy: RMSE in dex, ours over demregpy at its best settings for that number")
    for family in FAMILIES:
        one = scene(family)
        result = ours(one)
        answered = np.isfinite(result["dem"].data).all(0)
        mine, theirs, lost = [], [], []
        for settings in GRID:
            dem = demreg(one, **settings)[0]
            known = dem.max(0) > 0
            lost.append(100 * (1 - known.mean()))
            theirs.append(errors(one, dem, known))
            mine.append(errors(one, result["dem"].data, answered & known))  # on the same pixels
        for number in mine[0]:
            if family == "isothermal" and number == "log DEM":
                continue
            best = min(range(len(GRID)), key=lambda n: theirs[n][number])
            found, their = mine[best][number], theirs[best][number]
            row = f"{family}, {number}: {found:.3f}; demregpy {theirs[0][number]:.3f}, at best {their:.3f}"
            table.quality(row, found / their, at_most=0.8, form="{:.2f}")
        table.quality(f"{family}, pixels without an answer (%)", 100 * (1 - answered.mean()), at_most=0)
        table.note(f"{family}, demregpy's: {min(lost):.1f} to {max(lost):.1f} %", lost[0])
    print(table)


def speed() -> None:
    """Processor seconds a pixel; ratios within one run."""
    small, large = scene("active_region", (24, 24)), scene("active_region", (512, 512), seed=3)
    demreg(small)
    begin = processor_seconds()
    demreg(small)
    theirs = (processor_seconds() - begin) / small.total().size

    jobs = {
        "closed form, DEM and sigma": lambda: ours(large, "linear")["dem"].uncertainty,
        "positive, DEM": lambda: ours(large, "log"),
        "positive, DEM and sigma": lambda: ours(large, "log")["dem"].uncertainty,
    }
    ours(small)
    for name, call in jobs.items():
        took = []
        for _ in range(2):
            begin, wall = processor_seconds(), time.perf_counter()
            call()
            took.append((processor_seconds() - begin, time.perf_counter() - wall))
        own = min(t[0] for t in took) / large.total().size
        wall = large.total().size / min(t[1] for t in took)
        print(f"{name:28s} {1 / own:9.0f} px/s a core (wall {wall:.0f}), {theirs / own:.0f} times demregpy")
    print(f"{'demregpy':28s} {1 / theirs:10.0f} px/s a core")


def coverage(away, sigma) -> str:
    ratio = np.abs(np.asarray(away) / np.asarray(sigma))
    ratio = ratio[np.isfinite(ratio)]
    return f"{100 * np.mean(ratio < 1):5.1f} {100 * np.mean(ratio < 2):5.1f}"


def covered_by_maps(pulls) -> str:
    """Coverage of all maps, and the standard error of that within one sigma, from how maps differ."""
    inside = [100 * np.mean(np.abs(np.ravel(pull)[np.isfinite(np.ravel(pull))]) < 1) for pull in pulls]
    everything = np.concatenate([np.ravel(pull) for pull in pulls])
    return f"{coverage(everything, 1.0)} (+-{np.std(inside, ddof=1) / len(inside) ** 0.5:.1f})"


def in_families() -> None:
    """Coverage of what the channels can identify, in every family."""
    for family in FAMILIES:
        pulls: dict[str, list] = {}
        for seed in SEEDS:
            one = scene(family, (24, 24), seed=seed)
            plain = ours(one)
            bands = wide_bands(plain)
            result = ours(one, bands=bands)
            em, log_t = result["emission_measure"], result["log_temperature"]
            pulls.setdefault("EM", []).append((em.data - one.total()) / em.uncertainty.array)
            pulls.setdefault("log T", []).append((log_t.data - one.log_temperature()) / log_t.uncertainty.array)
            band = result["band_emission_measure"]
            for number in range(len(bands) - 1):
                true = one.total(bands[number], bands[number + 1])
                pulls.setdefault("bands", []).append((band.data[number] - true) / band.uncertainty.array[number])
            model = specfit.DEM(one.responses, bins=BINS)
            sigma = result._propagation.covariance_rows.between(
                model.matrix[:, :, None], model.matrix[:, :, None], diagonal=True
            )
            light = np.tensordot(model.matrix, result["dem"].data, 1)
            clean = np.stack(list(one.clean.values()))
            pulls.setdefault("channels", []).append((light - clean) / np.sqrt(sigma).reshape(clean.shape))
            true = one.dem(BINS)
            seen = true > 0.05 * true.max(0)
            dem = result["dem"]
            pulls.setdefault("bins", []).append(((dem.data - true) / dem.uncertainty.array)[seen])
        print(f"{family:14s} {'  '.join(f'{name} {covered_by_maps(values)}' for name, values in pulls.items())}")


def wide_bands(result) -> u.Quantity:
    """Edges of bands that are no narrower than the resolution where they lie."""
    width = np.median(specfit.temperature_resolution(result).data, axis=(1, 2))
    edges, log_t, places = [0], np.log10(BINS.value), np.log10(np.sqrt(BINS[1:] * BINS[:-1]).value)
    while edges[-1] < len(log_t) - 1:
        end = next(
            (
                j
                for j in range(edges[-1] + 1, len(log_t))
                if log_t[j] - log_t[edges[-1]] >= np.median(width[(places > log_t[edges[-1]]) & (places < log_t[j])])
            ),
            len(log_t) - 1,
        )
        edges.append(end)
    if len(edges) > 2 and log_t[edges[-1]] - log_t[edges[-2]] < np.median(width[edges[-2] :]):
        edges.pop(-2)
    return BINS[edges]


def from_the_prior() -> None:
    """Coverage bin by bin of truths drawn from the prior that the fit uses."""
    one = scene("active_region", (40, 40))
    model = specfit.DEM(one.responses, bins=BINS)
    log_t = np.log10(model.centers.value)
    mean = 3e21 * np.exp(-0.5 * ((log_t - 6.2) / 0.35) ** 2) * 10 ** (6.2 - log_t)
    prior = specfit.TemperaturePrior(scale=1.0, level_spread=0.5, mean=mean * u.Unit("cm-5 K-1"))
    bound = ours(one, priors=prior)._priors[0]._bound
    root = np.linalg.cholesky(bound.covariance.numpy() + 1e-9 * np.eye(32))
    pulls, of_total = [], []
    for seed in (1, 2, 3, 4):  # the least of 32 bins is noisier than any of them
        rng = np.random.default_rng(seed)
        x = bound.mean.numpy()[:, None] + root @ rng.standard_normal((32, 1600))
        truth = np.exp(x).reshape(32, 40, 40)
        images = {}
        for (name, image), rate in zip(one.images.items(), np.tensordot(model.matrix, truth, 1), strict=True):
            sigma = np.sqrt(rate / 2 + 0.4)
            noisy = rate + sigma * rng.standard_normal(rate.shape)
            error = type(image.uncertainty)(sigma)
            images[name] = type(image)(noisy, wcs=image.wcs, unit=image.unit, uncertainty=error)
        result = specfit.fit(images, model, priors=prior)
        dem, em = result["dem"], result["emission_measure"]
        pulls.append((np.log(dem.data / truth) / (dem.uncertainty.array / dem.data)).reshape(32, -1))
        of_total.append((em.data - np.tensordot(np.diff(BINS.value), truth, 1)) / em.uncertainty.array)
    one_sigma, two_sigma = (100 * np.mean(np.abs(np.concatenate(pulls, 1)) < n, axis=1) for n in (1, 2))
    print(
        f"drawn from the prior: 1 sigma {one_sigma.min():.1f} to {one_sigma.max():.1f} %, 2 sigma "
        f"{two_sigma.min():.1f} to {two_sigma.max():.1f} %, bin by bin of 32"
    )
    print("   EM", coverage(np.concatenate(of_total), 1.0))


def calibration() -> None:
    from_the_prior()
    print(f"family          % within 1 and 2 sigma, {len(SEEDS)} maps (standard error of the first, by maps)")
    in_families()


def covered(one, result) -> str:
    """How often the truth of EM and log T is within one and two sigma."""
    em, log_t = result["emission_measure"], result["log_temperature"]
    return (
        f"EM {coverage(em.data - one.total(), em.uncertainty.array)}, "
        f"log T {coverage(log_t.data - one.log_temperature(), log_t.uncertainty.array)}"
    )


def spatial() -> None:
    """At low signal: priors that couple pixels beside per-pixel fits, with coverage within one and two sigma in %."""
    for family in ("quiet_sun", "active_region", *HELD_OUT):
        one = scene(family, (48, 48), exposure=0.05)
        alone = ours(one)
        known = np.ones(alone.status.data.shape, bool)
        a = errors(one, alone["dem"].data, known)
        print(f"{family:14s} {'alone':22s}", {k: f"{v:.3f}" for k, v in a.items()}, covered(one, alone))
        fits = {
            "Smooth": specfit.Smooth("dem", scale=2.5, logarithm=True),
            "Smooth, automatic": specfit.Smooth("dem", logarithm=True),
            "Correlated, 4 pixels": specfit.Correlated("dem", length=4),
            "Correlated, automatic": specfit.Correlated("dem"),
        }
        for name, prior in fits.items():
            begin = processor_seconds()
            coupled = ours(one, priors=prior)
            took = processor_seconds() - begin
            b = errors(one, coupled["dem"].data, known)
            text = {k: f"{b[k]:.3f} ({b[k] / a[k]:.2f})" for k in a}
            print(f"{family:14s} {name:22s}", text, covered(one, coupled), f"{known.size / took:.0f} px/s a core")
    for exposure in (1.0, 0.05):
        small, large = (scene("active_region", shape, 3, exposure) for shape in ((24, 24), (256, 256)))
        answered = (demreg(small)[0].max(0) > 0).mean()
        jobs = {
            "Smooth": specfit.Smooth("dem", scale=2.5, logarithm=True),
            "Correlated": specfit.Correlated("dem", length=4),
        }
        ratios: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(3):  # in turn
            begin = processor_seconds()
            demreg(small)
            theirs = (processor_seconds() - begin) / small.total().size
            for name, prior in jobs.items():
                begin = processor_seconds()
                ours(large, priors=prior)["dem"].uncertainty  # noqa: B018
                ratios[name].append(theirs * large.total().size / (processor_seconds() - begin))
        for name, found in ratios.items():
            ratio = np.median(found)
            print(
                f"exposure {exposure}, 256 by 256 pixels, {name}, DEM and sigma: {ratio / theirs:.0f} px/s a core, "
                f"{ratio:.0f} times demregpy, {ratio / answered:.0f} times for each of the {100 * answered:.0f} % of "
                "pixels that it answers"
            )


def temporal() -> None:
    """A flare that heats up and cools, at two cadences: frames by themselves and coupled in time."""
    log_t, minutes = np.arange(5.705, 7.3, 0.01), np.arange(0, 20, 0.2)
    rng = np.random.default_rng(5)
    phase = minutes[:, None] + rng.uniform(-2, 2, 12)
    amount = 10**28.3 * (phase > 2) * (1 - np.exp(-(phase - 2) / 0.8)) * np.exp(-(phase - 2).clip(0) / 6)
    centre = 6.5 + 0.55 * np.exp(-(phase - 2).clip(0) / 7)
    emission = _hump(log_t, 6.2, 0.15, np.full(phase.shape, 10**27.0)) + _hump(log_t, centre, 0.12, amount + 1e24)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit, wcs.wcs.cdelt = ["PIXEL", "TIME"], ["", "s"], [1, 12]
    wcs.wcs.set()
    for step in (1, 4):
        one = scene_of(emission[:, ::step], rng, exposure=0.3, responses=specfit.TemperatureResponse.aia())
        for name, image in one.images.items():
            one.images[name] = type(image)(image.data, wcs=wcs, unit=image.unit, uncertainty=image.uncertainty)
        fits = {
            "alone": (),
            "Smooth": specfit.Smooth("dem", scale=1.2 * step**0.5, logarithm=True, axes="time"),
            "Smooth, automatic": specfit.Smooth("dem", logarithm=True, axes="time"),
            "Correlated": specfit.Correlated("dem", length=8 / step, axes="time"),
            "Correlated, automatic": specfit.Correlated("dem", axes="time"),
            "TotalVariation": specfit.TotalVariation(
                "dem", scale=step**0.5, softness=1.0, joint=True, logarithm=True, axes="time"
            ),
        }
        everywhere, begun = np.ones(one.total().shape, bool), phase[::step] > 2
        for name, priors in fits.items():
            dem = ours(one, priors=priors)["dem"].data
            text = (
                f"{key} {value:.3f} (after the onset {errors(one, dem, begun)[key]:.3f})"
                for key, value in errors(one, dem, everywhere).items()
            )
            print(f"every {12 * step} s, {name:22s}", *text)


def main() -> int:
    known = {"temporal": temporal, "speed": speed, "accuracy": accuracy, "calibration": calibration, "spatial": spatial}
    print(header())
    for name in sys.argv[1:] or known:
        known[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
