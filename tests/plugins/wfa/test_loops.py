from concurrent.futures import ThreadPoolExecutor

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

from sunpy_specfit import WeakField, fit
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import weak_field_cube
from sunpy_specfit.numerics import compiled as guard
from sunpy_specfit.numerics import threads
from sunpy_specfit.plugins.wfa import compiled
from sunpy_specfit.plugins.wfa.profile import LineWindow

pytest.importorskip("numba")

LINES = {"Fe I 6301.5": 6301.4995, "Fe I 6302.5": 6302.4931}
AXIS = np.concatenate([place + np.linspace(-0.3, 0.3, 21) for place in LINES.values()])


@pytest.fixture(scope="module", params=[1e-3, 1e-5], ids=["single precision", "double precision"])
def cube(request):
    """Two lines, side by side."""
    cubes = [weak_field_cube((23, 37), line=name, n_wavelengths=21, seed=7) for name in LINES]
    data = np.concatenate([c.data for c in cubes], axis=1)
    return NDCube(
        data, wcs=cubes[0].wcs, unit=cubes[0].unit, uncertainty=StdDevUncertainty(np.full(data.shape, request.param))
    )


def quadratics(cube, model, x=AXIS):
    problem = build_problem([cube], [model], spectral_axis=x * u.AA)
    block = problem.block(slice(0, problem.n_pixels))
    return block.constant, block.matrix, block.vector, block.valid, block.flags


@pytest.fixture
def both(monkeypatch):
    """The quadratics of the plain code, and those of the compiled code, which must not have failed."""

    def work_out(cube, model, x=AXIS):
        monkeypatch.setattr(guard, "_failures", [])
        plain = quadratics(cube, model, x)
        looked = []
        loops = guard._module(f"{compiled.__package__}.loops")

        class Watched:
            READ = loops.READ

            @staticmethod
            def look_at(*arguments):
                looked.append(arguments)
                return loops.look_at(*arguments)

        monkeypatch.setattr(compiled, "_WORTH_COMPILING", 1)
        monkeypatch.setattr(guard, "_module", {f"{compiled.__package__}.loops": Watched}.get)
        fast = quadratics(cube, model, x)
        assert looked
        assert not guard._failures
        return plain, fast, looked

    return work_out


def apart(own, other) -> float:
    """The largest difference in units of the root of the mean square of each row, pixels without numbers left out."""
    own, other = own.double(), other.double()
    size = other.square().nanmean(-1, keepdim=True).sqrt()
    return float(((own - other).abs() / size.clamp_min(1e-300)).nan_to_num().amax())


def check_alike(plain, fast, within):
    for own, other in zip(fast[:3], plain[:3], strict=True):
        assert own.dtype == other.dtype
        assert apart(own, other) < within
    assert all(bool((own == other).all()) for own, other in zip(fast[3:], plain[3:], strict=True))


def tolerance(cube) -> float:
    """Of sums over samples, in units of their usual size: rounding, where the data do not ask for double precision."""
    return 1e-10 if float(cube.uncertainty.array.flat[0]) < 1e-4 else 1e-4


@pytest.mark.parametrize("linear", ["wing", "core", "both"])
@pytest.mark.parametrize("lines", [list(LINES), "Fe I 6302.5"], ids=["both lines", "one of two"])
def test_compiled_loops_give_the_quadratics_of_the_plain_code(cube, linear, lines, both):
    model = WeakField(lines, linear=linear, stokes_sign={"U": -1, "V": -1})
    plain, fast, looked = both(cube, model)
    check_alike(plain, fast, tolerance(cube))
    assert looked[0][12] == 42  # no symmetry


def one_line(cube, n=21):
    return NDCube(
        cube.data[:, :n], wcs=cube.wcs, unit=cube.unit, uncertainty=StdDevUncertainty(cube.uncertainty.array[:, :n])
    )


