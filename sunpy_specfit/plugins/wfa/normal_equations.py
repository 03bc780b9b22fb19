"""The quadratics of linear fits whose first shape is made of noisy data."""

from __future__ import annotations

from functools import cached_property

import torch

from ...numerics import packed
from .attenuation import restored, restored_beside

__all__ = ["Modes", "Shape", "fit_shape", "fit_shapes", "is_even"]

# Noise of the shape that adds less than this part to that of the data makes no difference.
_NEGLIGIBLE = 0.01


class Shape:
    """A shape made of the intensity, s = Σ r · (D I) over a few derivatives D, and how the noise of I gets into it.

    Parameters
    ----------
    parts : list of (`torch.Tensor`, `torch.Tensor`, `torch.Tensor`)
        r ``(n, 1 or pixels)``, D ``(n, n)``, and D I ``(n, pixels)``. No two of the r differ from zero at one sample.
    variance : `torch.Tensor`
        Of I: ``(1, 1)`` or ``(n, pixels)``.
    centers : `Centers`, optional
        By which the noise of I gets into the shape through the lines' centres too.
    """

    def __init__(self, parts, variance, centers=None):
        self.operators = [(factor, matrix) for factor, matrix, _ in parts]
        self.variance, self.centers = variance, centers
        self.values = sum(factor * derived for factor, _, derived in parts)

    @cached_property
    def most_noise(self) -> torch.Tensor:
        """No sample of the shape has a larger variance: ``(1 or pixels,)``."""
        return self.noise.amax(0)

    def times(self, number: float) -> Shape:
        """The shape multiplied by a number."""
        operators = [(number * factor, matrix) for factor, matrix in self.operators]
        return self._like(operators, number * self.values, self.variance, self.centers)

    def select(self, index: torch.Tensor) -> Shape:
        """The shape of some pixels."""

        def chosen(value):
            return value if value.shape[-1] == 1 else value.index_select(-1, index)

        operators = [(chosen(factor), matrix) for factor, matrix in self.operators]
        centers = None if self.centers is None else self.centers.select(index)
        return self._like(operators, chosen(self.values), chosen(self.variance), centers)

    @staticmethod
    def _like(operators, values, variance, centers) -> Shape:
        new = object.__new__(Shape)
        new.operators, new.values, new.variance, new.centers = operators, values, variance, centers
        return new

    @cached_property
    def noise(self) -> torch.Tensor:
        """The variance that the derivative gives to each sample of the shape, ``(n, 1 or pixels)``."""
        total = 0
        for factor, matrix in self.operators:
            if self.variance.numel() == 1:
                own = self.variance * matrix.square().sum(1, keepdim=True)
            else:
                own = matrix.square() @ self.variance
            total = total + factor.square() * own
        return total

    @property
    def shared_noise(self) -> torch.Tensor:
        """The covariance of each sample of the shape with the same sample of I, ``(n, 1 or pixels)``."""
        return self.variance * sum(factor * matrix.diagonal()[:, None] for factor, matrix in self.operators)

    @property
    def total_noise(self) -> torch.Tensor:
        """The sum of `noise`, where the variance is even, ``(1 or pixels,)``."""
        return self.variance.reshape(1) * sum(m.square().sum(1) @ f.square() for f, m in self.operators)

    @cached_property
    def squared(self) -> torch.Tensor:
        """Σ s² over the samples, ``(pixels,)``."""
        return _dot(self.values, self.values)

    def pulled_back(self, column: torch.Tensor) -> torch.Tensor:
        """What each sample of I adds to Σ column · s, ``(n, pixels)``."""
        total = sum(matrix.T @ (factor * column) for factor, matrix in self.operators)
        return total if self.centers is None else total + self.centers.pulled_back(column * self.values)


