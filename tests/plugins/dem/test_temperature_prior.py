import astropy.units as u
import numpy as np
import pytest
from scipy.special import ndtr

import sunpy_specfit as specfit
from sunpy_specfit.data import dem_scene
from sunpy_specfit.data.dem_scene import _hump, scene_of
from sunpy_specfit.plugins.dem.correlation import correlation

pytest.importorskip("demregpy")
BINS = np.logspace(5.7, 7.3, 33) * u.K
LOG_T = np.log10(np.sqrt(BINS[1:] * BINS[:-1]).value)
UNIT = u.Unit("cm-5 K-1")


def fit(scene, prior, form="log"):
    return specfit.fit(scene.images, specfit.DEM(scene.responses, bins=BINS, form=form), priors=prior)


@pytest.mark.parametrize("order", [0, 1, 2, "gaussian"])
def test_correlations_are_those_of_a_curve_and_positive_definite(order):
    c = correlation(LOG_T, 0.2, order)
    np.testing.assert_allclose(c.diagonal(), 1)
    assert np.linalg.eigvalsh(c).min() > -1e-10
    assert np.all(np.diff(c[0]) <= 1e-12)


def test_smoother_orders_give_smoother_draws():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((32, 200))
    rough = []
    for order in (0, 1, 2, "gaussian"):
        root = np.linalg.cholesky(correlation(LOG_T, 0.2, order) + 1e-9 * np.eye(32))
        rough.append(np.std(np.diff(root @ z, 2, axis=0)))
    assert rough[0] > rough[1] > rough[2] > rough[3]


def test_where_no_channel_looks_the_answer_is_the_mean_and_its_error_the_prior_s():
    scene = dem_scene("quiet_sun", (3, 4), seed=1)
    mean = 1e21 * np.exp(-0.5 * ((LOG_T - 6.1) / 0.3) ** 2) * UNIT
    images = {c: image.to_nddata(nddata_type=type(image)) for c, image in scene.images.items()}
    for image in images.values():
        image.uncertainty.array[:] = 1e6
    result = specfit.fit(
        images,
        specfit.DEM(scene.responses, bins=BINS),
        priors=specfit.TemperaturePrior(scale=0.5, level_spread=0.3, mean=mean),
    )
    np.testing.assert_allclose(result["dem"].data[:, 1, 1], mean.value, rtol=0.01)
    spread = result["dem"].uncertainty.array[:, 1, 1] / result["dem"].data[:, 1, 1]
    np.testing.assert_allclose(spread, np.hypot(0.5, 0.3), rtol=0.02)


def test_truths_drawn_from_the_prior_are_covered_bin_by_bin():
    scene = dem_scene("active_region", (30, 30), seed=1)
    model = specfit.DEM(scene.responses, bins=BINS)
    mean = 3e21 * np.exp(-0.5 * ((LOG_T - 6.2) / 0.35) ** 2) * 10 ** (6.2 - LOG_T)
    prior = specfit.TemperaturePrior(scale=0.8, level_spread=0.4, mean=mean * UNIT)
    covariance = 0.64 * correlation(LOG_T, 0.2, 2) + 0.16
    rng = np.random.default_rng(3)
    truth = mean[:, None] * np.exp(np.linalg.cholesky(covariance + 1e-9 * np.eye(32)) @ rng.standard_normal((32, 900)))
    images = {}
    for (channel, image), clean in zip(scene.images.items(), model.matrix @ truth, strict=True):
        sigma = np.sqrt(clean / 2 + 0.4)
        noisy = (clean + sigma * rng.standard_normal(900)).reshape(30, 30)
        error = type(image.uncertainty)(sigma.reshape(30, 30))
        images[channel] = type(image)(noisy, wcs=image.wcs, unit=image.unit, uncertainty=error)
    dem = specfit.fit(images, model, priors=prior)["dem"]
    pull = np.log(dem.data.reshape(32, -1) / truth) * (dem.data / dem.uncertainty.array).reshape(32, -1)
    inside = np.mean(np.abs(pull) < 1, axis=1)
    assert np.all(np.abs(inside - 0.6827) < 0.07)
    assert np.all(np.mean(np.abs(pull) < 2, axis=1) > 0.91)


def test_a_map_teaches_the_mean_and_a_few_pixels_do_not():
    scene = dem_scene("quiet_sun", (24, 24), seed=4)
    learned = fit(scene, specfit.TemperaturePrior())
    fixed = fit(scene, specfit.TemperaturePrior(mean_spread=0))
    truth = scene.log_temperature()

    def rms(result):
        return np.sqrt(np.mean((result["log_temperature"].data - truth) ** 2))

    assert rms(learned) < 0.5 * rms(fixed)
    info = learned.meta["prior_scales"]["temperature_prior"]
    assert info["chosen_by"] == "evidence"
    assert len(info["tried"]) == len(info["criterion"]) >= 2
    few = {c: image[:2, :2] for c, image in scene.images.items()}
    alone = specfit.fit(few, specfit.DEM(scene.responses, bins=BINS))
    wide = alone["log_temperature"].uncertainty.array
    assert np.all(np.abs(alone["log_temperature"].data - truth[:2, :2]) < 3 * wide)


def heated_from_frame_to_frame(seed):
    """Pixels along x of one quiet corona, in front of which plasma heats up and cools along y; few counts."""
    log_t, minutes, rng = np.arange(5.705, 7.3, 0.01), np.arange(0, 20, 0.8), np.random.default_rng(seed)
    since = (minutes[:, None] + rng.uniform(-2, 2, 16) - 3).clip(0)
    amount = 10**28.1 * (1 - np.exp(-since / 1.2)) * np.exp(-since / 5)
    quiet = _hump(log_t, 6.15, 0.17, np.full(since.shape, 10**27.1))
    hot = _hump(log_t, 6.55 + 0.45 * np.exp(-since / 6), 0.13, amount)
    return scene_of(quiet + hot, rng, exposure=0.3, responses=specfit.TemperatureResponse.aia())


