"""The risk at all scales at once, against trials of single scales."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from scipy.ndimage import gaussian_filter

import sunpy_specfit as specfit
from sunpy_specfit.core.risk import Quadratics, Sure
from sunpy_specfit.core.risk_curve import RiskCurves, Unsettled
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import spectral_wcs

SHAPE = (40, 50)
SCALES = np.array([0.1, 0.4, 2.0])


def cube_of(seed=0, error=0.5, dark=0, common=0.0, size=4, noisier=1.0):
    """Straight lines whose level and slope vary over the map, with noise that varies by a factor of four.

    Some pixels may be dark, and the noise larger in 4 % of all; what the lines have in ``common`` adds to the level.
    """
    rng = np.random.default_rng(seed)
    level, slope = (gaussian_filter(rng.standard_normal(SHAPE), size) * 8 for _ in range(2))
    level = level + common
    x = np.arange(6.0)
    sigma = error * rng.uniform(0.5, 2.0, SHAPE)[..., None] * np.ones(6)
    if noisier > 1:
        sigma.reshape(-1, 6)[rng.permutation(level.size)[: level.size // 25]] *= noisier
    light = level[..., None] + slope[..., None] * x / 6
    data = light + sigma * rng.standard_normal(light.shape)
    sigma.reshape(-1, 6)[rng.permutation(sigma.shape[0] * sigma.shape[1])[:dark]] = np.inf
    return NDCube(
        data, wcs=spectral_wcs(SHAPE, (5000 + 0.1 * x) * u.AA), unit=u.DN, uncertainty=StdDevUncertainty(sigma)
    )


def both(cube, model, names, groups, *, order=1, **options):
    """Two estimates of the risk: from curves, and from trials."""
    problem = build_problem([cube], [model], dtype="float64", coupled=True)

    def with_scales(values):
        prior = specfit.Smooth(*names, scale=dict(zip(names, values, strict=True)), order=order)
        return build_problem([cube], [model], priors=[prior], dtype="float64")

    free = torch.full((problem.n_free, problem.n_pixels), options.get("free", 0.0), dtype=torch.float64)
    found = [Sure(Quadratics(problem, free), with_scales) for _ in range(2)]
    found[0].search_among(groups, options.get("begin", [0.3] * len(names)))
    return found


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("model", "rows"), [(specfit.Polynomial(0), [0]), (specfit.Polynomial(1), [0, 1])])
def test_curves_are_what_trials_find(model, rows, order, monkeypatch):
    monkeypatch.setattr(f"{RiskCurves.__module__}._WORTH", 1000)
    curves, trials = both(cube_of(), model, ["c0"], [([0], rows)], order=order)
    assert curves._curves is not None
    for scale in SCALES:
        one, other = (float(risk.errors([scale]).sum()) for risk in (curves, trials))
        # The scatter of chi² is 63 for each number of a pixel.
        assert one == pytest.approx(other, abs=12)


def test_groups_have_curves_of_their_own():
    # The slope is counted from the middle of the window, so that it knows nothing of the level.
    curves, trials = both(cube_of(1), specfit.Polynomial(1), ["c0", "c1"], [([0], [0]), ([1], [1])])
    one, other = ([risk.errors([a, b])[:2].tolist() for a, b in ((0.1, 0.1), (0.4, 2.0))] for risk in (curves, trials))
    np.testing.assert_allclose(np.diff(one, axis=0), np.diff(other, axis=0), atol=60)


def test_a_few_pixels_without_data_change_little_and_many_leave_it_to_trials():
    cube = cube_of(2, dark=80, size=1, error=1.0)
    curves, trials = both(cube, specfit.Polynomial(0), ["c0"], [([0], [0])], begin=[3.0])
    assert torch.equal(curves.quadratics.blocks.matrix, trials.quadratics.blocks.matrix)  # which is left as it is
    assert curves._curves is not None
    for scale in (0.5, 1.0, 3.0, 30.0):
        assert float(curves.errors([scale]).sum()) == pytest.approx(float(trials.errors([scale]).sum()), abs=12)
    assert both(cube_of(2, dark=400), specfit.Polynomial(0), ["c0"], [([0], [0])])[0]._curves is None


@pytest.mark.parametrize(("noisier", "known"), [(3, True), (10, True), (12, True), (30, False), (300, False)])
def test_pixels_that_know_little_count_for_no_more(noisier, known, monkeypatch):
    cube = cube_of(4, error=1.0, size=1, noisier=noisier)
    found, seen = [], []
    of = RiskCurves.of

    def watched(*args):
        seen.append(of(*args))
        return seen[-1]

    for replaced in (watched, lambda *args: None):
        monkeypatch.setattr(RiskCurves, "of", replaced)
        found.append(specfit.fit(cube, specfit.Polynomial(0), specfit.Smooth("c0")))
    assert (seen[0] is not None) == known
    one, other = (result.meta["prior_scales"]["smooth:c0"]["scale"] for result in found)
    assert one == pytest.approx(other, rel=0.03)
    off = (found[0]["c0"].data - found[1]["c0"].data) / found[1]["c0"].uncertainty.array
    assert np.sqrt(np.mean(off**2)) < 0.03


def test_what_all_pixels_have_in_common_is_no_matter():
    # At 10⁸ sigma, which is lost in single precision.
    plain, lifted = (
        both(cube_of(5, common=common), specfit.Polynomial(0), ["c0"], [([0], [0])], free=common)[0]
        for common in (0.0, 1e8)
    )
    from_afar = both(cube_of(5, common=1e8), specfit.Polynomial(0), ["c0"], [([0], [0])])[0]
    for other in (lifted, from_afar):
        assert other._curves[0].foretold() < 1.5 * plain._curves[0].foretold()
        shift = float(other.errors([0.4])) - float(plain.errors([0.4]))
        for scale in SCALES:
            assert float(other.errors([scale]) - plain.errors([scale])) == pytest.approx(shift, abs=6)


def test_numbers_that_all_pixels_share():
    rng = np.random.default_rng(7)
    truth, x = 20 * gaussian_filter(rng.standard_normal(SHAPE), 1), np.arange(6.0)
    sigma = 4 * rng.uniform(0.5, 2.0, SHAPE)[..., None] * np.ones(6)
    data = truth[..., None] + 3 * x + 0.5 * x**2 + sigma * rng.standard_normal(sigma.shape)
    cube = NDCube(
        data, wcs=spectral_wcs(SHAPE, (5000 + 0.1 * x) * u.AA), unit=u.DN, uncertainty=StdDevUncertainty(sigma)
    )
    model = specfit.Polynomial(2).share("c1").share("c2")
    assert both(cube, model, ["c0"], [([0], [0, 2])])[0]._curves is None

    def off(scale):
        result = specfit.fit(cube, model, specfit.Smooth("c0", scale=scale))
        found = result["c0"].data
        return np.std(found - truth), result

    least = min(off(scale)[0] for scale in np.geomspace(2.5, 10, 9))
    error, result = off("auto")
    assert error < 1.01 * least
    assert result.meta["prior_scales"]["smooth:c0"]["chosen_by"] == "SURE"


def test_products_that_are_not_finite_settle_nothing():
    one = torch.ones((1, 30), dtype=torch.float64)
    curves = RiskCurves(lambda v: v * torch.nan, one, one, one, [1.0], [([0], [0])], [one])
    assert not curves.foretold() <= 1e9
    with pytest.raises(Unsettled):
        curves.errors([1.0])


def test_what_is_left_to_trials(monkeypatch):
    cube, model = cube_of(), specfit.Polynomial(1)
    # Two scales bear on one group; and pixels are coupled so strongly that it would take too many steps.
    assert both(cube, model, ["c0", "c1"], [([0, 1], [0, 1])])[0]._curves is None
    assert both(cube, model, ["c0"], [([0], [0, 1])], begin=[1e-4])[0]._curves is None
    curves, trials = both(cube, model, ["c0"], [([0], [0, 1])])
    monkeypatch.setattr(f"{RiskCurves.__module__}._MOST", 12)
    with pytest.raises(Unsettled):
        curves.errors([1e-3])
    assert curves.errors([0.3]).tolist() == trials.errors([0.3]).tolist()
    result = specfit.fit(cube, model, specfit.Smooth("c0"))
    assert result.meta["prior_scales"]["smooth:c0"]["chosen_by"] == "SURE"
