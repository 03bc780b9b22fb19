from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import sunpy_specfit as specfit
from sunpy_specfit.core.grid import Grid
from sunpy_specfit.core.warnings import SpecfitWarning
from sunpy_specfit.data import dem_scene
from sunpy_specfit.plugins.priors.differences import Differences
from sunpy_specfit.plugins.solvers.cosine_preconditioner import CosinePreconditioner
from sunpy_specfit.plugins.solvers.neighbours import Neighbours
from sunpy_specfit.plugins.solvers.place import Place
from sunpy_specfit.plugins.solvers.seen_by_data import SeenByData

pytest.importorskip("demregpy")
BINS = np.logspace(5.7, 7.3, 13) * u.K
MEAN = 1e21 * np.exp(-0.5 * ((np.linspace(5.77, 7.23, 12) - 6.2) / 0.4) ** 2) * u.Unit("cm-5 K-1")


def _grid(*shape):
    return Grid(shape, ("space",) * len(shape))


def fit(scene, *priors, **options):
    temperature = specfit.TemperaturePrior(scale=1.0, order=1, mean=MEAN)
    return specfit.fit(scene.images, specfit.DEM(scene.responses, bins=BINS), priors=[temperature, *priors], **options)


def _temperature_prior(result):
    return next(prior for prior in result._priors if prior.name == "temperature_prior")._bound


class Dense:
    """The same with matrices of all unknowns at once, pixel by pixel ``(pixels · bins)``."""

    def __init__(self, result):
        self.model = result._layout.components[0]
        prior = _temperature_prior(result)
        cube = result._canvases[0].cube
        self.data, self.sigma = cube.data.reshape(6, -1), cube.uncertainty.array.reshape(6, -1)
        self.mean, n = prior.mean.numpy(), self.data.shape[1]
        correlated = next(prior for prior in result._priors if prior.name == "correlated")
        among = correlated.bind({"dem": u.one}, _grid(*result["emission_measure"].data.shape)).among_pixels
        between = among.product(torch.eye(n, dtype=torch.float64)).numpy() + np.eye(n)
        self.precision = np.kron(between, prior.precision.numpy())

    def objective(self, flat):
        dem = np.exp(flat.reshape(-1, 12).T)
        misfit = (self.data - self.model.matrix @ dem) / self.sigma
        away = flat - np.tile(self.mean, dem.shape[1])
        pulled = self.precision @ away
        slope = pulled - (dem * (self.model.matrix.T @ (misfit / self.sigma))).T.reshape(-1)
        return 0.5 * np.sum(misfit**2) + 0.5 * away @ pulled, slope

    def hessian(self, dem):
        n = dem.shape[1]
        hessian = self.precision.reshape(n, 12, n, 12).copy()
        for p in range(n):
            jacobian = self.model.matrix * dem[:, p] / self.sigma[:, [p]]
            hessian[p, :, p] += jacobian.T @ jacobian
        return hessian.reshape(12 * n, 12 * n)


@pytest.mark.parametrize(("order", "length"), [(1, 3.0), (2, 2.0)])
def test_the_whole_map_reaches_the_minimum_that_a_general_optimiser_finds(order, length):
    scene = dem_scene("active_region", (4, 5), seed=2, exposure=0.1)
    result = fit(scene, specfit.Correlated("dem", length=length, order=order))
    assert result.meta["solver"] == "DataSpaceMap()"
    dense, found = Dense(result), np.log(result["dem"].data).reshape(12, -1).T.reshape(-1)
    best = minimize(dense.objective, found, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-13})
    assert dense.objective(found)[0] - best.fun < 0.05


def test_errors_are_those_of_the_dense_curvature():
    scene = dem_scene("quiet_sun", (12, 12), seed=2, exposure=0.1)
    result = fit(scene, specfit.Correlated("dem", length=1.5))
    dem = result["dem"].data.reshape(12, -1)
    exact = np.sqrt(np.linalg.inv(Dense(result).hessian(dem)).diagonal()).reshape(-1, 12).T
    found = result["dem"].uncertainty.array.reshape(12, -1) / dem
    inner = np.zeros((12, 12), bool)
    inner[3:-3, 3:-3] = True
    ratio = (found / exact)[:, inner.ravel()]
    assert np.median(ratio) == pytest.approx(1, abs=0.1)
    assert np.all((ratio > 0.6) & (ratio < 1.6))


def test_an_automatic_length_is_the_most_probable_one():
    scene = dem_scene("active_region", (8, 8), seed=3, exposure=0.1)
    told = fit(scene, specfit.Correlated("dem")).meta["prior_scales"]["correlated:dem"]
    assert told["chosen_by"] == "evidence"
    assert told["unit"] == "pix"

    def dense(length):
        result = fit(scene, specfit.Correlated("dem", length=length))
        exact, dem = Dense(result), result["dem"].data.reshape(12, -1)
        volume = np.linalg.slogdet(exact.hessian(dem))[1] - np.linalg.slogdet(exact.precision)[1]
        return 2 * exact.objective(np.log(dem).T.reshape(-1))[0] + volume

    exact, found = np.array([dense(length) for length in told["tried"]]), np.array(told["evidence"])
    best = told["tried"].index(told["scale"])
    np.testing.assert_allclose(found - found[best], exact - exact[best], rtol=0.1, atol=4)
    assert exact[best] - exact.min() < 4


