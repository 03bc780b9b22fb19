"""Atomic levels, their Landé factors, and how a line between two of them splits in a magnetic field."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

__all__ = ["LORENTZ_SPLITTING", "Level", "ZeemanComponents", "ZeemanPattern"]

LORENTZ_SPLITTING = 4.6686e-13
"""Splitting of a unit Landé factor, in Å for 1 G and a wavelength of 1 Å; it grows with the wavelength squared."""

_ORBITS = "SPDFGHIKLMNOQ"
# A prefix that tells terms of a kind apart (a5P), 2S + 1, L, a mark of odd parity, and J.
_TERM = re.compile(rf"([a-z])?\s*(\d+)\s*([{_ORBITS}])\s*[°o*]?\s*_?\s*(\d+/2|\d+(?:\.[05]?)?)")


@dataclass(frozen=True)
class Level:
    """One energy level of an atom: its quantum numbers, and its Landé factor where that was measured.

    Parameters
    ----------
    L, S, J : float
        Orbital, spin and total angular momentum; whole for L, whole or half for S and J.
    term : str
        What the level is called, such as "a5P2".
    measured_lande_factor : float, optional
        Measured in the laboratory. Where it is not given the level is taken to be in LS coupling.
    source : str
        Of the measured factor.

    Raises
    ------
    ValueError
        For quantum numbers that no level can have.

    Examples
    --------
    >>> from sunpy_specfit.data import Level
    >>> Level.from_term("5P1").lande_factor
    2.5
    >>> level = Level.from_term("z5P1", measured_lande_factor=2.49, source="my laboratory")
    >>> level.lande_factor, level.lande_factor_ls
    (2.49, 2.5)
    """

    L: int
    S: float
    J: float
    term: str = ""
    measured_lande_factor: float | None = None
    source: str = ""

    def __post_init__(self):
        whole = self.L >= 0 and float(self.L).is_integer() and min(self.S, self.J) >= 0
        halves = all(float(2 * number).is_integer() for number in (self.S, self.J))
        coupled = abs(self.L - self.S) <= self.J <= self.L + self.S and float(self.J - self.S).is_integer()
        if not (whole and halves and coupled):
            raise ValueError(
                f"no level has L = {self.L:g}, S = {self.S:g}, J = {self.J:g}"
                f"{f' ({self.term})' if self.term else ''}; J runs from |L - S| to L + S in steps of one"
            )

    @classmethod
    def from_term(cls, term: str, *, measured_lande_factor: float | None = None, source: str = "") -> Level:
        """A level by its term: "5P2", "2D5/2", "2D2.5", "a5P2", "3P°1", "5P 2.0".

        Raises
        ------
        ValueError
            If it is no term, or no level of that term has this J.
        """
        found = _TERM.fullmatch(term.strip())
        if not found:
            raise ValueError(f"{term!r} is not a term such as '5P2', '2D5/2' or 'a5P2': 2S + 1, then L, then J")
        _, multiplicity, orbit, total = found.groups()
        J = float(total[:-2]) / 2 if total.endswith("/2") else float(total)
        return cls(_ORBITS.index(orbit), (int(multiplicity) - 1) / 2, J, term.strip(), measured_lande_factor, source)

    @property
    def lande_factor(self) -> float:
        """Measured where known, else of LS coupling."""
        return self.lande_factor_ls if self.measured_lande_factor is None else self.measured_lande_factor

    @property
    def lande_factor_ls(self) -> float:
        """g = 3/2 + [S(S+1) - L(L+1)] / 2J(J+1), with 2 for the electron's own; 0 where J = 0, which does not split."""
        if self.J == 0:
            return 0.0
        return 1.5 + (self.S * (self.S + 1) - self.L * (self.L + 1)) / (2 * self.J * (self.J + 1))


@dataclass(frozen=True, eq=False)
class ZeemanComponents:
    """The components of one polarisation: shifts in Lorentz splittings (positive to the red), strengths of sum one."""

    shifts: np.ndarray
    strengths: np.ndarray

    def moment(self, order: int) -> float:
        """The strength-weighted mean of the shifts to a power."""
        return float(self.strengths @ self.shifts**order)


