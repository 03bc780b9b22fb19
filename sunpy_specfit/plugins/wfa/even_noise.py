"""The quadratics of one field from spectra whose samples all have the same noise: few passes over them.

The general case, with the same answers, is in `normal_equations`.
"""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType

import numpy as np
import torch

from ...core.warnings import SpecfitWarning
from .attenuation import share_of_noise
from .normal_equations import Shape

__all__ = ["EvenModes", "compiled_loops", "fit_compiled", "fit_longitudinal", "fit_transverse"]

# Fewer pixels are not worth waiting for a compiler, or for what it left on the disk.
_WORTH_COMPILING = 2**12
# Pixels whose samples, and what is made of them, stay in the processor's cache.
_TOGETHER = 2**11
# Why the compiled loops are not to be had: what went wrong with the first that were run.
_failures: list[Exception] = []


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
        values, vectors = torch.linalg.eigh(kernel @ kernel.T)
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


@cache
def _loops() -> ModuleType | None:
    try:
        from . import loops
    except Exception:  # noqa: BLE001 - not installed, or no place to keep its code: there is another way
        return None
    return loops


def compiled_loops(data: torch.Tensor) -> ModuleType | None:
    """The compiled loops, for data ``(..., pixels)`` that are worth it; None where there are none (no Numba)."""
    if _failures or data.device.type != "cpu" or data.shape[-1] < _WORTH_COMPILING:
        return None
    return _loops()


def fit_compiled(loops: ModuleType, *spectra, **inputs) -> tuple[torch.Tensor, ...] | None:
    """What `_fit_compiled` finds; None, with a warning, where Numba cannot compile or its cache is damaged."""
    try:
        return _fit_compiled(loops, *spectra, **inputs)
    except Exception as error:  # noqa: BLE001 - whatever a compiler or its cache stumbles over, the plain code remains
        _failures.append(error)
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"Numba's loops cannot be used, so the plain code is: {reason}", SpecfitWarning, stacklevel=2)
        return None


def _fit_compiled(
    loops, x, data, weight, *, intensity, variance, derivatives, center, lines, wing, core, own, modes, signs, samples
):
    """The quadratic of b_los, b_q and b_u: `fit_transverse` and `fit_longitudinal` at once.

    Parameters
    ----------
    loops : module
        From `compiled_loops`.
    x, data, weight : `torch.Tensor`
        ``(n, 1)``, ``(3, n, pixels)``, ``(1,)``.
    intensity, variance : `torch.Tensor`
        ``(n, pixels)``, and of one number.
    derivatives : list of `torch.Tensor`
        Matrices ``(n, n)`` of the first derivative, the second, or both, as the formulas ask.
    center : `torch.Tensor`
        ``(1 or n, pixels)``.
    lines : tuple of `torch.Tensor`
        As `Centers` has them.
    wing, core : tuple of `torch.Tensor`
        Factor, ``(n, 1)``, and where the wing begins or the core ends, ``(1 or n, 1 or pixels)``.
    own : `torch.Tensor`
        Which samples belong to the lines that are fitted (1) or to others (0), ``(n, 1)``.
    modes : tuple of `torch.Tensor`
        Modes ``(n, m)``, what takes I to the shape among them, ``(m, n)``, and their noise, ``(m,)``.
    signs : tuple of int
        Of Q, U and V.
    samples : int
        Of V.

    Returns
    -------
    constant, matrix, vector, valid : `torch.Tensor`
    """
    vectors, mode_shape, mode_noise = modes
    matrix = torch.cat(derivatives)
    noise = (variance.reshape(1) * matrix.square().sum(1)).numpy()
    moment, extent, reach, members = lines
    # Of each line these follow the derivatives, and what they take from I is pulled back to it as the derivatives are.
    matrix = torch.cat([matrix, moment, extent])
    products, n, pixels = torch.cat([matrix, mode_shape]), len(x), data.shape[-1]
    mode_noise = (variance.reshape(1) * mode_noise).numpy()
    place, outer, inner, own = (row[:, 0].contiguous().numpy() for row in (x, wing[0], core[0], own))
    begins, reaches = (edge[1].expand(-1, pixels).contiguous().numpy() for edge in (wing, core))
    owner, reach = members.argmax(0).numpy(), reach[:, 0].contiguous().numpy()
    light, center = data.contiguous().numpy(), center.contiguous().numpy()
    one, noise_of_light = weight.numpy()[0], variance.numpy().reshape(-1)[0]
    signs, samples = tuple(map(light.dtype.type, signs)), light.dtype.type(samples)
    found = [data.new_empty(shape) for shape in ((pixels,), (6, pixels), (3, pixels))]
    found.append(torch.empty(pixels, dtype=torch.int64))
    filled = [value.numpy() for value in found]
    # The same memory for all pieces, so that it stays in the cache.
    most = min(_TOGETHER, pixels)
    sums = np.empty((10, most), light.dtype)
    memory = data.new_empty((len(products) + len(vectors.T) + n) * most)
    for start in range(0, pixels, most):
        some = min(most, pixels - start)
        part = slice(start, start + some)
        sizes = [rows_of * some for rows_of in (len(products), vectors.shape[1], n)]
        derived, mode_data, back = (v.view(-1, some) for v in memory[: sum(sizes)].split(sizes))
        torch.mm(products, intensity[:, part], out=derived)
        torch.mm(vectors.T, data[2, :, part], out=mode_data)
        loops.add_up(
            start,
            derived.numpy(),
            mode_data.numpy(),
            light,
            place,
            center,
            outer,
            begins,
            inner,
            reaches,
            own,
            owner,
            reach,
            noise,
            mode_noise,
            one,
            sums,
        )
        torch.mm(matrix.T, derived[: len(matrix)], out=back)
        loops.put_together(start, sums, back.numpy(), one, noise_of_light, signs, samples, *filled)
    return tuple(found)
