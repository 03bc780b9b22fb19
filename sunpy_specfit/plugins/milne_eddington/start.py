"""Start values of a Milne-Eddington inversion, read off the data.

Velocity and line-of-sight field come from centres of gravity (Rees & Semel 1979, 1979A&A....74....1R), the transverse
field from Q and U projected on the second derivative of I (Landi Degl'Innocenti & Landolfi 2004, section
9.6), the width from the area of the line over its depth.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["beside", "drawn_anew", "leaked", "projected", "start_values"]

# Strength and damping of a usual photospheric line, and its area over its depth in Doppler widths.
_STRENGTH, _DAMPING, _BROAD = 10.0, 0.3, 4.5
# Field strengths (G) to start from, and how close to the line of sight (deg): nearer to it Q and U hardly have slopes.
_FIELDS, _TILT = (20.0, 4000.0), 8.0
_FASTEST = 30.0  # km/s
# Between what the others are drawn: the last two themselves, the first two as factors.
_MORE_OR_LESS, _WIDER_OR_NARROWER, _STRENGTHS, _DAMPINGS = (0.3, 3.0), (0.4, 1.2), (2.0, 60.0), (0.03, 1.5)

# Of a second atmosphere: its field strength (G) and how far its velocity is off (km/s).
_SECOND_FIELDS, _APART = (150.0, 2000.0), (0.5, 6.0)


def start_values(x, data, weight, factors, rest, splitting, doppler) -> dict[str, torch.Tensor]:
    """Start values by name, each ``(pixels,)``.

    Parameters
    ----------
    x, data, weight : `torch.Tensor`
        ``(n, 1 or pixels)`` and twice ``(4, n, pixels)``.
    factors : sequence of (float, float)
        Effective Landé factor and second-order factor of each line.
    rest, splitting, doppler : `torch.Tensor`
        ``(lines, 1)``.
    """
    good = (weight > 0).to(data)
    I, Q, U, V = data
    continuum = _continuum(I, good[0])
    steps = torch.gradient(x, dim=0)[0].abs() if len(x) > 1 else torch.ones_like(x)
    curvature = _second_difference(I, x)
    owner = (x.mean(1, keepdim=True) - rest[:, 0]).abs().argmin(1)
    sums = {name: torch.zeros_like(continuum) for name in ("weight", "velocity", "b_los", "b_q", "b_u", "width")}
    for number, (g, second) in enumerate(factors):
        own = (owner == number).to(x)[:, None]
        away = x - rest[number]
        depth = (continuum - I) * good[0] * own
        polarised = V * good[3] * good[0] * own
        area, moment = (depth * steps).sum(0), (depth * away * steps).sum(0)
        odd, odd_moment = (polarised * steps).sum(0), (polarised * away * steps).sum(0)
        most = depth.amax(0)
        valid = (area > 0) & (most > 0.02 * continuum)
        share = torch.where(valid, area, 0.0)
        center = moment / area
        apart = (moment - odd_moment) / (area - odd) - (moment + odd_moment) / (area + odd)
        # Q and U over -C² G I'' / 4: least squares, which weigh the lines by themselves.
        template = -0.25 * splitting[number] ** 2 * second * curvature * own
        norm = (template * template).sum(0).clamp_min(torch.finfo(data.dtype).tiny)
        found = {
            "velocity": center / doppler[number],
            "b_los": apart / (2 * g * splitting[number]) if g else torch.zeros_like(center),
            "b_q": (template * Q * good[1]).sum(0) / norm,
            "b_u": (template * U * good[2]).sum(0) / norm,
            "width": area / most,
        }
        sums["weight"] += share
        for name, value in found.items():
            sums[name] += torch.where(valid, value, 0.0).nan_to_num(0.0, 0.0, 0.0) * share
    total = sums.pop("weight")
    seen = total > 0
    mean = {name: torch.where(seen, value / total, 0.0) for name, value in sums.items()}
    b_trans = (mean["b_q"].square() + mean["b_u"].square()).sqrt().sqrt()
    low, high = _FIELDS
    strength = torch.hypot(mean["b_los"], b_trans).clamp(low, high)
    tilt = torch.rad2deg(torch.atan2(b_trans, mean["b_los"])).clamp(_TILT, 180 - _TILT)
    width = mean["width"] / _BROAD
    usual = width[seen].median() if bool(seen.any()) else steps.mean()
    ones = torch.ones_like(continuum)
    return {
        "field_strength": strength,
        "inclination": tilt,
        "velocity": mean["velocity"].clamp(-_FASTEST, _FASTEST),
        "doppler_width": torch.where(seen & (width > 0), width, usual),
        "line_strength": _STRENGTH * ones,
        "damping": _DAMPING * ones,
    }


class Leaks(NamedTuple):
    """Offsets of Q, U and V, and the parts of I in them: three times ``(pixels,)``."""

    offset: tuple[torch.Tensor, ...]
    crosstalk: tuple[torch.Tensor, ...]

    def without(self, data: torch.Tensor) -> torch.Tensor:
        """The data ``(4, n, pixels)`` without them."""
        parts = zip(data[1:], self.offset, self.crosstalk, strict=True)
        return torch.stack([data[0], *(one - offset - part * data[0] for one, offset, part in parts)])

    def by_name(self) -> dict[str, torch.Tensor]:
        """As the model's parameters."""
        kinds = {"offset": self.offset, "crosstalk": self.crosstalk}
        return {f"{kind}_{s}": one for kind, parts in kinds.items() for s, one in zip("quv", parts, strict=True)}


