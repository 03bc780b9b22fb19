"""Steps in other numbers than those that are asked for, and vectors that vanish."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import Model, Parameter, Status
from sunpy_specfit.core.chart import Chart
from sunpy_specfit.core.curvature import Curvature
from sunpy_specfit.core.kink import rest_at_kinks
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.core.shrinkage import shrink
from sunpy_specfit.data import spectral_wcs
from sunpy_specfit.testing import check_model

SHAPE = (12, 14)


def forward(length, turn):
    angle = torch.deg2rad(turn)
    return length * torch.cos(angle), length * torch.sin(angle)


def inverse(x, y):
    return torch.hypot(x, y).clamp_min(1e-3), torch.remainder(torch.rad2deg(torch.atan2(y, x)), 360.0)


class Arrow(Model):
    """The components of a vector in a plane, and its length, each in a sample of its own."""

    name = "arrow"
    length = Parameter("data", lower=0, upper=1e6)
    turn = Parameter(u.deg, lower=0, upper=360, beyond="wrap")
    chart = Chart(("length", "turn"), forward, inverse, vector=(0, 1), shortest=1e-3, pointing=("turn", "length"))
    derived = {"along": "data", "across": "data"}

    def evaluate(self, x, length, turn):
        return torch.stack([*forward(length, turn), length])

    def derive(self, length, turn):
        return dict(zip(("along", "across"), forward(length, turn), strict=True))


class Bent(Arrow):
    """The same without a chart."""

    name = "bent"
    chart = None


def cube_of(along, across, length, sigma=(1.0, 1.0, 1.0)):
    data = np.stack(np.broadcast_arrays(along, across, length), -1).astype(float)
    return NDCube(
        data,
        wcs=spectral_wcs(data.shape[:2], [1, 2, 3] * u.AA),
        unit=u.DN,
        uncertainty=StdDevUncertainty(np.broadcast_to(np.asarray(sigma, float), data.shape).copy()),
    )


def noisy(length, sigma, seed=0):
    """A vortex, seen through its components."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    truth = np.stack([-length * y, length * x])
    rng = np.random.default_rng(seed)
    seen = truth + sigma * rng.standard_normal(truth.shape)
    return truth, cube_of(*seen, 0.0, sigma=(sigma, sigma, 1e9))


def problem_of(cube, model=None, priors=()):
    return build_problem([cube], [model or Arrow()], priors=priors, dtype="float64")


def test_the_kit_holds_the_chart_against_the_light():
    check_model(Arrow(), cube=cube_of(*np.full((3, *SHAPE), 50.0)), fit=False)

    class Wrong(Arrow):
        name = "wrong"
        chart = Chart(("length", "turn"), forward, lambda x, y: inverse(x, -y))

    with pytest.raises(AssertionError, match="there and back"):
        check_model(Wrong(), cube=cube_of(*np.full((3, *SHAPE), 50.0)), fit=False)


def test_steps_are_straight_in_the_chart():
    problem = problem_of(noisy(100.0, 1.0)[1])
    draw = torch.Generator().manual_seed(0)
    start, end = (
        torch.stack(inverse(*torch.randn((2, problem.n_pixels), generator=draw, dtype=torch.float64))) for _ in "ab"
    )
    step = problem.step_between(start, end)
    torch.testing.assert_close(problem.moved(start, step), end)
    # Half the step is half the way for the components, whichever way the angle turns.
    half = torch.stack(problem.charts[0].forward(*problem.moved(start, 0.5 * step)))
    ends = [torch.stack(problem.charts[0].forward(*one)) for one in (start, end)]
    torch.testing.assert_close(half, 0.5 * (ends[0] + ends[1]))
    assert (step[1].abs() > 60).any()


def test_coupled_vectors_are_those_of_the_linear_problem():
    """Far below the noise, where angles are no numbers to average; and in one step."""
    _, cube = noisy(1.0, 2.0)
    scales = {"along": 0.1 * u.DN, "across": 0.1 * u.DN}
    result = specfit.fit(cube, Arrow(), specfit.Smooth("along", "across", scale=scales))
    linear = specfit.fit(cube[..., :1], specfit.Polynomial(0), specfit.Smooth("c0", scale=0.1 * u.DN))
    np.testing.assert_allclose(result["along"].data, linear["c0"].data, atol=2e-3)
    np.testing.assert_allclose(result["along"].uncertainty.array, linear["c0"].uncertainty.array, rtol=2e-2)
    assert result.meta["solver_info"]["iterations"] <= 4
    assert (result.status.data & int(Status.CONVERGED)).all()


