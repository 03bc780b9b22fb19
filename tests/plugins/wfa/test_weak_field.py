"""The weak-field approximation: against truths of analytic profiles, by hand, and on bad input."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import Status, WeakField
from sunpy_specfit.core.expression import from_plain, to_plain
from sunpy_specfit.core.observation import Observation
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import AtomicLine, line, stokes_wcs, weak_field_cube
from sunpy_specfit.plugins.wfa.profile import LineWindow

IRON = "Fe I 6302.5"
FIELDS = ("b_los", "b_q", "b_u")
WAVELENGTHS = 6302.4931 + np.linspace(-0.30, 0.30, 29)


def truths(cube):
    """The three fitted maps that a cube was made with."""
    truth = cube.meta["truth"]
    twice = 2 * np.deg2rad(truth["azimuth"])
    square = truth["b_trans"] ** 2
    return {"b_los": truth["b_los"], "b_q": square * np.cos(twice), "b_u": square * np.sin(twice)}


def pulls(result, cube):
    return {k: (result[k].data - v) / result[k].uncertainty.array for k, v in truths(cube).items()}


def like(cube, data=None, **changes):
    """The same cube with some things changed."""
    given = {"wcs": cube.wcs, "unit": cube.unit, "uncertainty": cube.uncertainty, "mask": cube.mask} | changes
    return NDCube(cube.data.copy() if data is None else data, **given)


@pytest.fixture(scope="module")
def cube():
    return weak_field_cube((12, 15), line=IRON, n_wavelengths=29, seed=4, dtype=np.float64)


@pytest.fixture(scope="module")
def result(cube):
    return specfit.fit(cube, WeakField(IRON))


@pytest.mark.parametrize(("name", "n"), [("Mg I 5172.7", 17), ("Ca II 8542.1", 25), (IRON, 29)])
def test_fields_and_their_errors(name, n):
    cube = weak_field_cube((60, 60), line=name, n_wavelengths=n, seed=1)
    result = specfit.fit(cube, WeakField(name))
    for key, pull in pulls(result, cube).items():
        assert abs(pull.std() - 1) < 0.05, key
        assert abs(pull.mean()) < 0.08, key
    assert result.reduced_chi2.data.mean() == pytest.approx(1, abs=0.02)


def test_strong_fields_have_right_errors_thanks_to_the_noise_of_the_derivative():
    truth = {
        "b_los": np.full((50, 50), 1500.0),
        "b_trans": np.full((50, 50), 1200.0),
        "azimuth": np.full((50, 50), 30.0),
    }
    cube = weak_field_cube((50, 50), line=IRON, n_wavelengths=29, truth=truth, seed=2)
    result = specfit.fit(cube, WeakField(IRON))
    for key, pull in pulls(result, cube).items():
        assert abs(pull.std() - 1) < 0.05, key
    # Without that noise the error would be this, from the slopes alone.
    entry = line(IRON)
    x = WAVELENGTHS
    slope = np.gradient(cube.data[0].reshape(29, -1), x, axis=0)
    naive = 1e-3 / (4.6686e-13 * 6302.4931**2 * entry.g_eff * np.sqrt((slope**2).sum(0)))
    assert np.median(result["b_los"].uncertainty.array) > 1.5 * np.median(naive)
    for key, period in (("b_trans", None), ("azimuth", 180.0)):
        difference = result[key].data - truth[key]
        difference = difference if period is None else (difference + 90) % 180 - 90
        assert abs((difference / result[key].uncertainty.array).std() - 1) < 0.05, key


@pytest.mark.parametrize("case", ["even", "uneven", "offset", "crosstalk"])
def test_noise_of_the_derivative_does_not_attenuate_the_field(case):
    """The least-squares slope on a noisy abscissa is too small, by 2 and 8 % here: averages would show it."""
    shape = (80, 80)
    truth = {"b_los": np.full(shape, 600.0), "b_trans": np.full(shape, 1500.0), "azimuth": np.full(shape, 22.5)}
    cube = weak_field_cube(shape, noise=5e-3, truth=truth, seed=3)
    if case == "uneven":
        sigma = np.broadcast_to(cube.uncertainty.array, cube.data.shape) * np.linspace(1, 1.001, 17)[:, None, None]
        cube = like(cube, uncertainty=StdDevUncertainty(sigma), meta=cube.meta)
    result = specfit.fit(cube, WeakField("Mg I 5172.7", offset=case == "offset", crosstalk=case == "crosstalk"))
    for key, pull in pulls(result, cube).items():
        assert abs(pull.std() - 1) < 0.04, key
        assert abs(pull.mean()) < 0.05, key  # it was 0.2


@pytest.mark.parametrize("long_way", [False, True])
def test_errors_count_the_noise_of_the_centre(long_way):
    """Where samples lie aslant about the centre, its noise moves b_q as a whole, by a tenth of the error."""
    shape = (80, 80)
    truth = {"b_los": 600.0, "b_trans": 1500.0, "azimuth": 22.5, "velocity": 0.25}
    truth = {name: np.full(shape, value) for name, value in truth.items()}
    cube = weak_field_cube(shape, line=IRON, n_wavelengths=29, noise=2.5e-3, truth=truth, seed=3)
    if long_way:
        sigma = np.broadcast_to(cube.uncertainty.array, cube.data.shape) * np.linspace(1, 1.001, 29)[:, None, None]
        cube = like(cube, uncertainty=StdDevUncertainty(sigma), meta=cube.meta)
    result = specfit.fit(cube, WeakField(IRON, core_width=0.062 * u.AA))  # no sample is near that edge
    for key, pull in pulls(result, cube).items():
        assert abs(pull.std() - 1) < 0.04, key  # it was 1.09 for b_q


def test_samples_keep_clear_of_the_core_by_the_noise_of_the_centre():
    """A sample of the core that counts as the wing's, for its pixel's centre is off, is an error of many sigma."""
    shape = (60, 60)
    truth = {"b_los": 600.0, "b_trans": 1000.0, "azimuth": 22.5}
    truth = {name: np.full(shape, value) for name, value in truth.items()}
    truth["velocity"] = np.random.default_rng(1).uniform(-1.5, 0, shape)
    cube = weak_field_cube(shape, line=IRON, n_wavelengths=29, noise=5e-3, truth=truth, seed=3)
    result = specfit.fit(cube, WeakField(IRON))
    for key, pull in pulls(result, cube).items():
        assert np.abs(pull).max() < 7, key  # it was 17
        assert abs(pull.std() - 1) < 0.05, key  # it was 1.15


@pytest.mark.parametrize("uneven", [False, True])
def test_noise_of_the_centre_is_that_of_many_draws(uneven):
    x = np.linspace(-0.3, 0.3, 29)
    profile = 1 - 0.6 * np.exp(-(((x - 0.02) / 0.05) ** 2))
    sigma = 3e-3 * (np.linspace(0.5, 2, 29) if uneven else np.ones(29))
    drawn = profile[:, None] + sigma[:, None] * np.random.default_rng(0).standard_normal((29, 20000))
    order = np.random.default_rng(1).permutation(29)
    window = LineWindow(x[order], 0.0)
    variance = torch.as_tensor(sigma[order, None] ** 2 if uneven else sigma[:1, None] ** 2)
    found = window.look(torch.as_tensor(drawn[order]), variance)
    # The wing begins at the width, half a sample, and three deviations of the centre, where these are less than it.
    margin = 0.5 * window.spacing
    clear = (found.wing - found.width).square() - margin**2
    assert float(clear.median().sqrt()) == pytest.approx(3 * float(found.center.std()), rel=0.03)
    assert float(found.center.mean()) == pytest.approx(0.02, abs=1e-3)


def test_by_hand(cube, result):
    """One pixel without noise in I: the textbook's least squares."""
    sigma = np.full(cube.data.shape, 1e-3)
    sigma[0] = 1e-9
    found = specfit.fit(like(cube, uncertainty=StdDevUncertainty(sigma)), WeakField(IRON, derivative="three_point"))
    x = WAVELENGTHS
    intensity, v = cube.data[0, :, 3, 4], cube.data[3, :, 3, 4]
    slope = np.gradient(intensity, x, edge_order=2)
    kernel = -4.6686e-13 * 6302.4931**2 * line(IRON).g_eff * slope
    assert found["b_los"].data[3, 4] == pytest.approx((kernel @ v) / (kernel @ kernel), rel=1e-4)
    assert found["b_los"].uncertainty.array[3, 4] == pytest.approx(1e-3 / np.sqrt(kernel @ kernel), rel=1e-4)


