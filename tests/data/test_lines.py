"""The line table against the contract's, and Zeeman patterns against those of textbooks."""

import dataclasses
import pickle

import astropy.units as u
import numpy as np
import pytest
from astropy.constants import c
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Rational
from sympy.physics.wigner import wigner_3j

from sunpy_specfit.data import AtomicLine, Level, ZeemanPattern, line, list_lines
from sunpy_specfit.data.refraction import air_to_vacuum, vacuum_to_air

# Name, wavelength in air, g_eff and G as printed in the physics conventions: as many decimals as are printed count.
CONTRACT = [
    ("Fe I 6302.5", "6302.4931", "2.49", "6.20"),
    ("Fe I 6301.5", "6301.4995", "1.67", "2.5"),
    ("Mg I 5172.7", "5172.684", "1.75", "2.875"),
    ("Ca II 8542", "8542.091", "1.100", "1.205"),
    ("Ca II 8498", "8498.02", "1.067", "0.725"),
    ("Ca II 8662", "8662.14", "0.833", "0.693"),
    ("Fe I 5250.2", "5250.2", "3", "9"),
    ("Fe I 5247.1", "5247.1", "2.0", "3.975"),
    ("Fe I 6173.3", "6173.3", "2.5", "6.25"),
    ("Fe I 15648", "15648.5", "3", "9"),
    ("Na I D1", "5895.92", "1.333", "1.333"),
    ("Na I D2", "5889.95", "1.167", "1.333"),
    ("Si I 10827", "10827.09", "1.5", "2.25"),
    ("He I 10830.34", "10830.34", "1.25", "1.525"),
    ("He I 10830.25", "10830.25", "1.75", "2.875"),
    ("He I 10829", "10829.09", "2.0", "4.0"),
]
NAMES = list(list_lines()["name"])


def printed(value, text):
    return f"{value:.{len(text.partition('.')[2])}f}" == text


@pytest.mark.parametrize(("name", "air", "g_eff", "G"), CONTRACT)
def test_lande_factors_of_the_contract(name, air, g_eff, G):
    found = line(name)
    assert printed(found.air.to_value(u.AA), air)
    assert printed(found.g_eff, g_eff)
    assert printed(found.G, G)


def test_measured_and_ls_factors_where_both_are_given():
    iron = line("Fe I 6302.5")
    assert (iron.lower.lande_factor, iron.lower.lande_factor_ls) == (2.49, 2.5)
    assert (iron.g_eff_ls, iron.G_ls) == (2.5, 6.25)
    other = line("Fe I 6301.5")
    assert (other.lower.lande_factor, other.upper.lande_factor) == (1.84, 1.5)
    # by hand: g_eff² - 0.34² (16 · 12 - 4) / 80
    assert other.G == pytest.approx(1.67**2 - 0.34**2 * 188 / 80, abs=1e-12)
    assert other.G_ls == pytest.approx((5 / 3) ** 2 - (1 / 3) ** 2 * 188 / 80, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "vacuum"),
    [
        ("Mg II k", 2796.352),
        ("Mg II h", 2803.531),
        ("C II 1334.532", 1334.532),
        ("C II 1335.708", 1335.708),
        ("Si IV 1393.755", 1393.755),
        ("Si IV 1402.770", 1402.770),
    ],
)
def test_lines_of_iris(name, vacuum):
    found = line(name)
    assert found.vacuum == vacuum * u.AA
    assert (found.air is None) == (vacuum < 2000)


def test_oscillator_strengths_of_the_contract():
    assert line("Fe I 6301.5").log_gf == -0.718
    assert line("Fe I 6302.5").log_gf == -1.160


