"""Many small symmetric systems at once: packed lower triangles, pixels last.

A packed matrix of k unknowns is ``(k (k + 1) / 2, pixels)`` with rows (0,0), (1,0), (1,1), (2,0), ... Small systems
are factored by an unrolled Cholesky whose every step is one operation over all pixels; larger ones go to LAPACK.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .memory import room_like
from .packed_compiled import UNROLLED, by_loops, invert_by_loops

__all__ = [
    "cholesky",
    "cholesky_in_place",
    "diagonal_index",
    "factorize",
    "index",
    "inverse",
    "least_pivot",
    "lower_product",
    "lower_solve",
    "matvec",
    "normal_equations",
    "pack",
    "scale_both",
    "size",
    "solve",
    "solve_and_invert",
    "substitute",
    "unpack",
    "upper_product",
]

# With so few pixels the overhead of many operations costs more than LAPACK's matrix by matrix.
_FEW = 500
# More pixels than these leave the processor's cache when their matrices are inverted.
_MANY = 2**15


def size(rows: int) -> int:
    """The number of unknowns k of a packed matrix with ``rows`` rows."""
    return int(((8 * rows + 1) ** 0.5 - 1) / 2 + 0.5)


def index(i: int, j: int) -> int:
    """The row of entry (i, j)."""
    return i * (i + 1) // 2 + j if i >= j else j * (j + 1) // 2 + i


def diagonal_index(k: int) -> list[int]:
    """The rows of the diagonal."""
    return [index(i, i) for i in range(k)]


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Full symmetric matrices, ``(pixels, k, k)``."""
    k = size(packed.shape[0])
    rows = [[index(i, j) for j in range(k)] for i in range(k)]
    return packed[torch.tensor(rows, device=packed.device).reshape(-1)].reshape(k, k, -1).permute(2, 0, 1)


def pack(full: torch.Tensor) -> torch.Tensor:
    """The packed form of ``(pixels, k, k)``."""
    k = full.shape[-1]
    i, j = torch.tril_indices(k, k, device=full.device)
    return full[:, i, j].T.contiguous()