def test_the_intensity_is_no_datum(result):
    q_and_u = result.dof.data + 3 - 29
    assert np.all(q_and_u % 2 == 0)
    assert np.all((q_and_u > 0) & (q_and_u < 2 * 29))
    assert np.all(np.isnan(result.model().data[0]))
    assert np.all(np.isfinite(result.model().data[1:]))


def test_signs():
    entry = line(IRON)
    x = np.linspace(-0.3, 0.3, 29)
    dip = 0.6 * np.exp(-((x / 0.05) ** 2))
    slope, bend = 2 * x / 0.05**2 * dip, (2 / 0.05**2 - 4 * x**2 / 0.05**4) * dip
    lorentz = 4.6686e-13 * 6302.4931**2
    across = np.where(np.abs(x) < 0.05, -0.25 * bend, 0.75 * slope / np.where(x == 0, 1, x))
    stokes = np.stack([1 - dip, lorentz**2 * entry.G * 500**2 * across, 0 * x, -lorentz * entry.g_eff * 300 * slope])
    # Towards the observer: V is positive in the blue wing of an absorption line. Azimuth 0: Q is negative in its core.
    assert stokes[3, 12] > 0 > stokes[1, 14]
    cube = NDCube(
        stokes[:, :, None, None],
        wcs=stokes_wcs((1, 1), (6302.4931 + x) * u.AA),
        uncertainty=StdDevUncertainty(np.full((4, 29, 1, 1), 1e-4)),
    )
    for part in ("wing", "core", "both"):
        found = specfit.fit(cube, WeakField(IRON, linear=part, core_width=0.05 * u.AA))
        assert found["b_los"].data[0, 0] == pytest.approx(300, rel=0.01)
        assert found["b_trans"].data[0, 0] == pytest.approx(500, rel=0.02)
        assert min(found["azimuth"].data[0, 0], 180 - found["azimuth"].data[0, 0]) < 1
    turned = specfit.fit(cube, WeakField(IRON, stokes_sign={"V": -1, "Q": -1}))
    assert turned["b_los"].data[0, 0] == pytest.approx(-300, rel=0.01)
    assert turned["azimuth"].data[0, 0] == pytest.approx(90, abs=1)
    north = specfit.fit(cube, WeakField(IRON, stokes_reference=100 * u.deg))
    assert north["azimuth"].data[0, 0] == pytest.approx(100, abs=1)


def test_offsets_and_crosstalk(cube):
    spoilt = cube.data.copy()
    for number, (offset, part) in enumerate([(2e-3, 0.01), (-1e-3, -0.02), (3e-3, 0.015)], start=1):
        spoilt[number] += offset + part * cube.data[0]
    model = WeakField(IRON, linear="both", offset=True, crosstalk=True)
    found = specfit.fit(like(cube, spoilt), model)
    for key, pull in pulls(found, cube).items():
        assert 0.85 < pull.std() < 1.15, key
        assert abs(pull.mean()) < 0.3, key
    assert np.median(found["crosstalk_v"].data) == pytest.approx(0.015, abs=1e-3)
    assert np.median(found["offset_v"].data) == pytest.approx(3e-3, abs=1e-3)
    assert np.median(found["crosstalk_u"].data) == pytest.approx(-0.02, abs=1e-3)
    plain = pulls(specfit.fit(like(cube, spoilt), WeakField(IRON)), cube)
    assert np.abs(plain["b_q"]).mean() > 5


