"""One spectral line of an atom: where it stands, and how a magnetic field splits it."""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
import numpy as np

from .refraction import AIR_FROM, air_to_vacuum, vacuum_to_air
from .zeeman import Level, ZeemanPattern, check_transition, effective_lande_factor, transverse_lande_factor

__all__ = ["AtomicLine"]

# Standard atomic weights, abridged (IUPAC 2021, doi:10.1515/pac-2019-0603).
_MASSES = {"H": 1.008, "He": 4.0026, "C": 12.011, "Na": 22.990, "Mg": 24.305, "Si": 28.085, "Ca": 40.078, "Fe": 55.845}


@dataclass(frozen=True, init=False, repr=False)
class AtomicLine:
    """A spectral line, for models that need more of it than a wavelength.

    Those of the table come from `~sunpy_specfit.data.line`; any other is made by hand, either with its two levels or
    with its effective Landé factor alone.

    Parameters
    ----------
    name : str
        Such as "Fe I 6302.5"; the element is read from it.
    air, vacuum : `~astropy.units.Quantity`
        The rest wavelength in air and in vacuum. One is enough, the other follows (Morton 2000,
        doi:10.1086/317349); below 2000 Å there is only ``vacuum``.
    lower, upper : `~sunpy_specfit.data.Level`
        Both or neither.
    g_eff, G : float
        The effective Landé factor and its companion for the transverse field, for a line without levels.
    log_gf : float
        Logarithm of the oscillator strength times the lower level's statistical weight.
    mass : `~astropy.units.Quantity`
        Of the atom; known for the elements of the table.
    blend : bool
        Whether other components of its multiplet lie within its width, so that no single g_eff describes what is seen.
    wavelength_source, log_gf_source : str

    Raises
    ------
    TypeError
        If a wavelength is not one Quantity.
    ValueError
        If there is no wavelength, only one level, levels that no dipole line joins, both levels and g_eff or G, or a
        factor that is not finite.

    Examples
    --------
    With levels, whose Landé factors are those of LS coupling unless measured ones are given:

    >>> import astropy.units as u
    >>> from sunpy_specfit.data import AtomicLine, Level
    >>> line = AtomicLine(
    ...     "Ti I 22310.6", air=22310.6 * u.AA, lower=Level.from_term("5P1"), upper=Level.from_term("5D0")
    ... )
    >>> line.g_eff, line.G
    (2.5, 6.25)
    >>> line.wavelength("vacuum")
    <Quantity 22316.69 Angstrom>

    With nothing but the factors; G is only needed for the transverse field:

    >>> line = AtomicLine("Fe I 8468.4", air=8468.4059 * u.AA, g_eff=2.5, G=6.25)
    >>> line.g_eff, line.G
    (2.5, 6.25)
    """

    name: str
    air: u.Quantity | None
    vacuum: u.Quantity
    lower: Level | None
    upper: Level | None
    log_gf: float | None
    mass: u.Quantity | None
    blend: bool
    wavelength_source: str
    log_gf_source: str
    _g_eff: float | None
    _G: float | None

    def __init__(
        self,
        name: str,
        *,
        air: u.Quantity | None = None,
        vacuum: u.Quantity | None = None,
        lower: Level | None = None,
        upper: Level | None = None,
        g_eff: float | None = None,
        G: float | None = None,
        log_gf: float | None = None,
        mass: u.Quantity | None = None,
        blend: bool = False,
        wavelength_source: str = "",
        log_gf_source: str = "",
    ):
        if (lower is None) != (upper is None):
            raise ValueError(f"{name}: give both levels, lower= and upper=, or neither")
        if lower is not None:
            check_transition(lower, upper)
            if g_eff is not None or G is not None:
                raise ValueError(f"{name}: g_eff and G follow from the levels; give either the levels or the factors")
        for key, factor in (("g_eff", g_eff), ("G", G)):
            if factor is not None and not np.isfinite(factor):
                raise ValueError(f"{name}: {key} is a finite number, found {factor}")
        air, vacuum = _both_media(name, air, vacuum)
        if mass is None and self._element(name) in _MASSES:
            mass = _MASSES[self._element(name)] * u.u
        values = {
            "name": name,
            "air": air,
            "vacuum": vacuum,
            "lower": lower,
            "upper": upper,
            "log_gf": log_gf,
            "mass": mass,
            "blend": bool(blend),
            "wavelength_source": wavelength_source,
            "log_gf_source": log_gf_source,
            "_g_eff": g_eff,
            "_G": G,
        }
        for key, value in values.items():  # the instance is frozen
            object.__setattr__(self, key, value)

    def __repr__(self) -> str:
        air = "" if self.air is None else f"air={self.air:.9g}, "
        return f"AtomicLine({self.name!r}, {air}vacuum={self.vacuum:.9g})"

    @staticmethod
    def _element(name: str) -> str:
        return name.split()[0] if name.split() else ""

    @property
    def element(self) -> str:
        """The element's symbol, the first word of the name."""
        return self._element(self.name)

    @property
    def ion(self) -> str:
        """The spectrum's Roman numeral, the second word of the name: "I" for the neutral atom; else empty."""
        words = self.name.split()
        return words[1] if len(words) > 1 and set(words[1]) <= set("IVX") else ""

    def wavelength(self, medium: str) -> u.Quantity:
        """The rest wavelength in a medium, "air" or "vacuum".

        Raises
        ------
        ValueError
            For another medium, and for air below 2000 Å.
        """
        if medium not in ("air", "vacuum"):
            raise ValueError(f"medium is 'air' or 'vacuum', found {medium!r}")
        if medium == "air" and self.air is None:
            raise ValueError(f"{self.name} lies below {AIR_FROM:.0f}, where wavelengths are in vacuum; medium='vacuum'")
        return self.air if medium == "air" else self.vacuum

    @property
    def g_eff(self) -> float:
        """Effective Landé factor, of the levels' measured factors where known (Landi Degl'Innocenti 1982)."""
        if self._g_eff is not None:
            return self._g_eff
        self._need_levels("effective Landé factor", "g_eff=")
        return effective_lande_factor(self.lower, self.upper, self.lower.lande_factor, self.upper.lande_factor)

    @property
    def G(self) -> float:
        """Second-order factor of the transverse field (Landi Degl'Innocenti & Landolfi 2004, eq. 9.77).

        Raises
        ------
        ValueError
            If the line has neither levels nor G: it does not follow from g_eff alone.
        """
        if self._G is not None:
            return self._G
        self._need_levels("factor G of the transverse field, which does not follow from g_eff alone", "G=")
        return transverse_lande_factor(self.lower, self.upper, self.lower.lande_factor, self.upper.lande_factor)

    @property
    def g_eff_ls(self) -> float:
        """Effective Landé factor of LS coupling, whatever was measured."""
        self._need_levels("coupling", "g_eff=")
        return effective_lande_factor(self.lower, self.upper, self.lower.lande_factor_ls, self.upper.lande_factor_ls)

    @property
    def G_ls(self) -> float:
        """G of LS coupling, whatever was measured."""
        self._need_levels("coupling", "G=")
        return transverse_lande_factor(self.lower, self.upper, self.lower.lande_factor_ls, self.upper.lande_factor_ls)

    def zeeman_pattern(self) -> ZeemanPattern:
        """The shifts and strengths of the pi and sigma components.

        Raises
        ------
        ValueError
            If the line has no levels.

        Examples
        --------
        The D1 line of sodium, whose pi components are split too:

        >>> from sunpy_specfit.data import line
        >>> pattern = line("Na I D1").zeeman_pattern()
        >>> pattern.pi.shifts, pattern.pi.strengths
        (array([-0.66666667,  0.66666667]), array([0.5, 0.5]))
        >>> pattern.sigma_red.shifts
        array([1.33333333])
        """
        self._need_levels("Zeeman pattern", None)
        return ZeemanPattern.of(self.lower, self.upper)

    def _need_levels(self, what: str, instead: str | None) -> None:
        if self.lower is None:
            way = f"{instead} or the levels, " if instead else "the levels, "
            raise ValueError(f"{self.name} has no {what}: give {way}lower= and upper=")


def _both_media(name: str, air: u.Quantity | None, vacuum: u.Quantity | None):
    for medium, value in (("air", air), ("vacuum", vacuum)):
        if value is not None and not (isinstance(value, u.Quantity) and value.isscalar):
            raise TypeError(f"{name}: {medium} is one Quantity such as 6302.4931 * u.AA, found {value!r}")
        if value is not None and not (value.unit.is_equivalent(u.AA) and np.isfinite(value) and value > 0 * u.AA):
            raise ValueError(f"{name}: {medium} is a wavelength such as 6302.4931 * u.AA, found {value}")
    if air is None and vacuum is None:
        raise ValueError(f"{name}: give the rest wavelength, air= or vacuum=, such as air=6302.4931 * u.AA")
    if vacuum is None:
        return air, air_to_vacuum(air)
    if air is None and vacuum >= AIR_FROM:
        air = vacuum_to_air(vacuum)
    return air, vacuum