@dataclass(frozen=True, eq=False)
class ZeemanPattern:
    """How a line splits: the pi components and those of the two sigma groups.

    Shifts are in units of the Lorentz splitting 4.6686e-13 λ² B (Å, G) and positive to the red: a component between the
    substates M_l and M_u stands at g_l M_l - g_u M_u. `sigma_blue` is M_u = M_l + 1, which lies to the blue of the line
    where the effective Landé factor is positive, `sigma_red` is M_u = M_l - 1, and `pi` is M_u = M_l. The strengths are
    the squares of the 3j symbols, and add to one in each group (Landi Degl'Innocenti & Landolfi 2004, section 3.3,
    doi:10.1007/1-4020-2415-0).

    The means of the sigma groups are -g_eff and +g_eff, and G is their second moment less that of pi.
    """

    pi: ZeemanComponents
    sigma_blue: ZeemanComponents
    sigma_red: ZeemanComponents

    @classmethod
    def of(cls, lower: Level, upper: Level) -> ZeemanPattern:
        """The pattern of the line between two levels."""
        check_transition(lower, upper)
        return cls(*(_components(lower, upper, change) for change in (0, 1, -1)))


def check_transition(lower: Level, upper: Level) -> None:
    """Refuse what is no electric dipole line.

    Raises
    ------
    ValueError
        If J changes by more than one, or is 0 in both levels.
    """
    change = abs(upper.J - lower.J)
    if change not in (0, 1) or lower.J == upper.J == 0:
        raise ValueError(
            f"no dipole line joins J = {lower.J:g} and J = {upper.J:g}: J changes by 0 or 1, and not from 0 to 0"
        )


def effective_lande_factor(lower: Level, upper: Level, lower_g: float, upper_g: float) -> float:
    """g_eff = (g_l + g_u)/2 + (g_l - g_u) d/4 with d = J_l(J_l+1) - J_u(J_u+1).

    Shenstone & Blair (1929, Phil. Mag. 8, 765); Landi Degl'Innocenti (1982SoPh...77..285L).
    """
    d = lower.J * (lower.J + 1) - upper.J * (upper.J + 1)
    return (lower_g + upper_g) / 2 + (lower_g - upper_g) * d / 4


def transverse_lande_factor(lower: Level, upper: Level, lower_g: float, upper_g: float) -> float:
    """G = g_eff² - (g_l - g_u)² (16 s - 7 d² - 4) / 80 with s = J_l(J_l+1) + J_u(J_u+1) and d their difference.

    The second-order factor of linear polarisation in a weak field; Landi Degl'Innocenti & Landolfi (2004), eq. 9.77
    (doi:10.1007/1-4020-2415-0).
    """
    s = lower.J * (lower.J + 1) + upper.J * (upper.J + 1)
    d = lower.J * (lower.J + 1) - upper.J * (upper.J + 1)
    mean = effective_lande_factor(lower, upper, lower_g, upper_g)
    return mean**2 - (lower_g - upper_g) ** 2 * (16 * s - 7 * d**2 - 4) / 80


def _components(lower: Level, upper: Level, change: int) -> ZeemanComponents:
    """The components with M_u = M_l + change, from blue to red, by the 3j symbols up to a common factor."""
    J = lower.J
    m_lower = np.arange(-J, J + 1)
    # For M_u = M_l - 1 the strengths are those of M_u = M_l + 1 with both substates mirrored.
    m = -m_lower if change < 0 else m_lower
    if upper.J == J + 1:
        strengths = (J + m + 1) * (J + m + 2) if change else (J - m + 1) * (J + m + 1)
    elif upper.J == J:
        strengths = (J - m) * (J + m + 1) if change else m**2
    else:
        strengths = (J - m) * (J - m - 1) if change else (J - m) * (J + m)
    shifts = lower.lande_factor * m_lower - upper.lande_factor * (m_lower + change)
    there = strengths > 0
    shifts, strengths = shifts[there], strengths[there] / strengths.sum()
    order = np.argsort(shifts, kind="stable")
    return ZeemanComponents(shifts[order], strengths[order])
