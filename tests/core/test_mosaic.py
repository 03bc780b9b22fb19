"""Tiles of a large map in place of the whole."""

import astropy.units as u
import numpy as np
import pytest
import torch

import sunpy_specfit as specfit
from sunpy_specfit.core.grid import Grid
from sunpy_specfit.core.mosaic import mosaic
from sunpy_specfit.core.scale import choose_scales
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import gaussian_cube, weak_field_cube

REST = 195.119 * u.AA


def test_a_part_is_the_same_problem_at_some_pixels():
    cube = gaussian_cube((6, 7), signal_to_noise=20, seed=3)
    background = np.linspace(0.0, 1.0, 42).reshape(6, 7)
    model = specfit.Gaussian(REST) + specfit.Polynomial(0).fix(c0=background)
    ridge = specfit.Ridge("width", np.linspace(30, 50, 42).reshape(6, 7) * u.mAA, scale=5 * u.mAA)
    problem = build_problem([cube], [model], priors=[ridge], dtype="float64")
    free = problem.whole().nothing()[0] + 1.0
    index = np.array([3, 8, 9, 30, 31, 40])
    part = problem.part(index, Grid((2, 3), ("space", "space")))
    for whole, some in zip(problem.linearize(free), part.linearize(free[:, index]), strict=True):
        whole, some = (v.matrix if hasattr(v, "matrix") else v for v in (whole, some))
        torch.testing.assert_close(some, whole[..., index])


def test_the_scale_of_a_sample_is_that_of_the_map():
    rng = np.random.default_rng(0)
    shape = (330, 320)
    walk = np.cumsum(np.cumsum(rng.normal(size=shape), 0) / np.sqrt(np.arange(1, 331))[:, None], 1)
    truth = {"b_los": 20 * walk / walk.std() * 5, "b_trans": np.full(shape, 300.0), "azimuth": np.full(shape, 40.0)}
    cube = weak_field_cube(shape, line="Mg I 5172.7", noise=5e-3, truth=truth, seed=1, dtype=np.float32)
    model = specfit.WeakField("Mg I 5172.7").fix(b_q=0, b_u=0)
    prior = specfit.Smooth("b_los")
    problem = build_problem([cube], [model])
    sample, _ = mosaic(problem, [prior], {})
    assert sample.n_pixels == 2**16
    assert sample.grid.kinds == ("other", "space", "space")
    solver, local = specfit.GaussNewton(), specfit.ClosedForm()
    small, large = (choose_scales(p, [prior], [model], {}, local, lambda _: solver)[1] for p in (sample, problem))
    ratio = small["smooth:b_los"]["scale"] / large["smooth:b_los"]["scale"]
    assert ratio == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("prior", [specfit.Smooth("velocity"), specfit.Smooth("velocity", axes=0)])
def test_small_maps_and_other_axes_stay_whole(prior):
    problem = build_problem([gaussian_cube((5, 6))], [specfit.Gaussian(REST)])
    assert mosaic(problem, [prior], {})[0] is problem
