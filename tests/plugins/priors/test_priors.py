"""What each prior says of maps, in numbers that can be worked out by hand."""

import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit.core.grid import Grid
from sunpy_specfit.data import gaussian_cube

KMS = u.km / u.s
GRID = Grid((2, 3), ("space", "space"))
RAMP = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 2.0], dtype=torch.float64)


def energy(prior, maps, units, grid=GRID):
    return float(prior.bind(units, grid).energy(maps).sum())


def test_smooth_counts_differences_in_scales():
    prior = specfit.Smooth("velocity", scale=500 * u.m / u.s)
    assert energy(prior, {"velocity": RAMP}, {"velocity": KMS}) == pytest.approx(0.5 * 4 * (1 / 0.5) ** 2)


def test_smooth_along_time_leaves_space_alone():
    grid = Grid((2, 3), ("time", "space"))
    prior = specfit.Smooth("velocity", scale=1 * KMS, axes="time")
    assert energy(prior, {"velocity": RAMP}, {"velocity": KMS}, grid) == 0
    jump = torch.cat([RAMP[:3], RAMP[3:] + 2])
    assert energy(prior, {"velocity": jump}, {"velocity": KMS}, grid) == pytest.approx(0.5 * 3 * 4)
    with pytest.raises(ValueError, match="no time axis; its axes are space, space"):
        prior.bind({"velocity": KMS}, GRID)


def test_smooth_of_the_logarithm_counts_ratios():
    prior = specfit.Smooth("amplitude", scale=0.1, logarithm=True)
    maps = {"amplitude": RAMP.exp()}
    assert energy(prior, maps, {"amplitude": u.DN}) == pytest.approx(0.5 * 4 * 10**2)
    with pytest.raises(u.UnitConversionError, match="a plain number"):
        specfit.Smooth("amplitude", scale=3 * u.DN, logarithm=True).bind({"amplitude": u.DN}, GRID)


def test_scales_by_name():
    prior = specfit.Smooth("velocity", "width", scale={"velocity": 1 * KMS, "width": 10 * u.mAA})
    maps = {"velocity": RAMP, "width": 0.01 * RAMP}
    assert energy(prior, maps, {"velocity": KMS, "width": u.AA}) == pytest.approx(0.5 * 8)
    with pytest.raises(KeyError, match="its scales are for 'velocity'"):
        specfit.Smooth("velocity", "width", scale={"velocity": 1 * KMS}).bind({"velocity": KMS, "width": u.AA}, GRID)


def test_total_variation_costs_an_edge_its_height_whatever_its_slope():
    prior = specfit.TotalVariation("velocity", scale=2 * KMS, softness=1e-6)
    step = torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0, 2.0], dtype=torch.float64)
    for image in (step, RAMP):
        assert energy(prior, {"velocity": image}, {"velocity": KMS}) == pytest.approx(2 * 2 / 2, abs=1e-4)


def test_the_majoriser_of_total_variation_lies_above_it():
    bound = specfit.TotalVariation("velocity", scale=1 * KMS).bind({"velocity": KMS}, GRID)
    generator = torch.Generator().manual_seed(0)
    here, there = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(2))
    quadratic = bound.quadratic({"velocity": here})
    for step in (1e-3, 0.1, 1.0, 10.0):
        move = step * there
        above = (
            bound.energy({"velocity": here})
            + (quadratic.gradient["velocity"] * move).sum()
            + 0.5 * (quadratic.matvec({"velocity": move})["velocity"] * move).sum()
        )
        assert float(above) >= float(bound.energy({"velocity": here + move})) - 1e-12


