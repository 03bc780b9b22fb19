"""Scales found from the data, against the best that the truth could tell and against closed forms."""

import astropy.units as u
import numpy as np
import pytest
import scipy.fft
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from scipy.ndimage import uniform_filter

import sunpy_specfit as specfit
from sunpy_specfit.core.risk import Quadratics, Sure
from sunpy_specfit.core.scale import choose_scales
from sunpy_specfit.core.scale_search import search
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.core.solver_choice import choose_solver
from sunpy_specfit.data import gaussian_cube, spectral_wcs
from sunpy_specfit.numerics.cosine_transform import laplacian_eigenvalues

PROFILE = np.array([-0.2, -0.6, -1.0, -0.7, 0.0, 0.7, 1.0, 0.6, 0.2])
OTHER = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])


class Shapes(specfit.Model):
    """Two profiles of constant shape that are orthogonal to each other."""

    name = "shapes"
    linear = ("first", "second")
    first = specfit.Parameter("data")
    second = specfit.Parameter("data")

    def evaluate(self, x, first, second):
        place = ((x.double() - 5000) / 0.1).round().long().clamp(0, 8)

        def column(profile):
            return torch.as_tensor(profile)[place].to(x)

        return first * column(PROFILE) + second * column(OTHER)


ONE = Shapes().fix(second=0 * u.DN)


def field(shape, index, seed):
    """A map of rms one whose power falls with wave number to -index."""
    rng = np.random.default_rng(seed)
    squared = laplacian_eigenvalues(shape, range(len(shape))).numpy()
    squared.flat[0] = np.inf
    image = scipy.fft.idctn(rng.standard_normal(shape) * squared ** (-index / 4), norm="ortho")
    return image / image.std()


def scene(first, error, seed=0, second=0.0):
    """Data in which the first map of a pixel has the given error."""
    sigma = error * np.sqrt((PROFILE**2).sum())
    light = np.asarray(first)[..., None] * PROFILE + np.asarray(second)[..., None] * OTHER
    data = light + sigma * np.random.default_rng(100 + seed).standard_normal(light.shape)
    return NDCube(
        data,
        wcs=spectral_wcs(light.shape[:-1], (5000 + 0.1 * np.arange(9)) * u.AA),
        unit=u.DN,
        uncertainty=StdDevUncertainty(np.full(light.shape, sigma)),
    )


def rms(image):
    return float(np.sqrt(np.mean(np.square(image))))


def oracle(own, truth, error, order, scales):
    """The least error of any scale, where all pixels have the same noise: in the cosine basis."""
    values = laplacian_eigenvalues(truth.shape, (0, 1)).numpy() ** order
    cosines = scipy.fft.dctn(own, norm="ortho")
    return min(rms(scipy.fft.idctn(cosines / (1 + values * error**2 / s**2), norm="ortho") - truth) for s in scales)


@pytest.mark.parametrize("order", [1, 1.5, 2])
@pytest.mark.parametrize(("index", "error"), [(2, 0.3), (3, 0.3), (3, 1.0), (4, 0.3)])
def test_the_scale_found_is_as_good_as_the_best(index, error, order):
    truth = field((64, 64), index, seed=1)
    cube = scene(truth, error)
    result = specfit.fit(cube, ONE, specfit.Smooth("first", order=order))
    entry = result.meta["prior_scales"]["smooth:first"]
    own = (cube.data @ PROFILE) / (PROFILE**2).sum()
    best = oracle(own, truth, error, order, entry["scale"] * np.geomspace(0.1, 10, 61))
    assert rms(result["first"].data - truth) < 1.03 * best
    assert rms(result["first"].data - truth) < min(rms(uniform_filter(own, n) - truth) for n in range(1, 30)) * 1.15
    assert entry["chosen_by"] == "SURE"
    assert entry["tried"] == sorted(entry["tried"])
    assert entry["tried"][int(np.argmin(entry["error_of_prediction"]))] == pytest.approx(entry["scale"], rel=0.16)