def leaked(data, weight, offset: bool, crosstalk: bool) -> Leaks:
    """What is in Q, U and V in the continuum, which has no polarisation of its own.

    There it does not tell offsets from crosstalk: where both may be it is taken for crosstalk.
    """
    good = (weight > 0).all(0)
    count = max(1, len(data[0]) // 8)
    highest = torch.where(good, data[0], -torch.inf).topk(count, dim=0)
    known = torch.isfinite(highest.values)
    total = known.sum(0).clamp_min(1)
    level = (torch.where(known, highest.values, 0.0).sum(0) / total).clamp_min(torch.finfo(data.dtype).tiny)
    mean = [torch.where(known, one.gather(0, highest.indices), 0.0).sum(0) / total for one in data[1:]]
    nothing = tuple(torch.zeros_like(level) for _ in mean)
    if crosstalk:
        return Leaks(nothing, tuple(one / level for one in mean))
    return Leaks(tuple(mean) if offset else nothing, nothing)


def drawn_anew(start, found, attempt: int, draws) -> dict[str, torch.Tensor]:
    """Another start for a poor fit.

    A field that ended at zero or along the line of sight stays there, for Q and U have no slopes: the first attempt,
    and every other one after it, puts the field back to what Q, U and V say of it beside the atmosphere that was found.
    The others draw width, strength and damping anew.
    """
    tilt, width, strength, damping, *_ = draws
    angle = torch.deg2rad(start["inclination"])
    along, across = start["field_strength"] * torch.cos(angle), start["field_strength"] * torch.sin(angle)
    if attempt:
        across = across * _between(*_MORE_OR_LESS, tilt)
    low, high = _FIELDS
    values = {
        "field_strength": torch.hypot(along, across).clamp(low, high),
        "inclination": torch.rad2deg(torch.atan2(across, along)).clamp(_TILT, 180 - _TILT),
    }
    if attempt % 2 == 0:
        return values | {name: found[name] for name in ("velocity", "doppler_width", "line_strength", "damping")}
    ones = torch.ones_like(across)
    return values | {
        "velocity": start["velocity"],
        "doppler_width": start["doppler_width"] * _between(*_WIDER_OR_NARROWER, width),
        "line_strength": _between(*_STRENGTHS, strength) * ones,
        "damping": _between(*_DAMPINGS, damping) * ones,
    }


def beside(start, attempt: int = -1, draws=(0.5, 0.5, 0.5, 0.5)) -> dict[str, torch.Tensor]:
    """A start for a second atmosphere in the pixel: other field, other velocity, and in turn the other polarity."""
    field, velocity, tilt, *_ = draws
    way = 1.0 if attempt % 4 in (3, 0) else -1.0
    low, high = _FIELDS
    strength = _between(*_SECOND_FIELDS, field) * torch.ones_like(start["field_strength"])
    turned = 180.0 - start["inclination"] if attempt % 2 == 0 else start["inclination"]
    return {
        **start,
        "field_strength": torch.maximum(strength, 1.5 * start["field_strength"]).clamp(low, high),
        "inclination": (90.0 + (turned - 90.0) * _between(*_MORE_OR_LESS, tilt)).clamp(_TILT, 180 - _TILT),
        "velocity": start["velocity"] + way * _between(*_APART, velocity),
    }


def _between(low: float, high: float, draw: float) -> float:
    """A number whose logarithm is even between two limits."""
    return low * (high / low) ** draw


def projected(light, x, data, weight, values, inputs) -> dict[str, torch.Tensor]:
    """The same, with the source function and the azimuth that are best beside the others.

    I is linear in the source function. In the frame of the field Q and U are those of the model; turning them onto the
    data's is one angle, which magneto-optical effects are part of.
    """
    nothing = torch.zeros_like(values["velocity"])
    bare = {"azimuth": nothing, "source_constant": nothing, "source_gradient": nothing + 1.0}
    i, q, across, _ = light(x, **values, **bare, **inputs)
    wi, wq, wu, _ = weight
    along = (wq * data[1] * q + wu * data[2] * across).sum(0)
    turned = (wu * data[2] * q - wq * data[1] * across).sum(0)
    azimuth = torch.rad2deg(0.5 * torch.atan2(turned, along))
    total = wi.sum(0).clamp_min(torch.finfo(wi.dtype).tiny)
    mean, level = (wi * i).sum(0) / total, (wi * data[0]).sum(0) / total
    away = wi * (i - mean)
    gradient = (away * data[0]).sum(0) / (away * i).sum(0).clamp_min(torch.finfo(wi.dtype).tiny)
    # Neither may be negative: a source function that does not rise inwards shows no absorption line.
    gradient = torch.minimum(gradient.nan_to_num(0.0), 0.98 * level / mean).clamp_min(0.02 * level.abs())
    return {
        **values,
        "azimuth": torch.remainder(azimuth, 180.0),
        "source_constant": (level - gradient * mean).nan_to_num(0.0),
        "source_gradient": gradient.nan_to_num(0.0),
    }


def _continuum(intensity: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """The mean of the highest eighth of the samples."""
    count = max(1, len(intensity) // 8)
    highest = torch.where(good > 0, intensity, -torch.inf).topk(count, dim=0).values
    there = torch.isfinite(highest)
    return torch.where(there, highest, 0.0).sum(0) / there.sum(0).clamp_min(1)


def _second_difference(intensity: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """d²I/dx² of the profile smoothed by 1, 2, 1; zero at the ends."""
    out = torch.zeros_like(intensity)
    if len(x) < 5:
        return out
    step = ((x[-1] - x[0]) / (len(x) - 1)).square()
    # 1 2 1 times 1 -2 1 is 1 0 -2 0 1.
    out[2:-2] = (intensity[4:] - 2 * intensity[2:-2] + intensity[:-4]) / (4 * step)
    return out
