"""The weak-field approximation against polarised radiative transfer that somebody else wrote.

    python benchmarks/weak_field_physics.py [line ...]

Lightweaver (Osborne & Milić 2021, doi:10.3847/1538-4357/ac02be) solves for the populations in the FAL-C atmosphere, and
then for all four Stokes parameters with the full Zeeman pattern of the line and with magneto-optical effects. There is
one homogeneous field a pixel. The profiles are smeared by an instrument and sampled as CRISP does, no noise is added,
and `sunpy_specfit.WeakField` has to find the fields again. What differs is the approximation.

Signs. In Lightweaver η_V = ½ (φ_r - φ_b) cos γ, φ_r being the component shifted to the red, so that to first order
η_V = -C g B cos γ dη_I/dλ, and in absorption V = -C g B_los dI/dλ with B_los > 0 towards the observer, as here.
η_Q = ½ (φ_p - ½ (φ_b + φ_r)) sin² γ cos 2χ is positive at the centre of the line for χ = 0, so that Q < 0 there, as
here; η_U is the same with sin 2χ. No sign has to be changed.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from functools import cache

import astropy.units as u
import numpy as np
from astropy import table as astropy_table
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from table import Table, header

import sunpy_specfit as specfit
from sunpy_specfit.data import line as find_line
from sunpy_specfit.data.weak_field import stokes_wcs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it has no configuration file
    import lightweaver as lw
    from lightweaver import rh_atoms
    from lightweaver.fal import Falc82
    from lightweaver.utils import air_to_vac

STRENGTHS = np.array([0.0, 100.0, 300.0, 600.0, 1200.0])
INCLINATIONS = np.array([0.0, 45.0, 60.0, 90.0, 135.0])
AZIMUTHS = np.array([0.0, 30.0])
# The lines for which there is a goal; the others show where it ends.
WANTED = ("Mg I 5172.7", "Ca II 8542.1")
# Beside the atom itself, what else lends electrons and continuous opacity.
BACKGROUND = ("C", "O", "Si", "Al", "Fe", "He", "N", "Na", "Mg", "S", "Ca")


@dataclass(frozen=True)
class Setup:
    """How a line is made and seen.

    Attributes
    ----------
    atom : str
        Of `lightweaver.rh_atoms`.
    reach : float
        Half the range of wavelengths, in Å.
    samples : int
    resolution : float
        Full width at half maximum of the instrument, in Å.
    continuum : float
        Air wavelength where there is none of the line, in Å.
    """

    atom: str
    reach: float
    samples: int
    resolution: float
    continuum: float


SETUPS = {
    "Mg I 5172.7": Setup("MgI_atom", 0.32, 17, 0.045, 5120.0),
    "Ca II 8542.1": Setup("CaII_atom", 0.96, 25, 0.105, 8750.0),
    "Na I D1": Setup("NaI_3D_atom", 0.40, 21, 0.055, 5800.0),
    "Fe I 5250.2": Setup("Fe23_atom", 0.20, 21, 0.045, 5230.0),
}


@cache
def atmosphere(atom: str):
    """A context of Lightweaver with converged populations, which are those without a field."""
    active = getattr(rh_atoms, atom)()
    others = [getattr(rh_atoms, f"{name}_atom" if name != "He" else "He_9_atom")() for name in BACKGROUND]
    others = [other for other in others if other.element != active.element]
    model = Falc82()
    model.quadrature(3)
    atoms = lw.RadiativeSet([rh_atoms.H_6_atom(), *others, active])
    atoms.set_active(active.element)
    context = lw.Context(model, atoms.compute_wavelength_grid(), atoms.compute_eq_pops(model), Nthreads=1)
    lw.iterate_ctx_se(context, quiet=True)
    return model, context


def emergent(atom: str, wavelength: np.ndarray, strength: float, inclination: float, azimuth: float) -> np.ndarray:
    """Stokes parameters ``(4, n)`` at the centre of the disc, for wavelengths in Å in air."""
    model, context = atmosphere(atom)
    for name, value in (("B", 1e-4 * strength), ("gammaB", np.deg2rad(inclination)), ("chiB", np.deg2rad(azimuth))):
        setattr(model, name, np.full(model.Nspace, value))
    return np.asarray(context.compute_rays(air_to_vac(wavelength / 10), [1.0], stokes=True)).reshape(4, -1)


def observe(name: str, cases: np.ndarray) -> NDCube:
    """A cube of the profiles of some cases: strength (G), inclination and azimuth (deg), ``(3, y, x)``."""
    setup, rest = SETUPS[name], find_line(name).air.to_value(u.AA)
    sigma = setup.resolution / np.sqrt(8 * np.log(2))
    fine = np.arange(-setup.reach - 4 * sigma, setup.reach + 4 * sigma, sigma / 8)
    coarse = np.linspace(-setup.reach, setup.reach, setup.samples)
    smear = np.exp(-0.5 * ((coarse[:, None] - fine) / sigma) ** 2)
    smear /= smear.sum(1, keepdims=True)
    level = emergent(setup.atom, np.array([setup.continuum, setup.continuum + 1]), 0.0, 0.0, 0.0)[0].mean()
    shape = cases.shape[1:]
    data = [smear @ (emergent(setup.atom, rest + fine, *case).T / level) for case in cases.reshape(3, -1).T]
    data = np.moveaxis(np.array(data).reshape(*shape, setup.samples, 4), (-1, -2), (0, 1))
    strength, inclination, azimuth = cases
    return NDCube(
        data,
        wcs=stokes_wcs(shape, (rest + coarse) * u.AA),
        unit=u.dimensionless_unscaled,
        uncertainty=StdDevUncertainty(np.full(data.shape, 1e-4)),
        meta={
            "truth": {
                "b_los": strength * np.cos(np.deg2rad(inclination)),
                "b_trans": strength * np.sin(np.deg2rad(inclination)),
                "azimuth": azimuth,
            }
        },
    )


def all_cases() -> np.ndarray:
    """Every strength (y) with every inclination and azimuth (x)."""
    strength, inclination, azimuth = np.meshgrid(STRENGTHS, INCLINATIONS, AZIMUTHS, indexing="ij")
    return np.stack([a.reshape(len(STRENGTHS), -1) for a in (strength, inclination, azimuth)])


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far two azimuths lie apart, 0 to 90 degrees."""
    return np.abs((a - b + 90) % 180 - 90)


