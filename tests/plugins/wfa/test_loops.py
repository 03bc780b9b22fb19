import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

from sunpy_specfit import SpecfitWarning, WeakField
from sunpy_specfit.core.setup import build_problem
from sunpy_specfit.data import weak_field_cube
from sunpy_specfit.plugins.wfa import even_noise, quadratic

pytest.importorskip("numba")
LINES = {"Fe I 6301.5": 6301.4995, "Fe I 6302.5": 6302.4931}


@pytest.fixture(scope="module", params=[1e-3, 1e-5], ids=["single precision", "double precision"])
def cube(request):
    """Two lines, side by side."""
    cubes = [weak_field_cube((23, 37), line=name, n_wavelengths=21, seed=7) for name in LINES]
    data = np.concatenate([c.data for c in cubes], axis=1)
    return NDCube(
        data, wcs=cubes[0].wcs, unit=cubes[0].unit, uncertainty=StdDevUncertainty(np.full(data.shape, request.param))
    )


def quadratics(cube, model):
    x = np.concatenate([place + np.linspace(-0.3, 0.3, 21) for place in LINES.values()]) * u.AA
    problem = build_problem([cube], [model], spectral_axis=x)
    block = problem.block(slice(0, problem.n_pixels))
    return block.constant, block.matrix, block.vector, block.valid


@pytest.mark.parametrize("linear", ["wing", "core", "both"])
@pytest.mark.parametrize("lines", [list(LINES), "Fe I 6302.5"], ids=["both lines", "one of two"])
def test_compiled_loops_give_the_quadratics_of_the_plain_code(cube, linear, lines, monkeypatch):
    model = WeakField(lines, linear=linear, stokes_sign={"U": -1, "V": -1})
    plain = quadratics(cube, model)
    monkeypatch.setattr(even_noise, "_TOGETHER", 300)  # several pieces, the last one short
    monkeypatch.setattr(even_noise, "_WORTH_COMPILING", 1)
    assert even_noise.compiled_loops(plain[0]) is not None
    monkeypatch.delattr(quadratic, "fit_transverse")  # nobody asks for it
    fast = quadratics(cube, model)
    for own, other in zip(fast[:3], plain[:3], strict=True):
        assert own.dtype == other.dtype
        within = 1e-6 if float(cube.uncertainty.array.flat[0]) < 1e-4 else 1e-4
        size = other.double().square().mean(-1, keepdim=True).sqrt()
        apart = (own.double() - other.double()).abs() / size.clamp_min(1e-30)
        assert float(apart.amax()) < within
    assert bool((fast[3] == plain[3]).all())


def test_where_numba_fails_the_plain_code_is_used_with_a_warning(cube, monkeypatch):
    model = WeakField("Fe I 6302.5")
    plain = quadratics(cube, model)
    monkeypatch.setattr(even_noise, "_WORTH_COMPILING", 1)
    monkeypatch.setattr(even_noise, "_failures", [])

    class Damaged:
        @staticmethod
        def add_up(*arguments):
            raise EOFError("pickle data was truncated")

    monkeypatch.setattr(even_noise, "_loops", lambda: Damaged)
    with pytest.warns(SpecfitWarning, match="plain code is: pickle data was truncated"):
        found = quadratics(cube, model)
    assert all(bool((own == other).all()) for own, other in zip(found, plain, strict=True))
    assert even_noise.compiled_loops(plain[0]) is None  # once is enough