# Strengths within an LS multiplet (White & Eliason 1933), strongest first.
@pytest.mark.parametrize(
    ("names", "strengths"),
    [
        (["Mg I b1", "Mg I b2", "Mg I b4"], [5, 3, 1]),
        (["Ca II 8542", "Ca II 8662", "Ca II 8498"], [9, 5, 1]),
        (["Na I D2", "Na I D1"], [2, 1]),
        (["He I 10830.34", "He I 10830.25", "He I 10829"], [5, 3, 1]),
        (["Mg II k", "Mg II h"], [2, 1]),
        (["C II 1335.708", "C II 1334.532"], [9, 5]),
        (["Si IV 1393.755", "Si IV 1402.77"], [2, 1]),
    ],
)
def test_oscillator_strengths_follow_their_multiplet(names, strengths):
    lines = [line(name) for name in names]
    # gf is the strength over the wavelength
    found = np.array([10**entry.log_gf * entry.vacuum.to_value(u.AA) for entry in lines])
    np.testing.assert_allclose(found / found[0], np.array(strengths) / strengths[0], rtol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_is_whole(name):
    entry = line(name)
    assert entry.name == name
    assert entry.wavelength_source
    assert entry.log_gf_source
    assert entry.mass.unit == u.u
    assert entry.ion
    for level in (entry.lower, entry.upper):
        assert bool(level.source) == (level.measured_lande_factor is not None)
    assert entry.blend == (entry.element == "He" or name == "C II 1335.71")
    assert pickle.loads(pickle.dumps(entry)) == entry


@pytest.mark.parametrize("name", NAMES)
def test_air_and_vacuum_agree(name):
    """To 0.5 km/s with the conversion of wcslib, another formula than ours, and to the last digit with ours."""
    entry = line(name)
    if entry.air is None:
        pytest.skip("below 2000 Å there is only vacuum")
    wcs = WCS(naxis=1)
    wcs.wcs.ctype, wcs.wcs.cunit, wcs.wcs.cdelt = ["AWAV"], ["m"], [1e-12]
    wcs.wcs.crval = [entry.air.to_value(u.m)]
    wcs.wcs.sptr("WAVE-???")
    velocity = c * (entry.vacuum.to_value(u.m) / wcs.wcs.crval[0] - 1)
    assert abs(velocity) < 0.5 * u.km / u.s
    assert abs(air_to_vacuum(entry.air) - entry.vacuum) < 1.1e-3 * u.AA
    assert 80 < (c * (entry.vacuum / entry.air - 1)).to_value(u.km / u.s) < 89


def test_conversion_against_published_pairs():
    # NIST: He I and Na I; Sloan Digital Sky Survey: Ca II
    pairs = {10830.33977: 10833.306444, 10829.09114: 10832.057472, 5895.92424: 5897.558147, 8542.09: 8544.44}
    air, vacuum = np.array(list(pairs)) * u.AA, np.array(list(pairs.values())) * u.AA
    assert np.all(abs(air_to_vacuum(air) - vacuum) < [3e-4, 3e-4, 3e-4, 5e-3] * u.AA)
    np.testing.assert_allclose(vacuum_to_air(air_to_vacuum(air)).value, air.value, rtol=1e-14)
    with pytest.raises(ValueError, match="vacuum only"):
        air_to_vacuum(1334.532 * u.AA)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("fe i 6302", "Fe I 6302.5"),
        ("FeI6302.49", "Fe I 6302.5"),
        ("Fe I 6302.4936", "Fe I 6302.5"),
        ("Fe I 6301", "Fe I 6301.5"),
        ("  Fe  I  6301.5 Å ", "Fe I 6301.5"),
        ("Mg I 5172", "Mg I 5172.7"),
        ("Mg I 5173", "Mg I 5172.7"),
        ("Mg b2", "Mg I 5172.7"),
        ("na d2", "Na I 5889.95"),
        ("Mg II k", "Mg II 2796.35"),
        ("SiIV1394", "Si IV 1393.76"),
        ("Si I 10827", "Si I 10827.1"),
        ("CaII8542", "Ca II 8542.1"),
    ],
)
def test_forgiving_names(asked, name):
    assert line(asked).name == name


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("Fe I 6303", "did you mean 'Fe I 6302.5'"),
        ("Fe II 6302", "did you mean .*'Fe I 6302.5'"),
        ("Mg II 2795.5", "did you mean 'Mg II 2796.35'"),  # its wavelength in air, while the name is in vacuum
        ("He I 10830", "more than one spectral line: 'He I 10830.25', 'He I 10830.34'; give more digits"),
        ("", "no spectral line is called ''; there are 'Fe I 6301.5'"),
    ],
)
def test_names_that_are_no_line(asked, message):
    with pytest.raises(KeyError, match=message):
        line(asked)


def test_list_of_lines_is_a_copy():
    table = list_lines()
    assert table["air"].unit == table["vacuum"].unit == u.AA
    assert set(table["log_gf_source"]) <= set(table.meta["sources"])
    row = table[list(table["name"]).index("Fe I 6302.5")]
    assert (row["g_eff"], row["g_eff_ls"], row["G_ls"]) == (2.49, 2.5, 6.25)
    table["air"][0] = 0
    assert list_lines()["air"][0] == 6301.4995