def section(name: str) -> tuple[Table, astropy_table.Table]:
    """One line: fields found over fields put in; what has a goal, and the rest."""
    setup = SETUPS[name]
    cube = observe(name, all_cases())
    truth = cube.meta["truth"]
    title = (
        f"{name}: FAL-C, {setup.samples} wavelengths, FWHM {1e3 * setup.resolution:.0f} mÅ, "
        f"I at the centre {cube.data[0, setup.samples // 2, 0, 0]:.2f}"
    )
    results = {form: specfit.fit(cube, specfit.WeakField(name, linear=form)) for form in ("wing", "core", "both")}
    goals = along(Table(title), name in WANTED, results["wing"], truth)
    upright = INCLINATIONS[None, :].repeat(len(AZIMUTHS), 0).T.reshape(-1) == 90
    turned = apart(results["wing"]["azimuth"].data, truth["azimuth"])[1:][:, upright].max()
    goals.quality("field across the line of sight: azimuth off by at most (deg)", turned, at_most=1.0)
    return goals, across(results, truth)


def along(table: Table, wanted: bool, result, truth) -> Table:
    """Rows about B_los."""
    found, true = result["b_los"].data, truth["b_los"]
    strong = (result.status.data & int(specfit.Status.STRONG_FIELD)) > 0
    table.quality("0 G: largest |B_los| (G)", np.abs(found[0]).max(), at_most=1.0, form="{:.2f}")
    for row, strength in enumerate(STRENGTHS[1:], start=1):
        for sign, use in (("towards", true[row] > 1), ("away from", true[row] < -1)):
            ratio = found[row][use] / true[row][use]
            worst = ratio[np.argmax(np.abs(ratio - 1))]
            what = f"{strength:.0f} G, {sign} the observer: B_los found / put in, the worst"
            if wanted and strength <= 300:
                table.quality(what, worst, near=(1.0, 0.05), form="{:.3f}")
            else:
                table.note(what, worst, "{:.3f}")
        table.note(f"{strength:.0f} G: flagged STRONG_FIELD", strong[row].mean(), "{:.0%}")
    return table


def across(results, truth) -> astropy_table.Table:
    """B_t and azimuth of fields with a transverse part, by what tells them."""
    rows = []
    for form, result in results.items():
        for row, strength in enumerate(STRENGTHS[1:], start=1):
            use = truth["b_trans"][row] > 1
            ratio = result["b_trans"].data[row][use] / truth["b_trans"][row][use]
            turned = apart(result["azimuth"].data, truth["azimuth"])[row][use]
            rows.append((form, strength, ratio.min(), ratio.max(), np.median(turned), turned.max()))
    names = ["linear", "field (G)", "B_t ratio, min", "max", "azimuth off by (deg), median", "max "]
    listing = astropy_table.Table(rows=rows, names=names)
    for column in names[2:]:
        listing[column].format = ".2f" if "ratio" in column or column == "max" else ".1f"
    return listing


def main() -> int:
    """Run the lines asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", metavar="line", help=f"of {', '.join(SETUPS)}; by default all")
    arguments = parser.parse_args()
    unknown = set(arguments.lines) - set(SETUPS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(SETUPS)}")
    print(f"{header()}, lightweaver {lw.__version__}")
    good = True
    for name in arguments.lines or SETUPS:
        goals, rest = section(name)
        print(f"\n{goals}\n")
        rest.pprint_all(align=["<", *[">"] * 5])
        good = good and goals.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
