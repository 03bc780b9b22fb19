"""Acute angles to a potential field: charges below the surface, whose field is known everywhere."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest

import sunpy_specfit as specfit
from sunpy_specfit.core.solar_frame import SolarFrame
from sunpy_specfit.plugins.disambiguation.potential_field import potential_transverse

# Solar radii: half an arcsecond a pixel.
PIXEL = 0.5 / 960


def place(center=(0.0, 0.0), shape=(96, 96), pixel=PIXEL, tilt=0.0):
    """Pixels about a place on the disc, their rows tilted against solar west."""
    row, column = np.indices(shape).astype(float)
    row, column = row - (shape[0] - 1) / 2, column - (shape[1] - 1) / 2
    angle = np.deg2rad(tilt)
    x = center[0] + pixel * (column * np.cos(angle) - row * np.sin(angle))
    y = center[1] + pixel * (column * np.sin(angle) + row * np.cos(angle))
    return SolarFrame(x, y)


def field_of(charges, frame):
    """(west, north, towards the observer) of charges (x, y, depth, strength), on the plane that touches the Sun.

    x and y on the sky and depth in pixels; strength such that it is the field above a charge.
    """
    n = frame.vertical
    middle = frame.x.mean(), frame.y.mean()
    east_west, north = frame.x - middle[0], frame.y - middle[1]
    points = np.stack([east_west, north, -(n[0] * east_west + n[1] * north) / n[2]])
    total = np.zeros_like(points)
    for x, y, depth, strength in charges:
        x, y, depth = (PIXEL * number for number in (x, y, depth))
        below = np.array([x, y, -(n[0] * x + n[1] * y) / n[2]]) - depth * n
        away = points - below[:, None, None]
        total += strength * depth**2 * away / np.sqrt((away**2).sum(0)) ** 3
    return total


def maps(field, frame, noise=0.0, seed=0, azimuth_error=2.0):
    """What an inversion would give: azimuths that know no direction."""
    rng = np.random.default_rng(seed)
    west, north, along = field
    along = along + noise * rng.standard_normal(along.shape)
    azimuth = np.rad2deg(np.arctan2(-west, north)) + azimuth_error * rng.standard_normal(along.shape)
    across = np.hypot(west, north)
    ones = np.ones_like(along)
    return specfit.FieldMaps(
        b_los=along * u.G,
        b_trans=across * u.G,
        azimuth=(azimuth % 180) * u.deg,
        b_los_error=noise * ones * u.G,
        b_trans_error=noise * ones * u.G,
        azimuth_error=azimuth_error * ones * u.deg,
        undecided=across > 0,
        frame=frame,
    )


def judged(field, given, disambiguator=None):
    """How much is decided, and of that how much rightly."""
    turn, convinced = (disambiguator or specfit.AcuteAngle()).choose(given)
    west, north = (part.value for part in given.transverse())
    right = np.where(turn, -1, 1) * (west * field[0] + north * field[1]) > 0
    return convinced.mean(), right[convinced].mean() if convinced.any() else np.nan


SCENES = {
    "monopole": [(3.0, -5.0, 12.0, 2500.0)],
    "other polarity": [(3.0, -5.0, 12.0, -2500.0)],
    "dipole": [(-14.0, 4.0, 10.0, 2500.0), (12.0, -6.0, 12.0, -1800.0)],
    "turned dipole": [(-14.0, 4.0, 10.0, -2500.0), (12.0, -6.0, 12.0, 1800.0)],
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize(("center", "tilt"), [((0, 0), 0), ((0.6, 0.3), 0), ((-0.5, 0.5), 30), ((0.0, -0.7), 90)])
def test_the_direction_is_that_of_the_charges(scene, center, tilt):
    frame = place(center, tilt=tilt)
    field = field_of(SCENES[scene], frame)
    decided, right = judged(field, maps(field, frame, noise=5.0))
    assert decided > 0.75
    assert right == 1


@pytest.mark.parametrize("center", [(0, 0), (0.5, -0.5)])
def test_a_potential_field_is_found_from_one_component(center):
    frame = place(center, shape=(160, 160))
    field = field_of([(0.0, 0.0, 8.0, 1000.0), (20.0, 0.0, 8.0, -1000.0)], frame)
    inner = np.s_[40:120, 40:120]
    for beyond in ("nothing", "mirror"):
        found = potential_transverse(field[2], frame.steps, frame.vertical, beyond=beyond)
        for part, truth in zip(found, field[:2], strict=True):
            assert np.abs(part - truth)[inner].max() < 0.02 * np.abs(truth).max(), beyond


def test_a_tilted_surface_matters():
    """Taking the line of sight for the vertical, as at disc centre, is wrong at mu = 0.5."""
    frame = place((0.85, 0.2))
    field = field_of(SCENES["dipole"], frame)
    wrong = [
        np.mean(sum(a * b for a, b in zip(potential_transverse(field[2], frame.steps, up), field, strict=False)) < 0)
        for up in (np.array([0.0, 0.0, 1.0]), frame.vertical)
    ]
    assert wrong[0] > 0.05
    assert wrong[1] < wrong[0] / 5


def test_what_is_near_ninety_degrees_is_left():
    frame = place()
    field = field_of(SCENES["monopole"], frame)
    for shear, least, most in ((0, 0.9, 1.0), (40, 0.8, 1.0), (88, 0.0, 0.03)):
        angle = np.deg2rad(shear)
        sheared = np.stack(
            [
                field[0] * np.cos(angle) - field[1] * np.sin(angle),
                field[0] * np.sin(angle) + field[1] * np.cos(angle),
                field[2],
            ]
        )
        decided, right = judged(sheared, maps(sheared, frame))
        assert least <= decided <= most, shear
        if least:
            assert right > 0.999


def test_errors_are_heeded():
    frame = place()
    field = field_of(SCENES["monopole"], frame)
    sure, _ = judged(field, maps(field, frame, azimuth_error=1.0))
    unsure, _ = judged(field, maps(field, frame, azimuth_error=35.0))
    assert unsure < 0.6 * sure
    noisy, right = judged(field, maps(field, frame, noise=150.0))
    assert noisy < 0.7 * sure
    assert right > 0.99
    # Nothing but noise: hardly anything is decided.
    rng = np.random.default_rng(1)
    nothing = rng.standard_normal((3, 96, 96)) * 20
    decided, _ = judged(nothing, maps(nothing, frame, noise=20.0, azimuth_error=10.0))
    assert decided < 0.1


def test_a_given_field_decides_as_well():
    frame = place((0.0, 0.965))
    field = field_of(SCENES["dipole"], frame)
    given = maps(field, frame)
    with pytest.raises(ValueError, match="limb"):
        specfit.AcuteAngle().choose(given)
    reference = specfit.AcuteAngle(reference=(field[0] * u.G, 0.1 * field[1] * u.mT * 1))
    decided, right = judged(field, given, reference)
    assert decided > 0.95
    assert right > 0.999
    with pytest.raises(ValueError, match="the map"):
        specfit.AcuteAngle(reference=(field[0][:3] * u.G, field[1] * u.G)).choose(given)


def test_maps_that_are_no_plane_are_refused():
    frame = place(shape=(20, 20), pixel=0.05)
    field = field_of(SCENES["dipole"], frame)
    with pytest.raises(ValueError, match="wide"):
        specfit.AcuteAngle().choose(maps(field, frame))
    bent = place()
    bent = SolarFrame(bent.x + 4 * PIXEL * np.linspace(-1, 1, 96) ** 2, bent.y)
    with pytest.raises(ValueError, match="even steps"):
        specfit.AcuteAngle().choose(maps(field_of(SCENES["dipole"], bent), bent))
    with pytest.raises(ValueError, match="helioprojective"):
        specfit.AcuteAngle().choose(maps(field, None))
    with pytest.raises(ValueError, match="margin"):
        specfit.AcuteAngle(margin=100 * u.deg)


def test_the_order_of_the_axes_does_not_matter():
    """Maps of a scanning slit have west along their first axis."""
    frame = place((0.4, 0.3), shape=(96, 80))
    field = field_of(SCENES["dipole"], frame)
    turn, convinced = specfit.AcuteAngle().choose(maps(field, frame, azimuth_error=0.0))
    other = SolarFrame(frame.x.T, frame.y.T)
    again = specfit.AcuteAngle().choose(maps(field.transpose(0, 2, 1), other, azimuth_error=0.0))
    assert np.array_equal(again[1].T, convinced)
    assert np.array_equal(again[0].T[convinced], turn[convinced])
