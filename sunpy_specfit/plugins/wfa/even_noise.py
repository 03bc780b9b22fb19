"""The quadratics of one field from spectra whose samples all have the same noise: few passes over them.

The general case, with the same answers, is in `normal_equations`.
"""

from __future__ import annotations

import torch

from .attenuation import share_of_noise
from .normal_equations import Shape
from .symmetry import eigenvectors

__all__ = ["EvenModes", "fit_longitudinal", "fit_transverse"]


class EvenModes:
    """The eigenvectors of K Kᵀ, the covariance of the derivative's noise: V's errors are independent among them.

    Parameters
    ----------
    matrix : `torch.Tensor`
        K ``(n, n)``, what takes I to the shape of V.
    used : `torch.Tensor`
        bool ``(n,)``: the samples of V in use.

    Attributes
    ----------
    values : `torch.Tensor`
        ``(m,)`` for m samples in use.
    vectors : `torch.Tensor`
        ``(n, m)``, zero in the samples that are not.
    slope : `torch.Tensor`
        What takes I to the shape among the modes, ``(m, n)``.
    """

    def __init__(self, matrix: torch.Tensor, used: torch.Tensor):
        kernel = matrix[used]
        values, vectors = map(torch.as_tensor, eigenvectors((kernel @ kernel.T).numpy()))
        self.values, self.slope = values.clamp_min(0), vectors.T @ kernel
        self.vectors = matrix.new_zeros((len(matrix), len(values)))
        self.vectors[used] = vectors


def fit_longitudinal(
    derived: torch.Tensor, data: torch.Tensor, weight: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Constant, matrix and vector of chi² for data = θ shape, all among the modes, each with the weight it deserves.

    Parameters
    ----------
    derived, data : `torch.Tensor`
        The shape and V among the modes, ``(n, pixels)``; both are overwritten.
    weight : `torch.Tensor`
        ``(1,)``.
    noise : `torch.Tensor`
        The variance of each mode of the shape, ``(n, 1)``.
    """
    product = derived * data
    squared, misfit = derived.square_(), data.square_()
    matrix = squared.sum(0)
    amplitude = torch.where(matrix > 0, product.sum(0) / matrix, 0.0)
    # 1 / (1 + θ² w σ²): how much less than the weight of V's own noise a mode deserves.
    share = torch.mul(noise, amplitude.square_() * weight).add_(1.0).reciprocal_()
    constant, matrix, vector = (weight * v.mul_(share).sum(0) for v in (misfit, squared, product))
    kept = 1 - share_of_noise(weight * share.mul_(noise).sum(0), matrix)
    least = torch.where(matrix > 0, vector.square() / matrix, 0.0)
    return constant + least * (1 / kept - 1).square_(), matrix * kept.square(), vector * kept


def fit_transverse(
    shape: Shape, data: torch.Tensor, kept: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Constant, matrix and vector of chi² for Q = θ₀ shape, U = θ₁ shape, the noise of their one shape included.

    The covariance of the least-squares solution is I / A + s θ θᵀ / A², with s the variance that the noise of I gives
    to Sᵀ W S, whose inverse is known in closed form.

    Parameters
    ----------
    shape : `Shape`
        With an even variance.
    data : `torch.Tensor`
        Q and U, ``(2, n, pixels)``.
    kept : `torch.Tensor`
        1 where the samples count and 0 elsewhere, ``(n, pixels)``.
    weight : `torch.Tensor`
        ``(1,)``.
    """
    data = data * kept
    squared = weight * shape.squared
    right = weight * (shape.values * data).sum(1)
    total = weight * data.square().sum((0, 1))
    kept_share = 1 - share_of_noise(weight * shape.total_noise, squared)
    theta = torch.where(squared > 0, right / (squared * kept_share), 0.0)
    length = theta.square().sum(0)
    spread = shape.variance.reshape(1) * weight**2 * shape.pulled_back(shape.values).square().sum(0)
    growth = 1 + length * torch.where(squared > 0, spread / squared, 0.0)
    vector = right * kept_share / growth
    matrix = torch.stack(
        [
            squared - spread * theta[0].square() / growth,
            -spread * theta[0] * theta[1] / growth,
            squared - spread * theta[1].square() / growth,
        ]
    )
    matrix *= kept_share.square()
    # What is left of Q and U has the noise of the shape in it too: weighed as a whole.
    samples = 2 * kept.sum(0)
    excess = length * weight * shape.total_noise
    misfit = (total - 2 * (theta * right).sum(0) + length * squared).clamp_min(0)
    misfit = misfit * samples / (samples + excess).clamp_min(1e-30)
    return misfit + (theta * vector).sum(0), matrix, vector
