"""Milne-Eddington inversions: truths found again with right errors, and data that are not as they should be."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import MilneEddington, Status
from sunpy_specfit.data import milne_eddington_cube
from sunpy_specfit.numerics.kernel import compiler
from sunpy_specfit.plugins.milne_eddington import compiled

PAIR = ["Fe I 6301.5", "Fe I 6302.5"]


def has(result, flag):
    return (np.asarray(result.status.data) & int(flag)) > 0


def like(cube, data=None, **changes):
    """The same cube with some things changed."""
    given = {"wcs": cube.wcs, "unit": cube.unit, "uncertainty": cube.uncertainty, "mask": cube.mask} | changes
    return NDCube(cube.data.copy() if data is None else data, **given)


def difference(result, cube, name):
    found = result[name].data - cube.meta["truth"][name]
    return (found + 90) % 180 - 90 if name == "azimuth" else found


@pytest.fixture(scope="module")
def cube():
    return milne_eddington_cube((20, 24), noise=1e-3, seed=5)


@pytest.fixture(scope="module")
def result(cube):
    return specfit.fit(cube, MilneEddington(PAIR))


def test_all_keys_and_units(result):
    assert list(result) == [
        "field_strength",
        "inclination",
        "azimuth",
        "velocity",
        "doppler_width",
        "line_strength",
        "damping",
        "source_constant",
        "source_gradient",
        "b_los",
        "b_trans",
        "b_q",
        "b_u",
    ]
    units = [result[name].unit for name in ("field_strength", "inclination", "azimuth", "velocity", "b_los", "b_trans")]
    assert units == [u.G, u.deg, u.deg, u.km / u.s, u.G, u.G]
    assert result["doppler_width"].unit == u.AA
    assert 0.01 < np.median(result["doppler_width"].data) < 0.06


def test_truth_is_found_again_in_every_pixel_with_right_errors(result, cube):
    assert result.reduced_chi2.data.max() < 1.3
    assert result.reduced_chi2.data.mean() == pytest.approx(1, abs=0.01)
    assert has(result, Status.CONVERGED).all()
    for name in result.parameters:
        pull = difference(result, cube, name) / result[name].uncertainty.array
        assert np.mean(np.abs(pull) < 1) == pytest.approx(0.683, abs=0.07), name
        assert np.mean(np.abs(pull) < 1.96) == pytest.approx(0.95, abs=0.035), name
    truth = cube.meta["truth"]
    along = truth["field_strength"] * np.cos(np.deg2rad(truth["inclination"]))
    pull = (result["b_los"].data - along) / result["b_los"].uncertainty.array
    assert np.mean(np.abs(pull) < 1) == pytest.approx(0.683, abs=0.07)


def test_angles_stay_within_their_bounds(result):
    assert 0 <= result["azimuth"].data.min() < result["azimuth"].data.max() < 180
    assert 0 <= result["inclination"].data.min() < result["inclination"].data.max() <= 180


def test_the_ambiguity_is_stated(result):
    """Wherever the azimuth is known, and nowhere else."""
    seen = has(result, Status.AMBIGUOUS)
    assert seen.any()
    assert (seen != has(result, Status.NO_LINEAR_SIGNAL)).all()
    assert result["azimuth"].uncertainty.array[seen].max() < 7.2


def test_other_polarity_changes_the_sign_of_b_los(cube, result):
    """A regression that other codes have had: V with the wrong sign."""
    assert result["b_los"].data.mean() < -100
    turned = specfit.fit(cube, MilneEddington(PAIR, stokes_sign={"V": -1, "U": -1}))
    # U in the frame of the field is magneto-optical and changes sign with the polarity: mirrored azimuths, same light.
    same = np.abs(turned.chi2.data - result.chi2.data) < 1e-2
    assert same.mean() > 0.99
    np.testing.assert_allclose(turned["b_los"].data[same], -result["b_los"].data[same], atol=0.1)
    both = np.deg2rad(turned["azimuth"].data + result["azimuth"].data)[same & has(result, Status.AMBIGUOUS)]
    np.testing.assert_allclose(np.sin(both), 0, atol=1e-3)


def test_inputs_are_not_modified(cube):
    data, sigma = cube.data.copy(), cube.uncertainty.array.copy()
    specfit.fit(cube, MilneEddington(PAIR))
    np.testing.assert_array_equal(cube.data, data)
    np.testing.assert_array_equal(cube.uncertainty.array, sigma)


def test_no_pixel_depends_on_its_neighbours_in_the_batch(cube, result):
    chunked = specfit.fit(cube, MilneEddington(PAIR), chunks=100)
    for name in result.parameters:
        apart = np.abs(chunked[name].data - result[name].data) / result[name].uncertainty.array
        assert np.nanmax(apart) < 0.02, name


def test_seeds_repeat_themselves(cube):
    part = like(
        cube,
        cube.data[:, :, :8, :8],
        wcs=cube.wcs[:, :, :8, :8],
        uncertainty=StdDevUncertainty(1e-3 + np.zeros((4, 112, 8, 8))),
    )
    one, other = (specfit.fit(part, MilneEddington(PAIR), seed=3) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name].data, other[name].data)


def test_single_line_and_other_units():
    """Wavelengths in nm, velocities in km/s all the same."""
    x = 617.3334 + 0.00215 * np.arange(-20, 21)
    made = milne_eddington_cube((4, 5), lines=["Fe I 6173.3"], wavelength=10 * x * u.AA, noise=2e-4, seed=2)
    wcs = made.wcs.low_level_wcs.deepcopy()
    wcs.wcs.crval[2], wcs.wcs.cdelt[2], wcs.wcs.cunit[2] = x[0] * 1e-9, 0.00215e-9, "m"
    result = specfit.fit(like(made, wcs=wcs), MilneEddington("Fe I 6173.3"))
    assert result.reduced_chi2.data.max() < 1.4
    pull = difference(result, made, "velocity") / result["velocity"].uncertainty.array
    assert np.abs(pull).max() < 5
    assert result["doppler_width"].unit == u.AA


def test_nan_pixel_and_dead_samples(cube, result):
    data = cube.data.copy()
    data[:, :, 3, 4] = np.nan
    data[2, 50, 5, 5] = np.nan
    found = specfit.fit(like(cube, data), MilneEddington(PAIR))
    assert np.isnan(found["b_los"].data[3, 4])
    assert found["b_los"].mask[3, 4]
    assert has(found, Status.BAD_DATA)[[3, 5], [4, 5]].all()
    apart = np.abs(found["b_los"].data - result["b_los"].data) / result["b_los"].uncertainty.array
    assert apart[5, 5] < 1
    untouched = np.ones(apart.shape, bool)
    untouched[[3, 5], [4, 5]] = False
    assert apart[untouched].max() < 0.02


def test_unpolarised_pixels_are_said_to_be_so():
    truth = {"field_strength": np.zeros((6, 6)), "inclination": np.full((6, 6), 40.0), "azimuth": np.zeros((6, 6))}
    cube = milne_eddington_cube((6, 6), truth=truth, noise=1e-3, seed=1)
    result = specfit.fit(cube, MilneEddington(PAIR))
    assert result.reduced_chi2.data.max() < 1.3
    assert np.abs(result["b_los"].data / result["b_los"].uncertainty.array).max() < 5
    assert np.mean(has(result, Status.NO_POLARIZATION)) > 0.85
    assert np.mean(has(result, Status.NO_LINEAR_SIGNAL)) > 0.85
    assert np.abs(difference(result, cube, "velocity")).max() < 0.1


def test_v_alone_is_polarisation_without_linear_signal():
    truth = {"field_strength": np.full((5, 5), 60.0), "inclination": np.zeros((5, 5)), "azimuth": np.zeros((5, 5))}
    cube = milne_eddington_cube((5, 5), truth=truth, noise=1e-3, seed=1)
    result = specfit.fit(cube, MilneEddington(PAIR))
    assert not has(result, Status.NO_POLARIZATION).any()
    assert has(result, Status.NO_LINEAR_SIGNAL).mean() > 0.8
    assert np.abs((result["b_los"].data - 60) / result["b_los"].uncertainty.array).max() < 5


@pytest.mark.parametrize("angle", [0.0, 90.0, 180.0])
def test_fields_along_and_across_the_line_of_sight(angle):
    """The poles, where Q and U have no slope, and the equator."""
    strength = np.linspace(100, 3500, 64).reshape(8, 8)
    truth = {"field_strength": strength, "inclination": np.full((8, 8), angle), "azimuth": np.full((8, 8), 179.5)}
    cube = milne_eddington_cube((8, 8), truth=truth, noise=1e-3, seed=3)
    result = specfit.fit(cube, MilneEddington(PAIR))
    assert result.reduced_chi2.data.max() < 1.35
    along = strength * np.cos(np.deg2rad(angle))
    assert np.abs((result["b_los"].data - along) / result["b_los"].uncertainty.array).max() < 5.5


def test_cubes_that_lack_stokes_are_refused(cube):
    bare = WCS(naxis=3)
    bare.wcs.ctype, bare.wcs.cunit = ["HPLN-TAN", "HPLT-TAN", "AWAV"], ["arcsec", "arcsec", "Angstrom"]
    bare.wcs.crval, bare.wcs.cdelt, bare.wcs.crpix = [0, 0, 6300.88], [0.1, 0.1, 0.0215], [1, 1, 1]
    bare.wcs.set()
    with pytest.raises(ValueError, match="Stokes"):
        specfit.fit(NDCube(cube.data[0], wcs=bare, unit=u.one), MilneEddington(PAIR), uncertainty=1e-3 * u.one)
    with pytest.raises(ValueError, match="[Ss]tokes"):
        specfit.fit(cube[:1], MilneEddington(PAIR), uncertainty=1e-3 * u.one)


def test_a_line_outside_the_wavelengths_is_named(cube):
    with pytest.raises(ValueError, match=r"Fe I 5250\.2 .* lies outside the wavelengths"):
        specfit.fit(cube, MilneEddington(["Fe I 6301.5", "Fe I 5250.2"]))
    with pytest.raises(ValueError, match="medium"):
        specfit.fit(cube, MilneEddington("Fe I 6302.5", medium="vacuum"))


def test_from_a_user_s_start(cube, result):
    again = specfit.fit(cube, MilneEddington(PAIR), init=result)
    np.testing.assert_allclose(again.chi2.data, result.chi2.data, rtol=1e-4)


def test_fixed_and_tied_parameters(cube):
    model = MilneEddington(PAIR).fix(damping=0.3, inclination=90 * u.deg)
    result = specfit.fit(cube[:, :, :4, :4], model, uncertainty=1e-3 * u.one)
    np.testing.assert_array_equal(result["inclination"].data, 90.0)
    assert np.abs(result["b_los"].data).max() < 1e-3


def test_result_is_stored_and_read_again(cube, tmp_path):
    part = specfit.fit(cube[:, :, :3, :3], MilneEddington(PAIR, normalization="quiet Sun"), uncertainty=1e-3 * u.one)
    part.save(tmp_path / "me.asdf")
    again = specfit.FitResult.load(tmp_path / "me.asdf")
    np.testing.assert_array_equal(again["b_trans"].data, part["b_trans"].data)
    np.testing.assert_allclose(again.model().data, part.model().data, rtol=1e-6)
    assert "quiet Sun" in again.meta["model"][0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_maps_on_a_gpu(cube, result):
    found = specfit.fit(cube, MilneEddington(PAIR), device="cuda")
    for name in result.parameters:
        apart = np.abs(difference(found, cube, name) - difference(result, cube, name)) / result[name].uncertainty.array
        assert np.nanmax(apart) < 0.05, name


@pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(("loss", "most"), [("gaussian", 2e-3), ("student_t", 0.05)])
def test_compiled_code_finds_the_same(cube, loss, most):
    """As normal equations, and where a loss asks for the derivatives themselves (and takes more steps to the end)."""
    plain, found = (specfit.fit(cube, MilneEddington(PAIR, compiled=c), loss=loss) for c in (False, True))
    for name in plain.parameters:
        apart = np.abs(difference(found, cube, name) - difference(plain, cube, name)) / plain[name].uncertainty.array
        assert np.nanmax(apart) < most, name


def test_a_compiler_that_fails_leaves_the_plain_code(cube, result, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no compiler here\nand a long story")

    monkeypatch.setattr(compiled, "_kernels", {})
    monkeypatch.setattr(compiled, "Kernel", broken)
    with pytest.warns(specfit.SpecfitWarning, match="compilation failed, so the plain code is used: no compiler here$"):
        found = specfit.fit(cube, MilneEddington(PAIR, compiled=True))
    np.testing.assert_array_equal(found["b_los"].data, result["b_los"].data)


def test_small_maps_never_wait_for_a_compiler(cube, monkeypatch):
    monkeypatch.setattr(compiled, "_kernels", {})
    monkeypatch.setattr(compiled, "Kernel", lambda *arguments: pytest.fail("compiled for a small map"))
    specfit.fit(cube[:, :, :2, :2], MilneEddington(PAIR), uncertainty=1e-3 * u.one)
