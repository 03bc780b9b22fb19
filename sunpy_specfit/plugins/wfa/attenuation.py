"""Linear fits to a noisy shape come out too small; this takes that back.

The noise of the shape adds its own square to Σ s², so that θ = Σ s y / Σ s² is low by the share that it adds
(attenuation, or regression dilution): below a thousandth where the signal is good, but the same in all pixels, so that
no average over a map removes it. The expected share is known, and is subtracted (Fuller 1987, Measurement Error Models,
doi:10.1002/9780470316665, section 2.2).
"""

from __future__ import annotations

import torch

from ...numerics import packed

__all__ = ["MOST", "restored", "share_of_noise"]

# No more than this part of what the data say of the shape is ever taken for noise.
MOST = 0.5


def share_of_noise(noise: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
    """Which part of Σ w s² the noise of the shape makes, Σ w var(s) / Σ w s², at most a half; zero where there is none.

    Parameters
    ----------
    noise, squared : `torch.Tensor`
        ``(pixels,)``.
    """
    return torch.where(squared > 0, noise / squared, 0.0).clamp_(0.0, MOST)


def restored(
    constant: torch.Tensor, matrix: torch.Tensor, vector: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The quadratic of a linear fit whose first shape is noisy, moved to the solution that is not attenuated.

    With N the noise's part of the matrix A, the solution is (A - N)⁻¹ b, its covariance (A - N)⁻¹ A (A - N)⁻¹.

    Parameters
    ----------
    constant, matrix, vector : `torch.Tensor`
        Of the fit that takes the shape for exact: ``(pixels,)``, packed, and ``(k, pixels)``.
    noise : `torch.Tensor`
        Σ w var(s), ``(pixels,)``.

    Returns
    -------
    constant, matrix, vector, kept : `torch.Tensor`
        The quadratic, and 1 minus the share of noise, ``(pixels,)``.
    """
    unit = torch.zeros_like(vector)
    unit[0] = 1.0
    column = packed.solve(matrix, unit)  # the first column of the inverse
    first, spread = (column * vector).sum(0), column[0]
    noise = noise.minimum(MOST / spread.clamp_min(torch.finfo(spread.dtype).tiny))
    share = noise * spread
    # How far the solution moves along that column, and what the misfit grows by.
    moved = noise * first / (1 - share)
    grown = moved.square() * spread
    solution = packed.solve(matrix, vector)
    least = constant - (solution * vector).sum(0)
    matrix, vector = matrix.clone(), vector.clone()
    matrix[0] += noise * (share - 2)
    vector[0] -= noise * first
    solution += moved * column
    return least + grown + (solution * vector).sum(0), matrix, vector, 1 - share
