"""The lines that come with the package, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import astropy.units as u
from astropy.table import Table

from ..core.names import unknown_name
from .atomic_line import AtomicLine
from .zeeman import Level

__all__ = ["all_lines", "line", "lines_of", "list_lines"]

# Wavelengths of one line that two tables give differ by less (Å); different lines of the table differ by more.
_SAME = 0.02


def line(name: str) -> AtomicLine:
    """A spectral line of the table, by its name.

    Parameters
    ----------
    name : str
        Element, ion and wavelength, "Fe I 6302.5", with as many digits as are needed, cut off or rounded, whatever the
        case and the spaces: "fe i 6302" and "FeI6302.49" are the same line. Or its usual name: "Mg I b2", "Na I D1",
        "Mg II k". The wavelength is in air, but that of IRIS lines in vacuum.

    Returns
    -------
    `~sunpy_specfit.data.AtomicLine`

    Raises
    ------
    KeyError
        If no line, or more than one, is called so; with those that come close.

    Examples
    --------
    >>> from sunpy_specfit.data import line
    >>> iron = line("Fe I 6302.5")
    >>> iron
    AtomicLine('Fe I 6302.5', air=6302.4931 Angstrom, vacuum=6304.2361 Angstrom)
    >>> iron.wavelength("vacuum")
    <Quantity 6304.2361 Angstrom>
    >>> iron.g_eff, round(iron.G, 3), iron.g_eff_ls
    (2.49, 6.2, 2.5)
    """
    found = _matches(str(name))
    if not found:
        raise unknown_name(name, [*_lines(), *_aliases()], kind="spectral line")
    if len(found) > 1:
        raise KeyError(f"{name!r} is more than one spectral line: {', '.join(map(repr, found))}; give more digits")
    return _lines()[found[0]]


def lines_of(given, who: str) -> list[AtomicLine]:
    """The lines that a model is given, as one or several, by name or made by hand.

    Parameters
    ----------
    given : str, `~sunpy_specfit.data.AtomicLine`, or sequence of these
    who : str
        The model, for messages.

    Raises
    ------
    KeyError
        If a line is not known by that name.
    TypeError, ValueError
        If something is no line, or there is none, or one is given twice.
    """
    several = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if not several:
        raise ValueError(f"{who} needs a line, found none; for example {who}('Fe I 6302.5')")
    found = [line(one) if isinstance(one, str) else one for one in several]
    for one in found:
        if not isinstance(one, AtomicLine):
            raise TypeError(f"{who}: a line is a name, such as 'Fe I 6302.5', or an AtomicLine; found {one!r}")
        if [other.name for other in found if isinstance(other, AtomicLine)].count(one.name) > 1:
            raise ValueError(f"{who}: {one.name} is given twice")
    return found


def list_lines() -> Table:
    """The lines that `line` knows, with their Landé factors and the sources of the numbers.

    Returns
    -------
    `~astropy.table.Table`
        A row a line. ``g_eff`` and ``G`` use measured Landé factors of the levels where they are known,
        ``g_eff_ls`` and ``G_ls`` those of LS coupling. Sources are abbreviated; ``meta["sources"]`` has them whole.

    Examples
    --------
    >>> from sunpy_specfit.data import list_lines
    >>> lines = list_lines()
    >>> lines["name", "g_eff", "g_eff_ls", "log_gf_source"][:2].pprint()
        name    g_eff g_eff_ls log_gf_source
    ----------- ----- -------- ----------------
    Fe I 6301.5  1.67    1.667             VALD
    Fe I 6302.5  2.49      2.5 SocasNavarro2011
    >>> lines.meta["sources"]["NIST"]
    'NIST Atomic Spectra Database, doi:10.18434/T4W30F'
    """
    table = _table().copy()
    for column, text in (("g_eff", "effective"), ("G", "transverse")):
        for suffix, coupling in (("", "measured where known, else LS"), ("_ls", "LS coupling")):
            values = [round(getattr(entry, column + suffix), 6) for entry in _lines().values()]
            table.add_column(values, name=column + suffix, index=table.colnames.index("log_gf"))
            table[column + suffix].description = f"{text} Landé factor, {coupling}"
            table[column + suffix].format = ".4g"
    return table


@cache
def _table() -> Table:
    return Table.read(Path(__file__).with_name("lines.ecsv"), format="ascii.ecsv")


@cache
def _lines() -> dict[str, AtomicLine]:
    columns = [column.tolist() for column in _table().itercols()]  # plain values, None where there is none
    rows = (dict(zip(_table().colnames, values, strict=True)) for values in zip(*columns, strict=True))
    return {row["name"]: _atomic_line(row, _table().meta["sources"]) for row in rows}


def all_lines() -> list[AtomicLine]:
    """Every line that `line` knows."""
    return list(_lines().values())


@cache
def _aliases() -> dict[str, str]:
    return {alias: name for alias, name in zip(_table()["alias"].tolist(), _lines(), strict=True) if alias}


def _atomic_line(row: dict, sources: dict[str, str]) -> AtomicLine:
    def level(which):
        measured = row[f"{which}_g"]
        source = "" if measured is None else sources[row["g_source"]]
        return Level.from_term(row[which], measured_lande_factor=measured, source=source)

    return AtomicLine(
        row["name"],
        air=None if row["air"] is None else row["air"] * u.AA,
        vacuum=row["vacuum"] * u.AA,
        lower=level("lower"),
        upper=level("upper"),
        log_gf=row["log_gf"],
        blend=row["blend"],
        wavelength_source=sources[row["wavelength_source"]],
        log_gf_source=sources[row["log_gf_source"]],
    )


def _matches(name: str) -> list[str]:
    """The names of all lines that may be meant."""
    wanted = _plain(name)
    for alias, full in _aliases().items():
        if wanted in (_plain(alias), _plain(alias.replace(" I ", " "))):  # the neutral's numeral is often left out
            return [full]
    found = []
    for full, entry in _lines().items():
        number = re.fullmatch(rf"{entry.element}{entry.ion}(\d+(?:\.\d*)?)".casefold(), wanted)
        if number and _same_wavelength(entry, number[1]):
            found.append(full)
    return found


def _plain(name: str) -> str:
    """Without case, spaces, and the sign of the unit."""
    return re.sub(r"(?<=[\d.])(å|aa?|angstrom)$", "", re.sub(r"[\s_-]", "", name).casefold())


def _same_wavelength(entry: AtomicLine, number: str) -> bool:
    """Whether a number is the line's wavelength, cut off or rounded, in the medium that its name uses."""
    in_name = float(entry.name.split()[-1])
    media = (value.to_value(u.AA) for value in (entry.air, entry.vacuum) if value is not None)
    own = min(media, key=lambda value: abs(value - in_name))
    scale = 10 ** len(number.partition(".")[2])
    return round(float(number) * scale) in (int(own * scale), round(own * scale)) or abs(own - float(number)) < _SAME