@pytest.mark.parametrize("uneven", [False, True])
def test_offset_and_crosstalk_leave_the_wing_nothing_to_tell(uneven):
    """dI/dλ / (λ - λ0) of a Gaussian line is 2 (I_c - I) / width²: what is left of it beside both is noise."""
    x = np.linspace(-0.3, 0.3, 29)
    intensity = 1 - 0.6 * np.exp(-((x / 0.05) ** 2))
    wing = np.abs(x) > 0.06
    shape = (0.6 - (intensity - 0.4))[wing] * 2 / 0.05**2
    slope = 2 * x / 0.05**2 * (1 - intensity)
    np.testing.assert_allclose(slope[wing] / x[wing], shape, rtol=1e-12)
    size = (40, 40)
    truth = {"b_los": np.full(size, 600.0), "b_trans": np.full(size, 1000.0), "azimuth": np.full(size, 22.5)}
    cube = weak_field_cube(size, line=IRON, n_wavelengths=29, truth=truth, seed=3)
    data = cube.data.copy()
    data[1:] += 2e-3
    sigma = np.full(data.shape, 1e-3) * (np.linspace(1, 1.001, 29)[:, None, None] if uneven else 1.0)
    spoilt = like(cube, data, uncertainty=StdDevUncertainty(sigma), meta=cube.meta)
    with pytest.warns(specfit.SpecfitWarning, match="the wing alone tells next to nothing.*linear='both'"):
        found = specfit.fit(spoilt, WeakField(IRON, offset=True, crosstalk=True))
    for key in ("b_q", "b_u"):  # it was 40 % low, with errors that did not tell
        assert np.mean(np.isinf(found[key].uncertainty.array)) > 0.99, key
    assert np.mean((found.status.data & int(Status.UNCONSTRAINED)) > 0) > 0.99
    assert np.all(found.status.data & int(Status.NO_LINEAR_SIGNAL))
    # V is another matter, and offset and crosstalk together describe Q and U.
    assert abs(pulls(found, cube)["b_los"].std() - 1) < 0.06
    assert found.reduced_chi2.data.mean() == pytest.approx(1, abs=0.04)
    both = specfit.fit(spoilt, WeakField(IRON, linear="both", offset=True, crosstalk=True))
    for key, pull in pulls(both, cube).items():
        assert abs(both[key].data.mean() / truths(cube)[key].mean() - 1) < 0.01, key
        assert pull.std() < 1.1, key
    assert not np.any(both.status.data & int(Status.UNCONSTRAINED))


def test_no_warning_where_nothing_is_lost(recwarn):
    """With V alone, with fields held, or with one of the two."""
    cube = weak_field_cube((3, 4), line=IRON, n_wavelengths=29, seed=1)
    for options in ({"offset": True}, {"crosstalk": True}, {"linear": "both", "offset": True, "crosstalk": True}):
        specfit.fit(cube, WeakField(IRON, **options))
    specfit.fit(cube, WeakField(IRON, offset=True, crosstalk=True).fix(b_q=0.0, b_u=0.0))
    assert not [w for w in recwarn if issubclass(w.category, specfit.SpecfitWarning)]


def test_several_lines_share_one_field():
    truth = {"b_los": np.full((20, 20), 200.0), "b_trans": np.full((20, 20), 500.0), "azimuth": np.full((20, 20), 70.0)}
    cubes = [
        weak_field_cube((20, 20), line=name, n_wavelengths=29, truth=truth | {"velocity": np.zeros((20, 20))}, seed=i)
        for i, name in enumerate(["Fe I 6301.5", IRON])
    ]
    x = [6301.4995 + np.linspace(-0.3, 0.3, 29), WAVELENGTHS]
    data = np.concatenate([c.data for c in cubes], axis=1)
    joint = NDCube(data, wcs=cubes[0].wcs, unit=cubes[0].unit, uncertainty=StdDevUncertainty(np.full(data.shape, 1e-3)))
    found = specfit.fit(joint, WeakField(["Fe I 6301.5", IRON]), spectral_axis=np.concatenate(x) * u.AA)
    alone = specfit.fit(cubes[1], WeakField(IRON))
    assert np.mean(found["b_los"].data) == pytest.approx(200, abs=1)
    ratio = np.median(found["b_los"].uncertainty.array) / np.median(alone["b_los"].uncertainty.array)
    other = specfit.fit(cubes[0], WeakField("Fe I 6301.5"))
    expected = (
        1 + (np.median(alone["b_los"].uncertainty.array) / np.median(other["b_los"].uncertainty.array)) ** 2
    ) ** -0.5
    assert ratio == pytest.approx(expected, rel=0.1)
    # One line fitted, with the other in the data too: its samples are left alone, whatever the way.
    mask = np.zeros(data.shape, bool)
    mask[0, 0, 3, 3] = True
    for given, line_alone, name in ((joint, cubes[1], IRON), (like(joint, mask=mask), cubes[0], "Fe I 6301.5")):
        part = specfit.fit(given, WeakField(name), spectral_axis=np.concatenate(x) * u.AA)
        expected = specfit.fit(line_alone, WeakField(name))
        assert np.mean(part["b_los"].data[5:]) == pytest.approx(200, abs=1)
        assert np.mean(part["b_trans"].data[5:]) == pytest.approx(500, abs=5)
        np.testing.assert_array_equal(part.dof.data[5:], expected.dof.data[5:])
        assert part.reduced_chi2.data[5:].mean() == pytest.approx(1, abs=0.03)


