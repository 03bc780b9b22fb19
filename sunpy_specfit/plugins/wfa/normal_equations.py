"""The quadratics of linear fits whose first shape is made of noisy data."""

from __future__ import annotations

from functools import cached_property

import torch

from ...numerics import packed

__all__ = ["Modes", "Shape", "fit_shapes"]

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

    @cached_property
    def most_noise(self) -> torch.Tensor:
        """No sample of the shape has a larger variance: ``(1 or pixels,)``."""
        return self.noise.amax(0)

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

    @cached_property
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

    @cached_property
    def squared(self) -> torch.Tensor:
        """Σ s² over the samples, ``(pixels,)``."""
        return _dot(self.values, self.values)

    def passed_on(self, columns: list[torch.Tensor]) -> torch.Tensor:
        """The covariance of the sums Σ column · s, packed ``(m (m + 1) / 2, pixels)``."""
        moved = [sum(matrix.T @ (factor * column) for factor, matrix in self.operators) for column in columns]
        return torch.stack([(self.variance * a * b).sum(0) for i, a in enumerate(moved) for b in moved[: i + 1]])


def fit_shapes(
    shape: Shape, others: list[torch.Tensor], data: torch.Tensor, weight: torch.Tensor, modes: Modes | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Constant, matrix and vector of chi² for data = θ₀ s + Σ θᵢ otherᵢ, errors of s included.

    The weights are those of the data; the covariance of their solution counts the noise of s, however that is
    correlated from sample to sample: cov = A⁻¹ (A + θ₀² N) A⁻¹ with N = Sᵀ W cov(s) W S. The quadratic returned has its
    minimum at that solution, the inverse of that covariance as its curvature, and the misfit at its minimum. With
    ``modes`` it does better: every mode of the derivative then has the weight that it deserves.

    Parameters
    ----------
    shape : `Shape`
    others : list of `torch.Tensor`
        ``(n, pixels)`` or ``(1, 1)``: further shapes.
    data, weight : `torch.Tensor`
        ``(n, pixels)``; the weight may be expanded from ``(1, 1)``.
    modes : `Modes`, optional
        Where there are no other shapes and noise is even.
    """
    columns = [shape.values, *others]
    even = weight.stride(-1) == 0 and weight.stride(-2) == 0
    if even and not others:
        one = weight[0, :1]
        constant, matrix, vector = (one * v for v in (_dot(data, data), shape.squared, _dot(shape.values, data)))
        matrix, vector = matrix[None], vector[None]
        solution = torch.where(matrix > 0, vector / matrix, 0.0)
    else:
        matrix, vector, constant = packed.normal_equations(columns, weight, data)
        solution = packed.solve(matrix, vector)
    largest = weight[0, :1] if even else weight.amax(0)
    added = solution[0].square() * (largest * shape.most_noise)
    noisy = added > _NEGLIGIBLE
    if modes is not None:
        index = ((solution[0].square() * largest * modes.largest > _NEGLIGIBLE) & modes.even).nonzero()[:, 0]
        if len(index):
            one = largest if largest.shape[-1] == 1 else largest.index_select(-1, index)
            found = modes.fit(shape.select(index), data.index_select(-1, index), one, solution[0, index])
            matrix[:, index], vector[:, index], constant[index] = found
        noisy &= ~modes.even
    index = noisy.nonzero()[:, 0]
    if not len(index):
        return constant, matrix, vector
    w = weight[:, :1].expand(-1, len(index)) if even else weight.index_select(-1, index)
    y, part, here = data.index_select(-1, index), shape.select(index), solution.index_select(-1, index)
    chosen = [c if c.shape[-1] == 1 else c.index_select(-1, index) for c in columns]
    amplitude = here[0].square()
    spread = amplitude * part.passed_on([w * c for c in chosen])
    own = matrix.index_select(-1, index)
    # The inverse of A⁻¹ (A + N) A⁻¹.
    if len(columns) == 1:
        curvature = own.square() / (own + spread).clamp_min(torch.finfo(own.dtype).tiny)
    else:
        full, both = packed.unpack(own.double()), packed.unpack((own + spread).double())
        curvature = packed.pack(full @ torch.linalg.solve(_lifted(both), full)).to(own)
    residual = y - sum(a * c for a, c in zip(here, chosen, strict=True))
    misfit = _dot(w * residual / (1 + amplitude * part.noise * w), residual)
    matrix[:, index] = curvature
    vector[:, index] = packed.matvec(curvature, here)
    constant[index] = misfit + (here * vector.index_select(-1, index)).sum(0)
    return constant, matrix, vector


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
        self.largest = self.values.amax()

    @classmethod
    def of(cls, shape: Shape, weight: torch.Tensor) -> Modes | None:
        """The modes, for pixels whose noise is the same in all samples that most pixels use, and for all in I."""
        (factor, _), *more = shape.operators
        if more or shape.variance.numel() != 1 or factor.shape[-1] != 1:
            return None
        if weight.stride(-1) == 0 and weight.stride(-2) == 0:
            used, even = (weight[:, 0] > 0), torch.ones(1, dtype=torch.bool, device=weight.device)
        else:
            used = (weight > 0).double().mean(1) > 0.5
            even = torch.where(used[:, None], weight == weight.amax(0), weight == 0).all(0)
        return cls(shape, used, even) if bool(used.any()) else None

    def fit(self, shape: Shape, data: torch.Tensor, weight: torch.Tensor, amplitude: torch.Tensor):
        """Matrix, vector and constant with the weights that an amplitude ``(pixels,)`` of the shape gives the modes."""
        s, y = (self.vectors.T @ (v if bool(self.used.all()) else v[self.used]) for v in (shape.values, data))
        w = weight / (1 + amplitude.square() * weight * self.values)
        weighted = w * s
        return _dot(weighted, s)[None], _dot(weighted, y)[None], _dot(w * y, y)
