"""What DEMs would be if it were known how those of the map differ: the limit for all that learns it from the data.

``python benchmarks/dem_known.py``. The maps, channels and errors of ``dem.py calibration``. A prior is given the mean
of the map's true logarithms and their covariance; beside it stands the default, which learns both from the light. It
prints per cent of EM and of log T within one and two sigma, and the RMSE of log T in dex.
"""

from __future__ import annotations

import astropy.units as u
import numpy as np
from dem import BINS, FAMILIES, SEEDS, covered_by_maps, ours, scene
from table import header

import sunpy_specfit as specfit

# The least DEM whose logarithm counts, in parts of the map's greatest; a variance that each bin has beside the rest.
LEAST, FIRM = 1e-12, 1e-4


def informed(one) -> specfit.TemperaturePrior:
    """The prior that knows the truth's mean and covariance."""
    true = one.dem(BINS).reshape(len(BINS) - 1, -1)
    logarithm = np.log(np.maximum(true, LEAST * true.max()))
    covariance = np.cov(logarithm) + FIRM * np.eye(len(true))
    return specfit.TemperaturePrior(mean=np.exp(logarithm.mean(1)) * u.Unit("cm-5 K-1"), covariance=covariance)


def main() -> None:
    print(header())
    for family in (name for name in FAMILIES if name != "isothermal"):  # has no logarithms
        pulls: dict[str, list] = {}
        off: dict[str, list] = {}
        for seed in SEEDS:
            one = scene(family, (24, 24), seed=seed)
            for name, prior in {"known": informed(one), "learned": ()}.items():
                result = ours(one, priors=prior)
                em, log_t = result["emission_measure"], result["log_temperature"]
                off.setdefault(name, []).append(log_t.data - one.log_temperature())
                pulls.setdefault(f"{name}, EM", []).append((em.data - one.total()) / em.uncertainty.array)
                pulls.setdefault(f"{name}, log T", []).append(off[name][-1] / log_t.uncertainty.array)
        for name, values in off.items():
            covered = "  ".join(f"{what} {covered_by_maps(pulls[f'{name}, {what}'])}" for what in ("EM", "log T"))
            print(f"{family:18s} {name:8s} {covered}  off by {np.sqrt(np.mean(np.square(values))):.3f} dex")


if __name__ == "__main__":
    main()