def test_axes_in_any_order(cube, result):
    turned = NDCube(
        cube.data.transpose(2, 3, 1, 0),
        wcs=cube.wcs.sub([4, 3, 1, 2]),
        unit=cube.unit,
        uncertainty=StdDevUncertainty(np.full(cube.data.transpose(2, 3, 1, 0).shape, 1e-3)),
    )
    found = specfit.fit(turned, WeakField(IRON))
    for key in FIELDS:
        np.testing.assert_allclose(found[key].data, result[key].data, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("solver", ["closed_form", "levenberg_marquardt", "gauss_newton", "adam", "lbfgs"])
def test_every_solver_finds_the_closed_form(cube, result, solver):
    found = specfit.fit(cube, WeakField(IRON), solver=solver)
    assert result.meta["solver"] == "ClosedForm()"
    for key in FIELDS:
        distance = np.abs(found[key].data - result[key].data) / result[key].uncertainty.array
        assert distance.max() < 0.01, key


def test_quadratics_are_those_of_the_residuals():
    """Where I has no noise, what the quadratics say is what the samples say."""
    cube = weak_field_cube((5, 6), line=IRON, n_wavelengths=29, seed=4, dtype=np.float64)
    sigma = np.full(cube.data.shape, 1e-3)
    sigma[0] = 1e-9
    exact = like(cube, uncertainty=StdDevUncertainty(sigma))
    for options in ({}, {"linear": "both"}, {"crosstalk": True}, {"linear": "both", "offset": True, "crosstalk": True}):
        model = WeakField(IRON, **options)
        problem = build_problem([exact], [model], dtype="float64")
        free = torch.randn((problem.n_free, 30), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        free[:3] *= torch.tensor([300.0, 1e5, 1e5], dtype=torch.float64)[:, None]
        free[3:] *= 1e-3
        expected = problem.residual(free).square().sum(0)
        torch.testing.assert_close(problem.whole().chi2(free), expected, rtol=1e-4, atol=1e-2)
        assert float(problem.loss(free)) == pytest.approx(0.5 * float(expected.sum()), rel=1e-4)
        samples = (problem.residual(free) != 0).sum(0)
        assert torch.equal(problem.whole().n_valid, samples)


def test_coupled_maps_are_smoother_and_nearer_to_the_truth():
    cube = weak_field_cube((40, 40), line="Mg I 5172.7", noise=5e-3, seed=6)
    alone = specfit.fit(cube, WeakField("Mg I 5172.7"))
    coupled = specfit.fit(cube, WeakField("Mg I 5172.7"), priors=specfit.Smooth())
    assert set(coupled.meta["prior_scales"]) == {f"smooth:{key}" for key in FIELDS}
    for key, true in truths(cube).items():
        before, after = (np.sqrt(np.mean((r[key].data - true) ** 2)) for r in (alone, coupled))
        assert after < 0.6 * before, key
        assert np.median(coupled[key].uncertainty.array) < 0.7 * np.median(alone[key].uncertainty.array)


def test_a_kinked_prior_on_some_maps_is_solved_to_the_end():
    """Beside a B_los that is solved in one step, total variation of the others takes as many as it takes."""
    cube = weak_field_cube((24, 24), seed=6, noise=5e-3)
    kinked = specfit.TotalVariation("b_q", "b_u", joint=True, scale=2e4)
    both = specfit.fit(cube, WeakField("Mg I 5172.7"), [specfit.Smooth("b_los", scale=60 * u.G), kinked])
    alone = specfit.fit(cube, WeakField("Mg I 5172.7").fix(b_los=0), [kinked])
    assert alone.meta["solver_info"]["iterations"] > 3
    for key in ("b_q", "b_u"):
        apart = (both[key].data - alone[key].data) / alone[key].uncertainty.array
        assert np.abs(apart).max() < 0.05, key


def test_flags(result, cube):
    linear = (result.status.data & int(Status.NO_LINEAR_SIGNAL)) == 0
    strength = sum((result[k].data / result[k].uncertainty.array) ** 2 for k in ("b_q", "b_u"))
    np.testing.assert_array_equal(linear, strength >= 16)
    np.testing.assert_array_equal((result.status.data & int(Status.AMBIGUOUS)) > 0, linear)
    truth = cube.meta["truth"]
    strong = (result.status.data & int(Status.STRONG_FIELD)) > 0
    assert np.all(strong[np.hypot(truth["b_los"], truth["b_trans"]) > 650])
    assert not np.any(strong[np.hypot(truth["b_los"], truth["b_trans"]) < 350])


def test_no_polarisation_and_no_line():
    rng = np.random.default_rng(0)
    cube = weak_field_cube((10, 10), line=IRON, n_wavelengths=29, seed=1)
    data = cube.data.copy()
    data[:, :, 0] = 1e-3 * rng.normal(size=data[:, :, 0].shape)
    data[0, :, 0] += 1.0
    data[1:, :, 1] = 1e-3 * rng.normal(size=data[1:, :, 1].shape)
    status = specfit.fit(like(cube, data), WeakField(IRON)).status.data
    assert np.mean((status[0] & int(Status.FLAT_PROFILE)) > 0) > 0.8
    assert np.mean((status[1] & int(Status.NO_POLARIZATION)) > 0) > 0.9
    assert not np.any(status[1:] & int(Status.FLAT_PROFILE))


def test_flags_where_the_transverse_field_is_unknown(cube):
    """Nothing of Q and U: what V has to say is said all the same."""
    mask = np.zeros(cube.data.shape, bool)
    mask[1:3, :, 4, 4] = True
    data = cube.data.copy()
    data[3, :, 4, 4] = 1e-3 * np.random.default_rng(0).normal(size=29)
    found = specfit.fit(like(cube, data, mask=mask), WeakField(IRON))
    assert np.isinf(found["b_q"].uncertainty.array[4, 4])
    assert np.isinf(found["b_trans"].uncertainty.array[4, 4])
    assert found["azimuth"].uncertainty.array[4, 4] == pytest.approx(180 / np.sqrt(12))
    assert found.status.data[4, 4] & int(Status.UNCONSTRAINED)
    assert found.status.data[4, 4] & int(Status.NO_POLARIZATION)


def test_errors_from_draws_where_there_is_no_linear_signal():
    cube = weak_field_cube((20, 20), line="Mg I 5172.7", seed=3)
    found = specfit.fit(cube, WeakField("Mg I 5172.7"))
    assert np.all(np.isfinite(found["azimuth"].uncertainty.array))
    assert found["azimuth"].uncertainty.array.max() <= 180 / np.sqrt(12) + 1e-6
    # b_q and b_u of pure noise: their length follows Rayleigh's law, and its root spreads by about a fifth of itself.
    typical = np.sqrt(np.median(found["b_q"].uncertainty.array))
    assert np.median(found["b_trans"].uncertainty.array) == pytest.approx(0.25 * typical, rel=0.35)


@pytest.mark.parametrize("where", [(0, 5), (3, 7)])
def test_one_bad_sample_harms_no_other_pixel(cube, where):
    expected = specfit.fit(cube, WeakField(IRON))
    for bad in (np.nan, np.inf, 1e30):
        data = cube.data.copy()
        data[(*where, 2, 3)] = bad
        found = specfit.fit(like(cube, data), WeakField(IRON))
        others = np.ones((12, 15), bool)
        others[2, 3] = False
        for key in FIELDS:
            distance = np.abs(found[key].data - expected[key].data) / expected[key].uncertainty.array
            assert distance[others].max() < 1e-3, (key, bad)
        assert found.status.data[2, 3] & int(Status.BAD_DATA)
        # A gap in I leaves no derivative; one in V costs a sample.
        assert np.isnan(found["b_los"].data[2, 3]) == (where[0] == 0)


def test_masks_and_windows(cube, result):
    mask = np.zeros(cube.data.shape, bool)
    mask[:, :, 5, 6] = True
    found = specfit.fit(like(cube, mask=mask), WeakField(IRON))
    assert np.isnan(found["b_los"].data[5, 6])
    assert found.status.data[5, 6] & int(Status.MASKED)
    np.testing.assert_allclose(found["b_los"].data[:5], result["b_los"].data[:5], rtol=1e-5, atol=1e-3)
    narrow = specfit.fit(cube, WeakField(IRON), window=[-3, 3] * u.km / u.s)
    assert np.median(narrow["b_los"].uncertainty.array) > np.median(result["b_los"].uncertainty.array)
    assert narrow.dof.data.max() < result.dof.data.min()
    pull = pulls(narrow, cube)["b_los"]
    assert abs(pull.std() - 1) < 0.2


def test_errors_far_from_linear_are_the_spread_of_samples():
    cube = weak_field_cube((8, 9), line="Mg I 5172.7", noise=4e-3, seed=3)
    found = specfit.fit(cube, WeakField("Mg I 5172.7"))
    weak = (found.status.data & int(Status.NO_LINEAR_SIGNAL)) > 0
    assert weak.sum() > 20
    draws = found.sample(4000)
    spread = draws["b_trans"].value.std(0)
    np.testing.assert_allclose(found["b_trans"].uncertainty.array[weak], spread[weak], rtol=0.12)
    length = np.abs(np.exp(2j * np.deg2rad(draws["azimuth"].value)).mean(0))
    spread = np.minimum(np.rad2deg(np.sqrt(-2 * np.log(length))) / 2, 180 / np.sqrt(12))
    np.testing.assert_allclose(found["azimuth"].uncertainty.array[weak], spread[weak], rtol=0.15)


@pytest.mark.parametrize("linear", ["wing", "core", "both"])
def test_even_noise_takes_a_shorter_way_to_the_same_answer(cube, linear):
    mask = np.zeros(cube.data.shape, bool)
    mask[0, 0, 5, 6] = True  # one sample, and the whole block takes the long way
    model = WeakField(IRON, linear=linear, stokes_sign={"U": -1, "V": -1})
    short, long = specfit.fit(cube, model), specfit.fit(like(cube, mask=mask), model)
    same = np.ones(short["b_los"].data.shape, bool)
    same[5, 6] = False
    for key in FIELDS:
        a, b = short[key], long[key]
        sigma = a.uncertainty.array[same]
        assert np.abs((a.data - b.data)[same] / sigma).max() < 2e-3, key
        np.testing.assert_allclose(sigma, b.uncertainty.array[same], rtol=2e-3)
    a, b = (r.covariance["b_q", "b_u"].data[same] for r in (short, long))
    size = short["b_q"].uncertainty.array[same] * short["b_u"].uncertainty.array[same]
    assert np.abs((a - b) / size).max() < 5e-3
    np.testing.assert_array_equal(short.dof.data[same], long.dof.data[same])
    # What is left of Q and U is weighed sample by sample on the long way, as a whole on the short one.
    ratio = short.chi2.data[same] / long.chi2.data[same]
    assert np.median(np.abs(ratio - 1)) < 0.05


def test_noise_of_each_sample(cube):
    rng = np.random.default_rng(5)
    factor = rng.uniform(0.5, 3.0, cube.data.shape)
    noise = 1e-3 * factor * rng.normal(size=cube.data.shape)
    noisy = like(cube, cube.data + noise, uncertainty=StdDevUncertainty(1e-3 * np.sqrt(1 + factor**2)))
    for key, pull in pulls(specfit.fit(noisy, WeakField(IRON)), cube).items():
        assert abs(pull.std() - 1) < 0.15, key


def test_a_file_keeps_everything(result, cube, tmp_path):
    result.save(tmp_path / "fields.asdf")
    loaded = specfit.FitResult.load(tmp_path / "fields.asdf")
    np.testing.assert_array_equal(loaded["azimuth"].data, result["azimuth"].data)
    np.testing.assert_allclose(loaded.model().data, result.model().data, equal_nan=True)


def test_a_line_of_ones_own(cube, result):
    entry = line(IRON)
    own = AtomicLine("mine", air=6302.4931 * u.AA, g_eff=entry.g_eff, G=entry.G)
    np.testing.assert_allclose(specfit.fit(cube, WeakField(own))["b_los"].data, result["b_los"].data, rtol=1e-6)
    longitudinal = AtomicLine("mine", air=6302.4931 * u.AA, g_eff=entry.g_eff)
    with pytest.raises(ValueError, match="does not follow from g_eff alone"):
        specfit.fit(cube, WeakField(longitudinal))
    found = specfit.fit(cube, WeakField(longitudinal).fix(b_q=0.0, b_u=0.0))
    np.testing.assert_allclose(found["b_los"].data, result["b_los"].data, rtol=1e-4, atol=1e-3)


def test_a_file_keeps_lines_of_ones_own(cube, tmp_path):
    entry = line(IRON)
    mine = AtomicLine("my line", air=entry.air, lower=entry.lower, upper=entry.upper, log_gf=-1.2)
    plain = AtomicLine("my other", vacuum=6400 * u.AA, g_eff=1.5, G=2.0)
    found = specfit.fit(cube, WeakField([mine]))
    found.save(tmp_path / "mine.asdf")
    again = specfit.FitResult.load(tmp_path / "mine.asdf")
    np.testing.assert_allclose(again.model().data, found.model().data)
    back = from_plain(to_plain(plain))
    assert (back.g_eff, back.G, back.vacuum) == (1.5, 2.0, 6400 * u.AA)
    shifts = [one.zeeman_pattern().sigma_blue.shifts for one in (from_plain(to_plain(mine)), mine)]
    np.testing.assert_array_equal(*shifts)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (["Fe I 6320"], {}, KeyError, "Fe I 63"),
        ([[]], {}, ValueError, "needs a line"),
        ([5173.0], {}, TypeError, "a line is a name"),
        ([None], {}, TypeError, "a line is a name"),
        ([IRON], {"linear": "wings"}, ValueError, "linear is 'wing', 'core', 'both' or None"),
        ([IRON], {"core_width": 0.1}, ValueError, "core_width is a positive wavelength"),
        ([IRON], {"derivative": "steffen"}, ValueError, "derivative is one of"),
        ([IRON], {"stokes_sign": {"I": -1}}, ValueError, "stokes_sign maps"),
        ([IRON], {"stokes_reference": 3 * u.AA}, u.UnitConversionError, "stokes_reference is an angle"),
        (["He I 10830.25"], {}, ValueError, "blend"),
    ],
)
def test_what_is_refused(arguments, options, error, words):
    with pytest.raises(error, match=words):
        WeakField(*arguments, **options)


