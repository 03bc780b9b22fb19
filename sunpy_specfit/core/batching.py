"""One pixel's physics, evaluated and differentiated for many pixels.

Three ways, from fast to slow: the plain function broadcast over a trailing pixel axis, `torch.vmap`, and a loop.
Which one a model allows is found by comparison with the loop on a few pixels, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.autograd import forward_ad

from .model import Model

__all__ = ["BatchedModel", "check_light"]

Tensors = Mapping[str, torch.Tensor]
_PROBE = 4


class BatchedModel:
    """A single component, batched over pixels.

    Parameters
    ----------
    model : `Model`
        A component (not a sum).
    strategy : {"broadcast", "vmap", "loop"}
        How to batch; see `choose`.
    analytic : bool
        Whether to use the model's own Jacobian where it has one.
    """

    def __init__(self, model: Model, strategy: str, *, analytic: bool = True):
        self.model = model
        self.strategy = strategy
        self.analytic = analytic and model.linearize is not None

    @classmethod
    def choose(cls, model: Model, x: torch.Tensor, parameters: Tensors, auxiliary: Tensors) -> BatchedModel:
        """The fastest way that agrees with the loop over pixels on the few given here.

        Parameters
        ----------
        x : `torch.Tensor`
            ``(n, 1)`` or ``(n, pixels)``.
        parameters, auxiliary : dict of `torch.Tensor`
            Pixels last; the parameters should differ between pixels.

        Raises
        ------
        TypeError, ValueError
            If what the model returns is no tensor, or not of the shape of the data.
        """
        pixels = min(_PROBE, next((v.shape[-1] for v in parameters.values()), 1))
        x, parameters, auxiliary = (_take(v, slice(0, pixels)) for v in (x, parameters, auxiliary))
        check_light(model, x, parameters, auxiliary)
        expected = cls(model, "loop", analytic=False).light(x, parameters, auxiliary)
        analytic = model.linearize is not None
        if analytic:
            light, _ = model.linearize(x, **parameters, **auxiliary)
            analytic = _agree(light, expected)
        for strategy in ("broadcast", "vmap"):
            batched = cls(model, strategy, analytic=analytic)
            try:
                found = batched.light(x, parameters, auxiliary)
            except Exception:  # noqa: BLE001 - whatever a foreign function does under batching, the loop remains
                continue
            if _agree(found, expected):
                return batched
        return cls(model, "loop", analytic=analytic)

    def light(self, x: torch.Tensor, parameters: Tensors, auxiliary: Tensors) -> torch.Tensor:
        """The model's light ``([stokes,] n, pixels)``."""
        pixels = _pixels(x, parameters, auxiliary)
        if self.strategy == "broadcast":
            light = self.model.evaluate(x, **parameters, **auxiliary)
            return light if light.shape[-1] == pixels else light.expand(*light.shape[:-1], pixels)
        inputs = _expand({"x": x, **parameters, **auxiliary}, pixels)

        def one(values):
            return self.model.evaluate(**values)

        if self.strategy == "vmap":
            return torch.vmap(one, in_dims=-1, out_dims=-1)(inputs)
        return torch.stack([one({k: v[..., p] for k, v in inputs.items()}) for p in range(pixels)], dim=-1)

    def linearize(
        self, x: torch.Tensor, parameters: Tensors, auxiliary: Tensors, wrt: tuple[str, ...]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The light and its derivatives: ``([k,] [stokes,] n, pixels)``, or what broadcasts to it."""
        if self.analytic:
            light, derivatives = self.model.linearize(x, **parameters, **auxiliary)
            return light, {name: derivatives[name] for name in wrt}
        if self.strategy == "broadcast":
            return self._forward_mode(self.model.evaluate, x, parameters, auxiliary, wrt)
        if self.strategy == "vmap":
            return self._vmapped(x, parameters, auxiliary, wrt)
        pixels = _pixels(x, parameters, auxiliary)
        inputs = _expand({"x": x, **parameters, **auxiliary}, pixels)
        lights, columns = [], {name: [] for name in wrt}
        for p in range(pixels):
            one = {key: value[..., p] for key, value in inputs.items()}
            light, derivatives = self._forward_mode(
                self.model.evaluate,
                one["x"],
                {name: one[name] for name in parameters},
                {name: one[name] for name in auxiliary},
                wrt,
                pixel_axis=False,
            )
            lights.append(light)
            for name in wrt:
                columns[name].append(derivatives[name])
        return torch.stack(lights, dim=-1), {name: torch.stack(c, dim=-1) for name, c in columns.items()}

    @staticmethod
    def _forward_mode(function, x, parameters, auxiliary, wrt, *, pixel_axis=True):
        # Plain dual numbers: unlike functorch they follow branches and loops that look at values.
        light, derivatives = None, {}
        for name in wrt:
            value = parameters[name]
            vector = value.ndim > (1 if pixel_axis else 0)
            columns = []
            for row in range(value.shape[0] if vector else 1):
                tangent = torch.zeros_like(value)
                (tangent[row] if vector else tangent).fill_(1.0)
                with forward_ad.dual_level():
                    dual = forward_ad.make_dual(value, tangent)
                    out = function(x, **{**parameters, name: dual}, **auxiliary)
                    primal, derivative = forward_ad.unpack_dual(out)
                light = primal if light is None or light.shape[-1] < primal.shape[-1] else light
                columns.append(torch.zeros_like(primal) if derivative is None else derivative)
            derivatives[name] = torch.stack(columns) if vector else columns[0]
        if light is None:
            light = function(x, **parameters, **auxiliary)
        return light, derivatives

    def _vmapped(self, x, parameters, auxiliary, wrt):
        pixels = _pixels(x, parameters, auxiliary)
        inputs = _expand({"x": x, **parameters, **auxiliary}, pixels)

        def one(active, rest):
            light = self.model.evaluate(**active, **rest)
            return light, light

        active = {name: inputs.pop(name) for name in wrt}
        jacobian, light = torch.vmap(torch.func.jacfwd(one, has_aux=True), in_dims=-1, out_dims=-1)(active, inputs)
        # jacfwd puts the derivative's axis behind the light's: bring a vector's to the front.
        derivatives = {name: d if active[name].ndim == 1 else d.movedim(-2, 0) for name, d in jacobian.items()}
        return light, derivatives


def check_light(model: Model, x, parameters, auxiliary) -> None:
    """Call the plain function for one pixel, and say what is wrong with its answer.

    Raises
    ------
    TypeError, ValueError
        If it is no tensor, or not of the shape of the data.
    """
    light = model.evaluate(**{key: value[..., 0] for key, value in {"x": x, **parameters, **auxiliary}.items()})
    if not torch.is_tensor(light):
        raise TypeError(
            f"{type(model).__name__}.evaluate returned {type(light).__name__} instead of a torch tensor: compute with "
            "torch, or wrap a function of numpy arrays in ExternalModel"
        )
    expected = (len(model.stokes), x.shape[0]) if len(model.stokes) > 1 else (x.shape[0],)
    if tuple(light.shape) != expected:
        raise ValueError(
            f"{model!r} gave light of shape {tuple(light.shape)} for one pixel, where {expected} was expected: "
            f"a number for each of the {x.shape[0]} places on the data axis"
        )


def _pixels(x, parameters, auxiliary) -> int:
    return max(v.shape[-1] for v in (x, *parameters.values(), *(a for a in auxiliary.values() if torch.is_tensor(a))))


def _take(value, index):
    if isinstance(value, Mapping):
        return {key: _take(v, index) for key, v in value.items()}
    return value if value.shape[-1] == 1 else value[..., index]


def _expand(values: Tensors, pixels: int) -> dict[str, torch.Tensor]:
    return {key: v.expand(*v.shape[:-1], pixels) for key, v in values.items()}


def _agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    if found.shape != expected.shape:
        if found.ndim != expected.ndim:
            return False
        try:
            found = found.expand(expected.shape)
        except RuntimeError:
            return False
    eps = torch.finfo(expected.dtype).eps
    peak = expected.abs().amax().clamp_min(torch.finfo(expected.dtype).tiny)
    return bool(torch.isfinite(found).eq(torch.isfinite(expected)).all()) and bool(
        ((found - expected).nan_to_num(0.0, 0.0, 0.0).abs() <= 1e3 * eps * peak).all()
    )