def test_the_estimate_of_the_risk_is_that_of_the_closed_form():
    shape, error, scales = (40, 50), 0.5, np.array([0.05, 0.2, 1.0, 5.0])
    truth = field(shape, 3, seed=2)
    cube = scene(truth, error)
    problem = build_problem([cube], [ONE], dtype="float64")

    def with_scale(values):
        return build_problem([cube], [ONE], priors=[specfit.Smooth("first", scale=values[0])], dtype="float64")

    risk = Sure(Quadratics(problem, torch.zeros((1, problem.n_pixels), dtype=torch.float64)), with_scale)
    found = [float(risk.errors([s]).sum()) for s in scales]
    cosines = scipy.fft.dctn((cube.data @ PROFILE) / (PROFILE**2).sum(), norm="ortho")
    values = laplacian_eigenvalues(shape, (0, 1)).numpy()
    expected = []
    for s in scales:
        kept = 1 / (1 + values * error**2 / s**2)
        expected.append((((kept - 1) * cosines / error) ** 2).sum() - ((cosines / error) ** 2).sum() + 2 * kept.sum())
    # Probes leave some scatter of the trace, which is at most 2000.
    np.testing.assert_allclose(found, expected, atol=60)


@pytest.mark.parametrize("prior", [specfit.TotalVariation, specfit.Smooth])
def test_the_estimate_of_the_risk_is_the_distance_from_the_truth(prior):
    """For maps that are no linear functions of the data too, at scales from far too small to far too large."""
    y, x = np.mgrid[:60, :60]
    truth = np.where((y - 24) ** 2 + (x - 37) ** 2 < 280, 2.0, 0.0) + np.where(x + y > 80, 1.0, 0.0) + x / 60
    error, scales = 0.5, np.array([0.04, 0.2, 2.0])
    cube = scene(truth, error)
    problem = build_problem([cube], [ONE], dtype="float64")

    def with_scale(values):
        return build_problem([cube], [ONE], priors=[prior("first", scale=values[0])], dtype="float64")

    nothing = torch.zeros((1, problem.n_pixels), dtype=torch.float64)
    risk = Sure(Quadratics(problem, nothing), with_scale, linear=prior is specfit.Smooth)
    own = (cube.data @ PROFILE) / (PROFILE**2).sum()
    estimated = np.array([float(risk.errors([s]).sum()) for s in scales]) + ((own / error) ** 2).sum() - truth.size
    found = [specfit.fit(cube, ONE, prior("first", scale=s))["first"].data for s in scales]
    expected = np.array([(((q - truth) / error) ** 2).sum() for q in found])
    # Its scatter is that of chi², and of the noise along what is wrong with the maps.
    np.testing.assert_allclose(estimated, expected, atol=3 * np.sqrt(2 * truth.size + 4 * expected.max()))
    assert np.argmin(estimated) == np.argmin(expected)
    assert np.ptp(expected) > 1500


def test_quantities_that_are_apart_have_the_scales_that_they_have_alone(monkeypatch):
    first, second = field((48, 48), 3, 3), field((48, 48), 3, 4)
    cube = scene(first, 0.4, second=30 * second)
    trials = []
    errors = Sure.errors
    monkeypatch.setattr(Sure, "errors", lambda self, values: trials.append(1) or errors(self, values))
    both = specfit.fit(cube, Shapes(), specfit.Smooth("first", "second")).meta["prior_scales"]
    together = len(trials)
    trials.clear()
    for name, other in (("first", "second"), ("second", "first")):
        prior = specfit.Smooth(name, other, scale={name: "auto", other: both[f"smooth:{other}"]["scale"] * u.DN})
        alone = specfit.fit(cube, Shapes(), prior).meta["prior_scales"][f"smooth:{name}"]
        assert alone["scale"] == pytest.approx(both[f"smooth:{name}"]["scale"], rel=0.5)
    assert both["smooth:second"]["scale"] > 10 * both["smooth:first"]["scale"]
    assert together < 0.8 * len(trials)


def test_two_priors_on_one_quantity_have_a_scale_each():
    # Along the first axis little changes from pixel to pixel, along the second much.
    rng = np.random.default_rng(0)
    truth = np.cumsum(rng.normal(0, 0.1, (48, 40)), 0) + rng.normal(0, 1.0, 40)
    priors = [specfit.Smooth("first", axes=0), specfit.Smooth("first", axes=1)]
    cube = scene(truth, 0.5)
    result = specfit.fit(cube, ONE, priors)
    scales = result.meta["prior_scales"]
    assert list(scales) == ["smooth:first", "smooth:first:2"]
    assert 0.05 < scales["smooth:first"]["scale"] < 0.2
    assert scales["smooth:first:2"]["scale"] > 1.0
    assert rms(result["first"].data - truth) < 0.8 * rms(
        specfit.fit(cube, ONE, specfit.Smooth("first"))["first"].data - truth
    )