def test_cubes_that_do_not_fit(cube):
    with (
        pytest.warns(UserWarning, match="no line of the model"),
        pytest.raises(ValueError, match="6173.*samples of its own"),
    ):
        specfit.fit(cube, WeakField("Fe I 6173.3"))
    with pytest.raises(ValueError, match="no axis of physical type"):
        specfit.fit(cube[3], WeakField(IRON))
    header = cube.wcs.to_header()
    header["CRVAL4"] = 2.0
    with pytest.raises(ValueError, match="missing"):
        specfit.fit(like(cube, wcs=WCS(header)), WeakField(IRON))
    with pytest.raises(ValueError, match="need.* uncertainty"):
        specfit.fit(like(cube, uncertainty=None), WeakField(IRON), uncertainty=specfit.CountNoise(1.0, 1.0))
    sigma = np.full(cube.data.shape, 1e-3)
    sigma[:, :, 1, 1] = 0.0
    found = specfit.fit(like(cube, uncertainty=StdDevUncertainty(sigma)), WeakField(IRON))
    assert np.isnan(found["b_los"].data[1, 1])
    assert np.isfinite(found["b_los"].data[2:]).all()


def at_two_kilogauss():
    shape = (40, 40)
    truth = {"b_los": np.full(shape, 2000.0), "b_trans": np.full(shape, 500.0), "azimuth": np.full(shape, 30.0)}
    return weak_field_cube(shape, line=IRON, n_wavelengths=29, truth=truth, seed=3, dtype=np.float32)


