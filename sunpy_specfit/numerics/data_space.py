"""Least squares with more unknowns than data: systems as large as the data, pixels last.

With a prior z ~ N(0, 1) and data d = H z + noise of unit variance, H ``(m, r, pixels)``, everything follows from the
m by m matrices 1 + H Hᵀ: the posterior mean Hᵀ (1 + H Hᵀ)⁻¹ d and its covariance 1 - Hᵀ (1 + H Hᵀ)⁻¹ H.
(Tarantola 2005, https://doi.org/10.1137/1.9780898717921, section 3.2.)
"""

from __future__ import annotations

import torch

from . import packed
from .compiled import compiled, suit_loops

__all__ = [
    "apply",
    "cholesky",
    "depart",
    "diagonal_inverse",
    "factorize",
    "gram",
    "newton",
    "project",
    "pull",
    "single_is_enough",
    "solve",
    "squares",
    "trace_inverse",
    "whiten",
]

# From so many data on, LAPACK is quicker than an unrolled factorisation.
_UNROLLED = 16
# Pixels worked on at a time.
_PIXELS = 4096
# Fewer are not worth waiting for a compiler, or for what it left on the disk.
_WORTH_COMPILING = 1000
# Above this signal-to-noise ratio single precision loses what the best measured direction says, and about its limits
# are numbers of these sizes.
_SIGNAL, _SMALLEST, _LARGEST = 300.0, 1e-30, 1e30