def test_several_maps_with_one_length_do_not_depend_on_the_axes_they_are_counted_in():
    """A step of a vector costs its length, in whatever frame, and not the sum of its parts' heights."""
    units = {"velocity": KMS, "width": KMS}
    step = torch.tensor([0.0, 0.0, 5.0, 0.0, 0.0, 5.0], dtype=torch.float64)
    turned = {"velocity": 0.6 * step, "width": 0.8 * step}
    joint, apart = (
        specfit.TotalVariation("velocity", "width", scale=1 * KMS, softness=1e-6, joint=joint)
        for joint in (True, False)
    )
    assert energy(joint, turned, units) == pytest.approx(2 * 5, abs=1e-4)
    assert energy(joint, {"velocity": step, "width": 0 * step}, units) == pytest.approx(2 * 5, abs=1e-4)
    assert energy(apart, turned, units) == pytest.approx(2 * 7, abs=1e-4)


def test_ridge_pulls_to_a_map_and_not_where_there_is_none():
    reference = np.array([[0.0, 1.0, np.nan], [0.0, 1.0, 2.0]])
    prior = specfit.Ridge("velocity", reference * KMS, scale=0.5 * KMS)
    assert energy(prior, {"velocity": RAMP + 0.5}, {"velocity": KMS}) == pytest.approx(0.5 * 5)
    with pytest.raises(ValueError, match=r"has the shape \(3, 2\); expected one number, or a map of shape \(2, 3\)"):
        specfit.Ridge("velocity", reference.T * KMS, scale=1 * KMS).bind({"velocity": KMS}, GRID)


def test_hinge_is_silent_within_its_limits():
    prior = specfit.Hinge("velocity", lower=0.5 * KMS, upper=1.5 * KMS, scale=0.25 * KMS)
    assert energy(prior, {"velocity": RAMP}, {"velocity": KMS}) == pytest.approx(0.5 * 4 * 2**2)
    with pytest.raises(ValueError, match="no limit"):
        specfit.Hinge("velocity", scale=1 * KMS)
    with pytest.raises(ValueError, match="is not below"):
        specfit.Hinge("velocity", lower=2 * KMS, upper=1 * KMS, scale=1 * KMS).bind({"velocity": KMS}, GRID)