def test_where_one_scale_for_all_bins_is_a_poor_guess_each_learns_its_own():
    scene = heated_from_frame_to_frame(3)
    result = fit(scene, specfit.TemperaturePrior())
    info = result.meta["prior_scales"]["temperature_prior"]
    assert info["scale"] < 0.5  # one shape at many levels: the best that a single scale can say
    log_t = result["log_temperature"]
    pull = (log_t.data - scene.log_temperature()) / log_t.uncertainty.array
    assert np.mean(np.abs(pull) < 2) > 0.6


@pytest.mark.parametrize("criterion", ["evidence", "discrepancy", "sure"])
def test_scales_can_be_chosen_in_three_ways(criterion):
    scene = dem_scene("active_region", (12, 12), seed=4)
    result = fit(scene, specfit.TemperaturePrior(criterion=criterion))
    info = result.meta["prior_scales"]["temperature_prior"]
    assert 0.1 < info["scale"] < 8
    assert info["chosen_by"] == criterion
    if criterion == "discrepancy":
        assert np.mean(result.chi2.data) < 9


def test_an_explicit_covariance_is_taken_as_it_is():
    scene = dem_scene("active_region", (3, 3), seed=4)
    covariance = 0.5 * correlation(LOG_T, 0.3, 1)
    mean = np.full(32, 1e21) * UNIT
    result = fit(scene, specfit.TemperaturePrior(covariance=covariance, mean=mean))
    np.testing.assert_allclose(result._priors[0]._bound.covariance.numpy(), covariance)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": -1}, "scale is 'auto' or a positive number"),
        ({"scale": "best"}, "scale is 'auto'"),
        ({"length": 0}, "length is 'auto' or a positive number"),
        ({"length": "long"}, "length is 'auto'"),
        ({"level_spread": -1}, "level_spread must not be below zero"),
        ({"order": 3}, "order is 0, 1, 2"),
        ({"criterion": "luck"}, "criterion is"),
        ({"mean": "flat"}, "mean is 'auto'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        specfit.TemperaturePrior(**arguments)


def test_a_mean_or_covariance_of_another_size_is_refused():
    scene = dem_scene("active_region", (3, 3), seed=4)
    with pytest.raises(ValueError, match="there are 32 bins"):
        fit(scene, specfit.TemperaturePrior(mean=np.ones(5) * UNIT))
    with pytest.raises(ValueError, match=r"symmetric \(32, 32\) array"):
        fit(scene, specfit.TemperaturePrior(covariance=np.eye(3)))
    with pytest.raises(ValueError, match="above zero in all bins"):
        fit(scene, specfit.TemperaturePrior(mean=np.zeros(32) * UNIT))


def test_pixels_of_a_map_may_differ_in_slope_and_bend():
    scene = dem_scene("quiet_sun", (6, 6), seed=4)
    away = LOG_T - 6.2

    def learned(**options):
        return fit(scene, specfit.TemperaturePrior(**options)).meta["prior_scales"]["temperature_prior"]

    assert learned()["shape_spread"] == 2.0
    assert learned(scale=0.5)["shape_spread"] == 0.0
    mean = np.full(32, 1e21) * UNIT
    wide, narrow = (learned(scale=0.5, mean=mean, shape_spread=s)["covariance"] for s in (1.5, 0.0))
    shape = np.outer(away, away) + np.outer(away**2, away**2)
    np.testing.assert_allclose(wide - narrow, 1.5**2 * shape, rtol=1e-9, atol=1e-9)
    few = {c: image[:3, :3] for c, image in scene.images.items()}
    alone = specfit.fit(few, specfit.DEM(scene.responses, bins=BINS)).meta["prior_scales"]["temperature_prior"]
    assert alone["shape_spread"] == 0.0
    # The forms without logarithm have a level for each pixel, and no slopes.
    model = specfit.DEM(scene.responses, bins=BINS, form="linear")
    one, other = (specfit.fit(scene.images, model, specfit.TemperaturePrior(shape_spread=s)) for s in (0.0, 4.0))
    np.testing.assert_array_equal(one["dem"].data, other["dem"].data)


@pytest.mark.parametrize("options", [{"shape_spread": -1.0}, {"shape_spread": "auto"}, {"mean_spread": np.nan}])
def test_spreads_that_are_none_are_refused(options):
    with pytest.raises(ValueError, match="spread"):
        specfit.TemperaturePrior(**options)


def test_steep_maps_have_temperatures_within_their_errors():
    """Powers of temperature up to an end that moves; 68 % within two sigma while hot bins scattered as others do."""
    rng = np.random.default_rng(104)
    away = np.arange(5.705, 7.3, 0.01)[:, None, None] - (6.35 + 0.07 * rng.standard_normal((20, 20)))
    loops = 10 ** (1.5 * away) * ndtr(-away / 0.15)
    loops *= 10 ** (27.5 + 0.3 * rng.standard_normal((20, 20))) / loops.sum(0)
    scene = scene_of(loops, rng, responses=specfit.TemperatureResponse.aia())
    log_t = fit(scene, specfit.TemperaturePrior())["log_temperature"]
    pull = (log_t.data - scene.log_temperature()) / log_t.uncertainty.array
    assert np.mean(np.abs(pull) < 2) > 0.9
