import pytest
import torch

from sunpy_specfit.numerics import data_space

pytest.importorskip("numba")
PIXELS, PART = 700, slice(300, 1000)


@pytest.fixture(params=[torch.float32, torch.float64])
def systems(request):
    """H ``(m, r, pixels)``, a slope, and numbers for each pixel."""
    generator = torch.Generator().manual_seed(3)
    shapes = (4, 9, PIXELS), (9, PIXELS), (PIXELS,)
    factor, slope, damping = (torch.randn(s, generator=generator, dtype=request.param) for s in shapes)
    return factor, slope, damping.abs()


def both(monkeypatch, call):
    """What the loops give, and the plain code."""
    found = call()
    with monkeypatch.context() as patch:
        patch.setattr(data_space, "_loops_take", lambda *arrays: False)
        return found, call()


@pytest.mark.parametrize("name", ["factorize", "newton", "squares", "project", "depart"])
def test_loops_do_what_the_plain_code_does(systems, name, monkeypatch):
    factor, slope, damping = systems
    taken = []
    monkeypatch.setattr(data_space, "_WORTH_COMPILING", 1)
    by_loops = data_space._by_loops
    monkeypatch.setattr(data_space, "_by_loops", lambda *a: taken.append(by_loops(*a)) or taken[-1])

    def call():
        if name == "factorize":
            return data_space.factorize(factor, damping), data_space.factorize(factor)
        if name == "newton":
            return data_space.newton(factor, slope, damping), data_space.newton(factor, slope)
        lower = data_space.factorize(factor)
        if name == "squares":
            return (data_space.squares(lower, factor),)
        if name == "project":
            vector = slope.repeat(1, 2)
            data_space.project(data_space.whiten(lower, factor), vector, PART)
            return (vector,)
        told, means = factor[:, :3].contiguous(), slope[:, :3].contiguous()
        found, squares = slope.new_zeros((9, 3, 2 * PIXELS)), slope.new_zeros((9, 2 * PIXELS))
        data_space.depart(means, factor, told, PART, found, squares)
        return found, squares

    for loops, plain in zip(*both(monkeypatch, call), strict=True):
        torch.testing.assert_close(loops, plain, rtol=2e-4 if plain.dtype == torch.float32 else 1e-9, atol=1e-4)
        assert float(plain.abs().max()) > 0
    assert taken
    assert all(taken)


def test_a_newton_step_solves_the_large_system(systems, monkeypatch):
    factor, slope, damping = systems
    monkeypatch.setattr(data_space, "_WORTH_COMPILING", 1)
    step = data_space.newton(factor, slope, damping)
    back = (1 + damping) * step + data_space.pull(factor, data_space.apply(factor, step))
    torch.testing.assert_close(back, slope, rtol=1e-3, atol=1e-4)
