"""eispac's fit templates as models."""

from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest

from sunpy_specfit.plugins.gaussian.template import (
    from_eispac_template,
    options_from_eispac_template,
    parse_tie,
)


def info(value, *, limits=(None, None), tied="", fixed=0):
    return {
        "value": np.float64(value),
        "fixed": np.int16(fixed),
        "limited": np.array([limit is not None for limit in limits], dtype="int16"),
        "limits": np.array([0.0 if limit is None else limit for limit in limits]),
        "tied": np.array(tied, dtype="<U16"),
    }


def template(parinfo, ids, n_poly=1):
    settings = {"n_gauss": len(ids), "n_poly": n_poly, "line_ids": np.array(ids), "wmin": 194.96, "wmax": 195.25}
    return SimpleNamespace(template=settings, parinfo=parinfo)


@pytest.fixture
def two_lines():
    parinfo = [
        info(57514.0, limits=(0, None)),
        info(195.118, limits=(195.078, 195.158)),
        info(0.0289, limits=(0.0191, 0.0510)),
        info(8013.0, limits=(0, None)),
        info(195.178, limits=(195.138, 195.218), tied="p[1]+0.06"),
        info(0.0289, limits=(0.0191, 0.0510), tied="p[2]     "),
        info(664.0),
    ]
    return template(parinfo, ["Fe XII 195.119", "Fe XII 195.179"])


def test_a_template_becomes_a_model(two_lines):
    model = from_eispac_template(two_lines)
    assert [c.component_label() for c in model.components] == ["fe_12_195.12", "fe_12_195.18", "polynomial"]
    assert [c.rest_wavelength for c in model.components[:2]] == [195.119 * u.AA, 195.179 * u.AA]
    p = model.parameters
    assert p["fe_12_195.12.center"].lower == 195.078 * u.AA
    assert p["fe_12_195.12.center"].upper == 195.158 * u.AA
    assert (p["fe_12_195.12.amplitude"].lower, p["fe_12_195.12.amplitude"].upper) == (0, None)
    tie = p["fe_12_195.18.center"].tie
    assert (tie.target, tie.factor, tie.offset) == ("fe_12_195.12.center", 1.0, 0.06 * u.AA)
    assert p["fe_12_195.18.width"].tie.target == "fe_12_195.12.width"
    # as in mpfit, the limits of a tied parameter do not count
    assert p["fe_12_195.18.center"].lower is None
    assert p["c0"].lower is None


def test_options_hold_initial_values_of_what_is_free_and_the_window(two_lines):
    options = options_from_eispac_template(two_lines)
    assert options["init"]["fe_12_195.12.center"] == 195.118 * u.AA
    assert "fe_12_195.18.center" not in options["init"]
    assert options["init"]["c0"] == 664.0
    assert options["window"].value.tolist() == [194.96, 195.25]
    model = from_eispac_template(two_lines)
    assert {model.resolve(name) for name in options["init"]} == set(options["init"])


def test_fixed_values_and_missing_limits():
    parinfo = [info(1.0), info(195.1, fixed=1), info(0.03)]
    model = from_eispac_template(template(parinfo, ["Fe XII 195.119"], n_poly=0))
    assert len(model.components) == 1
    assert model.parameters["center"].fixed
    assert model.parameters["center"].default == 195.1 * u.AA
    assert model.parameters["amplitude"].lower is None
    assert model.parameters["width"].lower == 0 * u.AA


@pytest.mark.parametrize(
    ("ids", "labels"),
    [
        (["Fe XXIV 195.128", "O V 195.204"], ["fe_24_195.13", "o_05_195.20"]),
        (["Ar XIV 194.396", "unknown I 194.056"], ["ar_14_194.40", "unknown_194.06"]),
        (["Fe IX 195.001", "Fe IX 195.004"], ["fe_09_195.001", "fe_09_195.004"]),
        (["Fe XII 195.119", "Fe XII 195.119"], ["fe_12_195.119_1", "fe_12_195.119_2"]),
        (["unknown I 001.000", "nonsense"], ["unknown_195.10", "nonsense_195.20"]),
    ],
)
def test_labels(ids, labels):
    parinfo = [info(1.0), info(195.1), info(0.03), info(1.0), info(195.2), info(0.03)]
    model = from_eispac_template(template(parinfo, ids, n_poly=0))
    assert [c.label for c in model.components] == labels


@pytest.mark.parametrize(
    ("tie", "expected"),
    [
        ("p[2]", (2, 1, 0)),
        ("p[1]+0.06", (1, 1, 0.06)),
        ("p[1] - 0.06", (1, 1, -0.06)),
        ("0.5*p[0]", (0, 0.5, 0)),
        ("p[0]/2 + 1", (0, 0.5, 1)),
        ("2*(p[3] - 1)", (3, 2, -2)),
        ("1 - p[3]", (3, -1, 1)),
    ],
)
def test_ties(tie, expected):
    assert parse_tie(tie) == pytest.approx(expected)


@pytest.mark.parametrize(
    "tie", ["p[0] + p[1]", "p[0]**2", "sqrt(p[0])", "p[0", "3", "p[0]*0", "p[0]/0", "p['a']", "1/p[0]", "p[0]*p[1]"]
)
def test_ties_that_are_not_affine_are_refused(tie):
    with pytest.raises(ValueError, match=r"a \* p\[i\] \+ b"):
        parse_tie(tie)


def test_what_is_no_template_is_refused(two_lines):
    with pytest.raises(TypeError, match="eispac.read_template"):
        from_eispac_template("fe_12_195_119.2c")
    two_lines.parinfo.pop()
    with pytest.raises(ValueError, match="6 parameters"):
        from_eispac_template(two_lines)


@pytest.mark.parametrize(("tie", "message"), [("p[0]", "another unit"), ("p[9]", "only 4")])
def test_impossible_ties_are_refused(tie, message):
    parinfo = [info(1.0), info(195.1), info(0.03, tied=tie), info(1.0)]
    with pytest.raises(ValueError, match=message):
        from_eispac_template(template(parinfo, ["Fe XII 195.119"]))


def test_constraints_on_a_sloping_background_are_refused():
    parinfo = [info(1.0), info(195.1), info(0.03), info(1.0, limits=(0, None)), info(0.0)]
    with pytest.raises(ValueError, match="middle of the window"):
        from_eispac_template(template(parinfo, ["Fe XII 195.119"], n_poly=2))
    parinfo[3] = info(1.0)
    assert list(from_eispac_template(template(parinfo, ["Fe XII 195.119"], n_poly=2)).parameters)[-1] == "c1"


def test_every_template_that_eispac_ships():
    eispac = pytest.importorskip("eispac")
    from importlib.resources import files

    paths = sorted(path for path in files("eispac.data.templates").iterdir() if path.name.endswith(".template.h5"))
    assert len(paths) > 100
    for path in paths:
        shipped = eispac.read_template(path)
        model = from_eispac_template(shipped)
        ties = sum(bool(str(p["tied"]).strip()) for p in shipped.parinfo)
        assert sum(p.tie is not None for p in model.parameters.values()) == ties
        options = options_from_eispac_template(shipped)
        assert len(options["init"]) == len(shipped.parinfo) - ties
