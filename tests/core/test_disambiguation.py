"""Azimuths from 0 to 360 degrees: what a result is after somebody has decided, and what it still says."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import Status
from sunpy_specfit.data import gaussian_cube, milne_eddington_cube, weak_field_cube

LINES = ["Fe I 6301.5", "Fe I 6302.5"]
SHAPE = (20, 22)


def charge(strength):
    """The field above a charge: azimuths from north, counter-clockwise, in all directions."""
    y, x = np.indices(SHAPE).astype(float)
    x, y, depth = x - 9.3, y - 10.2, 9.0
    r = np.sqrt(x**2 + y**2 + depth**2)
    west, north, along = (strength * depth**2 * part / r**3 for part in (x, y, depth))
    return {
        "field_strength": np.abs(strength) * depth**2 / r**2,
        "inclination": np.rad2deg(np.arccos(along / (np.abs(strength) * depth**2 / r**2))),
        "azimuth": np.rad2deg(np.arctan2(-west, north)) % 360,
    }


@pytest.fixture(scope="module", params=[2400.0, -2400.0])
def scene(request):
    truth = charge(request.param)
    cube = milne_eddington_cube(SHAPE, truth=truth, noise=3e-4, seed=3)
    return truth, specfit.fit(cube, specfit.MilneEddington(LINES, stokes_reference=0 * u.deg))


def ambiguous(result):
    return (result.status.data & int(Status.AMBIGUOUS)) > 0


def test_azimuths_point_where_the_field_does(scene):
    truth, result = scene
    solved = specfit.disambiguate(result)
    done = ambiguous(result) & ~ambiguous(solved)
    assert done.sum() > 0.8 * ambiguous(result).sum()
    away = (solved["azimuth"].data - truth["azimuth"] + 180) % 360 - 180
    assert np.abs(away[done]).max() < 5 * solved["azimuth"].uncertainty.array[done].max()
    assert (solved["azimuth"].data[done] > 180).mean() > 0.3
    left = ~done
    assert np.array_equal(solved["azimuth"].data[left], result["azimuth"].data[left])


def test_nothing_else_changes_and_who_decided_is_recorded(scene):
    _, result = scene
    before = {key: result[key].data.copy() for key in result}
    solved = specfit.disambiguate(result)
    for key in result:
        assert np.array_equal(result[key].data, before[key], equal_nan=True), key
        assert np.array_equal(solved[key].uncertainty.array, result[key].uncertainty.array, equal_nan=True), key
        if key != "azimuth":
            assert np.array_equal(solved[key].data, result[key].data, equal_nan=True), key
    others = ~int(Status.AMBIGUOUS)
    assert np.array_equal(solved.status.data & others, result.status.data & others)
    assert np.array_equal(solved.model().data, result.model().data)
    record = solved.meta["disambiguation"]
    assert record["by"] == "AcuteAngle()"
    assert record["plugin"].startswith("sunpy_specfit")
    assert record["ambiguous"] == ambiguous(result).sum()
    assert record["resolved"] == record["ambiguous"] - ambiguous(solved).sum()
    assert "disambiguation" not in result.meta


def test_parts_files_and_draws_keep_it(scene, tmp_path):
    _, result = scene
    solved = specfit.disambiguate(result)
    part = solved[4:9, 2:]
    assert np.array_equal(part["azimuth"].data, solved["azimuth"].data[4:9, 2:])
    solved.save(tmp_path / "field.asdf")
    again = specfit.FitResult.load(tmp_path / "field.asdf")
    assert np.array_equal(again["azimuth"].data, solved["azimuth"].data)
    assert again.meta["disambiguation"] == solved.meta["disambiguation"]
    draws = [one.sample(20, seed=1)["azimuth"].to_value(u.deg) for one in (result, solved)]
    halves = (draws[1] - draws[0]) / 180
    np.testing.assert_allclose(halves, np.round(halves), atol=1e-5)
    away = (draws[1] - solved["azimuth"].data + 180) % 360 - 180
    decided = ~ambiguous(solved)
    assert np.abs(away[:, decided]).max() <= 90.001
    assert np.array_equal(draws[1][:, ~decided], draws[0][:, ~decided])


def test_draws_of_an_azimuth_near_zero_do_not_point_the_other_way():
    shape = (6, 7)
    truth = {"b_los": np.full(shape, 100.0), "b_trans": np.full(shape, 1500.0), "azimuth": np.full(shape, 0.0)}
    result = specfit.fit(weak_field_cube(shape, truth=truth, seed=1), specfit.WeakField("Mg I 5172.7"))

    def along_q(field):
        angle = np.deg2rad(field.azimuth.to_value(u.deg))
        return np.cos(angle) < 0, np.ones(shape, bool)

    solved = specfit.disambiguate(result, along_q, stokes_reference=0 * u.deg)
    draws = solved.sample(50, seed=0)["azimuth"].to_value(u.deg)
    assert not ambiguous(solved).any()
    # Within some degrees of 0, which is 360.
    assert np.abs((draws + 180) % 360 - 180).max() < 45


def test_a_function_decides_as_well_and_the_last_one_counts(scene):
    _, result = scene
    seen = []

    def east(field):
        seen.append(field)
        west, _ = field.transverse()
        return west.value > 0, np.abs(west.value) > 300

    solved = specfit.disambiguate(specfit.disambiguate(result), east)
    fields = seen[0]
    known = fields.undecided
    assert np.array_equal(known, ambiguous(result))
    assert fields.b_los.unit == u.G
    assert np.abs(fields.frame.x).max() < 0.01
    far = known & (np.abs(fields.transverse()[0].value) > 300)
    assert np.array_equal(ambiguous(solved), known & ~far)
    assert (np.sin(np.deg2rad(solved["azimuth"].data[far])) > 0).all()
    assert solved.meta["disambiguation"]["plugin"] == "a function"
    everywhere = specfit.disambiguate(solved, lambda field: np.zeros(SHAPE, bool))
    assert np.array_equal(everywhere["azimuth"].data, result["azimuth"].data)
    assert not ambiguous(everywhere).any()


def test_where_plus_q_is_must_be_known():
    truth = charge(2400.0)
    turned = truth | {"azimuth": truth["azimuth"] - 30}
    cube = milne_eddington_cube(SHAPE, truth=turned, noise=3e-4, seed=3)
    result = specfit.fit(cube, specfit.MilneEddington(LINES))
    with pytest.raises(ValueError, match="stokes_reference"):
        specfit.disambiguate(result)
    solved = specfit.disambiguate(result, stokes_reference=30 * u.deg)
    done = ambiguous(result) & ~ambiguous(solved)
    assert done.mean() > 0.7
    # Counted from +Q still, as the model does.
    away = (solved["azimuth"].data - turned["azimuth"] + 180) % 360 - 180
    assert np.abs(away[done]).max() < 20


def test_weak_fields_and_pairs_have_azimuths_too():
    truth = {
        "b_los": np.full(SHAPE, 100.0),
        "b_trans": np.full(SHAPE, 700.0),
        "azimuth": np.full(SHAPE, 40.0),
    }
    cube = weak_field_cube(SHAPE, truth=truth, noise=1e-4)
    model = specfit.WeakField("Mg I 5172.7", stokes_reference=0 * u.deg)
    result = specfit.fit(cube, model)
    solved = specfit.disambiguate(result, lambda field: np.ones(SHAPE, bool))
    known = ambiguous(result)
    assert known.mean() > 0.9
    assert np.median(solved["azimuth"].data[known]) == pytest.approx(220, abs=3)
    assert not ambiguous(solved).any()

    light = milne_eddington_cube((3, 4), noise=0, seed=1, dtype=float)
    data = 0.6 * light.data + 0.4 * light.data[:, :, ::-1, ::-1]
    mixed = NDCube(data, wcs=light.wcs, unit=light.unit, uncertainty=StdDevUncertainty(np.full(data.shape, 3e-4)))
    pair = specfit.fit(mixed, specfit.two_atmospheres(LINES, stokes_reference=0 * u.deg))
    asked = []
    specfit.disambiguate(pair, lambda field: asked.append(field) or np.zeros((3, 4), bool))
    assert len(asked) == 2


def test_what_cannot_be_decided_is_refused(scene):
    _, result = scene
    with pytest.raises(KeyError, match="acute_angle"):
        specfit.disambiguate(result, "acute_angel")
    with pytest.raises(TypeError, match="a name"):
        specfit.disambiguate(result, 3)
    with pytest.raises(ValueError, match="arrays of bool"):
        specfit.disambiguate(result, lambda field: np.zeros(3, bool))
    with pytest.raises(ValueError, match="arrays of bool"):
        specfit.disambiguate(result, lambda field: np.zeros(SHAPE))
    with pytest.raises(ValueError, match="told where"):
        specfit.disambiguate(result, stokes_reference=3 * u.deg)
    with pytest.raises(ValueError, match="two axes"):
        specfit.disambiguate(result[0])
    lines = specfit.fit(gaussian_cube((3, 4)), specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0))
    with pytest.raises(ValueError, match="no field"):
        specfit.disambiguate(lines)


def test_a_plugin_is_found_by_its_name(scene):
    from sunpy_specfit.core import registry

    class Never(specfit.Disambiguator):
        name = "never"

        def choose(self, field):
            return np.zeros(field.b_los.shape, bool), np.zeros(field.b_los.shape, bool)

    _, result = scene
    with registry.registered(Never):
        solved = specfit.disambiguate(result, "never")
    assert np.array_equal(solved.status.data, result.status.data)
    assert solved.meta["disambiguation"]["resolved"] == 0
