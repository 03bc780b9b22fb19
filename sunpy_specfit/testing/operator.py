"""Does an operator keep the rules?"""

from __future__ import annotations

import torch

from ..core.operator import Operator
from .common import check_configurable, peak, require, unchanged

__all__ = ["check_operator"]

_EXACT = 1e-10


def check_operator(
    operator: Operator,
    *,
    x: torch.Tensor | None = None,
    shape: tuple[int, ...] = (6, 7),
    seed: int = 0,
) -> None:
    """Hold an operator against the rules that solvers rely on.

    It must be linear, its adjoint must be the transpose of `~sunpy_specfit.Operator.apply` (by the dot-product test),
    shapes and precision must come out right, leading axes must be a batch, pixels must only be mixed by one that
    says so, and nothing that it is handed may be changed in place.

    Parameters
    ----------
    operator : `~sunpy_specfit.Operator`
        An instance.
    x : `torch.Tensor`, optional
        The data's spectral axis, ``(n, 1)`` or ``(n, pixels)``, in the unit that the operator's numbers have; by
        default 24 samples from 500.
    shape : tuple of int
        The shape of the map.
    seed : int
        For the light, which is drawn at random.

    Raises
    ------
    AssertionError
        With a sentence that says what to change.

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit import Operator
    >>> from sunpy_specfit.testing import check_operator
    >>> class Vignetting(Operator):
    ...     name = "vignetting"
    ...     def __init__(self, transmission):
    ...         self.transmission = transmission
    ...     def apply(self, light, x, shape):
    ...         return self.transmission * light
    >>> check_operator(Vignetting(0.8))
    """
    check_configurable(operator, "operator")
    who = type(operator).__name__
    if x is None:
        x = 500 + 0.02 * torch.arange(24, dtype=torch.float64)[:, None]
    pixels = int(torch.Size(shape).numel())
    generator = torch.Generator().manual_seed(seed)
    n_in = _check_input_axis(operator, x, pixels)

    def draw(*lead, n=n_in):
        return torch.randn((*lead, n, pixels), generator=generator, dtype=torch.float64)

    weights = dict(operator.weights)
    kept = {name: value.clone() for name, value in weights.items()}

    def apply(light):
        return operator.apply(light, x, shape, **weights)

    u, v = draw(), draw()
    inputs = {"light": u.clone(), "x": x.clone()}
    out = apply(u)
    expected = (x.shape[0], pixels)
    require(
        tuple(out.shape) == expected,
        f"{who}.apply returned light of shape {tuple(out.shape)} for {(n_in, pixels)}; expected {expected}: the data's "
        "spectral axis and the pixels",
    )
    require(out.isfinite().all(), f"{who}.apply returned NaN or infinite light for finite light")
    changed = unchanged(inputs, {"light": u, "x": x})
    require(not changed, f"{who}.apply changes {' and '.join(changed)} in place: work on a copy")
    require(torch.equal(out, apply(u)), f"{who}.apply gives another answer the second time: it must not keep a state")

    scale = peak(out)
    combined = apply(1.7 * u - 0.6 * v)
    error = peak(combined - (1.7 * out - 0.6 * apply(v))) / scale
    require(
        error < _EXACT,
        f"{who} is not linear: A(a u + b v) and a A(u) + b A(v) differ by {error:.1e} of the peak. "
        "What is not linear belongs into a model",
    )
    _check_batches(operator, apply, draw(2, 3))
    _check_adjoint(operator, out, u, draw(n=x.shape[0]), x, shape, weights)
    _check_pixels(operator, u, out, x, shape, weights)
    _check_precision(operator, u, x, shape, weights, out)
    _check_learning(operator, u, x, shape, weights)
    changed = unchanged(kept, operator.weights)
    require(not changed, f"{who} changes its own weights {' and '.join(changed)} in place: they are only a start")


