"""The cosine transform of maps, and what it makes of differences of neighbours: plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import scipy.fft
import torch

__all__ = [
    "cosine_series",
    "cosine_squares",
    "cosine_transform",
    "inverse_cosine_transform",
    "laplacian_eigenvalues",
    "near_cosine_series",
    "series_of_near",
]


def cosine_transform(maps: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """The orthonormal cosine transform (DCT-II) along some axes.

    Its functions are mirrored at the edges of a map, so that no edge is joined to the opposite one. Along an axis of n
    pixels it is one Fourier transform of the pixels in another order.

    Parameters
    ----------
    maps : `torch.Tensor`
        Real, of any shape and device. The transform can be differentiated, and mapped by ``torch.func.vmap``.
    axes : sequence of int
        Along which to transform.

    Returns
    -------
    `torch.Tensor`
        Of the same shape and dtype.

    References
    ----------
    Makhoul (1980), IEEE Transactions on Acoustics, Speech, and Signal Processing 28, 27,
    https://doi.org/10.1109/TASSP.1980.1163351

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.numerics.cosine_transform import cosine_transform
    >>> cosine_transform(torch.ones(4), [0]).round(decimals=3).tolist()
    [2.0, 0.0, 0.0, 0.0]
    """
    return _Transform.apply(maps, _long_axes(maps, axes), False)


def inverse_cosine_transform(maps: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """The inverse of `cosine_transform`, which is its transpose (DCT-III)."""
    return _Transform.apply(maps, _long_axes(maps, axes), True)


def laplacian_eigenvalues(shape: Sequence[int], axes: Sequence[int]) -> torch.Tensor:
    """What the sum of squared differences of neighbours along ``axes`` weighs each cosine with.

    Σ (difference)² = Σ eigenvalue · (coefficient of `cosine_transform`)², each eigenvalue Σ 2 - 2 cos(π j / n).

    Returns
    -------
    `torch.Tensor`
        float64, of ``shape``.
    """
    total = torch.zeros(tuple(shape), dtype=torch.float64)
    for axis in axes:
        n = shape[axis]
        own = 4 * torch.sin(0.5 * math.pi / n * torch.arange(n, dtype=torch.float64)).square()
        total = total + own.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    return total


def cosine_squares(n: int) -> torch.Tensor:
    """The squares of the n cosines at each of n pixels, ``(cosines, pixels)``, float64: rows and columns sum to one."""
    angle = math.pi / n * torch.arange(n, dtype=torch.float64)[:, None] * (torch.arange(n, dtype=torch.float64) + 0.5)
    squares = 2 / n * angle.cos().square()
    squares[0] = 1 / n
    return squares


def variances(power: torch.Tensor) -> torch.Tensor:
    """Of each pixel of a map whose cosines are independent and have the variances ``power``; of the map's shape."""
    for axis, n in enumerate(power.shape):
        power = torch.tensordot(power, cosine_squares(n).to(power), dims=([axis], [0])).movedim(-1, axis)
    return power


def cosine_series(coefficients: torch.Tensor) -> torch.Tensor:
    """Σ c_j cos(π j r / n) along all axes, for j and r from 0 to n, all but the first and the last c twice (DCT-I)."""
    found = scipy.fft.dctn(coefficients.cpu().numpy(), type=1, workers=torch.get_num_threads())
    return torch.from_numpy(found).to(coefficients)


def near_cosine_series(coefficients: torch.Tensor, reach: int) -> torch.Tensor:
    """`cosine_series` for r from 0 to ``reach`` only, which take a few matrix products."""
    for size in coefficients.shape:
        waves = _series_waves(size - 1, reach)
        waves[1:-1] *= 2
        coefficients = torch.tensordot(coefficients, waves.to(coefficients), dims=([0], [0]))
    return coefficients