@pytest.mark.parametrize("case", ["student_t", "estimated"])
@pytest.mark.filterwarnings("ignore:.*noise")
def test_where_the_noise_is_not_gaussian_or_not_known_data_are_thinned(case):
    truth = field((32, 32), 3, 6)
    cube = scene(truth, 0.5)
    if case == "estimated":
        cube = NDCube(cube.data, wcs=cube.wcs, unit=cube.unit)
    options = {"loss": "student_t"} if case == "student_t" else {}
    result = specfit.fit(cube, ONE, specfit.Smooth("first"), **options)
    assert result.meta["prior_scales"]["smooth:first"]["chosen_by"] == "data thinning"
    assert rms(result["first"].data - truth) < 0.25


def test_edges_are_kept_better_by_total_variation():
    y, x = np.mgrid[:32, :32]
    truth = np.where((y - 14) ** 2 + (x - 17) ** 2 < 80, 2.0, 0.0) + np.where(x + y > 40, 1.0, 0.0)
    cube = scene(truth, 0.5)
    errors = {
        prior.name: rms(specfit.fit(cube, ONE, prior)["first"].data - truth)
        for prior in (specfit.Smooth("first"), specfit.TotalVariation("first"))
    }
    assert errors["total_variation"] < 0.7 * errors["smooth"]


def soft_coefficients(own, wavelet, levels, error, scale, softness=0.1):
    """The minimum of ½ |q - own|² / error² + Σ Huber(detail / (scale √n)), for a map of whole periods: numpy only."""
    import pywt

    coefficients = pywt.wavedec2(own, wavelet, mode="periodization", level=levels)
    for number, details in enumerate(coefficients[1:]):
        typical = scale * 2.0 ** (levels - number)
        pull = error**2 / typical
        coefficients[number + 1] = tuple(
            np.where(
                np.abs(d) <= softness * typical + pull,
                d / (1 + pull / (softness * typical)),
                d - pull * np.sign(d),
            )
            for d in details
        )
    return pywt.waverec2(coefficients, wavelet, mode="periodization")