def single_is_enough(data: torch.Tensor, weight: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether single precision tells all that data do, with weights 1/sigma², and holds other numbers at all."""
    if not float((data.square() * weight).amax()) < _SIGNAL**2:
        return False
    for own in (weight, *others):
        some = own[own != 0].abs()
        if len(some) and not (_SMALLEST < float(some.amin()) and float(some.amax()) < _LARGEST):
            return False
    return True


def gram(factor: torch.Tensor, damping: torch.Tensor | float = 0.0) -> torch.Tensor:
    """(1 + damping) 1 + H Hᵀ, packed ``(m (m + 1) / 2, pixels)``."""
    m = factor.shape[0]
    out = factor.new_empty((m * (m + 1) // 2, factor.shape[-1]))
    for part in _parts(factor.shape[-1]):
        here, there = factor[..., part], out[:, part]
        for i in range(m):
            first = packed.index(i, 0)
            there[first : first + i + 1] = (here[i] * here[: i + 1]).sum(1)
    for i in range(m):
        out[packed.index(i, i)] += 1.0 + damping
    return out


def _parts(pixels: int) -> list[slice]:
    """Pieces of a map whose numbers stay in the processor's cache."""
    return [slice(i, i + _PIXELS) for i in range(0, pixels, _PIXELS)]


def cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """The packed lower factor L of `gram`, in place, for `solve` and `whiten`; its diagonal holds reciprocals."""
    m = packed.size(matrix.shape[0])
    if m <= _UNROLLED:
        return packed.cholesky_in_place(matrix)
    lower = packed.pack(torch.linalg.cholesky_ex(packed.unpack(matrix))[0])
    lower[packed.diagonal_index(m)] = 1 / lower[packed.diagonal_index(m)]
    return lower


def factorize(factor: torch.Tensor, damping: torch.Tensor | float = 0.0) -> torch.Tensor:
    """`cholesky` of `gram`, in one pass."""
    if _loops_take(factor):
        m, pixels = factor.shape[0], factor.shape[-1]
        out = factor.new_empty((m * (m + 1) // 2, pixels))
        inputs = (factor.numpy(), _each(damping, factor), _floor(factor), out.numpy())
        if _by_loops("factorize", *inputs):
            return out
    return cholesky(gram(factor, damping))


def newton(factor: torch.Tensor, slope: torch.Tensor, damping: torch.Tensor | float = 0.0) -> torch.Tensor:
    """((1 + damping) 1 + Hᵀ H)⁻¹ slope, ``(r, pixels)``, by systems of the size of the data."""
    if _loops_take(factor, slope):
        out = torch.empty_like(slope)
        inputs = (factor.numpy(), slope.numpy(), _each(damping, factor), _floor(factor), out.numpy())
        if _by_loops("newton", *inputs):
            return out
    told = solve(cholesky(gram(factor, damping)), apply(factor, slope))
    return (slope - pull(factor, told)) / (1 + damping)


def project(factor: torch.Tensor, vector: torch.Tensor, part: slice) -> None:
    """v - Kᵀ K v, in place, for K ``(m, r, part)`` of some pixels and v ``(r, pixels)`` of all."""
    if _loops_take(factor, vector) and _by_loops("project", factor.numpy(), vector.numpy(), part.start):
        return
    here = vector[:, part]
    here.sub_(pull(factor, (factor * here).sum(1)))


def depart(means, toward, told, part: slice, found, squares) -> None:
    """Set means ``(k, q)`` less Σ toward · told, summed over the data, and the sums of its squares over q.

    Toward ``(m, k, part)`` and told ``(m, q, part)`` are of some pixels, found ``(k, q, pixels)`` and squares
    ``(k, pixels)`` of all.
    """
    if _loops_take(toward, told, means, found, squares):
        arrays = (means.numpy(), toward.numpy(), told.numpy(), part.start, found.numpy(), squares.numpy())
        if _by_loops("depart", *arrays):
            return
    here = means[:, :, None].expand(-1, -1, told.shape[-1]).clone()
    for own, asked in zip(toward, told, strict=True):
        here.addcmul_(own[:, None], asked, value=-1)
    found[..., part], squares[:, part] = here, here.square().sum(1)


def squares(lower: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Σ (L⁻¹ rows)² over the data, for rows ``(m, k, pixels)``: ``(k, pixels)``."""
    if _loops_take(rows, lower):
        out = torch.empty_like(rows[0])
        if _by_loops("told", lower.numpy(), rows.numpy(), out.numpy()):
            return out
    return whiten(lower, rows).square().sum(0)


def _loops_take(*arrays: torch.Tensor) -> bool:
    """Whether compiled loops can be had of these."""
    alike = len({a.dtype for a in arrays}) == 1 and len(arrays[0]) <= _UNROLLED
    return alike and arrays[0].shape[-1] >= _WORTH_COMPILING and suit_loops(*arrays)


def _by_loops(name: str, *arrays) -> bool:
    return compiled(f"{__package__}.data_space_loops", lambda loops: (getattr(loops, name)(*arrays), True)[1]) is True


def _each(value, like: torch.Tensor):
    """A number for each pixel."""
    value = value if torch.is_tensor(value) else like.new_tensor(float(value))
    return value.to(like.dtype).expand(like.shape[-1]).contiguous().numpy()


def _floor(like: torch.Tensor):
    """No pivot is less, as in `packed.cholesky_in_place`."""
    return like.new_tensor(10 * torch.finfo(like.dtype).eps).numpy()[()]


def solve(lower: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """(L Lᵀ)⁻¹ v, in place: ``(m, pixels)``."""
    return packed.substitute(lower, vector)


def apply(factor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """H v: ``(m, pixels)`` from ``(r, pixels)``."""
    out = factor[:, 0] * vector[0]
    for number in range(1, len(vector)):
        out.addcmul_(factor[:, number], vector[number])
    return out


def pull(factor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Hᵀ v: ``(r, pixels)`` from ``(m, pixels)``."""
    out = factor[0] * vector[0]
    for row, value in zip(factor[1:], vector[1:], strict=True):
        out.addcmul_(row, value)
    return out


def whiten(lower: torch.Tensor, rows: torch.Tensor, *, transposed: bool = False) -> torch.Tensor:
    """L⁻¹ (or L⁻ᵀ) times rows ``(m, [k,] pixels)``."""
    m = len(rows)
    out = rows.clone()
    for i in reversed(range(m)) if transposed else range(m):
        for j in range(i + 1, m) if transposed else range(i):
            out[i].addcmul_(lower[packed.index(j, i)], out[j], value=-1)
        out[i].mul_(lower[packed.index(i, i)])
    return out


def trace_inverse(lower: torch.Tensor) -> torch.Tensor:
    """tr (1 + H Hᵀ)⁻¹ of each pixel."""
    return diagonal_inverse(lower).sum(0)


def diagonal_inverse(lower: torch.Tensor) -> torch.Tensor:
    """The diagonal of (1 + H Hᵀ)⁻¹, ``(m, pixels)``."""
    m = packed.size(lower.shape[0])
    identity = torch.eye(m, dtype=lower.dtype, device=lower.device)[:, :, None].expand(m, m, lower.shape[-1])
    return whiten(lower, identity).square().sum(0)
