"""Light, derivatives and normal equations of many pixels in compiled code.

The formulas are those of the plain code, recorded and compiled as one loop (see `sunpy_specfit.numerics.kernel`), so
that nothing is written to memory between the numbers of a pixel and what is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch.autograd import forward_ad

from ...core.warnings import SpecfitWarning
from ...numerics.kernel import Kernel
from .atmosphere import NAMES, stokes, stokes_jacobian

__all__ = ["jacobian", "light", "normal_equations", "runs_on"]

_PLACES = ("rest", "splitting", "doppler")
_kernels: dict[tuple, Kernel | None] = {}


def runs_on(*tensors: torch.Tensor) -> bool:
    """Whether compiled code may stand for torch's: numbers on the CPU, of one precision, that nobody differentiates."""
    return len({tensor.dtype for tensor in tensors}) == 1 and all(map(_is_plain, tensors))


def _is_plain(tensor: torch.Tensor) -> bool:
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor) or tensor.device.type != "cpu":
        return False
    if tensor.requires_grad and torch.is_grad_enabled():
        return False
    return forward_ad.unpack_dual(tensor).tangent is None


def light(lines, x, values, inputs) -> torch.Tensor | None:
    """I, Q, U and V, ``(4, n, pixels)``; None where there is no compiled code.

    Parameters
    ----------
    lines : tuple of `Line`
    x : `torch.Tensor`
        ``(n, 1 or pixels)``.
    values : sequence of `torch.Tensor`
        The nine parameters, ``(pixels,)``.
    inputs : dict of `torch.Tensor`
        rest, splitting, doppler and mu.
    """
    found = _run("light", lines, values, inputs, [x])
    return found and found[1]


def jacobian(lines, x, values, inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]] | None:
    """The same, and the derivatives by each parameter, of that shape."""
    found = _run("jacobian", lines, values, inputs, [x])
    if found is None:
        return None
    own, *columns = found[1].unflatten(0, (len(NAMES) + 1, 4)).unbind()
    return own, dict(zip(NAMES, columns, strict=True))


def normal_equations(lines, x, data, weight, values, inputs) -> tuple[torch.Tensor, ...] | None:
    """Chi-squared ``(pixels,)``, the packed matrix and the vector of each pixel.

    ``data`` and ``weight`` are ``(4, n, pixels)``, the others as for `light`.
    """
    found = _run("equations", lines, values, inputs, [x, *data, *weight])
    if found is None:
        return None
    sums, k = found[0], len(NAMES)
    return sums[0], sums[k + 1 :], sums[1 : k + 1]


def _run(name: str, lines, values, inputs, sample):
    """Sums and rows of a kernel, or None."""
    pixels = max(value.shape[-1] for value in (*sample, *values, inputs["mu"]))
    kernel = _kernel(name, lines, values[0].dtype)
    if kernel is None:
        return None
    numbers = torch.cat([inputs[place].reshape(-1) for place in _PLACES]).tolist()
    return kernel(numbers, [value.expand(pixels) for value in (*values, inputs["mu"])], sample)


def _kernel(name: str, lines, dtype: torch.dtype) -> Kernel | None:
    key = name, lines, dtype
    if key not in _kernels:
        function, samples = _FUNCTIONS[name]
        counts = len(_PLACES) * len(lines), len(NAMES) + 1, samples
        try:
            _kernels[key] = Kernel(lambda *inputs: function(lines, *inputs), counts, dtype)
        except Exception as error:  # noqa: BLE001 - whatever a compiler stumbles over, the plain code remains
            _kernels[key] = None
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"compilation failed, so the plain code is used: {reason}", SpecfitWarning, stacklevel=2)
    return _kernels[key]


# -- what is compiled: one sample of one pixel -------------------------------------------------------------------------


def _given(lines, numbers: Sequence, pixel: Sequence):
    """The nine parameters, and the inputs by name."""
    count = len(lines)
    places = {name: numbers[count * i : count * (i + 1)] for i, name in enumerate(_PLACES)}
    return pixel[:-1], {**places, "mu": pixel[-1]}


def _light(lines, numbers, pixel, sample):
    values, inputs = _given(lines, numbers, pixel)
    return [], list(stokes(lines, *sample, *values, **inputs))


def _jacobian(lines, numbers, pixel, sample):
    values, inputs = _given(lines, numbers, pixel)
    own, columns = stokes_jacobian(lines, *sample, *values, **inputs)
    return [], [*own, *(0.0 if part is None else part for name in NAMES for part in columns[name])]


def _equations(lines, numbers, pixel, sample):
    values, inputs = _given(lines, numbers, pixel)
    x, data, weight = sample[0], sample[1:5], sample[5:]
    own, columns = stokes_jacobian(lines, x, *values, **inputs)
    # What is always zero is left out of the code.
    zero = torch.zeros_like(x)
    columns = [[zero if part is None else part for part in columns[name]] for name in NAMES]
    residual = [seen - part for seen, part in zip(data, own, strict=True)]
    weighed = [w * part for w, part in zip(weight, residual, strict=True)]
    scaled = [[w * part for w, part in zip(weight, column, strict=True)] for column in columns]
    matrix = [_inner(scaled[i], columns[j]) for i in range(len(NAMES)) for j in range(i + 1)]
    return [_inner(weighed, residual), *(_inner(weighed, column) for column in columns), *matrix], []


def _inner(a, b):
    total = a[0] * b[0]
    for one, other in zip(a[1:], b[1:], strict=True):
        total = torch.addcmul(total, one, other)
    return total


_FUNCTIONS = {"light": (_light, 1), "jacobian": (_jacobian, 1), "equations": (_equations, 9)}