def of_root_i(cube):
    """The same light with the noise of counts, and its errors."""
    exact = weak_field_cube(
        (40, 40), line=IRON, n_wavelengths=29, truth=cube.meta["truth"], seed=3, noise=0.0, dtype=np.float64
    )
    sigma = 1e-3 * np.sqrt(np.broadcast_to(exact.data[:1], exact.data.shape))
    noisy = exact.data + sigma * np.random.default_rng(5).standard_normal(sigma.shape)
    return like(cube, noisy, uncertainty=StdDevUncertainty(sigma))


def one_noisier_sample(cube):
    sigma = np.full(cube.data.shape, 1e-3)
    sigma[0, 0, 0, 0] = 2e-3
    return like(cube, uncertainty=StdDevUncertainty(sigma))


@pytest.mark.parametrize(
    ("change", "options"),
    [(one_noisier_sample, {}), (of_root_i, {}), (lambda cube: cube, {"offset": True}), (lambda cube: cube, {})],
)
def test_strong_fields_are_right_whatever_the_noise(change, options):
    """The noise of the derivative is in the weights, not in the errors alone: no bias at two kilogauss."""
    found = specfit.fit(change(at_two_kilogauss()), WeakField(IRON, **options))
    apart, sigma = found["b_los"].data - 2000, found["b_los"].uncertainty.array
    assert abs(apart.mean()) < 0.5
    assert np.std(apart / sigma) == pytest.approx(1, abs=0.05)
    assert found.reduced_chi2.data.mean() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("loss", ["student_t", "huber"])
def test_no_loss_that_looks_at_samples_one_by_one(cube, loss):
    with pytest.raises(ValueError, match="loss='gaussian' only"):
        specfit.fit(cube, WeakField(IRON), loss=loss)


def test_wavelengths_without_light_are_left_out():
    """A dead column of the detector, a masked blend, and gaps outside the window cost samples, not maps."""
    cube = at_two_kilogauss()
    mask, dead, outside = np.zeros(cube.data.shape, bool), cube.data.copy(), cube.data.copy()
    mask[:, 3], dead[:, -1], outside[0, 0, ::3] = True, np.nan, np.nan
    window = [6302.25, 6302.75] * u.AA
    for found in (
        specfit.fit(like(cube, mask=mask), WeakField(IRON)),
        specfit.fit(like(cube, dead), WeakField(IRON)),
        specfit.fit(like(cube, outside), WeakField(IRON), window=window),
    ):
        apart = found["b_los"].data - 2000
        assert np.isfinite(apart).all()
        assert np.std(apart / found["b_los"].uncertainty.array) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(
    "prior",
    [specfit.Ridge("b_trans", 300 * u.G, scale=100 * u.G), specfit.Hinge("b_trans", upper=800 * u.G, scale=50 * u.G)],
)
def test_priors_on_the_transverse_field(prior):
    cube = weak_field_cube((10, 12), seed=2, noise=3e-3)
    found = specfit.fit(cube, WeakField("Mg I 5172.7"), priors=prior)
    alone = specfit.fit(cube, WeakField("Mg I 5172.7"))
    np.testing.assert_allclose(found["b_los"].data, alone["b_los"].data, rtol=1e-3, atol=0.1)
    assert found["b_trans"].data.max() < min(900, alone["b_trans"].data.max())