def fit_shape(shape: Shape, others: list[torch.Tensor], data: torch.Tensor, weight: torch.Tensor):
    """Constant, matrix and vector of chi² for data = θ₀ s + Σ θ_i other_i, with the covariance of all noise in it.

    To the data's own noise comes θ₀ times that of the shape, correlated along the line. It is counted with the θ₀ of a
    first solution.

    Parameters
    ----------
    shape : `Shape`
    others : list of `torch.Tensor`
        ``(n, pixels)`` or ``(1, 1)``: further shapes.
    data, weight : `torch.Tensor`
        ``(n, pixels)``; the weight may be expanded from ``(1, 1)``.
    """
    constant, matrix, vector, solution = _plain(shape, others, data, weight)
    noise = _noise_of_columns(shape, others, weight)
    strong = (solution[0].square() * _largest(weight) * shape.most_noise > _NEGLIGIBLE).nonzero()[:, 0]
    modes = None if others or not len(strong) else Modes.of(shape, weight)
    easy = (
        modes.even.expand(weight.shape[-1])[strong] if modes is not None else torch.zeros_like(strong, dtype=torch.bool)
    )
    for index, fit in ((strong[easy], modes.fit if modes is not None else None), (strong[~easy], _fit_in_full)):
        if not len(index):
            continue
        w = weight[:, :1].expand(-1, len(index)) if is_even(weight) else weight.index_select(-1, index)
        own = [c if c.shape[-1] == 1 else c.index_select(-1, index) for c in others]
        part = shape.select(index), own, data.index_select(-1, index), w, solution[0, index]
        matrix[:, index], vector[:, index], constant[index], own_noise = fit(*part)
        (noise if _are_exact(others) else noise[:3])[..., index] = own_noise
    return _restored(constant, matrix, vector, noise)[:3]


def _fit_in_full(shape: Shape, others, data, weight, amplitude):
    """Matrix, vector, constant and the columns' noise with each pixel's whole covariance, in double."""
    n, pixels = data.shape
    kernel = sum(
        factor.double()[:, None] * m.double()[..., None] for factor, m in shape.operators
    )  # (n, n, 1 or pixels)
    own = shape.variance.double()
    spread = torch.einsum(
        "ikp,kp,jkp->pij", *(v.expand(*v.shape[:-1], pixels) for v in (kernel, own.expand(n, -1), kernel))
    )
    used = (weight > 0).T
    both = used[:, :, None] & used[:, None, :]
    covariance = torch.where(both, amplitude.double().square()[:, None, None] * spread, 0.0)
    covariance += torch.diag_embed(torch.where(used, 1 / weight.double().T.clamp_min(1e-300), 1.0))
    columns = [shape.values, *(c.expand(n, pixels) for c in others), data]
    right = torch.stack([torch.where(used, c.double().T, 0.0) for c in columns], -1)  # (pixels, n, k + 1)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    # Without a line to speak of, any amplitude may have come out, and the noise that goes with it is no number.
    alone = covariance.diagonal(dim1=1, dim2=2).nan_to_num(posinf=1e300).clamp_min(1e-300).sqrt()
    factor = torch.where((failed > 0)[:, None, None], torch.diag_embed(alone), factor)
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    gram = (half.mT @ half).to(data)
    k = len(columns) - 1
    noise = _trace(factor, torch.where(both, spread, 0.0)).to(data)
    if not _are_exact(others):
        variance = own.expand(n, pixels).T
        shared = torch.where(both, (kernel * own).expand(n, n, pixels).permute(2, 0, 1), 0.0)
        alone = torch.diag_embed(torch.where(used, variance, 0.0))
        noise = torch.stack([noise, _trace(factor, shared).to(data), _trace(factor, alone).to(data)])
    return packed.pack(gram[:, :k, :k]), gram[:, :k, k].T, gram[:, k, k], noise


