"""The quadratics of linear fits whose first shape is made of noisy data."""

from __future__ import annotations

import torch

from ...numerics import packed

__all__ = ["Shape", "even_modes", "fit_modes", "fit_shapes"]

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
    """

    def __init__(self, parts, variance):
        self.operators = [(factor, matrix) for factor, matrix, _ in parts]
        self.variance = variance
        self.values = sum(factor * derived for factor, _, derived in parts)

    def times(self, number: float) -> Shape:
        """The shape multiplied by a number."""
        return self._like([(number * factor, matrix) for factor, matrix in self.operators], number * self.values)

    def select(self, index: torch.Tensor) -> Shape:
        """The shape of some pixels."""

        def chosen(value):
            return value if value.shape[-1] == 1 else value.index_select(-1, index)

        operators = [(chosen(factor), matrix) for factor, matrix in self.operators]
        return self._like(operators, chosen(self.values), chosen(self.variance))

    def _like(self, operators, values, variance=None) -> Shape:
        new = object.__new__(Shape)
        new.operators, new.values = operators, values
        new.variance = self.variance if variance is None else variance
        return new

    def noise(self) -> torch.Tensor:
        """The variance of each sample of the shape, ``(n, 1 or pixels)``."""
        total = 0
        for factor, matrix in self.operators:
            if self.variance.numel() == 1:
                own = self.variance * matrix.square().sum(1, keepdim=True)
            else:
                own = matrix.square() @ self.variance
            total = total + factor.square() * own
        return total

    def passed_on(self, columns: list[torch.Tensor]) -> torch.Tensor:
        """The covariance of the sums Σ column · s, packed ``(m (m + 1) / 2, pixels)``."""
        moved = [sum(matrix.T @ (factor * column) for factor, matrix in self.operators) for column in columns]
        return torch.stack([(self.variance * a * b).sum(0) for i, a in enumerate(moved) for b in moved[: i + 1]])


def fit_shapes(shape: Shape, others: list[torch.Tensor], data: torch.Tensor, weight: torch.Tensor):
    """Constant, matrix and vector of chi² for data = θ₀ s + Σ θᵢ otherᵢ, errors of s included.

    The weights are those of the data; the covariance of their solution counts the noise of s, however that is
    correlated from sample to sample: cov = A⁻¹ (A + θ₀² N) A⁻¹ with N = Sᵀ W cov(s) W S. The quadratic returned has its
    minimum at that solution, the inverse of that covariance as its curvature, and the misfit at its minimum.

    Parameters
    ----------
    shape : `Shape`
    others : list of `torch.Tensor`
        ``(n, pixels)`` or ``(1, 1)``: further shapes.
    data, weight : `torch.Tensor`
        ``(n, pixels)``.
    """
    columns = [shape.values, *others]
    matrix, vector, constant = packed.normal_equations(columns, weight, data)
    solution = packed.solve(matrix, vector)
    noise = shape.noise()
    added = solution[0].square() * _largest(weight, noise)
    index = (added > _NEGLIGIBLE).nonzero()[:, 0]
    if not len(index):
        return constant, matrix, vector
    part, here = shape.select(index), solution[:, index]
    w, y = weight.index_select(-1, index), data.index_select(-1, index)
    chosen = [c if c.shape[-1] == 1 else c.index_select(-1, index) for c in columns]
    amplitude = here[0].square()
    spread = amplitude * part.passed_on([w * c for c in chosen])
    own = matrix[:, index]
    # The inverse of A⁻¹ (A + N) A⁻¹.
    if len(columns) == 1:
        curvature = own.square() / (own + spread).clamp_min(torch.finfo(own.dtype).tiny)
    else:
        full, both = packed.unpack(own.double()), packed.unpack((own + spread).double())
        curvature = packed.pack(full @ torch.linalg.solve(_lifted(both), full)).to(own)
    residual = y - sum(a * c for a, c in zip(here, chosen, strict=True))
    noisy = noise if noise.shape[-1] == 1 else noise.index_select(-1, index)
    misfit = (w * residual.square() / (1 + amplitude * noisy * w)).sum(0)
    matrix[:, index] = curvature
    vector[:, index] = packed.matvec(curvature, here)
    constant[index] = misfit + (here * vector[:, index]).sum(0)
    return constant, matrix, vector


def _largest(weight: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """No less than the largest of weight · noise of each pixel."""
    if noise.shape[-1] == 1:
        return weight.amax(0) * noise.amax()
    return (weight * noise).amax(0)


def _lifted(full: torch.Tensor) -> torch.Tensor:
    """Matrices that can be inverted: what nothing determines has a diagonal of zero."""
    empty = full.diagonal(dim1=-2, dim2=-1) <= 0
    return full + torch.diag_embed(empty.to(full))


def even_modes(shape: Shape, weight: torch.Tensor) -> torch.Tensor | None:
    """Which samples are used, bool ``(n,)``, if the noise of each pixel is the same in all of them and in I."""
    (factor, _), *more = shape.operators
    if more or shape.variance.numel() != 1 or factor.shape[-1] != 1:
        return None
    used = weight[:, 0] > 0
    first = weight.amax(0)
    same = torch.where(used[:, None], weight == first, weight == 0).all()
    return used if bool(same) and bool(used.any()) else None


def fit_modes(shape: Shape, used: torch.Tensor, data: torch.Tensor, weight: torch.Tensor):
    """As `fit_shapes` for one shape and even noise: every mode of the derivative with the weight it deserves.

    The noise of data - θ s has the covariance σ² + θ² σ_I² K Kᵀ, with K = r D. In the eigenvectors of K Kᵀ it is
    diagonal for every θ. One round of re-weighting, at the θ of equal weights.
    """
    constant, matrix, vector = packed.normal_equations([shape.values], weight, data)
    solution = packed.solve(matrix, vector)[0]
    ((factor, derivative),) = shape.operators
    kernel = (factor * derivative)[used]
    values, modes = torch.linalg.eigh(kernel.double() @ kernel.double().T)
    values, modes = values.clamp_min(0).to(data)[:, None] * shape.variance, modes.to(data)
    precision = weight.amax(0)
    amplitude = solution.square() * precision
    index = (amplitude * values.amax() > _NEGLIGIBLE).nonzero()[:, 0]
    if not len(index):
        return constant, matrix, vector
    s = modes.T @ shape.values[used][:, index]
    y = modes.T @ data[used][:, index]
    w = precision[index] / (1 + amplitude[index] * values)
    a, b, c = packed.normal_equations([s], w, y)
    matrix[:, index], vector[:, index], constant[index] = a, b, c
    return constant, matrix, vector
