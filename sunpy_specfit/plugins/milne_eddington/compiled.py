"""The normal equations of a pixel in compiled code, which never writes a Jacobian to memory.

Compilation takes about a minute and is kept on disk by PyTorch, so that it pays for large maps, and the next time for
smaller ones too.
"""

from __future__ import annotations

import shutil
import warnings

import torch

from ...core.warnings import SpecfitWarning
from ...numerics.voigt import faddeeva_derivative
from .atmosphere import NAMES, stokes_jacobian

__all__ = ["available", "normal_equations", "plain_normal_equations"]

# Pixels at a time, whose profiles stay in the processor's cache.
_AT_ONCE = 128
_functions: dict[str, object] = {}


def available() -> bool:
    """Whether a C++ compiler can be found."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl"))


def normal_equations(lines, x, data, weight, values, inputs):
    """(chi-squared, matrix, vector) of each pixel in compiled code; None where that is not to be had.

    Parameters
    ----------
    lines : tuple of `Line`
    x, data, weight : `torch.Tensor`
        ``(n, 1 or pixels)``, and twice ``(4, n, pixels)``.
    values : sequence of `torch.Tensor`
        The nine parameters, ``(pixels,)``.
    inputs : dict of `torch.Tensor`
        rest, splitting, doppler and mu.
    """
    pixels = data.shape[-1]
    if x.device.type != "cpu" or "failed" in _functions:
        return None
    inputs = {**inputs, "mu": inputs["mu"].expand(pixels)}
    values = torch.stack([value.expand(pixels) for value in values])
    tables = _tables(lines, x.dtype)
    found = []
    try:
        for first in range(0, pixels, _AT_ONCE):
            # Code is compiled for one number of pixels: the last piece begins earlier, a short one repeats a pixel.
            start = max(0, min(first, pixels - _AT_ONCE))
            index = torch.arange(start, start + _AT_ONCE).clamp_max(pixels - 1)
            results = _one_piece(lines, tables, x, data, weight, values, inputs, index)
            found.append([result[..., first - start : pixels - start] for result in results])
    except Exception as error:  # noqa: BLE001 - whatever a compiler stumbles over, the plain code remains
        _functions["failed"] = error
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"compilation failed, so the plain code is used: {reason}", SpecfitWarning, stacklevel=2)
        return None
    return tuple(torch.cat(parts, -1) for parts in zip(*found, strict=True))


def _one_piece(lines, tables, x, data, weight, values, inputs, index):
    # Fresh tensors all of them: a view's place in another would be compiled in.
    x = x.clone() if x.shape[-1] == 1 else x.index_select(-1, index)
    data, weight, values = (tensor.index_select(-1, index) for tensor in (data, weight, values))
    mu = inputs["mu"].index_select(-1, index)
    places = torch.stack([inputs[name][:, 0] for name in ("rest", "splitting", "doppler")])
    sums = []
    for number, groups in enumerate(tables):
        own, width = places[:, number].clone(), lines[number].width
        for table in groups:
            sums.append(_compiled("sums", _group_sums)(x, own, values, width, table))
    return _compiled("equations", plain_normal_equations)(lines, x, data, weight, values, places, mu, sums)


def _compiled(name: str, function):
    if name not in _functions:
        _functions[name] = torch.compile(function, dynamic=False, fullgraph=True)
    return _functions[name]


def _tables(lines, dtype):
    """Shifts and strengths of each group of components, ``(2, components, 1, 1)``."""
    return [
        [
            torch.tensor(
                [[shift for shift, _ in group], [line.strength * strength for _, strength in group]], dtype=dtype
            )[..., None, None]
            for group in line.groups
        ]
        for line in lines
    ]


def _group_sums(x, places, values, width: float, table):
    """H and F of a group of components, their slopes along v, and those along the splitting."""
    strength, _, _, velocity, doppler_width, _, damping, _, _ = values.unbind()
    rest, splitting, doppler = places.unbind()
    shifts, strengths = table.unbind()
    inverse = 1.0 / (doppler_width * width)
    v = (x - rest - doppler * velocity) * inverse
    h, f, h_v, f_v = faddeeva_derivative(v - shifts * (splitting * strength * inverse), damping)
    pulled = -shifts * strengths
    parts = (h * strengths, f * strengths, h_v * strengths, f_v * strengths, h_v * pulled, f_v * pulled)
    return tuple(part.sum(0) for part in parts)


def plain_normal_equations(lines, x, data, weight, values, places, mu, sums):
    """What is compiled: chi-squared ``(pixels,)``, the packed matrix and the vector, with no array of derivatives."""
    rest, splitting, doppler = places.unbind()
    light, columns = stokes_jacobian(
        lines, x, *values.unbind(), rest=rest, splitting=splitting, doppler=doppler, mu=mu, sums=sums
    )
    residual = [data[s] - light[s] for s in range(4)]
    weighed = [weight[s] * residual[s] for s in range(4)]
    matrix, vector = [], []
    for number, name in enumerate(NAMES):
        own = columns[name]
        scaled = [None if own[s] is None else weight[s] * own[s] for s in range(4)]
        for other in NAMES[: number + 1]:
            its = columns[other]
            products = [scaled[s] * its[s] for s in range(4) if scaled[s] is not None and its[s] is not None]
            matrix.append(sum(products[1:], products[0]).sum(0) if products else torch.zeros_like(mu))
        products = [weighed[s] * own[s] for s in range(4) if own[s] is not None]
        vector.append(sum(products[1:], products[0]).sum(0))
    chi2 = sum([weighed[s] * residual[s] for s in range(1, 4)], weighed[0] * residual[0]).sum(0)
    return chi2, torch.stack(matrix), torch.stack(vector)