def matvec(packed: torch.Tensor, vector: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Matrix times vector for each pixel: ``(k, pixels)``, in ``out`` where that is given."""
    k = vector.shape[0]
    out = torch.empty_like(vector) if out is None else out
    if by_loops("multiply", packed, vector, out):
        return out
    out.zero_()  # automatic differentiation bears no out=
    for i in range(k):
        for j in range(k):
            out[i].addcmul_(packed[index(i, j)], vector[j])
    return out


def normal_equations(
    columns: list[torch.Tensor], weight: torch.Tensor, residual: torch.Tensor, total: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """JᵀWJ (packed), JᵀWr and rᵀWr.

    Parameters
    ----------
    columns : list of `torch.Tensor`
        The k columns of J, each ``(m, pixels)`` or with a single number, ``(1, 1)``.
    weight, residual : `torch.Tensor`
        ``(m, pixels)``.
    total : `torch.Tensor`, optional
        The sum of the weights, ``(pixels,)``, where it is known.
    """
    k, pixels = len(columns), weight.shape[-1]
    matrix = weight.new_empty((k * (k + 1) // 2, pixels))
    vector, squared = weight.new_empty((k, pixels)), weight.new_empty(pixels)
    weighted, product = torch.empty_like(weight), torch.empty_like(weight)
    # Full columns first: a column that is one number then costs a sum and no products.
    order = sorted(range(k), key=lambda i: columns[i].numel() == 1)
    if total is None and columns[order[-1]].numel() == 1:
        total = weight.sum(0)
    for position, i in enumerate(order):
        if columns[i].numel() == 1:
            for j in order[position:]:
                torch.mul(total, columns[i].reshape(()) * columns[j].reshape(()), out=matrix[index(i, j)])
            continue
        torch.mul(weight, columns[i], out=weighted)
        for j in order[position:]:
            entry = matrix[index(i, j)]
            if columns[j].numel() == 1:
                torch.sum(weighted, 0, out=entry).mul_(columns[j].reshape(()))
            else:
                torch.mul(weighted, columns[j], out=product)
                torch.sum(product, 0, out=entry)
    torch.mul(weight, residual, out=weighted)
    for i, column in enumerate(columns):
        if column.numel() == 1:
            torch.sum(weighted, 0, out=vector[i]).mul_(column.reshape(()))
        else:
            torch.sum(torch.mul(weighted, column, out=product), 0, out=vector[i])
    torch.sum(torch.mul(weighted, residual, out=product), 0, out=squared)
    return matrix, vector, squared


def _unit_diagonal(packed: torch.Tensor, damping) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix scaled to a diagonal of 1 + damping, and the scale (0 where the diagonal is 0)."""
    k = size(packed.shape[0])
    diagonal = packed[diagonal_index(k)]
    scale = torch.where(diagonal > 0, diagonal.clamp_min(torch.finfo(packed.dtype).tiny).rsqrt(), 0.0)
    scaled = scale_both(packed, scale)
    scaled[diagonal_index(k)] = 1.0 + (damping if torch.is_tensor(damping) else torch.tensor(damping)).to(scaled)
    return scaled, scale


def scale_both(packed: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Each matrix with its rows and its columns multiplied by ``factors``, ``(k, pixels)``."""
    k = len(factors)
    if packed.shape[-1] <= _FEW:
        i, j = torch.tril_indices(k, k, device=packed.device)
        return (packed * factors[i]).mul_(factors[j])
    scaled = torch.empty_like(packed)
    for i in range(k):
        for j in range(i + 1):
            torch.mul(packed[index(i, j)], factors[i], out=scaled[index(i, j)]).mul_(factors[j])
    return scaled


def cholesky_in_place(scaled: torch.Tensor) -> torch.Tensor:
    """Packed Cholesky factor, in place; its diagonal holds reciprocals. Pivots are kept above round-off."""
    k = size(scaled.shape[0])
    floor = 10 * torch.finfo(scaled.dtype).eps
    for j in range(k):
        pivot = scaled[index(j, j)]
        for m in range(j):
            pivot.addcmul_(scaled[index(j, m)], scaled[index(j, m)], value=-1)
        pivot.clamp_min_(floor).rsqrt_()
        for i in range(j + 1, k):
            entry = scaled[index(i, j)]
            for m in range(j):
                entry.addcmul_(scaled[index(i, m)], scaled[index(j, m)], value=-1)
            entry.mul_(pivot)
    return scaled


def substitute(factor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Solve L Lᵀ x = vector in place, with L from `cholesky_in_place`."""
    k = vector.shape[0]
    for i in range(k):
        for m in range(i):
            vector[i].addcmul_(factor[index(i, m)], vector[m], value=-1)
        vector[i].mul_(factor[index(i, i)])
    for i in reversed(range(k)):
        for m in range(i + 1, k):
            vector[i].addcmul_(factor[index(m, i)], vector[m], value=-1)
        vector[i].mul_(factor[index(i, i)])
    return vector


def _substituted(factor: torch.Tensor, vector: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """`substitute` with the vector left as it is, in one look at the factor where loops are compiled."""
    out = torch.empty_like(vector) if out is None else out
    if by_loops("substitute", factor, vector, out):
        return out
    return substitute(factor, out.copy_(vector))


def solve(packed: torch.Tensor, vector: torch.Tensor, damping=0.0) -> torch.Tensor:
    """Solve (A + damping · diag A) x = vector for each pixel.

    The matrix is scaled to a unit diagonal first; an unknown that the matrix knows nothing of stays at zero.

    Parameters
    ----------
    packed : `torch.Tensor`
        ``(k (k + 1) / 2, pixels)``.
    vector : `torch.Tensor`
        ``(k, pixels)``.
    damping : float or `torch.Tensor`
        Marquardt's λ, ``(pixels,)``, or one for each unknown, ``(k, pixels)``.
    """
    return factorize(packed, damping)(vector)


def factorize(packed: torch.Tensor, damping=0.0) -> Callable[..., torch.Tensor]:
    """`solve` for several vectors: what it returns takes ``(k, pixels)`` to (A + damping · diag A)⁻¹ of it.

    As a second argument it takes memory ``(k, pixels)`` that it may use for its answer.
    """
    if not torch.is_tensor(damping) and damping == 0.0:
        factor = room_like(packed)
        if by_loops("factorize", packed, factor):
            return lambda vector, out=None: _substituted(factor, vector, out)
    scaled, scale = _unit_diagonal(packed, damping)
    k = scale.shape[0]
    if k <= UNROLLED and packed.shape[-1] > _FEW:
        own = cholesky_in_place(scaled)
        # Of A itself in place of the scaled matrix: right-hand sides then need no scale.
        raised = torch.where(scale > 0, 1 / scale, 0.0)
        for i in range(k):
            for j in range(i):
                own[index(i, j)].mul_(raised[i])
            own[index(i, i)].mul_(scale[i])
        return lambda vector, out=None: _substituted(own, vector, out)
    full = unpack(scaled)
    factor, failed = torch.linalg.cholesky_ex(full)
    if failed.any():
        # Round-off made some matrices indefinite: lift their diagonal until they are not.
        lift = full.new_zeros(full.shape[0])
        lift[failed > 0] = 100 * k * torch.finfo(full.dtype).eps
        for _ in range(8):
            full = full + torch.diag_embed(lift[:, None].expand(-1, k))
            factor, failed = torch.linalg.cholesky_ex(full)
            if not failed.any():
                break
            lift = torch.where(failed > 0, (10 * lift).clamp_min(100 * k * torch.finfo(full.dtype).eps), 0.0)
    return lambda vector, out=None: torch.cholesky_solve((vector * scale).T[..., None], factor)[..., 0].T * scale


def cholesky(packed: torch.Tensor) -> torch.Tensor:
    """L with L Lᵀ = A for each matrix, packed; rows that the matrix knows nothing of are zero."""
    k = size(packed.shape[0])
    factor = room_like(packed)
    if by_loops("factorize", packed, factor):
        for i in range(k):
            pivot = factor[index(i, i)]
            pivot.copy_(torch.where(pivot > 0, 1.0 / pivot, 0.0))
        return factor
    scaled, scale = _unit_diagonal(packed, 0.0)
    factor = cholesky_in_place(scaled)
    for i in range(k):
        factor[index(i, i)] = 1.0 / factor[index(i, i)]
        for j in range(i + 1):
            # Of A = S⁻¹ (unit) S⁻¹ the factor is S⁻¹ times that of the middle.
            factor[index(i, j)] *= torch.where(scale[i] > 0, 1.0 / scale[i].clamp_min(1e-300), 0.0)
    return factor


def least_pivot(packed: torch.Tensor) -> float:
    """The least part of itself that an unknown of any matrix is known by while those before it are free.

    That is the least square of the factor's diagonal over the matrix's; unknowns that nothing is known of are left out.
    """
    if (found := by_loops("least_pivot", packed)) is not None:
        return min(found)
    rows = diagonal_index(size(packed.shape[0]))
    own = packed[rows]
    return float(torch.where(own != 0, cholesky(packed)[rows].square() / own, 1.0).amin())


def lower_product(factor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """L v for a packed lower triangle."""
    out = torch.empty_like(vector)
    for i in range(len(vector)):
        torch.mul(factor[index(i, 0)], vector[0], out=out[i])
        for j in range(1, i + 1):
            out[i].addcmul_(factor[index(i, j)], vector[j])
    return out


def upper_product(factor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Lᵀ v for a packed lower triangle."""
    out = torch.empty_like(vector)
    for j in range(len(vector)):
        torch.mul(factor[index(j, j)], vector[j], out=out[j])
        for i in range(j + 1, len(vector)):
            out[j].addcmul_(factor[index(i, j)], vector[i])
    return out


def lower_solve(factor: torch.Tensor, vector: torch.Tensor, *, transposed: bool = False) -> torch.Tensor:
    """L⁻¹ v, or L⁻ᵀ v, for a packed lower triangle without zeros on its diagonal."""
    k = len(vector)
    solved = vector.clone()
    for i in reversed(range(k)) if transposed else range(k):
        for m in range(i + 1, k) if transposed else range(i):
            solved[i].addcmul_(factor[index(m, i)], solved[m], value=-1)
        solved[i].div_(factor[index(i, i)])
    return solved


def inverse(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of each matrix, and which unknowns no matrix determines.

    Returns
    -------
    inverse : `torch.Tensor`
        Packed, float64. Unknowns with a share in a singular direction have infinite variance and zero covariances;
        the others have their variance with those directions held.
    undetermined : `torch.Tensor`
        bool ``(k, pixels)``.
    """
    found = solve_and_invert(packed, packed[:0])
    return _inverse(packed) if found is None else found[1:]


def solve_and_invert(
    packed: torch.Tensor, vector: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """What `solve` and `inverse` return, for little more than one of them; None where that takes no less than both.

    All in float64.
    """
    found = invert_by_loops(packed, vector)
    if found is None:
        return None
    inverse, solution, weak = found
    undetermined = torch.zeros((size(packed.shape[0]), packed.shape[-1]), dtype=torch.bool)
    if bool(weak.any()):
        where = weak.nonzero()[:, 0]
        own = packed[:, where]
        inverse[:, where], undetermined[:, where] = _inverse(own)
        if len(vector):
            solution[:, where] = factorize(own)(vector[:, where]).double()
    return solution, inverse, undetermined


def _inverse(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `inverse` returns, by operations over all pixels."""
    if packed.shape[-1] > _MANY and packed.device.type == "cpu":
        inverses, undetermined = zip(*map(_inverse, packed.split(_MANY, -1)), strict=True)
        return torch.cat(inverses, -1), torch.cat(undetermined, -1)
    packed = packed.double()
    k = size(packed.shape[0])
    # A matrix with a number that is none determines nothing.
    packed = torch.where(torch.isfinite(packed).all(0), packed, 0.0)
    scaled, scale = _unit_diagonal(packed, 0.0)
    determined = scale > 0
    for i in range(k):
        scaled[index(i, i)] = 1.0
    pixels = packed.shape[-1]
    result = torch.empty_like(packed)
    undetermined = ~determined
    if k <= UNROLLED:
        factor = cholesky_in_place(scaled.clone())
        # With a unit diagonal, 1 / pivot² is the variance inflation: beyond 1e10 the direction is numerically free.
        weak = torch.zeros(pixels, dtype=torch.bool, device=packed.device)
        for i in range(k):
            weak |= factor[index(i, i)] > 1e5
        # L⁻¹, then its Gram matrix; the factor's diagonal holds reciprocals already.
        lower = torch.empty_like(packed)
        for j in range(k):
            lower[index(j, j)] = factor[index(j, j)]
            for i in range(j + 1, k):
                entry = torch.mul(factor[index(i, j)], lower[index(j, j)], out=lower[index(i, j)])
                for m in range(j + 1, i):
                    entry.addcmul_(factor[index(i, m)], lower[index(m, j)])
                entry.mul_(factor[index(i, i)]).neg_()
        for i in range(k):
            for j in range(i + 1):
                entry = torch.mul(lower[index(i, i)], lower[index(i, j)], out=result[index(i, j)])
                for m in range(i + 1, k):
                    entry.addcmul_(lower[index(m, i)], lower[index(m, j)])
                entry.mul_(scale[i]).mul_(scale[j])
    else:
        full = unpack(scaled)
        factor, failed = torch.linalg.cholesky_ex(full)
        diagonal = factor.diagonal(dim1=-2, dim2=-1)
        weak = (failed > 0) | (diagonal < 1e-5).any(-1)
        good = ~weak
        if good.any():
            result[:, good] = pack(torch.cholesky_inverse(factor[good]))
        for i in range(k):
            for j in range(i + 1):
                result[index(i, j)] *= scale[i] * scale[j]
    weak |= undetermined.any(0)
    if weak.any():
        where = weak.nonzero()[:, 0]
        values, vectors = torch.linalg.eigh(unpack(scaled[:, where]))
        free = values < 1e-10
        share = (vectors.square() * free[:, None, :]).sum(-1)  # of each unknown in the singular directions
        lost = (share > 1e-6) | ~determined[:, where].T
        inverse_values = torch.where(free, 0.0, 1.0 / values.clamp_min(1e-300))
        pseudo = (vectors * inverse_values[:, None, :]) @ vectors.mT
        pseudo = pseudo.masked_fill(lost[:, :, None] | lost[:, None, :], 0.0)
        s = scale[:, where].T
        pseudo = pseudo * s[:, :, None] * s[:, None, :]
        pseudo.diagonal(dim1=-2, dim2=-1)[lost] = torch.inf
        result[:, where] = pack(pseudo)
        undetermined[:, where] = lost.T
    return result, undetermined