def series_of_near(near: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """`cosine_series` of coefficients that are zero beyond the first few, for r below ``shape``."""
    for n, size in zip(shape, near.shape, strict=True):
        waves = _series_waves(n, size - 1)[:-1]
        waves[:, 1:] *= 2
        near = torch.tensordot(near, waves.to(near), dims=([0], [1]))
    return near


def _series_waves(n: int, reach: int) -> torch.Tensor:
    """cos(π j r / n), ``(n + 1, reach + 1)``."""
    return (math.pi / n * torch.outer(torch.arange(n + 1), torch.arange(reach + 1)).double()).cos()


def _long_axes(maps: torch.Tensor, axes: Sequence[int]) -> tuple[int, ...]:
    """Counted from the last, without those of one pixel, along which nothing changes."""
    return tuple(axis % maps.ndim - maps.ndim for axis in axes if maps.shape[axis] > 1)


class _Transform(torch.autograd.Function):
    """Linear, and its own transpose's inverse: all derivatives are the transform again.

    On the CPU SciPy's is several times faster than one that is pieced together from Fourier transforms.
    """

    @staticmethod
    def forward(maps, axes, inverse):
        if not axes:
            return maps.clone()
        if maps.device.type == "cpu":
            transform = scipy.fft.idctn if inverse else scipy.fft.dctn
            found = transform(maps.detach().numpy(), axes=axes, norm="ortho", workers=torch.get_num_threads())
            return torch.from_numpy(found)
        return through_fourier(maps, axes, inverse=inverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.axes, ctx.inverse = inputs

    @staticmethod
    def backward(ctx, gradient):
        return _Transform.apply(gradient, ctx.axes, not ctx.inverse), None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        return _Transform.apply(tangent, ctx.axes, ctx.inverse)

    @staticmethod
    def vmap(info, in_dims, maps, axes, inverse):
        return _Transform.apply(maps.movedim(in_dims[0], 0), axes, inverse), 0


def through_fourier(maps: torch.Tensor, axes: Sequence[int], *, inverse: bool) -> torch.Tensor:
    """The transform in torch alone, for any device."""
    for axis in axes:
        n = maps.shape[axis]
        if n > 1:
            maps = (_backward if inverse else _forward)(maps.movedim(axis, -1), n).movedim(-1, axis)
    return maps


def _twist(n: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of π j / 2 n with the weights that make the transform orthonormal, for j up to n / 2."""
    angle = 0.5 * math.pi / n * torch.arange(n // 2 + 1, dtype=torch.float64)
    weight = torch.full_like(angle, (2 / n) ** 0.5)
    weight[0] = n**-0.5
    return (weight * angle.cos()).to(like), (weight * angle.sin()).to(like)


def _forward(x: torch.Tensor, n: int) -> torch.Tensor:
    spectrum = torch.fft.rfft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1))
    cosine, sine = _twist(n, x)
    low = spectrum.real * cosine + spectrum.imag * sine
    high = spectrum.real * sine - spectrum.imag * cosine
    # Of a complex coefficient the real part is one cosine's, the imaginary part that of its mirror image.
    return torch.cat([low, high[..., 1 : (n + 1) // 2].flip(-1)], -1)


def _backward(x: torch.Tensor, n: int) -> torch.Tensor:
    half = n // 2 + 1
    low, high = x[..., :half], torch.cat([torch.zeros_like(x[..., :1]), x[..., n - half + 1 :].flip(-1)], -1)
    cosine, sine = _twist(n, x)
    # A coefficient of the Fourier transform is n / 2 times what the weights leave of both, n times for the mean.
    scale = torch.full_like(cosine, n / 2)
    scale[0] = n
    mixed = torch.fft.irfft(
        torch.complex(scale * (low * cosine + high * sine), scale * (low * sine - high * cosine)), n
    )
    out = torch.empty_like(mixed)
    out[..., ::2] = mixed[..., : (n + 1) // 2]
    out[..., 1::2] = mixed[..., (n + 1) // 2 :].flip(-1)
    return out