def test_pattern_of_sodium():
    """The anomalous patterns with which quantum mechanics began."""
    d1, d2 = line("Na I D1").zeeman_pattern(), line("Na I D2").zeeman_pattern()
    np.testing.assert_allclose(d1.pi.shifts, [-2 / 3, 2 / 3])
    np.testing.assert_allclose(d1.pi.strengths, [0.5, 0.5])
    np.testing.assert_allclose(d1.sigma_red.shifts, [4 / 3])
    np.testing.assert_allclose(d1.sigma_blue.shifts, [-4 / 3])
    np.testing.assert_allclose(d2.pi.shifts, [-1 / 3, 1 / 3])
    np.testing.assert_allclose(d2.sigma_red.shifts, [1, 5 / 3])
    np.testing.assert_allclose(d2.sigma_red.strengths, [3 / 4, 1 / 4])
    np.testing.assert_allclose(d2.sigma_blue.shifts, [-5 / 3, -1])
    np.testing.assert_allclose(d2.sigma_blue.strengths, [1 / 4, 3 / 4])


def test_triplet_shifts_to_the_side_that_its_name_says():
    pattern = line("Fe I 6302.5").zeeman_pattern()
    np.testing.assert_allclose(pattern.pi.shifts, [0])
    np.testing.assert_allclose(pattern.sigma_blue.shifts, [-2.49])
    np.testing.assert_allclose(pattern.sigma_red.shifts, [2.49])


@st.composite
def transitions(draw):
    """Two levels that a dipole line joins, with any Landé factors."""
    levels = []
    J = draw(st.integers(0, 10)) / 2
    upper = draw(st.sampled_from([j for j in (J - 1, J, J + 1) if j >= 0 and J + j > 0]))
    for j in (J, upper):
        g = draw(st.floats(-1, 4)) if j else 0.0
        levels.append(Level(0, j, j, measured_lande_factor=g))
    return levels


@settings(deadline=None)  # the machine may be busy
@given(transitions())
def test_moments_of_the_pattern_are_the_factors(levels):
    entry = AtomicLine("X I 5000", air=5000 * u.AA, lower=levels[0], upper=levels[1])
    pattern = entry.zeeman_pattern()
    for components in (pattern.pi, pattern.sigma_blue, pattern.sigma_red):
        assert components.moment(0) == pytest.approx(1)
    assert pattern.pi.moment(1) == pytest.approx(0, abs=1e-12)
    assert pattern.sigma_red.moment(1) == pytest.approx(entry.g_eff, abs=1e-12)
    assert pattern.sigma_blue.moment(1) == pytest.approx(-entry.g_eff, abs=1e-12)
    # Q of a weak field sees the second moment of sigma less that of pi.
    assert pattern.sigma_red.moment(2) - pattern.pi.moment(2) == pytest.approx(entry.G, abs=1e-10)


@pytest.mark.parametrize("lower", [0, 0.5, 1, 1.5, 2, 3])
@pytest.mark.parametrize("step", [-1, 0, 1])
def test_strengths_are_squared_3j_symbols(lower, step):
    upper = lower + step
    if upper < 0 or lower + upper == 0:
        pytest.skip("no such line")
    # A g that keeps all shifts apart, and in the order of the substates.
    levels = [Level(0, j, j, measured_lande_factor=g) for j, g in ((lower, 2.0), (upper, 1.0))]
    pattern = ZeemanPattern.of(*levels)
    for components, change in ((pattern.pi, 0), (pattern.sigma_blue, 1), (pattern.sigma_red, -1)):
        expected = {}
        for m in np.arange(-lower, lower + 1):
            if abs(m + change) <= upper:
                numbers = (Rational(x) for x in (upper, lower, 1, -(m + change), m, change))
                strength = 3 * float(wigner_3j(*numbers)) ** 2
                if strength > 0:
                    expected[2 * m - (m + change)] = strength
        np.testing.assert_allclose(components.shifts, list(expected))
        np.testing.assert_allclose(components.strengths, list(expected.values()), rtol=1e-12)


ORBITS = "SPDFGHIK"


