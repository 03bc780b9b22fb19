"""Elementwise code as one compiled loop."""

import hashlib
import subprocess

import pytest
import torch

from sunpy_specfit.numerics import kernel as module
from sunpy_specfit.numerics.kernel import Kernel, compiler
from sunpy_specfit.numerics.kernel import _folder as chosen_folder

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Libraries of these tests are their own."""
    monkeypatch.setattr(module, "_folder", lambda: tmp_path)
    return tmp_path


def wave(numbers, pixel, sample):
    """Something with every kind of input and result."""
    amplitude, phase = pixel
    x, y = sample
    light = amplitude * torch.cos(phase) * x + numbers[0] * y.square()
    return [light, light * y], [light, torch.zeros_like(x), x / amplitude]


def expected(numbers, pixel, sample):
    sums, rows = wave(numbers, pixel, sample)
    shape = (len(sample[0]), len(pixel[0]))
    return torch.stack([v.sum(0) for v in sums]), torch.stack([v.expand(shape) for v in rows])


def inputs(pixels, dtype, n=11):
    generator = torch.Generator().manual_seed(pixels)

    def drawn(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype) + 0.5

    return [0.3], [drawn(pixels), drawn(pixels)], [drawn(n, 1), drawn(n, pixels)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pixels", [0, 1, 3, 16, 17, 1000])
def test_gives_what_torch_gives(dtype, pixels):
    given = inputs(pixels, dtype)
    for found, right in zip(Kernel(wave, (1, 2, 2), dtype)(*given), expected(*given), strict=True):
        torch.testing.assert_close(found, right)


def test_takes_views():
    numbers, pixel, sample = inputs(40, torch.float64)
    part = slice(3, 35)
    views = [torch.stack([p, p], -1)[..., 0] for p in pixel]
    turned = [sample[0], sample[1].T.contiguous().T[:, part]]
    kernel = Kernel(wave, (1, 2, 2), torch.float64)
    given = numbers, [v[part] for v in views], turned
    for found, right in zip(kernel(*given), expected(*given), strict=True):
        torch.testing.assert_close(found, right)
    whole = torch.rand(2, 11, 40, dtype=torch.float64)
    given = numbers, [p[part] for p in pixel], list(whole[..., part])
    for found, right in zip(kernel(*given), expected(*given), strict=True):
        torch.testing.assert_close(found, right)


def test_threads_and_neighbours_change_no_number(monkeypatch):
    given = inputs(3000, torch.float32)
    kernel = Kernel(wave, (1, 2, 2), torch.float32)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = kernel(*given)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for one, other in zip(alone, kernel(*given), strict=True):
        assert torch.equal(one, other)
    numbers, pixel, sample = given
    some = kernel(numbers, [p[5:8] for p in pixel], [sample[0], sample[1][:, 5:8]])
    for one, other in zip(alone, some, strict=True):
        assert torch.equal(one[..., 5:8], other)


def test_libraries_are_kept(folder, monkeypatch):
    Kernel(wave, (1, 2, 2), torch.float32)
    assert [path.suffix for path in folder.iterdir()] == [".so"]

    def run(arguments, **options):
        assert "-shared" not in arguments or "-E" in arguments, "compiled again"
        return subprocess.CompletedProcess(arguments, 0, b"", b"")

    before = module._toolchain(compiler())
    monkeypatch.setattr(module, "_toolchain", lambda path: before)
    monkeypatch.setattr(module.subprocess, "run", run)
    Kernel(wave, (1, 2, 2), torch.float32)


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign"])
def test_a_library_that_is_damaged_is_made_anew(folder, damage):
    given = inputs(20, torch.float32)
    before = Kernel(wave, (1, 2, 2), torch.float32)(*given)
    (library,) = folder.iterdir()
    whole = library.read_bytes()
    # Another inode, for the one that is loaded may not change; what is foreign is named as it should be.
    library.unlink()
    content = {"cut": whole[: len(whole) // 2], "empty": b"", "foreign": b"no library of this system"}[damage]
    if damage == "foreign":
        name = library.stem.split("-")[0]
        library = folder / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}.so"
    library.write_bytes(content)
    for found, right in zip(Kernel(wave, (1, 2, 2), torch.float32)(*given), before, strict=True):
        assert torch.equal(found, right)
    assert [path.read_bytes() == content for path in folder.iterdir()] == [False]


def test_a_compiler_that_fails_says_why(monkeypatch, folder):
    with pytest.raises(RuntimeError, match="error"):
        Kernel(lambda numbers, pixel, sample: ([float("inf") + sample[0]], []), (0, 1, 1), torch.float32)
    assert not list(folder.iterdir())
    monkeypatch.setattr(module, "compiler", lambda: None)
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        Kernel(wave, (1, 2, 2), torch.float64)


@pytest.mark.parametrize("blocked", ["refused", "a file"])
def test_a_folder_that_cannot_be_written_is_replaced(tmp_path, monkeypatch, blocked):
    def refused(name):
        if blocked == "refused":
            raise PermissionError(name)
        (tmp_path / "file").touch()
        return str(tmp_path / "file")

    monkeypatch.setattr(module, "get_cache_dir", refused)
    folder = chosen_folder.__wrapped__()
    assert folder.is_dir()
    assert tmp_path not in folder.parents