@pytest.mark.parametrize("name", ["Mg I 5172.7", "Ca II 8542.1", IRON, "Fe I 6301.5"])
@pytest.mark.parametrize("seed", range(4))
def test_a_pixel_more_or_less_moves_no_edge(name, seed):
    cube = weak_field_cube((3, 4), line=name, seed=seed)
    data = cube.data.copy()
    data[:, :, 1, 2] = np.nan
    all_of_them, without = (specfit.fit(c, WeakField(name)) for c in (cube, like(cube, data)))
    others = np.ones((3, 4), bool)
    others[1, 2] = False
    for key in FIELDS:
        apart = np.abs(all_of_them[key].data - without[key].data) / all_of_them[key].uncertainty.array
        assert apart[others].max() < 1e-4, key
    np.testing.assert_array_equal(all_of_them.dof.data[others], without.dof.data[others])


@pytest.mark.parametrize("sign", [1, -1], ids=["absorption", "emission"])
@pytest.mark.parametrize("uneven", [False, True])
def test_the_width_of_each_line(sign, uneven):
    x = np.linspace(-0.5, 0.5, 41) + (0.008 * np.cos(np.arange(41)) if uneven else 0.0)
    width = np.array([0.06, 0.1, 0.15])
    profiles = 1 - sign * 0.6 * np.exp(-(((x[:, None] - [0.0, 0.013, -0.04]) / width) ** 2))
    # A narrow line beside it, as deep, and a flat spectrum.
    profiles[:, 0] -= sign * 0.6 * np.exp(-(((x - 0.35) / 0.04) ** 2))
    spectra = torch.as_tensor(np.column_stack([profiles, np.ones(41)]))
    window, one = LineWindow(x, 0.0), torch.ones(1, 1)
    found = window.look(spectra, one).width
    np.testing.assert_allclose(found[:3], width, rtol=0.03)
    assert float(found[3]) == pytest.approx(2 * window.spacing)
    np.testing.assert_allclose(LineWindow(x[::-1].copy(), 0.0).look(spectra.flip(0), one).width, found)


def test_the_light_of_single_precision_cubes():
    cube = weak_field_cube((4, 5), seed=2)
    assert cube.data.dtype == np.float32
    found = specfit.fit(cube, WeakField("Mg I 5172.7"))
    assert np.nanstd(found.residual().data[1:]) == pytest.approx(1e-3, rel=0.15)


def test_an_entry_of_another_list_is_the_same_line():
    """By another source the line stands 6 mÅ away: no reason to take half of its samples for another's."""
    cube = weak_field_cube((8, 8), line=IRON, n_wavelengths=121, seed=1)
    entry = line(IRON)
    mine = AtomicLine("my iron", air=entry.air + 6 * u.mAA, g_eff=entry.g_eff, G=entry.G)
    np.testing.assert_array_equal(*(specfit.fit(cube, WeakField(one)).dof.data for one in (IRON, mine)))


def in_terms_of(kind, wavelengths, cube, meta=None):
    """The cube with an axis of another kind, at other wavelengths."""
    header = cube.wcs.to_header()
    unit = u.Unit(header["CUNIT3"])
    header["CTYPE3"], header["CRVAL3"] = kind, (wavelengths[0] * u.AA).to_value(unit)
    return like(cube, wcs=WCS(header), meta=meta)


def test_lines_are_sought_in_the_medium_of_the_header(cube):
    """Air where the header says so, though the cube be cut; vacuum for IRIS; else air, with a warning."""
    entry = line(IRON)
    vacuum = WAVELENGTHS + (entry.vacuum - entry.air).to_value(u.AA)
    known = specfit.fit(cube[:, :, :3, :4], WeakField(IRON))
    assert known.meta["model"] == ["WeakField('Fe I 6302.5', medium='air')"]
    iris = specfit.fit(in_terms_of("WAVE", vacuum, cube, {"TELESCOP": "IRIS"}), WeakField(IRON))
    assert iris.meta["model"] == ["WeakField('Fe I 6302.5', medium='vacuum')"]
    with pytest.warns(specfit.MediumWarning, match="in air"):
        guessed = specfit.fit(in_terms_of("WAVE", WAVELENGTHS, cube), WeakField(IRON))
    assert guessed.meta["medium"] == ["unknown"]
    assert guessed.meta["model"] == ["WeakField('Fe I 6302.5', medium='air')"]
    said = specfit.fit(in_terms_of("WAVE", vacuum, cube), WeakField(IRON, medium="vacuum"))
    for found in (iris, guessed, said):
        np.testing.assert_allclose(found["b_los"].data[:3, :4], known["b_los"].data, rtol=1e-3, atol=0.1)


def test_the_frame_of_the_azimuth_is_in_meta(cube, result):
    assert "instrument frame" in result.meta["azimuth"]
    turned = specfit.fit(cube, WeakField(IRON, stokes_reference=30 * u.deg))
    assert "where +Q is at 30.0 deg" in turned.meta["azimuth"]
    difference = (turned["azimuth"].data - result["azimuth"].data) % 180
    np.testing.assert_allclose(difference, 30, atol=1e-3)


def test_inputs_stay_as_they_were(cube):
    before = cube.data.copy()
    specfit.fit(cube, WeakField(IRON))
    np.testing.assert_array_equal(cube.data, before)


def test_the_centre_of_gravity_of_each_pixel():
    velocity = np.linspace(-8, 8, 30).reshape(5, 6)
    zero = np.zeros((5, 6))
    cube = weak_field_cube(
        (5, 6),
        line=IRON,
        n_wavelengths=29,
        noise=1e-5,
        dtype=np.float64,
        truth={"b_los": zero, "b_trans": zero, "azimuth": zero, "velocity": velocity},
    )
    observation = Observation.from_cube(cube, stokes="QUV", spectral_unit=u.AA)
    center = WeakField(IRON).prepare(observation)["center"][0].numpy().reshape(5, 6)
    np.testing.assert_allclose((center / 6302.4931 - 1) * 299792.458, velocity, atol=0.3)