def test_automatic_scales_are_those_of_the_linear_problem():
    _, cube = noisy(3.0, 2.0)
    result = specfit.fit(cube, Arrow(), specfit.Smooth("along", "across"))
    linear = specfit.fit(cube[..., :1], specfit.Polynomial(0), specfit.Smooth("c0"))
    found, expected = (r.meta["prior_scales"][k] for r, k in ((result, "smooth:along"), (linear, "smooth:c0")))
    assert found["chosen_by"] == "SURE"
    assert found["scale"] == pytest.approx(expected["scale"], rel=0.35)


def test_shrinking_takes_the_mean_of_components_and_leaves_angles_without_any():
    truth, cube = noisy(50.0, 5.0)
    for model, better in ((Arrow(), True), (Bent(), False)):
        problem = problem_of(cube, model)
        factor = torch.as_tensor(problem.layout.scales()[0])[:, None]
        free = torch.stack(inverse(*torch.as_tensor(np.moveaxis(cube.data[..., :2], -1, 0).reshape(2, -1)))) / factor
        found = shrink(problem, free)
        before, apart = (
            torch.stack(forward(*(f * factor))) - torch.as_tensor(truth.reshape(2, -1)) for f in (free, found)
        )
        assert (apart.square().mean() < 0.6 * before.square().mean()) == better
        assert torch.equal(found[1], free[1]) != better


@pytest.mark.parametrize(("angle", "pull", "held"), [(30.0, 6.0, True), (200.0, 6.0, True), (30.0, 3.0, False)])
def test_a_vector_is_at_rest_where_its_length_costs_more_than_its_direction_gains(angle, pull, held):
    """Seen: components of length 4; and a length of -pull, which none has."""
    radian = np.deg2rad(angle)
    shape = (4, 5)
    cube = cube_of(*(np.full(shape, 4 * f(radian)) for f in (np.cos, np.sin)), np.full(shape, -pull))
    problem = problem_of(cube)
    start = torch.stack([torch.full((20,), 0.01), torch.linspace(0, 350, 20)]).double()
    here, resting = rest_at_kinks(Curvature(problem, start), torch.ones(20, dtype=torch.bool))
    assert resting.all() if held else not resting.any()
    if held:
        np.testing.assert_allclose(here.free[1], angle, atol=1e-3)
        np.testing.assert_allclose(here.free[0] * problem.layout.scales()[0][0], 1e-3)
    result = specfit.fit(cube, Arrow(), specfit.Smooth("along", "across", scale=1e3 * u.DN))
    assert (result.status.data & int(Status.CONVERGED)).all()
    assert result.meta["solver_info"]["iterations"] < 20
    # Of ½ (r - 4)² + ½ (r + pull)², the best r.
    np.testing.assert_allclose(result["length"].data, max(0.5 * (4 - pull), 1e-3), atol=1e-2)
    apart = (result["turn"].data - angle + 180) % 360 - 180
    np.testing.assert_allclose(apart, 0.0, atol=0.1)


def test_a_chart_is_left_alone_where_a_parameter_is_not_free_or_has_bounds_of_its_own():
    cube = noisy(100.0, 1.0)[1]
    assert len(problem_of(cube).charts) == 1
    for model in (Arrow().fix(turn=30 * u.deg), Arrow().bound(turn=(10, 50)), Arrow().share("turn")):
        assert problem_of(cube, model).charts == []
    result = specfit.fit(cube, Arrow().bound(turn=(10, 50)), specfit.Smooth("along", scale=10 * u.DN))
    assert result["turn"].data.min() >= 10
    assert result["turn"].data.max() <= 50


def test_derivatives_along_a_step_are_those_of_the_objective():
    """Of priors of either kind, at the end of a step that turned the angles."""
    priors = [
        specfit.TotalVariation("along", "across", scale=5 * u.DN, joint=True),
        specfit.Ridge("across", 3 * u.DN, scale=5 * u.DN),
    ]
    problem = problem_of(noisy(20.0, 5.0)[1], priors=priors)
    draw = torch.Generator().manual_seed(0)
    base, end = (torch.stack(inverse(*torch.randn((2, 168), generator=draw, dtype=torch.float64))) for _ in "ab")
    step = problem.step_between(base, end)
    nothing = torch.zeros_like(step[0]), problem.linearize(base, priors=False)[1], torch.zeros_like(step)
    found = Curvature(problem, end, data=nothing, base=base).gradient
    step.requires_grad_()
    problem.prior_energy(problem.moved(base, step)).backward()
    torch.testing.assert_close(found.reshape(2, -1), step.grad, rtol=1e-6, atol=1e-9)
