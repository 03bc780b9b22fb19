"""Parameters held at a value: a number, a map, or where the fit would start."""

import astropy.units as u
import numpy as np
import pytest

import sunpy_specfit as specfit
from sunpy_specfit import Status
from sunpy_specfit.data import gaussian_cube

REST = 195.119 * u.AA
MODEL = specfit.Gaussian(REST) + specfit.Polynomial(0)


@pytest.fixture(scope="module")
def earlier():
    cube = gaussian_cube((6, 7), seed=1)
    return cube, specfit.fit(cube, MODEL)


@pytest.mark.parametrize(
    ("model", "init"),
    [
        (lambda r: MODEL.fix("width"), lambda r: r),
        (lambda r: MODEL.fix("width"), lambda r: {"width": r["width"]}),
        (lambda r: MODEL.fix("width"), lambda r: {"gaussian.width": r["width"].data * 1e3 * u.mAA}),
        (lambda r: MODEL.fix(width=r["width"]), lambda r: None),
        (lambda r: MODEL.fix(width=r["width"]), lambda r: {"width": 20 * u.mAA}),
    ],
)
def test_a_map_is_held_pixel_by_pixel(earlier, tmp_path, model, init):
    cube, first = earlier
    result = specfit.fit(cube, model(first), init=init(first))
    np.testing.assert_allclose(result["width"].data, first["width"].data, rtol=1e-12)
    assert not result["width"].uncertainty.array.any()
    # At the width that fits best the other numbers are the best ones too.
    np.testing.assert_allclose(result.chi2.data, first.chi2.data, rtol=1e-4)
    assert (result.dof.data == first.dof.data + 1).all()
    result.save(tmp_path / "fixed.asdf")
    again = specfit.FitResult.load(tmp_path / "fixed.asdf")
    np.testing.assert_allclose(again[1:3].model().data, result.model().data[1:3], rtol=1e-6)


def test_provenance_says_what_was_fixed(earlier, tmp_path):
    result = specfit.fit(earlier[0], MODEL.fix(width=30 * u.mAA))
    said = "Gaussian(<Quantity 195.119 Angstrom>).fix(width=<Quantity 30. mAngstrom>) + Polynomial()"
    assert result.meta["model"] == [said]
    result.save(tmp_path / "fixed.asdf")
    again = specfit.FitResult.load(tmp_path / "fixed.asdf")
    assert repr(again._layout.models[0]) == said


def test_a_bare_name_takes_the_start_value_before_a_declared_default(earlier):
    cube, _ = earlier

    class Line(specfit.Gaussian):
        name = "line"
        width = specfit.Parameter("spectral", lower=0, default=0.02)

    def width(model, **options):
        return specfit.fit(cube, model, **options)["width"].data[0, 0]

    assert width(Line(REST).fix("width"), init={"width": 30 * u.mAA}) == pytest.approx(0.03)
    assert width(Line(REST).fix("width")) == pytest.approx(0.02)
    assert width(Line(REST).fix(width=0.04), init={"width": 30 * u.mAA}) == pytest.approx(0.04)


def test_a_hole_in_a_fixed_map_is_a_hole_in_the_result_and_nothing_to_the_others(earlier):
    cube, first = earlier
    width = first["width"].data.copy()
    hole = np.zeros(width.shape, bool)
    width[2, 3] = np.nan
    hole[2, 3] = True
    width[0, 0], hole[0, 0] = np.inf, True
    result = specfit.fit(cube, MODEL.fix(width=width))
    np.testing.assert_array_equal(result["velocity"].mask, hole)
    np.testing.assert_array_equal(result["width"].mask, hole)
    assert result.status.data[2, 3] & int(Status.BAD_DATA)
    np.testing.assert_allclose(result.chi2.data[~hole], first.chi2.data[~hole], rtol=1e-4)
    for nothing in (np.nan, np.full(width.shape, np.inf)):
        with pytest.raises(ValueError, match="which is not finite"):
            specfit.fit(cube, MODEL.fix(width=nothing))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (MODEL.fix("width"), "'width' is fixed but has no value"),
        (MODEL.fix(width=-3 * u.mAA), "'width' is fixed below its lower bound 0"),
        (MODEL.bound(width=(10, 60) * u.mAA).fix(width=0.1), r"above its upper bound 60\.0 mAngstrom"),
        (MODEL.fix(width=np.full((6, 8), 0.03)), r"shape \(6, 8\)"),
        (specfit.Polynomial(0).fix(c0=3), "nothing is left to fit: 'c0'"),
        (MODEL.fix(amplitude=1, center=REST, width=30 * u.mAA, c0=0), "nothing is left to fit"),
    ],
)
def test_refused_with_a_sentence(earlier, model, match):
    with pytest.raises(ValueError, match=match):
        specfit.fit(earlier[0], model)


def test_a_map_of_another_shape_is_refused(earlier):
    cube, first = earlier
    with pytest.raises(ValueError, match=r"the fixed value of 'width' has shape \(2, 7\)"):
        specfit.fit(cube, MODEL.fix(width=first[:2]["width"]))