def test_at_low_signal_all_three_numbers_are_better_than_those_of_single_pixels():
    scene = dem_scene("active_region", (24, 24), seed=6, exposure=0.05)
    model = specfit.DEM(scene.responses, bins=np.logspace(5.7, 7.3, 33) * u.K)
    true = scene.dem(np.logspace(5.7, 7.3, 33) * u.K)

    def errors(result):
        dem = np.log10(result["dem"].data / true)[true > 0.05 * true.max(0)]
        amount = np.log10(result["emission_measure"].data / scene.total())
        temperature = result["log_temperature"].data - scene.log_temperature()
        return np.array([np.sqrt(np.mean(away**2)) for away in (dem, amount, temperature)])

    alone = specfit.fit(scene.images, model)
    coupled = specfit.fit(scene.images, model, priors=specfit.Correlated("dem"))
    assert np.all(coupled.status.data & specfit.Status.CONVERGED)
    assert np.all(errors(coupled) < 0.85 * errors(alone))


@pytest.mark.parametrize(
    ("neighbours", "apart"),
    [
        (specfit.Smooth("dem", scale=1e5, logarithm=True), 0.02),
        # Directions of which the data tell next to nothing stay at the mean.
        (specfit.Correlated("dem", length=1e-3), 0.05),
    ],
)
def test_without_coupling_maps_are_those_of_single_pixels(neighbours, apart):
    scene = dem_scene("active_region", (6, 7), seed=4, exposure=0.3)
    model = specfit.DEM(scene.responses, bins=BINS)
    alone = specfit.fit(scene.images, model, solver=specfit.DataSpace(tolerance=1e-4, max_iterations=100))
    loose = specfit.fit(
        scene.images, model, priors=neighbours, solver=specfit.DataSpaceMap(tolerance=1e-4, max_iterations=100)
    )
    here, there = alone["dem"], loose["dem"]
    assert np.abs((there.data - here.data) / here.uncertainty.array).max() < apart
    # Of the logarithm: where that is known to 2.5 only, 0.05 of it move the DEM, and its error, by an eighth.
    of_logarithm = [own.uncertainty.array / own.data for own in (here, there)]
    assert np.abs(of_logarithm[1] / of_logarithm[0] - 1).max() < 0.05


def test_a_smooth_map_is_that_of_the_problem_s_own_objective():
    scene = dem_scene("active_region", (6, 6), seed=4, exposure=0.3)
    model, prior = specfit.DEM(scene.responses, bins=BINS), specfit.Smooth("dem", scale=2.5, logarithm=True)
    here = specfit.fit(scene.images, model, prior, solver=specfit.DataSpaceMap(tolerance=1e-4, max_iterations=100))
    # Of this one's errors the error of the learned mean is no part, and it says so.
    with pytest.warns(
        SpecfitWarning, match="gauss_newton leaves the error of a prior's learned mean, which all pixels share"
    ):
        there = specfit.fit(scene.images, model, prior, solver=specfit.GaussNewton(tolerance=1e-4, max_iterations=300))
    assert np.abs((here["dem"].data - there["dem"].data) / there["dem"].uncertainty.array).max() < 0.02


@pytest.mark.parametrize("side", [16, 128, 512])
@pytest.mark.parametrize("length", [1.0, 4.0, 16.0])
def test_few_waves_stand_for_those_of_any_map(side, length):
    bound = specfit.Correlated("dem", length=length).bind({"dem": u.one}, _grid(side, side))
    problem = SimpleNamespace(coupled_priors=lambda: [(bound, ("dem",))])
    free, root = torch.ones((2, side * side), dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    waves, share = Neighbours(problem, root, free).waves(free, 2048)
    assert len(waves) <= 2049
    every = 1 + bound.among_pixels.eigenvalues
    for told in (0.0, 0.1, 10.0):
        few = float(share @ (1 / (told + 1 + waves[:, 0, 0])))
        assert few == pytest.approx(float((1 / (told + every)).mean()), rel=2e-3), told
    assert float(share @ waves[:, 1, 1]) == pytest.approx(float(every.mean() - 1), rel=1e-6)
    assert float(share.sum()) == pytest.approx(1)


def test_the_preconditioner_is_exact_where_all_pixels_tell_the_same():
    generator = torch.Generator().manual_seed(2)
    # One direction of the unknowns for each datum: the mean information is then diagonal.
    response = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.5]], dtype=torch.float64)
    even = torch.ones((3, 20), dtype=torch.float64)
    seen = SeenByData(torch.eye(3, dtype=torch.float64), response, even, even[:2])
    steps = Differences((4, 5), (0, 1), 1)
    waves = steps.eigenvalues(torch.zeros(1, dtype=torch.float64))
    near = CosinePreconditioner((4, 5), 1 + 9 * waves, seen)
    v = torch.randn((3, 20), generator=generator, dtype=torch.float64)
    torch.testing.assert_close(near(near.data_product(v) + v + 9 * steps.product(v)), v)