@pytest.mark.parametrize("error", [0.3, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_scale_of_sparse_maps_is_as_good_as_the_best(seed, error):
    pytest.importorskip("pywt")
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    truth = np.zeros((64, 64))
    for _ in range(8):
        at, radius, size = rng.uniform(0, 64, 2), rng.uniform(2, 9), rng.normal(0, 2)
        truth += size * (np.hypot(y - at[0], x - at[1]) < radius)
    truth /= truth.std()
    cube = scene(truth, error, seed)
    problem = build_problem([cube], [ONE])
    prior = specfit.Sparse("first", wavelet="haar", levels=4)
    _, info = choose_scales(problem, [prior], [ONE], {}, specfit.LevenbergMarquardt(), choose_solver)
    entry = info["sparse:first"]
    assert entry["chosen_by"] == "data thinning"
    own = (cube.data @ PROFILE) / (PROFILE**2).sum()
    errors = {s: rms(soft_coefficients(own, "haar", 4, error, s) - truth) for s in np.geomspace(0.01, 3, 200)}
    assert rms(soft_coefficients(own, "haar", 4, error, entry["scale"]) - truth) < 1.03 * min(errors.values())


def test_the_closed_form_of_sparse_maps_is_what_is_fitted():
    pytest.importorskip("pywt")
    cube = scene(field((16, 16), 3, 5), 0.5)
    own = (cube.data @ PROFILE) / (PROFILE**2).sum()
    found = specfit.fit(cube, ONE, specfit.Sparse("first", wavelet="haar", levels=2, scale=0.2 * u.DN))["first"].data
    np.testing.assert_allclose(found, soft_coefficients(own, "haar", 2, 0.5, 0.2), atol=0.01)


def test_noise_that_a_line_follows_is_no_structure():
    # At this signal a pixel's own line is a spike of noise, and quadratics taken there foretell more such spikes.
    y, x = np.mgrid[-1:1:30j, -1:1:24j]
    truth = {"velocity": 8 * np.sin(3 * x + y) + 6 * np.cos(4 * y), "width": np.full(x.shape, 0.035)}
    cube = gaussian_cube(x.shape, signal_to_noise=1.5, truth=truth, seed=3)
    model = specfit.Gaussian(195.119 * u.AA).bound(width=(20 * u.mAA, 80 * u.mAA)) + specfit.Polynomial(0)

    def error(scale):
        found = specfit.fit(cube, model, specfit.Smooth("velocity", scale=scale))
        return rms(found["velocity"].data - truth["velocity"])

    automatic = error("auto")
    best = min(error(s * u.km / u.s) for s in (1.5, 2.2, 3.3, 5))
    assert automatic < 1.1 * best


@pytest.mark.parametrize("spread", [1.0, 5.0])
def test_how_far_a_map_is_to_be_trusted_is_told_by_the_data(spread):
    truth = 3 * field((40, 40), 3, 0)
    reference = truth + spread * np.random.default_rng(5).standard_normal(truth.shape)
    cube = scene(truth, 2.0)
    result = specfit.fit(cube, ONE, specfit.Ridge("first", reference * u.DN, scale="auto"))
    own = (cube.data @ PROFILE) / (PROFILE**2).sum()
    errors = [rms((own / 4 + reference / s**2) / (1 / 4 + 1 / s**2) - truth) for s in np.geomspace(0.1, 100, 300)]
    assert rms(result["first"].data - truth) < 1.03 * min(errors)
    assert result.meta["prior_scales"]["ridge:first"]["scale"] == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("order", [1, 1.5])
def test_a_known_scale_needs_no_tuning_for_another_map_noise_or_window(order):
    # The best scale of each of these, found with the truth, gains nearly nothing over that of the first.
    truth = field((96, 96), 2 * order, seed=7)
    scales = np.geomspace(0.003, 10, 40)
    values = laplacian_eigenvalues(truth.shape, (0, 1)).numpy() ** order
    cosines = scipy.fft.dctn(truth, norm="ortho")
    # What the prior calls its scale is the spread of the truth's cosines in units of the prior's.
    scale = float(np.sqrt(np.mean((cosines**2 * values).flat[1:])))
    if order == 1:
        assert scale == pytest.approx(np.hypot(rms(np.diff(truth, axis=0)), rms(np.diff(truth, axis=1))), rel=0.02)
    for part, error, samples in [
        (np.s_[:, :], 0.3, slice(None)),
        (np.s_[:40, :50], 0.3, slice(None)),
        (np.s_[:, :], 1.0, slice(None)),
        (np.s_[:, :], 0.3, slice(1, 5)),
    ]:
        cube = scene(truth[part], error)[..., samples]
        own = (cube.data @ PROFILE[samples]) / (PROFILE[samples] ** 2).sum()
        found = specfit.fit(cube, ONE, specfit.Smooth("first", scale=scale * u.DN, order=order))
        each = error * np.sqrt((PROFILE**2).sum() / (PROFILE[samples] ** 2).sum())
        assert rms(found["first"].data - truth[part]) < 1.05 * oracle(own, truth[part], each, order, scales)


def test_groups_are_searched_at_once_and_to_the_end():
    asked = []

    def errors(values):
        asked.append(tuple(values))
        a, b, c = np.log(values)
        return [1e3 * (a - 1) ** 2, 1e3 * ((b - 2) ** 2 + (c + 3 - 0.5 * b) ** 2)]

    values, curves = search([1.0, 1.0, 1.0], [[0], [1, 2]], errors)
    np.testing.assert_allclose(np.log(values), [1, 2, -2], atol=0.3)
    assert len(asked) == len(set(asked))
    # The curves are parabolas along the logarithm of a scale alone, so that each ends in its place between the steps.
    np.testing.assert_allclose(np.log(values[0]), 1, atol=1e-6)
    for curve, value in zip(curves, values, strict=True):
        assert abs(np.log(value / min(curve, key=curve.get))) <= np.log(10) / 16