@given(
    st.sampled_from(["", "a", "z"]),
    st.integers(0, 7),
    st.integers(0, 6),
    st.integers(0, 12),
    st.sampled_from(["", "°", "o", "_", " "]),
    st.booleans(),
)
def test_terms_are_read_as_they_are_written(prefix, L, spin, step, mark, fraction):
    S = spin / 2
    J = min(abs(L - S) + step, L + S)
    written = f"{round(2 * J)}/2" if fraction and J % 1 else f"{J:g}"
    level = Level.from_term(f"{prefix}{spin + 1}{ORBITS[L]}{mark}{written}")
    assert (level.L, level.S, level.J) == (L, S, J)


@given(st.text(max_size=8))
def test_what_is_no_term_is_refused_and_never_misread(text):
    try:
        level = Level.from_term(text)
    except ValueError:
        return
    assert abs(level.L - level.S) <= level.J <= level.L + level.S


@pytest.mark.parametrize("term", ["5P", "P2", "5X2", "5P2.7", "5P5/3", "5P9", "2D2", "5P1/2", "5S0", "0P1"])
def test_impossible_terms(term):
    with pytest.raises(ValueError, match="is not a term|no level has"):
        Level.from_term(term)


# g by hand: textbook values
@pytest.mark.parametrize(
    ("term", "g"),
    [
        ("1P1", 1),
        ("2S1/2", 2),
        ("2P1/2", 2 / 3),
        ("2P3/2", 4 / 3),
        ("3P1", 1.5),
        ("5P2", 11 / 6),
        ("7D1", 3),
        ("5D0", 0),
    ],
)
def test_ls_coupling(term, g):
    assert Level.from_term(term).lande_factor == pytest.approx(g)


def test_line_with_factors_only():
    entry = AtomicLine("Fe I 8468.4", air=8468.4059 * u.AA, g_eff=2.5)
    assert entry.g_eff == 2.5
    assert (entry.element, entry.ion) == ("Fe", "I")
    assert entry.mass == 55.845 * u.u
    with pytest.raises(ValueError, match=r"Fe I 8468.4 has no factor G of the transverse field.*give G= or the levels"):
        _ = entry.G
    with pytest.raises(ValueError, match="no Zeeman pattern: give the levels, lower= and upper="):
        entry.zeeman_pattern()
    assert AtomicLine("mine", vacuum=8470 * u.AA, g_eff=2.5, G=6.25).G == 6.25
    with pytest.raises(ValueError, match=r"no effective Landé factor: give g_eff="):
        _ = AtomicLine("mine", vacuum=8470 * u.AA).g_eff
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.name = "another"


def test_wavelength_by_medium():
    entry = AtomicLine("mine", air=630.24931 * u.nm)
    assert entry.wavelength("air") == 630.24931 * u.nm
    assert entry.wavelength("vacuum").to_value(u.AA) == pytest.approx(6304.2361, abs=1e-4)
    with pytest.raises(ValueError, match="medium is 'air' or 'vacuum', found 'water'"):
        entry.wavelength("water")
    with pytest.raises(ValueError, match="lies below 2000 Angstrom"):
        line("C II 1334.53").wavelength("air")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({}, ValueError, "give the rest wavelength"),
        ({"air": 6302.5}, TypeError, "air is one Quantity"),
        ({"air": [1, 2] * u.AA}, TypeError, "air is one Quantity"),
        ({"air": 1 * u.kg}, ValueError, "is a wavelength"),
        ({"vacuum": -1 * u.AA}, ValueError, "is a wavelength"),
        ({"air": 1500 * u.AA}, ValueError, "vacuum only"),
        ({"air": 6302 * u.AA, "lower": Level.from_term("5P1")}, ValueError, "both levels"),
        ({"air": 6302 * u.AA, "g_eff": np.nan}, ValueError, "g_eff is a finite number"),
    ],
)
def test_lines_that_cannot_be(values, error, message):
    with pytest.raises(error, match=message):
        AtomicLine("mine", **values)


@pytest.mark.parametrize(
    ("terms", "factors", "message"),
    [
        (("5P1", "5D0"), {"g_eff": 2.5}, "either the levels or the factors"),
        (("5P1", "5D3"), {}, "no dipole line joins J = 1 and J = 3"),
        (("5D0", "3P0"), {}, "not from 0 to 0"),
        (("5P1", "2S1/2"), {}, "no dipole line joins"),
    ],
)
def test_levels_that_make_no_line(terms, factors, message):
    lower, upper = map(Level.from_term, terms)
    with pytest.raises(ValueError, match=message):
        AtomicLine("mine", air=6302 * u.AA, lower=lower, upper=upper, **factors)
