"""The quadratics of one field in compiled code, from spectra whose samples all have the same noise, where they lie.

`even_noise` gives the same answers without a compiler.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ...core.in_place import InPlace
from ...numerics.compiled import compiled
from ...numerics.threads import over_pixels
from .formulas import constants_of
from .symmetry import fold, is_symmetric

__all__ = ["compiled_flags", "of_loops", "quadratic_in_place"]

# Fewer pixels are not worth waiting for a compiler, or for what it left on the disk.
_WORTH_COMPILING = 2**12


def quadratic_in_place(model, x, data, weight, limit, dtype, *, intensity, center, core, wing, **inputs):
    """What finds the same as `field_quadratic`, read off the cube itself; None where that cannot be done.

    See `Model.quadratic_in_place` for what comes in and goes out.
    """
    plain = model.linear is not None and not (model.offset or model.crosstalk)
    # What should be one for all pixels is: noise, and the matrices of derivatives.
    shared = [inputs[name] for name in ("variance", "slope", "bend")]
    suited = plain and all(torch.is_tensor(value) for value in shared) and inputs["variance"].numel() == 1
    pixels = data.values.shape[-1]
    if not suited or intensity.flat() is None or data.flat() is None:
        return None
    if of_loops("loops", pixels, lambda loops: True) is None:
        return None
    return _Reader(dtype, _told(model, x, data, weight, limit, dtype, intensity, center, core, wing, **inputs))


@dataclass(frozen=True)
class _Reader:
    """Reads the quadratics of some pixels off the cube.

    Attributes
    ----------
    dtype : `torch.dtype`
    given : tuple
        What `loops.look_at` takes beside pixels and what is to be filled.
    """

    dtype: torch.dtype
    given: tuple

    def __call__(self, begin: int, end: int):
        """Constant, matrix, vector, number of samples, the size of the largest, and where all of them are numbers.

        None where there are no loops.
        """
        pixels = end - begin
        found = [torch.empty(shape, dtype=self.dtype) for shape in ((pixels,), (6, pixels), (3, pixels))]
        found += [torch.empty(pixels, dtype=torch.int64), torch.empty(pixels, dtype=torch.bool)]
        own = tuple(value.numpy() for value in found)

        def look(loops):
            def at(first, last):
                return loops.look_at(begin + first, begin + last, begin, *self.given, own)

            return float(np.max(over_pixels(at, pixels, loops.READ)))

        largest = of_loops("loops", pixels, look)
        *quadratic, regular = found
        return None if largest is None else (*quadratic, largest, regular)


def compiled_flags(values, sigma, strongest, limits, bits) -> torch.Tensor | None:
    """The status bits of `loops.flag`, int32 ``(pixels,)``; None where there are no loops."""
    rows = [[one[name] for name in ("b_los", "b_q", "b_u")] for one in (values, sigma)]
    if any(row.device.type != "cpu" or row.dtype != torch.float64 for own in rows for row in own):
        return None

    def fill(loops) -> torch.Tensor:
        found = torch.empty(rows[0][0].shape, dtype=torch.int32)
        fields, errors = (tuple(row.contiguous().numpy() for row in own) for own in rows)
        most = strongest.double().expand(found.shape).contiguous().numpy()
        given = fields, errors, most, tuple(map(float, limits)), tuple(map(int, bits)), found.numpy()
        over_pixels(lambda begin, end: loops.flag(begin, end, *given), len(found))
        return found

    return of_loops("loops", rows[0][0].shape[-1], fill)


def of_loops(name: str, pixels: int, work):
    """What a function of a module of loops returns; None where there is none, or fewer pixels than it is worth for.

    Parameters
    ----------
    name : {"loops", "profile_loops", "faint_loops"}
    pixels : int
    work : callable
    """
    return None if pixels < _WORTH_COMPILING else compiled(f"{__package__}.{name}", work)


def _told(
    model,
    x,
    data,
    weight,
    limit,
    dtype,
    intensity,
    center,
    core,
    wing,
    *,
    variance,
    slope,
    bend,
    squared_splitting,
    own,
    modes,
    mode_slope,
    mode_noise,
    moment,
    extent,
    members,
    reach,
    **inputs,
) -> tuple:
    """What `loops.look_at` takes beside pixels and what is to be filled."""
    kind = torch.empty((), dtype=dtype).numpy().dtype
    pixels, n = data.values.shape[-1], len(x)
    factor, lines = center.factor, len(reach)
    # Where each pixel has its own edges these lie in physical numbers, else in the internal frame.
    core, wing = (edge.values if isinstance(edge, InPlace) else edge * factor for edge in (core, wing))
    outer, inner = constants_of(model.linear, squared_splitting, own, core, wing)
    derivatives = [m[..., 0] for m, order in ((slope, "wing"), (bend, "core")) if model.linear in (order, "both")]
    moment, extent = moment[..., 0], extent[..., 0]
    rows = torch.cat([*derivatives, moment, extent, mode_slope[..., 0]]).numpy()
    noise = (variance.reshape(1) * torch.cat(derivatives).square().sum(1)).numpy()
    products, half = _products(_Rows(rows), _Rows(modes[..., 0].T.numpy()), n * len(derivatives), 2 * lines, kind)
    width_of = {"wing": (n, 0), "core": (0, n), "both": (n, n)}[model.linear]

    def told(row):
        return row[:, 0].contiguous().numpy().astype(kind)

    def spread(rows):
        return np.ascontiguousarray(rows.expand(-1, pixels).numpy())

    (light, light_steps), (others, steps) = intensity.flat(), data.flat()
    whole = np.dtype(f"i{light.itemsize}")
    # Of what is not used nothing is read.
    begins = spread(outer[1] if width_of[0] else core)
    reaches = spread(inner[1] if width_of[1] else wing)
    return (
        (light, others),
        tuple(row.view(whole) for row in (light, others)),
        whole.type(np.iinfo(whole).max),
        (*light_steps, *steps),
        (kind.type(1 / intensity.factor), kind.type(1 / data.factor)),
        (spread(center.values), begins, reaches, float(center.offset), float(1 / factor)),
        told(x),
        kind.type(min(limit, 1e30)),
        products,
        half,
        (members[..., 0].argmax(0).numpy(), told(own), told(reach)),
        (told(outer[0]), width_of[0], told(inner[0]), width_of[1]),
        (variance.reshape(1) * mode_noise[:, 0]).numpy().astype(kind),
        noise.astype(kind),
        (
            kind.type(float(weight)),
            kind.type(float(variance)),
            tuple(kind.type(model.sign(s)) for s in "QUV"),
            kind.type(int(own.sum())),
        ),
    )


class _Rows:
    """A matrix that is known again by its numbers."""

    def __init__(self, values: np.ndarray):
        self.values, self._bytes = values, values.tobytes()

    def __eq__(self, other) -> bool:
        return self.values.shape == other.values.shape and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)


@lru_cache(maxsize=8)
def _products(rows: _Rows, modes: _Rows, derived: int, sums: int, kind: np.dtype):
    """The products that `loops.look_at` asks for, and how many rows the even part of a spectrum has.

    Where the wavelengths lie symmetrically about their middle, each of the rows sees the even part of I or the odd one
    alone: half the work.

    Parameters
    ----------
    rows : `_Rows`
        What takes I to its derivatives, to the sums that give the centres, and to the shape of V, ``(rows, n)``.
    modes : `_Rows`
        ``(modes, n)``.
    derived, sums : int
        How many rows are derivatives and sums.
    kind : `numpy.dtype`
    """
    rows, modes = rows.values, modes.values
    n = rows.shape[1]
    folded = np.concatenate([*(fold(part) for part in np.split(rows[:derived], derived // n)), rows[derived:]])
    folded, modes_folded = fold(folded.T).T, fold(modes.T).T
    half = (n + 1) // 2
    # In single precision wavelengths are symmetric for all that the matrices can hold; in double they hardly ever are.
    within = float(np.finfo(kind).eps)
    kinds = np.split(folded, [*range(n, derived + 1, n), derived + sums // 2, derived + sums])
    if not all(is_symmetric(part, half, within) for part in (*kinds, modes_folded)):
        half, folded, modes_folded = n, rows, modes
    even, odd = _parts(folded, half, kind)
    even_v, odd_v = _parts(modes_folded, half, kind)
    # Of what is pulled back the squares are added up: both parts of a pair have the length of the pair.
    back, size = folded[: derived + sums].T, np.where(2 * np.arange(n) == n - 1, 1.0, np.sqrt(2.0))
    back = back * (size[:, None] if half < n else 1.0)
    even_back, odd_back = (
        (np.ascontiguousarray(back[columns][:, inside], dtype=kind), inside, columns)
        for inside, columns in ((part[2][part[2] < derived + sums], part[1]) for part in (even, odd))
    )
    return (even, odd, even_v, odd_v, even_back, odd_back), half


def _parts(matrix: np.ndarray, half: int, kind: np.dtype):
    """Its rows that see the even part, and those that see the odd part: matrix, columns, rows."""
    columns = np.arange(matrix.shape[1])
    if half == matrix.shape[1]:
        is_even = np.ones(len(matrix), bool)
    else:
        is_even = np.abs(matrix[:, :half]).max(1) >= np.abs(matrix[:, half:]).max(1)
    found = []
    for own, inside in ((is_even, columns[:half]), (~is_even, columns[half:])):
        places = np.flatnonzero(own)
        found.append((np.ascontiguousarray(matrix[places][:, inside], dtype=kind), inside, places))
    return found
