"""Linear fits to a noisy shape come out too small; this takes that back.

The noise of the shape adds its own square to Σ s², so that θ = Σ s y / Σ s² is low by the share that it adds
(attenuation, or regression dilution): below a thousandth where the signal is good, but the same in all pixels, so that
no average over a map removes it. The expected share is known, and is subtracted (Fuller 1987, Measurement Error Models,
doi:10.1002/9780470316665, section 2.2).
"""

from __future__ import annotations

import torch

from ...numerics import packed

__all__ = ["MOST", "restored", "restored_beside", "share_of_noise"]

# No more than this part of what the data say of the shape is ever taken for noise.
MOST = 0.5
# What is left of a shape beside a constant and I must exceed what its noise makes of it in all but one of a thousand.
_DEVIATIONS = 3.09


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


def restored_beside(
    constant: torch.Tensor, matrix: torch.Tensor, vector: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `restored`, where the last shape is noisy too and has noise in common with the first: I beside its derivative.

    What is left of a shape beside those fitted with it may be noise alone: then nothing is known of its number, which
    is held at zero and has no curvature. So it is with dI/dλ / (λ - λ0) beside a constant and I: of a Gaussian line it
    is the sum of both, 2 (I_c - I) / width², and what is left of it is noise.

    Parameters
    ----------
    constant, matrix, vector : `torch.Tensor`
        ``(pixels,)``, packed, and ``(k, pixels)``.
    noise : `torch.Tensor`
        Σ w var(s), Σ w cov(s, I), Σ w var(I), and over how many samples the first is spread, ``(4, pixels)``.

    Returns
    -------
    constant, matrix, vector, turn : `torch.Tensor`
        The quadratic, and (A - N) A⁻¹, ``(pixels, k, k)``: what takes noise of the vector b to that of the new one.
    """
    full, right = packed.unpack(matrix).double(), vector.T.double()
    own = torch.zeros_like(full)
    own[:, 0, 0], own[:, 0, -1], own[:, -1, 0], own[:, -1, -1] = noise[0], noise[1], noise[1], noise[2]
    held = _mostly_noise(full, own, noise[3].double())
    known = (~held).double()
    both = known[:, :, None] * known[:, None, :]
    lifted = torch.diag_embed(held.double())
    exact, right = full * both + lifted, right * known
    less = exact - own * both
    turn = torch.linalg.solve(exact, less, left=False)
    solution = torch.linalg.solve(less, right)
    misfit = (
        constant.double() - 2 * (solution * right).sum(-1) + torch.einsum("pi,pij,pj->p", solution, exact, solution)
    )
    turn = turn * both
    curvature = turn @ less
    new = (curvature @ solution[..., None])[..., 0]
    constant = misfit + (solution * new).sum(-1)
    return constant.to(matrix), packed.pack(curvature).to(matrix), new.T.to(matrix).contiguous(), turn


def _mostly_noise(matrix: torch.Tensor, noise: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """Of which shapes noise alone could be what is left of them beside those after them, bool ``(pixels, k)``.

    The squares of noise add up to χ² of so many degrees of freedom, whose quantiles are those of Wilson & Hilferty
    (1931, doi:10.1073/pnas.17.12.684).
    """
    k = matrix.shape[-1]
    matrix, less = matrix.clone(), matrix - noise
    # Beside I alone, which no line makes of it, the shape is noise where there is no line.
    most = 1 / MOST
    if k > 2:
        part = 2 / (9 * (samples - (k - 1)).clamp_min(1.0))
        most = (1 - part + _DEVIATIONS * part.sqrt()) ** 3
    held = torch.zeros(matrix.shape[:-1], dtype=torch.bool, device=matrix.device)
    # A constant is exact, and first to be taken out of the others; then I, and last the shape of the field.
    for i in [*range(1, k), 0]:
        whole, rest = matrix[:, i, i].clone(), less[:, i, i].clone()
        held[:, i] = ~(most * (whole - rest) < whole)
        for one, pivot in ((matrix, whole), (less, rest)):
            column = torch.where(held[:, i, None], 0.0, one[:, i] / pivot[:, None])
            one -= column[:, :, None] * one[:, i][:, None, :]
    return held