def fit_shapes(shapes: list[Shape], others: list[torch.Tensor], data: list[torch.Tensor], weights: list[torch.Tensor]):
    """Constant, matrix and vector of chi² for data_s = θ_s0 shape_s + Σ θ_si other_i, errors of the shapes included.

    The weights are those of the data; the covariance of their solution counts the noise of the shapes, however that is
    correlated from sample to sample and, as it comes from one I, from one set of data to the next:
    cov = A⁻¹ (A + N) A⁻¹, with N the covariance of Sᵀ W (θ · noise of the shapes). The quadratic returned has its
    minimum at that solution, the inverse of that covariance as its curvature, and the misfit at its minimum.

    Parameters
    ----------
    shapes : list of `Shape`
    others : list of `torch.Tensor`
        ``(n, pixels)`` or ``(1, 1)``: further shapes, the same for all.
    data, weights : list of `torch.Tensor`
        ``(n, pixels)``; a weight may be expanded from ``(1, 1)``.

    Returns
    -------
    constant, matrix, vector : `torch.Tensor`
        Of the numbers of all sets of data, one set after the other.
    """
    parts = []
    for shape, y, w in zip(shapes, data, weights, strict=True):
        *quadratic, kept = _restored(*_plain(shape, others, y, w)[:3], _noise_of_columns(shape, others, w))
        parts.append((*quadratic, packed.solve(*quadratic[1:]), kept))
    m = len(others) + 1
    constant = sum(part[0] for part in parts)
    vector = torch.cat([part[2] for part in parts])
    matrix = vector.new_zeros((m * len(parts) * (m * len(parts) + 1) // 2, vector.shape[-1]))
    for number, part in enumerate(parts):
        for i in range(m):
            for j in range(i + 1):
                matrix[packed.index(number * m + i, number * m + j)] = part[1][packed.index(i, j)]
    added = [
        _largest(w) * (part[3][0].square() * shape.most_noise + _of_the_part_of_light(part[3], others, shape).amax(0))
        for part, w, shape in zip(parts, weights, shapes, strict=True)
    ]
    index = (torch.stack(added).amax(0) > _NEGLIGIBLE).nonzero()[:, 0]
    if not len(index):
        return constant, matrix, vector
    here = torch.cat([part[3].index_select(-1, index) for part in parts])
    columns = [c if c.shape[-1] == 1 else c.index_select(-1, index) for c in others]
    moved, misfit, variance = [], 0, None
    for number, (shape, y, w) in enumerate(zip(shapes, data, weights, strict=True)):
        part, own = shape.select(index), here[number * m : (number + 1) * m]
        w = w[:, :1].expand(-1, len(index)) if is_even(w) else w.index_select(-1, index)
        mine, variance = [part.values, *columns], part.variance
        added = [own[0] * part.pulled_back(w * c) for c in mine]
        kept = parts[number][4]
        if _are_exact(others):
            moved += [kept.index_select(-1, index) * one for one in added]
        else:  # I itself is the last column
            added = [one + own[-1] * w * c for one, c in zip(added, mine, strict=True)]
            moved += list(torch.einsum("pij,jnp->inp", kept.index_select(0, index).to(w), torch.stack(added)))
        residual = y.index_select(-1, index) - sum(a * c for a, c in zip(own, mine, strict=True))
        noise = own[0].square() * part.noise + _of_the_part_of_light(own, others, part)
        misfit = misfit + _dot(w * residual / (1 + noise.clamp_min(0.0) * w), residual)
    spread = torch.stack([(variance * a * b).sum(0) for i, a in enumerate(moved) for b in moved[: i + 1]])
    own = matrix.index_select(-1, index)
    # The inverse of A⁻¹ (A + N) A⁻¹.
    full, both = packed.unpack(own.double()), packed.unpack((own + spread).double())
    solved, failed = torch.linalg.solve_ex(_lifted(both), full)
    # Where noise is all there is of a shape, nothing is known.
    curvature = torch.where((failed > 0)[:, None, None], 0.0, full @ solved)
    curvature = packed.pack(curvature).nan_to_num(0.0, 0.0, 0.0).to(own)
    matrix[:, index] = curvature
    vector[:, index] = packed.matvec(curvature, here)
    constant[index] = misfit + (here * vector.index_select(-1, index)).sum(0)
    return constant, matrix, vector


def _plain(shape: Shape, others, data, weight) -> tuple[torch.Tensor, ...]:
    """Constant, matrix, vector and solution, as if the shape had no noise."""
    if is_even(weight) and not others:
        one = weight[0, :1]
        constant, matrix, vector = (one * v for v in (_dot(data, data), shape.squared, _dot(shape.values, data)))
        return constant, matrix[None], vector[None], torch.where(matrix > 0, vector / matrix, 0.0)[None]
    matrix, vector, constant = packed.normal_equations([shape.values, *others], weight, data)
    return constant, matrix, vector, packed.solve(matrix, vector)


def _noise_of_columns(shape: Shape, others, weight) -> torch.Tensor:
    """Σ w var(s), ``(pixels,)``; beside I all that `restored_beside` asks for, ``(4, pixels)``."""
    each = weight * shape.noise
    noise = each.sum(0)
    if _are_exact(others):
        return noise
    spread = torch.where(noise > 0, noise.square() / each.square().sum(0), 0.0)
    return torch.stack([noise, (weight * shape.shared_noise).sum(0), (weight * shape.variance).sum(0), spread])


def _of_the_part_of_light(own: torch.Tensor, others, shape: Shape) -> torch.Tensor:
    """What I in the data adds to the variance that the field's shape gives them, ``(1 or n, 1 or pixels)``."""
    if _are_exact(others):
        return own.new_zeros((1, 1))
    return own[-1].square() * shape.variance + 2 * own[0] * own[-1] * shape.shared_noise


def _restored(constant, matrix, vector, noise):
    return (restored if noise.ndim == 1 else restored_beside)(constant, matrix, vector, noise)


def _trace(factor: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Of the matrices over those whose Cholesky factors are given, ``(pixels,)``."""
    return torch.cholesky_solve(matrix, factor).diagonal(dim1=1, dim2=2).sum(-1)


def _are_exact(others: list[torch.Tensor]) -> bool:
    return all(column.numel() == 1 for column in others)


def is_even(weight: torch.Tensor) -> bool:
    """Whether one number in memory stands for all weights."""
    return weight.stride(-1) == 0 and weight.stride(-2) == 0


def _largest(weight: torch.Tensor) -> torch.Tensor:
    return weight[0, :1] if is_even(weight) else weight.amax(0)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(0)


def _lifted(full: torch.Tensor) -> torch.Tensor:
    """Matrices that can be inverted: what nothing determines has a diagonal of zero."""
    empty = full.diagonal(dim1=-2, dim2=-1) <= 0
    return full + torch.diag_embed(empty.to(full))


class Modes:
    """The modes of a shape whose noise is the same in every sample.

    The noise of data - θ s has the covariance σ² + θ² σ_I² K Kᵀ, with K = r D. In the eigenvectors of K Kᵀ it is
    diagonal for every θ.

    Parameters
    ----------
    shape : `Shape`
        With one derivative, and a factor that no pixel has for itself.
    used : `torch.Tensor`
        bool ``(n,)``: the samples in use.
    even : `torch.Tensor`
        bool ``(1 or pixels,)``: which pixels use just these, all with one noise.
    """

    def __init__(self, shape: Shape, used: torch.Tensor, even: torch.Tensor):
        ((factor, derivative),) = shape.operators
        kernel = (factor * derivative)[used].double()
        values, vectors = torch.linalg.eigh(kernel @ kernel.T)
        self.used, self.even, self.vectors = used, even, vectors.to(shape.values)
        self.values = (values.clamp_min(0).to(shape.values) * shape.variance.reshape(()))[:, None]

    @classmethod
    def of(cls, shape: Shape, weight: torch.Tensor) -> Modes | None:
        """The modes, for pixels whose noise is the same in all samples that most pixels use, and for all in I."""
        (factor, _), *more = shape.operators
        if more or shape.variance.numel() != 1 or factor.shape[-1] != 1:
            return None
        if is_even(weight):
            used, even = (weight[:, 0] > 0), torch.ones(1, dtype=torch.bool, device=weight.device)
        else:
            used = (weight > 0).double().mean(1) > 0.5
            even = torch.where(used[:, None], weight == weight.amax(0), weight == 0).all(0)
        return cls(shape, used, even) if bool(used.any()) else None

    def fit(self, shape: Shape, others, data: torch.Tensor, weight: torch.Tensor, amplitude: torch.Tensor):
        """Matrix, vector, constant and noise with the weights that an amplitude ``(pixels,)`` of the shape gives modes.

        Without other shapes; the weight is the same in all samples in use.
        """
        weight = weight.amax(0)
        s, y = (self.vectors.T @ (v if bool(self.used.all()) else v[self.used]) for v in (shape.values, data))
        w = weight / (1 + amplitude.square() * weight * self.values)
        weighted = w * s
        return _dot(weighted, s)[None], _dot(weighted, y)[None], _dot(w * y, y), (w * self.values).sum(0)