def _check_input_axis(operator: Operator, x: torch.Tensor, pixels: int) -> int:
    who = type(operator).__name__
    wanted = operator.input_axis(x)
    require(
        torch.is_tensor(wanted) and wanted.ndim == 2 and wanted.shape[1] in (1, pixels),
        f"{who}.input_axis should return a tensor (n_in, 1) or (n_in, pixels), "
        f"found {tuple(getattr(wanted, 'shape', ()))}",
    )
    require(wanted.dtype == x.dtype, f"{who}.input_axis turns {x.dtype} into {wanted.dtype}: keep the precision")
    require(wanted.isfinite().all(), f"{who}.input_axis returned NaN or infinite wavelengths")
    steps = wanted.diff(dim=0)
    require(
        bool((steps > 0).all()) or bool((steps < 0).all()),
        f"{who}.input_axis is not sorted: a model is evaluated on it as on a spectral axis",
    )
    return wanted.shape[0]


def _check_batches(operator, apply, stacked) -> None:
    who = type(operator).__name__
    try:
        together = apply(stacked)
    except Exception as error:
        raise AssertionError(
            f"{who}.apply fails for light of shape {tuple(stacked.shape)}: every axis before the last two is a batch "
            f"(Stokes parameters, derivatives). {type(error).__name__}: {error}"
        ) from error
    one = torch.stack([torch.stack([apply(light) for light in row]) for row in stacked])
    require(
        together.shape == one.shape and peak(together - one) < _EXACT * peak(one),
        f"{who}.apply treats light differently in a batch: every axis before the last two must be left alone",
    )


def _check_adjoint(operator, out, u, w, x, shape, weights) -> None:
    who = type(operator).__name__
    back = operator.adjoint(w, x, shape, **weights)
    require(
        back.shape == u.shape,
        f"{who}.adjoint returned shape {tuple(back.shape)}; expected that of what apply takes, {tuple(u.shape)}",
    )
    left, right = float((out * w).sum()), float((u * back).sum())
    size = float(out.norm() * w.norm())
    require(
        abs(left - right) < _EXACT * size,
        f"{who}.adjoint is not the transpose of apply: <A u, w> = {left:.12g} and <u, Aᵀ w> = {right:.12g}. "
        "Leave it out to have it by automatic differentiation",
    )


def _check_pixels(operator, u, out, x, shape, weights) -> None:
    if operator.mixes_pixels:
        return
    who, moved = type(operator).__name__, u.clone()
    moved[:, 0] += 1.0
    leak = peak((operator.apply(moved, x, shape, **weights) - out)[:, 1:])
    require(
        leak < _EXACT * peak(out),
        f"{who} sends light from one pixel to another: set `mixes_pixels = True` on the class, for such an operator "
        "acts on whole maps",
    )
    alone = operator.apply(u[:, :1], x[:, :1], (1,), **weights)
    require(
        alone.shape == out[:, :1].shape and peak(alone - out[:, :1]) < _EXACT * peak(out),
        f"{who} gives a pixel another answer on its own than among others: without `mixes_pixels` it is handed any "
        "number of pixels, with a `shape` to match",
    )


def _check_precision(operator, u, x, shape, weights, out) -> None:
    who = type(operator).__name__
    # Wavelengths stay in float64: they are centred before they are rounded.
    single = operator.apply(u.float(), x, shape, **{name: value.float() for name, value in weights.items()})
    require(
        single.dtype == torch.float32,
        f"{who}.apply turns float32 light into {single.dtype}: make its own tensors with `.to(light)`",
    )
    require(
        peak(single.double() - out) < 1e-4 * peak(out),
        f"{who}.apply loses more in float32 than rounding explains: make its own numbers in float64, round them last",
    )


def _check_learning(operator, u, x, shape, weights) -> None:
    who = type(operator).__name__
    for name, value in weights.items():
        trial = value.detach().double().clone().requires_grad_()
        out = operator.apply(u, x, shape, **{**weights, name: trial}).square().sum()
        gradient = torch.autograd.grad(out, trial, allow_unused=True)[0] if out.requires_grad else None
        require(
            gradient is not None and gradient.isfinite().all(),
            f"{who}.apply cannot be differentiated with respect to its weights {name!r}: use the tensors it is handed, "
            "not those of `self`",
        )
