"""A model around a function on numpy arrays: Numba, Fortran, C, anything that Python can call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from ...core.constraints import constraint_calls
from ...core.model import Model
from ...core.parameter import Parameter

__all__ = ["ExternalModel"]

_SPECTRAL_STEP = 1e-4  # of the sampling, for parameters measured along the spectral axis
_RELATIVE_STEP = 6e-6  # cube root of the float64 round-off: best for central differences


class ExternalModel(Model):
    """A model whose physics is a foreign function on numpy arrays.

    Every solver works with it: the derivatives come from ``jacobian``, or from central differences in float64
    that move all pixels of a block at once.

    Parameters
    ----------
    function : callable
        ``function(x, *values) -> light``, on float64 arrays, in the parameters' units. For one pixel: x ``(n,)``,
        values floats (or ``(k,)`` for vectors), light ``([stokes,] n)``. With ``vectorized``: x ``(n, 1)`` or
        ``(n, pixels)``, values ``(pixels,)`` (``(k, pixels)``), light ``([stokes,] n, pixels)``.
    parameters : mapping of str to `Parameter`
        In the order of the function's arguments.
    jacobian : callable, optional
        Called as ``function``; returns a sequence of derivatives of the light, one for each parameter, shaped as
        the light (with a leading k for vectors).
    label : str, optional
    vectorized : bool
        Whether the functions take many pixels in one call.
    linear : sequence of str
        Parameters that enter linearly: it makes the search for start values better.
    stokes : str
        The Stokes parameters that the function returns.

    Raises
    ------
    TypeError
        If ``function`` cannot be called or a parameter is not a `Parameter`.

    Examples
    --------
    >>> import numpy as np
    >>> from sunpy_specfit import ExternalModel, Parameter
    >>> def lorentzian(x, amplitude, center, width):
    ...     return amplitude / (1 + ((x - center) / width) ** 2)
    >>> model = ExternalModel(
    ...     lorentzian,
    ...     {
    ...         "amplitude": Parameter("data", lower=0),
    ...         "center": Parameter("spectral", location=True),
    ...         "width": Parameter("spectral", lower=0),
    ...     },
    ...     vectorized=True,
    ... )
    >>> list(model.parameters)
    ['amplitude', 'center', 'width']
    """

    name = "external"

    def __init__(
        self,
        function: Callable,
        parameters: Mapping[str, Parameter],
        *,
        jacobian: Callable | None = None,
        label: str | None = None,
        vectorized: bool = False,
        linear: Sequence[str] = (),
        stokes: str = "I",
    ):
        if not callable(function):
            raise TypeError(f"ExternalModel wraps a function, found {type(function).__name__}")
        wrong = [name for name, parameter in parameters.items() if not isinstance(parameter, Parameter)]
        if wrong:
            raise TypeError(f"ExternalModel needs a Parameter for each name; {', '.join(map(repr, wrong))} is none")
        self.function = function
        self._parameters = dict(parameters)
        self.jacobian = jacobian
        self.label = label
        self.vectorized = vectorized
        self.linear = tuple(linear)
        self.stokes = stokes

    def arguments(self):
        """The constructor arguments; ``parameters`` as first given, without later constraints."""
        return {
            "function": self.function,
            "parameters": self._parameters,
            "jacobian": self.jacobian,
            "label": self.label,
            "vectorized": self.vectorized,
            "linear": self.linear,
            "stokes": self.stokes,
        }

    def declare(self) -> Mapping[str, Parameter]:
        return self._parameters

    def __repr__(self) -> str:
        function = getattr(self.function, "__name__", repr(self.function))
        return f"ExternalModel({function}, {list(self._parameters)})" + constraint_calls(
            self.parameters, self.declare()
        )

    def evaluate(self, x, **parameters):
        return _Foreign.apply(self, x, *(parameters[name] for name in self._parameters))[0]

    @property
    def linear_parameters(self) -> tuple[str, ...]:
        return self.linear

    def linearize(self, x, **parameters):
        values = [_numpy(parameters[name]) for name in self._parameters]
        axis = _numpy(x)
        light = torch.as_tensor(self._call(self.function, axis, values)).to(x)
        derivatives = self._derivatives(axis, values)
        return light, {name: torch.as_tensor(d).to(x) for name, d in zip(self._parameters, derivatives, strict=True)}

    # -- numpy only from here on -----------------------------------------------------------------

    def _call(self, function, x: np.ndarray, values: list[np.ndarray]) -> np.ndarray:
        """One call, or one a pixel; the pixel axis is last wherever x has two axes."""
        if x.ndim == 1:
            if not self.vectorized:
                return np.asarray(function(x, *(v if v.ndim else float(v) for v in values)), float)
            return np.asarray(function(x[:, None], *(v[..., None] for v in values)), float)[..., 0]
        pixels = max(x.shape[-1], *(v.shape[-1] for v in values))
        if self.vectorized:
            light = np.asarray(function(x, *values), float)
            return np.array(np.broadcast_to(light, (*light.shape[:-1], pixels)))
        out = []
        for p in range(pixels):
            own = [v[..., p if v.shape[-1] > 1 else 0] for v in values]
            axis = np.ascontiguousarray(x[:, p if x.shape[-1] > 1 else 0])
            out.append(function(axis, *(np.ascontiguousarray(v) if v.ndim else float(v) for v in own)))
        return np.stack([np.asarray(light, float) for light in out], axis=-1)

    def _derivatives(self, x: np.ndarray, values: list[np.ndarray]) -> list[np.ndarray]:
        if self.jacobian is not None:
            return self._given_derivatives(x, values)
        derivatives = []
        for number, (parameter, value) in enumerate(zip(self._parameters.values(), values, strict=True)):
            step = self._step(parameter, value, x)
            rows = []
            for row in range(parameter.size):
                lights = []
                for sign in (1.0, -1.0):
                    moved = value.copy()
                    (moved[row : row + 1] if parameter.shape else moved[...])[...] += sign * step
                    lights.append(self._call(self.function, x, [*values[:number], moved, *values[number + 1 :]]))
                rows.append((lights[0] - lights[1]) / (2 * step))
            derivatives.append(np.stack(rows) if parameter.shape else rows[0])
        return derivatives

    def _given_derivatives(self, x, values) -> list[np.ndarray]:
        count = len(values)
        if x.ndim == 1 or self.vectorized:
            if x.ndim == 1 and self.vectorized:
                found = self.jacobian(x[:, None], *(v[..., None] for v in values))
                return [np.asarray(d, float)[..., 0] for d in found]
            if x.ndim == 1:
                values = [v if v.ndim else float(v) for v in values]
            return [np.asarray(d, float) for d in self.jacobian(x, *values)]
        pixels = max(x.shape[-1], *(v.shape[-1] for v in values))
        columns: list[list[np.ndarray]] = [[] for _ in range(count)]
        for p in range(pixels):
            own = [v[..., p if v.shape[-1] > 1 else 0] for v in values]
            axis = np.ascontiguousarray(x[:, p if x.shape[-1] > 1 else 0])
            for column, d in zip(columns, self.jacobian(axis, *(v if v.ndim else float(v) for v in own)), strict=True):
                column.append(np.asarray(d, float))
        return [np.stack(column, axis=-1) for column in columns]

    @staticmethod
    def _step(parameter: Parameter, value: np.ndarray, x: np.ndarray) -> float:
        if isinstance(parameter.unit, str) and parameter.unit.strip() == "spectral" and x.shape[0] > 1:
            return _SPECTRAL_STEP * float(np.median(np.abs(np.diff(x, axis=0))))
        size = float(np.median(np.abs(value))) if value.size else 0.0
        return _RELATIVE_STEP * (size if size > 0 else 1.0)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


class _Foreign(torch.autograd.Function):
    """The foreign function as a differentiable one, in forward and in reverse mode.

    The derivatives are made together with the light, for later the values may be out of numpy's reach.
    """

    @staticmethod
    def forward(model, x, *values):
        arrays = [_numpy(v) for v in values]
        axis = _numpy(x)
        light = torch.as_tensor(model._call(model.function, axis, arrays)).to(values[0])
        derivatives = [torch.as_tensor(d).to(values[0]) for d in model._derivatives(axis, arrays)]
        return light, *derivatives

    @staticmethod
    def setup_context(ctx, inputs, output):
        model, _, *values = inputs
        _, *derivatives = output
        ctx.parameters = list(model._parameters.values())
        ctx.shapes = [v.shape for v in values]
        ctx.mark_non_differentiable(*derivatives)
        ctx.save_for_backward(*derivatives)
        ctx.save_for_forward(*derivatives)

    @staticmethod
    def backward(ctx, gradient, *_):
        pulled = []
        for parameter, shape, derivative in zip(ctx.parameters, ctx.shapes, ctx.saved_tensors, strict=True):
            product = derivative * gradient
            if len(shape) > len(parameter.shape):  # pixels are the last axis
                product = product.reshape(*parameter.shape, -1, product.shape[-1]).sum(-2)
                pulled.append(product.sum(-1, keepdim=True) if shape[-1] == 1 else product)
            else:
                pulled.append(product.reshape(*parameter.shape, -1).sum(-1))
        return None, None, *pulled

    @staticmethod
    def jvp(ctx, _model, _x, *tangents):
        total = 0.0
        for parameter, derivative, tangent in zip(ctx.parameters, ctx.saved_tensors, tangents, strict=True):
            if tangent is None:
                continue
            if parameter.shape:
                samples = derivative.ndim - tangent.ndim
                tangent = tangent.reshape(tangent.shape[0], *[1] * samples, *tangent.shape[1:])
                total = total + (derivative * tangent).sum(0)
            else:
                total = total + derivative * tangent
        return total, *(None for _ in ctx.saved_tensors)
