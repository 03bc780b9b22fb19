"""Elementwise torch code of all samples of all pixels as one loop of compiled code, which writes no array between.

A chain of torch operations writes an array after each of them, and one that ends in sums over the samples, as normal
equations do, writes and reads a hundred times what it is given. Here the function is recorded once (see
`sunpy_specfit.numerics.recorded`), and a C++ compiler makes one loop of it: as many pixels at a time as a vector of the
processor has room for, their samples one after another, sums in place. Libraries are kept on disk.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from astropy.config import get_cache_dir

from .recorded import Level, Record, Symbol

__all__ = ["Kernel", "compiler"]

_COMPILERS = ("c++", "g++", "clang++")
_REALS = {torch.float32: "float", torch.float64: "double"}
# Pixels for which a thread more is worth its start.
_A_THREAD = 256
# Seconds for a compiler that does not answer.
_PATIENCE = 120

_HEAD = """\
#include <cmath>
#include <cstdint>
#include <cstring>
typedef {real} real;
#if defined(__AVX512F__)
enum {{ BYTES = 64 }};
#elif defined(__AVX__)
enum {{ BYTES = 32 }};
#else
enum {{ BYTES = 16 }};
#endif
enum {{ WIDTH = BYTES / sizeof(real) }};
typedef real vec __attribute__((vector_size(BYTES)));
static inline vec load(const real* p) {{ vec v; std::memcpy(&v, p, BYTES); return v; }}
static inline void store(real* p, vec v) {{ std::memcpy(p, &v, BYTES); }}
static inline real cosine(real a) {{ return std::cos(a); }}
static inline real sine(real a) {{ return std::sin(a); }}
static inline real root(real a) {{ return std::sqrt(a); }}
static inline vec cosine(vec a) {{ vec v; for (int i = 0; i < WIDTH; i++) v[i] = std::cos(a[i]); return v; }}
static inline vec sine(vec a) {{ vec v; for (int i = 0; i < WIDTH; i++) v[i] = std::sin(a[i]); return v; }}
static inline vec root(vec a) {{ vec v; for (int i = 0; i < WIDTH; i++) v[i] = std::sqrt(a[i]); return v; }}
"""
_BODY = """\
extern "C" int width() {{ return WIDTH; }}
extern "C" void run(const real* numbers, const real* const* pixel, const real* const* sample, const int64_t* row,
                    const int64_t* lane, real* const* sums, real* const* rows, int64_t step, int64_t count,
                    int64_t first, int64_t last) {{
{number}
    for (int64_t begin = first; begin < last; begin += WIDTH) {{
        const int64_t p = begin + WIDTH <= last ? begin : last - WIDTH;
{pixel}
        for (int64_t i = 0; i < count; i++) {{
{sample}
        }}
{end}
    }}
}}
"""


@functools.cache
def compiler() -> str | None:
    """The path of a C++ compiler that knows vectors (GCC or Clang), or None."""
    if sys.platform == "win32":  # GCC does not align vectors on the stack there
        return None
    return next(filter(None, map(shutil.which, _COMPILERS)), None)


class Kernel:
    """A function of numbers, compiled for all samples of all pixels.

    Parameters
    ----------
    function : callable
        ``function(numbers, pixel, sample) -> (sums, rows)``: three lists in, two out. Made of elementwise operations
        that `sunpy_specfit.numerics.recorded` knows. Of ``sums`` the sum over the samples is kept, of ``rows`` every
        sample.
    counts : tuple of int
        How many numbers, pixel inputs, and sample inputs there are.
    dtype : `torch.dtype`
        float32 or float64.

    Raises
    ------
    RuntimeError
        If there is no compiler, or it fails.
    NotImplementedError
        If the function does what cannot be recorded.

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.numerics.kernel import Kernel, compiler
    >>> def parabola(numbers, pixel, sample):
    ...     light = pixel[0] * sample[0].square()
    ...     return [light], [light + numbers[0]]
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> if compiler():
    ...     kernel = Kernel(parabola, (1, 1, 1), torch.float32)
    ...     sums, rows = kernel([10.0], [torch.tensor([1.0, 2.0])], [x])
    ... else:
    ...     sums = torch.tensor([[5.0, 10.0]])
    >>> sums
    tensor([[ 5., 10.]])
    """

    def __init__(self, function: Callable, counts: tuple[int, int, int], dtype: torch.dtype):
        self.dtype = dtype
        source, self._sums, self._rows = _source(function, counts, dtype)
        library = _loaded(source)
        self._run, self._width = library.run, library.width()

    def __call__(
        self, numbers: Sequence[float], pixel: Sequence[torch.Tensor], sample: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sums ``(sums, pixels)`` and the rows ``(rows, n, pixels)``.

        Parameters
        ----------
        numbers : sequence of float
        pixel : sequence of `torch.Tensor`
            Each ``(pixels,)``.
        sample : sequence of `torch.Tensor`
            Each ``(n, 1 or pixels)``.
        """
        pixels, count = len(pixel[0]), len(sample[0])
        if 0 < pixels < self._width:
            # A vector is full: the last pixel fills it up.
            index = torch.arange(self._width).clamp_max(pixels - 1)
            sample = [value if value.shape[-1] == 1 else value.index_select(-1, index) for value in sample]
            sums, rows = self(numbers, [value.index_select(-1, index) for value in pixel], sample)
            return sums[:, :pixels], rows[..., :pixels]
        pixel = [value.contiguous() for value in pixel]
        sample = [value if value.shape[-1] == 1 or value.stride(-1) == 1 else value.contiguous() for value in sample]
        sums = torch.empty((self._sums, pixels), dtype=self.dtype)
        rows = torch.empty((self._rows, count, pixels), dtype=self.dtype)
        arguments = (
            _numbers(numbers, self.dtype),
            _pointers(pixel),
            _pointers(sample),
            _integers([value.stride(0) for value in sample]),
            _integers([value.shape[-1] > 1 for value in sample]),
            _pointers(sums),
            _pointers(rows),
            ctypes.c_int64(pixels),
            ctypes.c_int64(count),
        )
        threads = min(torch.get_num_threads(), pixels // max(_A_THREAD, self._width))
        if threads < 2:
            self._run(*arguments, ctypes.c_int64(0), ctypes.c_int64(pixels))
            return sums, rows
        edges = [pixels * k // threads for k in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            # ctypes lets go of the interpreter meanwhile.
            list(pool.map(lambda a, b: self._run(*arguments, ctypes.c_int64(a), ctypes.c_int64(b)), edges, edges[1:]))
        return sums, rows


def _pointers(values) -> ctypes.Array:
    return (ctypes.c_void_p * len(values))(*(value.data_ptr() for value in values))


def _integers(values) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)


def _numbers(values, dtype) -> ctypes.Array:
    return ((ctypes.c_float if dtype == torch.float32 else ctypes.c_double) * len(values))(*values)


# -- from the function to a library ------------------------------------------------------------------------------------


def _source(function: Callable, counts: tuple[int, int, int], dtype: torch.dtype) -> tuple[str, int, int]:
    """The source, and how many sums and rows there are."""
    record = Record(dtype)
    given = [[record.symbol(f"{level.name[0].lower()}{i}", level) for i in range(counts[level])] for level in Level]
    sums, rows = (
        [value if isinstance(value, Symbol) else record.constant(value) for value in values]
        for values in function(*given)
    )
    loads = {
        Level.NUMBER: "const real n{0} = numbers[{0}];",
        Level.PIXEL: "const vec p{0} = load(pixel[{0}] + p);",
        # The next samples are on their way while these are worked on.
        Level.SAMPLE: "const real* a{0} = sample[{0}] + i * row[{0}] + (lane[{0}] ? p : 0);\n"
        "const vec s{0} = lane[{0}] ? load(a{0}) : vec{{}} + *a{0};\n"
        "__builtin_prefetch(a{0} + row[{0}]);",
    }
    parts = {}
    for level, load in loads.items():
        kind = "real" if level is Level.NUMBER else "vec"
        lines = "\n".join(load.format(i) for i in range(counts[level])).splitlines()
        lines += [f"const {kind} {name} = {text};" for name, text in record.statements[level]]
        parts[level] = lines
    parts[Level.PIXEL] += [f"vec sum{i} = {{}};" for i in range(len(sums))]
    parts[Level.SAMPLE] += [f"sum{i} += {value.name};" for i, value in enumerate(sums)]
    parts[Level.SAMPLE] += [f"store(rows[{i}] + i * step + p, vec{{}} + {value.name});" for i, value in enumerate(rows)]
    end = [f"store(sums[{i}] + p, sum{i});" for i in range(len(sums))]
    indented = {
        name: "\n".join(" " * depth + line for line in lines)
        for name, depth, lines in (
            ("number", 4, parts[Level.NUMBER]),
            ("pixel", 8, parts[Level.PIXEL]),
            ("sample", 12, parts[Level.SAMPLE]),
            ("end", 8, end),
        )
    }
    return _HEAD.format(real=_REALS[dtype]) + _BODY.format(**indented), len(sums), len(rows)


def _flags(path: str) -> list[str]:
    arguments = ["-O2", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-w"]
    for native in ("-march=native", "-mcpu=native"):
        tried = _run_compiler([path, native, "-E", "-x", "c++", os.devnull])
        if tried.returncode == 0:
            return [*arguments, native]
    return arguments


@functools.cache
def _toolchain(path: str) -> tuple[list[str], str]:
    """Arguments, and what compiler and processor they are for: all macros that are defined."""
    flags = _flags(path)
    macros = _run_compiler([path, *flags, "-dM", "-E", "-x", "c++", os.devnull])
    return flags, macros.stdout.decode(errors="replace")


def _loaded(source: str) -> ctypes.CDLL:
    """The library; made anew where one that is kept cannot be loaded, as by another system that shares the folder."""
    path = _built(source)
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink(missing_ok=True)
        return ctypes.CDLL(str(_built(source)))


def _run_compiler(arguments: Sequence[str]) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(arguments, capture_output=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{arguments[0]} took more than {_PATIENCE} s") from None


def _built(source: str) -> Path:
    """The path of the library, which is made unless it is there whole: its name tells what must be in it."""
    path = compiler()
    if path is None:
        raise RuntimeError("no C++ compiler was found")
    flags, machine = _toolchain(path)
    name = hashlib.sha256("\0".join([source, machine, *flags]).encode()).hexdigest()[:32]
    folder = _folder()
    for library in folder.glob(f"{name}-*.so"):
        if library.stem == f"{name}-{_digest(library)}":
            return library
        library.unlink(missing_ok=True)  # cut short, and would end this process
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        text, made = Path(temporary, "kernel.cpp"), Path(temporary, "kernel.so")
        text.write_text(source)
        tried = _run_compiler([path, *flags, str(text), "-o", str(made)])
        if tried.returncode:
            raise RuntimeError(tried.stderr.decode(errors="replace").strip() or f"{path} failed")
        # At once, for another process may look for it.
        library = folder / f"{name}-{_digest(made)}.so"
        made.replace(library)
    return library


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@functools.cache
def _folder() -> Path:
    """Where libraries are kept: of this user, or of this process where that cannot be written."""
    try:
        folder = Path(get_cache_dir("sunpy_specfit"), "kernels")
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(_temporary().name)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory:
    """Deleted when the process ends."""
    return tempfile.TemporaryDirectory(prefix="sunpy_specfit")