def test_a_distribution_is_a_prior_in_its_own_unit():
    normal = torch.distributions.Normal(30.0, 2.0)
    prior = specfit.Penalty("width", normal, unit=u.mAA)
    expected = -normal.log_prob(torch.tensor([28.0, 31.0])).sum()
    width = torch.tensor([0.028, 0.031])
    found = energy(prior, {"width": width}, {"width": u.AA}, Grid((2,), ("space",)))
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_outside_of_a_distributions_support_the_way_leads_in():
    bound = specfit.Penalty("width", torch.distributions.Gamma(3.0, 1.0)).bind({"width": u.AA}, Grid((3,), ("space",)))
    width = torch.tensor([-2.0, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    bound.energy({"width": width}).sum().backward()
    assert width.grad[0] < width.grad[1] < 0
    assert width.grad[2] == pytest.approx(1 - 2 / 2.0)


def test_a_function_is_told_when_it_returns_the_wrong_shape():
    bound = specfit.Penalty("width", lambda w: w.sum()).bind({"width": u.AA}, GRID)
    with pytest.raises(ValueError, match="one energy a pixel"):
        bound.energy({"width": RAMP})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: specfit.Smooth("velocity", scale="automatic"), ValueError, '"auto"'),
        (lambda: specfit.Smooth("velocity", order=3), ValueError, "order is 1"),
        (lambda: specfit.Smooth("velocity", scale=-1 * KMS).bind({"velocity": KMS}, GRID), ValueError, "positive"),
        (lambda: specfit.Smooth("velocity").bind({"velocity": KMS}, GRID), ValueError, "still 'auto'"),
        (
            lambda: specfit.Smooth("velocity", scale=[1, 2] * KMS).bind({"velocity": KMS}, GRID),
            ValueError,
            "has one scale",
        ),
        (lambda: specfit.Smooth("velocity", scale=1 * u.s).bind({"velocity": KMS}, GRID), u.UnitConversionError, "km"),
        (lambda: specfit.Ridge("velocity", scale="car"), ValueError, "a Quantity"),
        (lambda: specfit.TotalVariation("velocity", softness=0), ValueError, "softness"),
        (lambda: specfit.Penalty("velocity", 3.0), TypeError, "torch distribution or a function"),
        (lambda: specfit.Penalty(("a", "b"), torch.distributions.Normal(0.0, 1.0)), TypeError, "one quantity"),
    ],
)
def test_what_cannot_be_is_told(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_unknown_quantity_is_told_with_its_neighbours():
    model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    with pytest.raises(KeyError, match="did you mean 'velocity'"):
        specfit.fit(gaussian_cube((3, 4)), model, priors=specfit.Smooth("velocty", scale=1 * KMS))


def test_a_scale_among_the_names_is_told():
    with pytest.raises(TypeError, match="scale is given by keyword"):
        specfit.Smooth("velocity", 5 * u.km / u.s)


def test_a_pixel_by_pixel_solver_refuses_coupled_priors_with_a_scale_to_be_chosen():
    model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    with pytest.raises(ValueError, match="use solver='gauss_newton'"):
        specfit.fit(gaussian_cube((6, 6)), model, specfit.Smooth("velocity"), solver="levenberg_marquardt")


@pytest.mark.parametrize("scale", [0.1, "auto"])
def test_logarithms_of_what_may_be_negative(scale):
    cube, line = gaussian_cube((5, 6), seed=1), specfit.Gaussian(195.119 * u.AA)
    model = line + specfit.Polynomial(0)
    with pytest.raises(ValueError, match=r"'c0' may be negative: leave it out, or bound it, model\.bound"):
        specfit.fit(cube, model, priors=specfit.Smooth("c0", scale=scale, logarithm=True))
    specfit.fit(cube, model.bound(c0=(0, None)), priors=specfit.Smooth("c0", "intensity", scale=scale, logarithm=True))


def test_a_derived_quantity_that_is_negative_somewhere_is_warned_of():
    cube, line = gaussian_cube((5, 6), seed=1), specfit.Gaussian(195.119 * u.AA)
    with pytest.warns(specfit.SpecfitWarning, match=r"positive quantities, but 'velocity' is not in \d"):
        specfit.fit(cube, line, priors=specfit.Smooth("velocity", scale=0.1, logarithm=True))


def test_the_quadratic_in_the_logarithm_is_that_along_the_map():
    bound = specfit.Smooth("amplitude", scale=0.3, logarithm=True).bind({"amplitude": u.DN}, GRID)
    generator = torch.Generator().manual_seed(1)
    q, v = (torch.rand(2, GRID.size, generator=generator, dtype=torch.float64) + 0.5).unbind()
    told = bound.quadratic({"amplitude": q})
    product, diagonal = told.of_logarithm["amplitude"]
    torch.testing.assert_close(product(v) / q, told.matvec({"amplitude": q * v})["amplitude"])
    torch.testing.assert_close(diagonal / q**2, told.diagonal["amplitude"])
    assert (
        specfit.Smooth("amplitude", scale=0.3).bind({"amplitude": u.DN}, GRID).quadratic({"amplitude": q}).of_logarithm
        is None
    )


class Turning(specfit.Model):
    """A wave whose phase wraps; it names no quantities as smooth."""

    name = "turning"
    height = specfit.Parameter("data", default=1.0)
    phase = specfit.Parameter(u.deg, lower=0.0, upper=360.0, beyond="wrap", default=90.0)

    def evaluate(self, x, height, phase):
        return height * torch.cos(x - phase * np.pi / 180)


@pytest.mark.parametrize("prior", [specfit.Smooth, specfit.TotalVariation, specfit.Sparse])
def test_angles_that_wrap_have_no_differences(prior):
    cube = gaussian_cube((4, 5))
    with pytest.raises(ValueError, match="'phase' is an angle that wraps.* acts on 'height'"):
        specfit.fit(cube, Turning(), prior("phase", scale=1 * u.deg))
    assert list(specfit.fit(cube, Turning(), prior(scale=1 * cube.unit))) == ["height", "phase"]
