from dataclasses import replace

import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit import Status, WeakField
from sunpy_specfit.core import engine
from sunpy_specfit.core import settle as settling
from sunpy_specfit.data import gaussian_cube, weak_field_cube
from sunpy_specfit.numerics import compiled as guard

pytest.importorskip("numba")


@pytest.fixture(scope="module")
def cube():
    """With pixels that have no sample, too few of them, some that are no number, and no light at all."""
    made = weak_field_cube((23, 37), line="Fe I 6302.5", n_wavelengths=21, noise=2e-3, seed=4)
    data = made.data.copy()
    data[:, :, 3, 5], data[0, 3, 2, 2], data[2, :, 7, 7], data[:, :, 9, 9], data[1:, :, 11, 11] = (
        np.nan,
        np.nan,
        np.inf,
        0,
        0,
    )
    mask = np.zeros(data.shape, bool)
    mask[:, :, 20, 20] = True
    mask[:3, :, 21, 21] = True
    return NDCube(data, wcs=made.wcs, unit=made.unit, uncertainty=StdDevUncertainty(made.uncertainty.array), mask=mask)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("masked", [False, True])
def test_one_look_at_each_pixel_gives_what_many_steps_give(cube, dtype, masked, monkeypatch):
    cube = cube if masked else NDCube(cube.data, wcs=cube.wcs, unit=cube.unit, uncertainty=cube.uncertainty)
    before = cube.data.copy()
    plain = specfit.fit(cube, WeakField("Fe I 6302.5"), dtype=dtype, chunks=500)
    left = []

    def watched(*arguments):
        left.append(settling.settle(*arguments))
        return left[-1]

    monkeypatch.setattr(guard, "_failures", [])
    monkeypatch.setattr(settling, "_WORTH_COMPILING", 1)
    monkeypatch.setattr(engine, "settle", watched)
    fast = specfit.fit(cube, WeakField("Fe I 6302.5"), dtype=dtype, chunks=500)
    assert not guard._failures
    assert len(left) == 2  # two blocks
    assert 0 < sum(len(rest) for rest in left) < 50
    np.testing.assert_array_equal(cube.data, before)
    np.testing.assert_array_equal(fast.status.data, plain.status.data)
    assert fast.meta["solver_info"] == plain.meta["solver_info"]
    within = 1e-6 if dtype == "float32" else 1e-10
    for name in ("chi2", "dof", "reduced_chi2"):
        np.testing.assert_allclose(getattr(fast, name).data, getattr(plain, name).data, rtol=10 * within)
    known = (plain.status.data & Status.UNCONSTRAINED) == 0
    for name in plain:
        for own, other in (
            (fast[name].data, plain[name].data),
            (fast[name].uncertainty.array, plain[name].uncertainty.array),
        ):
            np.testing.assert_array_equal(np.isfinite(own), np.isfinite(other))
            size = np.nanmedian(np.abs(other))
            np.testing.assert_allclose(own[known], other[known], rtol=within, atol=within * size)
        np.testing.assert_array_equal(fast[name].mask, plain[name].mask)
    np.testing.assert_array_equal(fast._n_valid, plain._n_valid)


@pytest.mark.parametrize("model", [WeakField("Fe I 6302.5").fix(b_u=0.0), WeakField("Fe I 6302.5", linear=None)])
def test_other_models_are_settled_or_left_to_the_other_way(cube, model, monkeypatch):
    plain = specfit.fit(cube, model)
    left = []
    monkeypatch.setattr(settling, "_WORTH_COMPILING", 1)
    monkeypatch.setattr(engine, "settle", lambda *given: left.append(settling.settle(*given)) or left[-1])
    fast = specfit.fit(cube, model)
    assert [rest is None for rest in left] == [model.linear is not None]  # a fixed number: others are free
    np.testing.assert_array_equal(fast.status.data, plain.status.data)
    known = np.isfinite(plain["b_los"].uncertainty.array)
    np.testing.assert_allclose(fast["b_los"].data[known], plain["b_los"].data[known], rtol=1e-6, atol=1e-4)


def test_models_without_quadratics_are_left_to_the_other_way(monkeypatch):
    left = []
    monkeypatch.setattr(settling, "_WORTH_COMPILING", 1)
    monkeypatch.setattr(engine, "settle", lambda *given: left.append(settling.settle(*given)))
    specfit.fit(gaussian_cube((3, 4)), specfit.Polynomial(1))
    assert left == [None]


@pytest.mark.parametrize("kind", ["f4", ">f4", "f8", "i4", "part of a larger cube"])
def test_many_blocks_off_one_cube_are_as_one(kind):
    made = weak_field_cube((97, 103), line="Fe I 6302.5", n_wavelengths=21, noise=2e-3, seed=4)
    data = np.round(1e6 * made.data) if kind == "i4" else made.data
    data = data.astype("f4" if kind.startswith("part") else kind)
    if kind.startswith("part"):
        data = np.pad(data, ((0, 0), (0, 0), (2, 3), (1, 4)))[:, :, 2:-3, 1:-4]
    if data.dtype.kind == "f":
        data[0, 3, 50, 7] = data[2, :, 96, 102] = np.nan
    sigma = StdDevUncertainty(np.full(data.shape, 2e3 if kind == "i4" else 2e-3, "f4"))
    cube = NDCube(data, wcs=made.wcs, unit=made.unit, uncertainty=sigma)
    one, many = (specfit.fit(cube, WeakField("Fe I 6302.5"), chunks=chunks) for chunks in (97 * 103, 4500))
    np.testing.assert_array_equal(many.status.data, one.status.data)
    for name in one:
        if name != "lambda0":
            apart = np.abs(many[name].data - one[name].data) / one[name].uncertainty.array
            assert np.nanmax(apart) < 1e-3, name


def test_a_solver_of_its_own_is_not_passed_over(monkeypatch):
    class Doubled(specfit.ClosedForm):
        def solve(self, problem, start):
            found = super().solve(problem, start)
            return replace(found, free=2 * found.free)

    monkeypatch.setattr(settling, "_WORTH_COMPILING", 1)
    cube = weak_field_cube((6, 7), line="Fe I 6302.5", n_wavelengths=21, noise=2e-3, seed=4)
    plain, doubled = (specfit.fit(cube, WeakField("Fe I 6302.5"), solver=s) for s in (specfit.ClosedForm(), Doubled()))
    np.testing.assert_allclose(doubled["b_los"].data, 2 * plain["b_los"].data, rtol=1e-5)