def test_a_quantity_is_the_same_by_either_of_its_names():
    scene = dem_scene("active_region", (3, 4), seed=2, exposure=0.1)
    short, full = (fit(scene, specfit.Correlated(name, length=2)) for name in ("dem", "dem.dem"))
    np.testing.assert_allclose(full["dem"].data, short["dem"].data)
    with pytest.raises(ValueError, match="given twice"):
        fit(scene, specfit.Correlated("dem", length=2), specfit.Correlated("dem.dem", length=2))


@pytest.mark.parametrize("neighbours", [specfit.Smooth("dem", logarithm=True), specfit.Correlated("dem")])
def test_a_map_without_data_has_no_scale_to_find(neighbours):
    scene = dem_scene("active_region", (3, 4), seed=2)
    model = specfit.DEM(scene.responses, bins=BINS)
    mask = {channel: np.ones((3, 4), bool) for channel in scene.images}
    result = specfit.fit(scene.images, model, priors=neighbours, mask=mask)
    assert np.all(result.status.data & specfit.Status.MASKED)


def test_no_length_is_longer_than_what_is_asked_for():
    scene = dem_scene("quiet_sun", (1, 7), seed=2, exposure=0.1)
    told = fit(scene, specfit.Correlated("dem")).meta["prior_scales"]["correlated:dem"]
    assert max(told["tried"]) <= 300


def test_solvers_that_know_no_such_prior_say_so():
    with pytest.raises(ValueError, match="gauss_newton"):
        fit(dem_scene("quiet_sun", (3, 3)), specfit.Correlated("dem", length=2), solver="gauss_newton")


def test_where_most_pixels_are_masked_the_evidence_is_still_that_of_dense_matrices():
    scene = dem_scene("active_region", (8, 8), seed=3, exposure=0.1)
    keep = np.zeros((8, 8), bool)
    keep[[0, 1, 1, 3, 5, 6, 7, 4], [1, 1, 6, 3, 5, 5, 0, 7]] = True
    mask = dict.fromkeys(scene.images, ~keep)
    with pytest.warns(SpecfitWarning, match="only 8 of 64 pixels have data"):
        told = fit(scene, specfit.Correlated("dem"), mask=mask).meta["prior_scales"]["correlated:dem"]

    def dense(length):
        result = fit(scene, specfit.Correlated("dem", length=length), mask=mask)
        exact, dem = Dense(result), result["dem"].data.reshape(12, -1)
        exact.sigma = np.where(keep.ravel(), exact.sigma, np.inf)
        volume = np.linalg.slogdet(exact.hessian(dem))[1] - np.linalg.slogdet(exact.precision)[1]
        return 2 * exact.objective(np.log(dem).T.reshape(-1))[0] + volume

    exact, found = np.array([dense(length) for length in told["tried"]]), np.array(told["evidence"])
    best = told["tried"].index(told["scale"])
    np.testing.assert_allclose(found - found[best], exact - exact[best], rtol=0.2, atol=4)
    assert exact[best] - exact.min() < 4


@pytest.mark.parametrize("even", [True, False])
def test_what_pixels_share_of_an_error_is_that_of_the_dense_curvature(even):
    scene = dem_scene("quiet_sun" if even else "active_region", (12, 12), seed=2, exposure=0.1 if even else 1.0)
    keep = np.ones((12, 12), bool)
    if even:
        for image in scene.images.values():
            image.data[:], image.uncertainty.array[:] = image.data[0, 0], image.uncertainty.array[0, 0]
    else:
        keep[4:9, 3:8] = False
    model, prior = specfit.DEM(scene.responses, bins=BINS), specfit.Correlated("dem", length=2.0)
    result = specfit.fit(scene.images, model, priors=prior, mask=dict.fromkeys(scene.images, ~keep))
    dense, shared = Dense(result), _temperature_prior(result).shared_root.numpy()
    dense.sigma = np.where(keep.ravel(), dense.sigma, np.inf)
    hessian, pulled = dense.hessian(result["dem"].data.reshape(12, -1)), dense.precision @ np.tile(shared, (144, 1))
    exact = np.linalg.solve(hessian, pulled).reshape(144, 12, -1).transpose(1, 2, 0)
    found = result._sampler.covariance.common
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
    away, size = (np.linalg.norm(rows, axis=1) for rows in (found - exact, exact))
    assert np.all(away < 0.1 * size + 0.01 * size.max())


def test_a_step_too_long_is_shortened_until_it_leads_downhill(monkeypatch):
    found = []
    monkeypatch.setattr(Place, "of", lambda *given, of=Place.of: found.append(of(*given)) or found[-1])
    fit(dem_scene("flare", (4, 5), seed=2), specfit.Correlated("dem", length=2.0))
    here = found[0]
    step, _ = here.step(0.0, None, near=False)
    there, part = here.lowest_along(2.5 * step, None)
    assert part < 1
    assert there.energy < here.energy < here.moved(2.5 * step, None).energy
    assert here.lowest_along(-step, None)[0] is None
