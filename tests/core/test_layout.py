"""Which numbers are free and how every parameter follows from them, in the internal frame."""

import astropy.units as u
import numpy as np
import pytest

from sunpy_specfit import Model, Parameter
from sunpy_specfit.core.frame import Frame
from sunpy_specfit.core.layout import Layout

FRAME = Frame(u.DN, u.AA, origin=195.0, scale=0.02, data_scale=1000.0)


class Line(Model):
    name = "line"
    amplitude = Parameter("data", lower=0)
    center = Parameter("spectral", location=True)
    width = Parameter("spectral", lower=0)
    derived = {"area": "data * spectral", "velocity": u.km / u.s}

    def __init__(self, *, label=None):
        self.label = label


def physical(layout, free, fixed=None):
    """All rows in physical units from internal free numbers."""
    factor, offset = layout.scales()
    theta = layout.transform @ free + layout.fixed_base(fixed or {}, 1)[:, 0]
    return dict(zip(layout.parameters, theta * factor + offset, strict=True))


def test_one_line_has_only_free_numbers():
    layout = Layout([Line()], [FRAME])
    assert layout.free_keys == ("amplitude", "center", "width")
    assert layout.is_selection
    assert layout.units["width"] == u.AA
    assert layout.derived["area"] == u.DN * u.AA
    values = physical(layout, np.array([0.5, 3.0, 2.0]))
    assert values == pytest.approx({"amplitude": 500, "center": 195.06, "width": 0.04})


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_ties_are_exact_in_physical_units_whatever_the_frame(order):
    model = Line(label=order[0]) + Line(label=order[1])
    model = model.tie("b.center", "a.center", factor=1.01, offset=0.06 * u.AA).tie("b.width", "a.width")
    layout = Layout([model], [FRAME])
    assert "b.center" not in layout.free_keys
    free = np.zeros(layout.n_free)
    free[layout.columns["a.center"]], free[layout.columns["a.width"]] = 3.0, 2.0
    values = physical(layout, free)
    assert values["b.center"] == pytest.approx(1.01 * values["a.center"] + 0.06, abs=1e-12)
    assert values["b.width"] == pytest.approx(0.04)


def test_ties_may_form_a_chain_and_end_in_a_fixed_value():
    model = Line(label="a").fix(center=195.1 * u.AA) + Line(label="b") + Line(label="c")
    model = model.tie("b.center", "a.center", offset=60 * u.mAA).tie("c.center", "b.center", factor=2)
    layout = Layout([model], [FRAME])
    fixed = {"a.center": layout.to_internal("a.center", 195.1 * u.AA)}
    values = physical(layout, np.zeros(layout.n_free), fixed)
    assert values["a.center"] == pytest.approx(195.1)
    assert values["b.center"] == pytest.approx(195.16)
    assert values["c.center"] == pytest.approx(390.32)


def test_a_circle_of_ties_is_refused():
    model = Line(label="a") + Line(label="b")
    model = model.tie("a.width", "b.width").tie("b.width", "a.width")
    with pytest.raises(ValueError, match="circle"):
        Layout([model], [FRAME])


def test_a_tie_to_nothing_shows_close_matches():
    model = Line(label="a").tie("width", "line.widht")
    with pytest.raises(KeyError, match="width"):
        Layout([model], [FRAME])


def test_ties_need_like_units():
    model = Line(label="a") + Line(label="b")
    with pytest.raises(u.UnitConversionError, match="cannot be tied"):
        Layout([model.tie("a.width", "b.amplitude")], [FRAME])


def test_bounds_are_converted_and_tied_bounds_bound_the_target():
    model = Line(label="a").bound(width=(20, 60) * u.mAA) + Line(label="b").bound(width=(30, 200) * u.mAA)
    layout = Layout([model.tie("b.width", "a.width", factor=2)], [FRAME])
    lower, upper = layout.bounds()
    column = layout.columns["a.width"].start
    assert (lower[column], upper[column]) == pytest.approx((1.0, 3.0))
    assert lower[layout.columns["a.amplitude"].start] == 0
    assert np.isinf(upper[layout.columns["a.amplitude"].start])


def test_a_falling_tie_swaps_the_bounds():
    model = Line(label="a").bound(amplitude=(None, None)) + Line(label="b").bound(amplitude=(0, 500))
    layout = Layout([model.tie("b.amplitude", "a.amplitude", factor=-1)], [FRAME])
    lower, upper = layout.bounds()
    column = layout.columns["a.amplitude"].start
    assert (lower[column], upper[column]) == pytest.approx((-0.5, 0.0))


def test_bounds_that_ties_make_impossible_are_refused():
    model = Line(label="a").bound(width=(20, 60) * u.mAA) + Line(label="b").bound(width=(100, 200) * u.mAA)
    with pytest.raises(ValueError, match="leave no room"):
        Layout([model.tie("b.width", "a.width")], [FRAME]).bounds()


def test_one_component_in_two_cubes_is_one_set_of_unknowns():
    line = Line(label="a")
    layout = Layout([line, line], [FRAME, FRAME])
    assert layout.n_free == 3
    assert layout.term_components == [[0], [0]]
    with pytest.raises(ValueError, match="different units"):
        Layout([line, line], [FRAME, Frame(u.ph, u.AA)])


def test_lines_of_two_cubes_may_share_a_velocity():
    blue, red = Line(label="blue"), Line(label="red").tie("center", "blue.center", factor=202.044 / 195.119)
    layout = Layout([blue, red], [FRAME.physical()] * 2)
    assert layout.n_free == 5
    free = np.zeros(5)
    free[layout.columns["blue.center"]] = 195.2
    assert physical(layout, free)["red.center"] == pytest.approx(195.2 * 202.044 / 195.119)


def test_a_fixed_map_stands_in_the_base():
    layout = Layout([Line().fix(width=30 * u.mAA)], [FRAME])
    base = layout.fixed_base({"width": np.array([1.0, 2.0, 3.0])}, 3)
    assert base.shape == (3, 3)
    assert base[layout.rows["width"]].tolist() == [[1.0, 2.0, 3.0]]


def test_values_in_the_wrong_unit_are_refused():
    layout = Layout([Line()], [FRAME])
    with pytest.raises(u.UnitConversionError, match="'width' is in s, which does not convert to Angstrom"):
        layout.to_internal("width", 3 * u.s)
