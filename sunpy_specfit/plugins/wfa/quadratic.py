"""All that the spectra of a pixel say of its field, as one quadratic."""

from __future__ import annotations

import torch

from ...numerics import packed
from .centers import Centers
from .even_noise import fit_longitudinal, fit_transverse
from .formulas import factors_of, times
from .normal_equations import Shape, fit_shape, fit_shapes, is_even

__all__ = ["field_quadratic"]


def field_quadratic(model, x, data, weight, **inputs):
    """Constant, matrix, vector and the number of samples of a `WeakField`; see `Model.quadratic`.

    Pixels whose samples all have one noise take fewer passes. Each pixel is looked at by itself, so that it has the
    same answer whatever its neighbours are like.
    """
    regular = inputs["variance"].numel() == 1 and inputs["slope"].shape[-1] == 1
    regular = regular and not (model.offset or model.crosstalk)
    if not regular or is_even(weight):
        return _of_one_kind(model, x, data, weight, regular, **inputs)
    steady = _steady(weight)
    if bool(steady.all()) or not bool(steady.any()):
        return _of_one_kind(model, x, data, weight, bool(steady.all()), **inputs)
    found = None
    for kind, index in ((True, steady.nonzero()[:, 0]), (False, (~steady).nonzero()[:, 0])):
        own = inputs | {name: _chosen(inputs[name], index) for name in ("intensity", "center", "core", "wing")}
        part = _of_one_kind(model, _chosen(x, index), data[..., index], weight[..., index], kind, **own)
        if found is None:
            found = [value.new_empty((*value.shape[:-1], data.shape[-1])) for value in part]
        for whole, value in zip(found, part, strict=True):
            whole[..., index] = value
    return tuple(found)


def _chosen(value: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return value if value.shape[-1] == 1 else value.index_select(-1, index)


def _of_one_kind(
    model,
    x,
    data,
    weight,
    regular: bool,
    *,
    intensity,
    variance,
    slope,
    bend,
    center,
    splitting,
    squared_splitting,
    own,
    core,
    wing,
    modes,
    mode_slope,
    mode_noise,
    moment,
    extent,
    members,
    reach,
    **inputs,
):
    """Of pixels all of which are regular, with one noise for all samples of each, or taken as if none were."""
    modes = {"modes": modes, "mode_slope": mode_slope, "mode_noise": mode_noise}
    lines = moment[..., 0], extent[..., 0], reach, members[..., 0]
    one = weight[(0,) * (weight.ndim - 1)]
    one = one[:1] if is_even(weight) else one
    if model.linear is None:
        if regular:
            return *_even_circular(model, intensity, data, one, variance, **modes), _count(own, data)
        return _circular_alone(model, data, weight, intensity, variance, slope, splitting, own)
    *factors, kept = factors_of(model.linear, x, center, squared_splitting, own, core, wing)
    derived = times(slope, intensity), times(bend, intensity) if factors[1] is not None else None
    # Where each pixel has a grid of its own, the noise of the derivative is that on the mean grid.
    matrices = slope.mean(-1), bend.mean(-1)
    centers = None
    if factors[0] is not None:
        strength = 0.75 * squared_splitting
        nearness = factors[0] * torch.where(strength != 0, strength.reciprocal(), 0.0)
        centers = Centers(intensity, *lines, nearness)
    across = Shape(
        [(f, m, d) for f, m, d in zip(factors, matrices, derived, strict=True) if f is not None], variance, centers
    )
    if regular:
        return _even(model, across, intensity, data, own, kept, one, **modes)
    lengthwise = Shape([(-splitting * own, matrices[0], derived[0])], variance)
    others = _nuisances(model, intensity)
    q, u, v = data
    # Outside its part the formula for Q and U is not used, and is zero: so must the data be.
    q, u, v = q * kept, u * kept, v * own
    wq, wu, wv = weight[0] * kept, weight[1] * kept, weight[2] if bool(own.all()) else weight[2] * own
    valid = sum((w > 0).sum(0) for w in (wq, wu, wv)) + torch.zeros_like(q[0], dtype=torch.int64)
    signed = [across if model.sign(s) > 0 else across.times(-1.0) for s in "QU"]
    lengthwise = lengthwise if model.sign("V") > 0 else lengthwise.times(-1.0)
    linear = fit_shapes(signed, others, [q, u], [wq, wu])
    circular = fit_shape(lengthwise, others, v, wv)
    return *_assembled(model, linear, circular), valid


def _steady(weight: torch.Tensor) -> torch.Tensor:
    """Which pixels have one weight for all of their samples, bool ``(pixels,)``."""
    least, most = torch.aminmax(weight.reshape(-1, weight.shape[-1]), dim=0)
    return (least == most) & (least > 0)


def _circular_alone(model, data, weight, intensity, variance, slope, splitting, own):
    """From V, where Q and U are not asked for."""
    shape = Shape([(-splitting * own * model.sign("V"), slope.mean(-1), times(slope, intensity))], variance)
    weight = weight if bool(own.all()) else weight * own
    fit = fit_shape(shape, _nuisances(model, intensity), data * own, weight)
    return *fit, _count(weight > 0, data)


def _count(counted, data) -> torch.Tensor:
    """The number of samples in each pixel, ``(pixels,)``."""
    return counted.sum(0).long().expand(data.shape[-1])


def _nuisances(model, intensity) -> list[torch.Tensor]:
    return ([torch.ones_like(intensity[:1, :1])] if model.offset else []) + ([intensity] if model.crosstalk else [])


def _even(model, across, intensity, data, own, kept, weight, **modes):
    """Where all samples have one noise."""
    constant, matrix, vector = fit_transverse(across, data[:2], kept, weight)
    sign = torch.tensor([model.sign(s) for s in "QU"]).to(vector)[:, None]
    linear = constant, torch.cat([matrix[:1], matrix[1:2] * sign[0] * sign[1], matrix[2:]]), vector * sign
    circular = _even_circular(model, intensity, data[2], weight, across.variance, **modes)
    return *_assembled(model, linear, circular), (own.sum(0) + 2 * kept.sum(0)).long()


def _even_circular(model, intensity, data, weight, variance, *, modes, mode_slope, mode_noise):
    constant, matrix, vector = fit_longitudinal(
        mode_slope[..., 0] @ intensity, modes[..., 0].T @ data, weight, variance * mode_noise
    )
    return constant, matrix[None], model.sign("V") * vector[None]


def _assembled(model, linear, circular) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One quadratic of all parameters from that of Q and U, and that of V."""
    names = list(model.declare())
    nuisances = [kind for kind, wanted in (("offset", model.offset), ("crosstalk", model.crosstalk)) if wanted]
    rows = {
        s: [names.index(field), *(names.index(f"{kind}_{s}") for kind in nuisances)]
        for s, field in (("q", "b_q"), ("u", "b_u"), ("v", "b_los"))
    }
    vector = linear[2].new_zeros((len(names), linear[2].shape[-1]))
    matrix = vector.new_zeros((len(names) * (len(names) + 1) // 2, vector.shape[-1]))
    for (_, own, right), mine in ((linear, rows["q"] + rows["u"]), (circular, rows["v"])):
        for i, row in enumerate(mine):
            vector[row] = right[i]
            for j, other in enumerate(mine[: i + 1]):
                matrix[packed.index(row, other)] = own[packed.index(i, j)]
    return linear[0] + circular[0], matrix, vector