def stokes_iv(cube):
    """I and V of a cube of I, Q, U and V."""
    wcs = cube.wcs.deepcopy()
    wcs.wcs.cdelt = [*wcs.wcs.cdelt[:3], 3.0]
    wcs.wcs.set()
    sigma = StdDevUncertainty(np.broadcast_to(cube.uncertainty.array, cube.data.shape)[[0, 3]].copy())
    return NDCube(cube.data[[0, 3]].copy(), wcs=wcs, unit=cube.unit, uncertainty=sigma)


@pytest.mark.parametrize("uneven", [False, True])
def test_i_and_v_alone_give_the_field_along_the_line_of_sight(cube, result, uneven):
    pair = stokes_iv(cube)
    with pytest.raises(ValueError, match=r"needs Stokes QUV, the cube has IV: Q, U missing"):
        specfit.fit(pair, WeakField(IRON))
    whole = cube
    if uneven:
        sigma = np.full(cube.data.shape, 1e-3) * np.linspace(1, 2, 29)[:, None, None]
        whole = like(cube, uncertainty=StdDevUncertainty(sigma))
        pair = like(pair, uncertainty=StdDevUncertainty(sigma[[0, 3]]))
        result = specfit.fit(whole, WeakField(IRON))
    found = specfit.fit(pair, WeakField(IRON, linear=None))
    assert list(found) == ["b_los"]
    np.testing.assert_allclose(found["b_los"].data, result["b_los"].data, rtol=1e-6)
    np.testing.assert_allclose(found["b_los"].uncertainty.array, result["b_los"].uncertainty.array, rtol=1e-6)
    assert np.all(found.dof.data == 28)
    # With the sigma from once to twice the noise, the mean of 1 / sigma² is a half.
    assert found.reduced_chi2.data.mean() == pytest.approx(0.5 if uneven else 1.0, abs=0.05)
    linear = int(Status.NO_LINEAR_SIGNAL | Status.AMBIGUOUS)
    assert not np.any(found.status.data & linear)
    smooth = specfit.fit(pair, WeakField(IRON, linear=None), priors=specfit.Smooth(scale=50 * u.G))
    assert np.all(smooth["b_los"].uncertainty.array < found["b_los"].uncertainty.array)


def test_i_and_v_alone_with_nuisances(cube):
    pair = stokes_iv(cube)
    shifted = pair.data.copy()
    shifted[1] += 0.01 + 0.02 * shifted[0]
    model = WeakField(IRON, linear=None, offset=True, crosstalk=True)
    found = specfit.fit(like(pair, shifted), model)
    assert list(found) == ["b_los", "offset_v", "crosstalk_v"]
    assert np.median(found["offset_v"].data) == pytest.approx(0.01, abs=2e-3)
    assert np.median(found["crosstalk_v"].data) == pytest.approx(0.02, abs=2e-3)


def test_a_window_without_the_line_is_refused(cube):
    with pytest.raises(ValueError, match=r"leaves 2 of the 29 samples of Fe I 6302.5; expected three or more"):
        specfit.fit(cube, WeakField(IRON), window=[6302.0, 6302.22] * u.AA)


def test_a_window_on_one_side_finds_the_centre_in_all_of_the_line(cube, result):
    half = specfit.fit(cube, WeakField(IRON), window=[6302.0, 6302.45] * u.AA)
    off = (half["b_q"].data - truths(cube)["b_q"]) / half["b_q"].uncertainty.array
    assert abs(off.mean()) < 0.3
    assert off.std() < 1.2


def test_equal_wavelengths_are_refused(cube):
    x = WAVELENGTHS.copy()
    x[5] = x[4]
    with pytest.raises(ValueError, match="1 wavelengths occur more than once"):
        specfit.fit(cube, WeakField(IRON), spectral_axis=x * u.AA)


def test_no_pixel_sees_a_bad_one_however_large_the_noise():
    cube = weak_field_cube((20, 20), line=IRON, n_wavelengths=21, noise=1e-2, seed=1, dtype=np.float64)
    spoilt = cube.data.copy()
    spoilt[3, 3, 5, 6] = np.nan
    good, found = (specfit.fit(like(cube, data), WeakField(IRON)) for data in (cube.data, spoilt))
    apart = np.abs(found["b_los"].data - good["b_los"].data) / good["b_los"].uncertainty.array
    misfit = np.abs(found.chi2.data / good.chi2.data - 1)
    assert misfit[5, 6] > 1e-3  # one sample fewer
    apart[5, 6] = misfit[5, 6] = 0
    assert apart.max() < 1e-6
    assert misfit.max() < 1e-6
    pieces = specfit.fit(like(cube, spoilt), WeakField(IRON), chunks=37)
    np.testing.assert_allclose(pieces.chi2.data, found.chi2.data, rtol=1e-5)


@pytest.mark.parametrize("linear", ["wing", "both"])
@pytest.mark.parametrize("options", [{}, {"offset": True}, {"crosstalk": True}, {"offset": True, "crosstalk": True}])
@pytest.mark.filterwarnings("ignore:WeakField. beside both offset and crosstalk")
def test_a_pixel_without_a_line_stops_no_other(options, linear):
    cube = weak_field_cube((6, 7), line="Fe I 6302.5", noise=1e-3, seed=1)
    model = specfit.WeakField("Fe I 6302.5", linear=linear, **options)
    plain = specfit.fit(cube, model)
    cube.data[0, :, 2, 3] = 1.0
    flat = specfit.fit(cube, model)
    assert flat.status.data[2, 3] & Status.FLAT_PROFILE
    others = np.ones((6, 7), bool)
    others[2, 3] = False
    for name in ("b_los", "b_q", "b_u"):
        apart = (flat[name].data - plain[name].data)[others] / plain[name].uncertainty.array[others]
        assert np.abs(apart[np.isfinite(apart)]).max() < 1e-4, name
    cube.data[0] = 1.0
    assert np.all(specfit.fit(cube, model).status.data & Status.FLAT_PROFILE)