@pytest.mark.parametrize("n", [21, 20])
def test_symmetric_wavelengths_take_half_the_work(cube, n, both):
    plain, fast, looked = both(one_line(cube, n), WeakField("Fe I 6301.5"), AXIS[:n])
    check_alike(plain, fast, tolerance(cube))
    assert looked[0][12] == ((n + 1) // 2 if plain[0].dtype == torch.float32 else n)


@pytest.mark.parametrize("dtype", ["f8", ">f4", "f4"])
def test_the_cube_is_read_in_any_precision_and_order_of_axes(cube, dtype, both):
    turned = one_line(cube)
    turned = NDCube(turned.data.astype(dtype), wcs=turned.wcs, unit=turned.unit, uncertainty=turned.uncertainty)
    plain, fast, _ = both(turned, WeakField("Fe I 6301.5"), AXIS[:21])
    within = tolerance(cube) if dtype == "f8" else 1e-4  # the lines' centres have the precision of the data
    check_alike(plain, fast, within)
    # The same numbers, with the wavelengths next to each other in memory.
    data = np.ascontiguousarray(np.moveaxis(turned.data, 1, -1))
    other = NDCube(np.moveaxis(data, -1, 1), wcs=turned.wcs, unit=turned.unit, uncertainty=turned.uncertainty)
    check_alike(fast, both(other, WeakField("Fe I 6301.5"), AXIS[:21])[1], within)


def test_samples_that_are_no_measurements_change_their_own_pixels_only(cube, both):
    damaged = one_line(cube)
    data = damaged.data.copy()
    data[0, 3, 2, 5], data[1, 10, 7, 7], data[3, 4, 0, 0], data[2, 20, 22, 36] = np.nan, np.inf, 1e30, np.nan
    damaged = NDCube(data, wcs=damaged.wcs, unit=damaged.unit, uncertainty=damaged.uncertainty)
    plain, fast, _ = both(damaged, WeakField("Fe I 6301.5"), AXIS[:21])
    check_alike(plain, fast, tolerance(cube))
    assert int((fast[4] != 0).sum()) == 4


def test_compiled_flags_are_those_of_the_plain_code(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    names = ("b_los", "b_q", "b_u")
    values = {name: torch.randn(5000, generator=generator).double() * 5 for name in names}
    sigma = {name: torch.rand(5000, generator=generator).double() * 2 for name in names}
    values["b_q"][7], sigma["b_q"][7], sigma["b_u"][8], sigma["b_los"][9] = 0.0, 0.0, np.inf, np.inf
    limits = {"strongest": torch.tensor([6.0]).double(), "flat": torch.tensor([1.8]).double()}
    model = WeakField("Fe I 6302.5")
    fast = model.flag(values, sigma, **limits)
    assert not guard._failures
    monkeypatch.setattr(compiled, "_WORTH_COMPILING", 10000)
    plain = model.flag(values, sigma, **limits)
    assert fast.dtype == plain.dtype
    assert bool((fast == plain).all())
    assert len(fast.unique()) > 6


def test_where_numba_fails_the_plain_code_is_used_with_a_warning(cube, monkeypatch):
    model = WeakField("Fe I 6302.5")
    plain = quadratics(cube, model)
    monkeypatch.setattr(compiled, "_WORTH_COMPILING", 1)
    monkeypatch.setattr(guard, "_failures", [])

    class Damaged:
        READ = 2048

        @staticmethod
        def look_at(*arguments):
            raise EOFError("pickle data was truncated")

    monkeypatch.setattr(guard, "_module", {f"{compiled.__package__}.loops": Damaged}.get)
    with pytest.warns(RuntimeWarning, match="plain code is: pickle data was truncated"):
        found = quadratics(cube, model)
    assert all(bool((own == other).all()) for own, other in zip(found, plain, strict=True))
    assert len(guard._failures) == 1  # once is enough
    assert quadratics(cube, model)[0] is not None
    assert len(guard._failures) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("uneven", [False, True])
def test_compiled_loops_read_the_same_profiles(dtype, shuffled, uneven, monkeypatch):
    random = np.random.default_rng(3)
    x = np.sort(random.uniform(-0.5, 0.5, 27))
    width, place = random.uniform(0.03, 0.2, 1500), random.uniform(-0.1, 0.1, 1500)
    light = 1 - 0.6 * np.exp(-(((x[:, None] - place) / width) ** 2)) + 0.03 * random.standard_normal((27, 1500))
    light[:, 0], light[4, 1], light[:, 2], light[:, 3] = 1.0, np.nan, np.nan, 2 - light[:, 3]
    light[:, 4] = 10.0  # whole numbers, of which some lie at half the depth
    light[9:15, 4] = [7, 7, 7, 4, 7, 7]
    order = random.permutation(27) if shuffled else np.arange(27)
    light = torch.as_tensor(light[order]).to(dtype)
    monkeypatch.setattr(guard, "_failures", [])
    window = LineWindow(x[order], 0.0)
    if uneven:
        variance = torch.as_tensor(random.uniform(1e-4, 1e-2, (27, 1500)))
    else:
        variance = torch.full((1, 1), 1e-3).double()
    plain = window.look(light, variance)
    monkeypatch.setattr(compiled, "_WORTH_COMPILING", 1)
    fast = window.look(light, variance)
    # The same numbers, with the wavelengths next to each other in memory and others between them.
    strided = light.T.repeat_interleave(2, 1).contiguous().T
    again = window.look(strided, variance.repeat_interleave(2, 0) if uneven else variance, np.arange(0, 54, 2))
    assert not guard._failures
    within = 1e-4 if dtype == torch.float32 else 1e-11
    for name in ("center", "width", "core", "wing"):
        own, other = getattr(fast, name), getattr(plain, name)
        assert torch.equal(own.isnan(), other.isnan()), name
        # Of a line as deep as the noise any number may be the centre.
        torch.testing.assert_close(own[4:], other[4:], rtol=within, atol=within, equal_nan=True)
        torch.testing.assert_close(getattr(again, name), own, rtol=within, atol=within, equal_nan=True)
    torch.testing.assert_close(fast.width[:4], plain.width[:4], rtol=within, atol=within)
    assert torch.equal(fast.width[:3], torch.full((3,), 2 * window.spacing, dtype=dtype))
    assert np.isnan(fast.largest)
    assert window.look(light[:, 4:], variance[:, 4:] if uneven else variance).largest == float(light[:, 4:].abs().max())


def test_two_threads_find_the_same_maps_as_one(monkeypatch):
    cube = weak_field_cube((91, 93), line="Fe I 6302.5", n_wavelengths=21, noise=2e-3, seed=4)
    monkeypatch.setattr(guard, "_failures", [])
    monkeypatch.setattr(threads, "_WORTH_A_THREAD", 1)
    before, parts = torch.get_num_threads(), []
    monkeypatch.setattr(threads, "ThreadPoolExecutor", lambda n: parts.append(n) or ThreadPoolExecutor(n))
    try:
        found = []
        for number in (1, 2):
            torch.set_num_threads(number)
            result = fit(cube, WeakField("Fe I 6302.5"))
            found.append([part for name in result for part in (result[name].data, result[name].uncertainty.array)])
    finally:
        torch.set_num_threads(before)
    assert len(parts) == 5  # profiles, quadratics, solutions, flags, errors
    assert not guard._failures
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
