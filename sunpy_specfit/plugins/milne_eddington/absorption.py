"""Absorption and dispersion profiles of split lines, and how they make the propagation matrix.

A line's profile in each polarisation is a sum of Voigt functions over its Zeeman components,
phi = Σ strength H(damping, v - shift b), with v the distance from the line's centre and b the Lorentz splitting, both
in Doppler widths; psi is the same with the Faraday-Voigt function F.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...data import AtomicLine
from ...numerics.voigt import faddeeva, faddeeva_derivative

__all__ = ["Line", "Profiles", "elements", "elements_jacobian", "profiles", "profiles_jacobian"]


class Line(NamedTuple):
    """What the profiles need to know of a line, in plain numbers.

    Attributes
    ----------
    strength : float
        Relative to that of the first line.
    width : float
        Doppler width, relative to that of the first line.
    groups : tuple
        For pi, sigma blue and sigma red: pairs of shift (in Lorentz splittings) and strength.
    """

    strength: float
    width: float
    groups: tuple[tuple[tuple[float, float], ...], ...]

    @classmethod
    def of(cls, one: AtomicLine, first: AtomicLine, width: float) -> Line:
        """From atomic data; beside the first line its gf tells how strong a line is."""
        pattern = one.zeeman_pattern()
        return cls(
            1.0 if one is first else float(10.0 ** (one.log_gf - first.log_gf)),
            width,
            tuple(
                tuple(zip(map(float, part.shifts), map(float, part.strengths), strict=True))
                for part in (pattern.pi, pattern.sigma_blue, pattern.sigma_red)
            ),
        )


class Profiles(NamedTuple):
    """(phi, psi) of pi, sigma blue and sigma red: six arrays, summed over the lines."""

    pi: torch.Tensor
    blue: torch.Tensor
    red: torch.Tensor
    pi_dispersion: torch.Tensor
    blue_dispersion: torch.Tensor
    red_dispersion: torch.Tensor


def profiles(x, lines, rest, splitting, doppler, field_strength, velocity, doppler_width, damping) -> Profiles:
    """The profiles of all lines at the wavelengths x.

    Parameters
    ----------
    x : `torch.Tensor`
        ``(n,)``, or ``(n, 1 or pixels)``.
    lines : tuple of `Line`
    rest, splitting, doppler : `torch.Tensor`
        For each line, ``(lines[, 1])``: the rest wavelength, the Lorentz splitting of 1 G, and the shift of 1 km/s.
    field_strength, velocity, doppler_width, damping : `torch.Tensor`
        Numbers, or ``(pixels,)``.
    """
    total = None
    for number, line in enumerate(lines):
        inverse = 1.0 / (doppler_width * line.width)
        v = (x - rest[number] - doppler[number] * velocity) * inverse
        split = splitting[number] * field_strength * inverse
        sums = []
        for group in line.groups:
            own = None
            for shift, strength in group:
                parts = faddeeva(v - shift * split if shift else v, damping)
                own = _accumulate(own, parts, line.strength * strength)
            sums.append(own)
        parts = [own[kind] for kind in (0, 1) for own in sums]
        total = parts if total is None else [a + b for a, b in zip(total, parts, strict=True)]
    return Profiles(*total)


def profiles_jacobian(
    x, lines, rest, splitting, doppler, field_strength, velocity, doppler_width, damping, sums=None
) -> tuple[Profiles, dict[str, Profiles]]:
    """`profiles`, and their derivatives by the field strength, velocity, Doppler width and damping.

    ``sums`` are six arrays for each group of components of each line, where they are known: H and F, their slopes along
    v, and those along the splitting.
    """
    total: dict[str, list] = {}
    for number, line in enumerate(lines):
        inverse = 1.0 / (doppler_width * line.width)
        v = (x - rest[number] - doppler[number] * velocity) * inverse
        unit = splitting[number] * inverse
        split = unit * field_strength
        if sums is None:
            groups = [_group(group, line.strength, v, split, damping) for group in line.groups]
        else:
            groups = [(own[:2], own[2:4], own[4:]) for own in sums[3 * number : 3 * number + 3]]
        values, slopes, pulled = zip(*groups, strict=True)
        # All phi, then all psi: values, their slopes along v, and along the splitting.
        values, along, across = (
            [part[kind] for kind in (0, 1) for part in parts] for parts in (values, slopes, pulled)
        )
        by_velocity, by_width = -doppler[number] * inverse, -line.width * inverse
        own = {
            "value": values,
            "field_strength": [p * unit for p in across],
            "velocity": [p * by_velocity for p in along],
            "doppler_width": [
                torch.addcmul(v * p, split + zero, w).mul_(by_width)
                for zero in [torch.zeros_like(v)]
                for p, w in zip(along, across, strict=True)
            ],
            # w is analytic: H by the damping is -F by v, F by the damping is H by v.
            "damping": [*(-p for p in along[3:]), *along[:3]],
        }
        for name, parts in own.items():
            total[name] = [a + b for a, b in zip(total[name], parts, strict=True)] if name in total else parts
    found = {name: Profiles(*parts) for name, parts in total.items()}
    return found.pop("value"), found


def _group(group, scale, v, split, damping):
    """(H, F) of some components, their slopes along v, and those along the splitting."""
    values = slopes = pulled = None
    for shift, strength in group:
        h, f, h_v, f_v = faddeeva_derivative(v - shift * split if shift else v, damping)
        values = _accumulate(values, (h, f), scale * strength)
        slopes = _accumulate(slopes, (h_v, f_v), scale * strength)
        if shift:
            pulled = _accumulate(pulled, (h_v, f_v), -shift * scale * strength)
    return values, slopes, pulled or [torch.zeros_like(v)] * 2


def _accumulate(total, parts, factor: float):
    if total is None:
        return [part * factor for part in parts]
    return [torch.add(a, b, alpha=factor) for a, b in zip(total, parts, strict=True)]


def elements(found: Profiles, line_strength, inclination):
    """eta_I, eta_Q, eta_V, rho_Q and rho_V in the frame of the transverse field; the inclination in radians."""
    pi, blue, red, pi_dispersion, blue_dispersion, red_dispersion = found
    half = 0.5 * line_strength
    cosine = torch.cos(inclination)
    across, along, both = half * torch.sin(inclination) ** 2, half * cosine, 0.5 * half * (1 + cosine * cosine)
    return (
        1.0 + across * pi + both * (blue + red),
        across * (pi - 0.5 * (blue + red)),
        along * (red - blue),
        across * (pi_dispersion - 0.5 * (blue_dispersion + red_dispersion)),
        along * (red_dispersion - blue_dispersion),
    )


def elements_jacobian(found: Profiles, slopes: dict[str, Profiles], line_strength, inclination):
    """`elements`, and their derivatives by each parameter: five arrays a name, None where there is none."""
    own = _mixed(found)
    half, cosine, sine = 0.5 * line_strength, torch.cos(inclination), torch.sin(inclination)
    across, along, both = half * sine * sine, half * cosine, half * (1 + cosine * cosine)
    value = _combined(own, across, along, both)
    derivatives = {name: _combined(_mixed(parts), across, along, both) for name, parts in slopes.items()}
    inverse = 1.0 / line_strength
    derivatives["line_strength"] = tuple(part * inverse for part in value)
    turned = 2 * half * sine * cosine
    derivatives["inclination"] = _combined(own, turned, -half * sine, -turned)
    return (value[0] + 1.0, *value[1:]), derivatives


def _mixed(parts: Profiles):
    """pi and the mean of sigma, the difference of sigma; of dispersion pi less the mean, and the difference."""
    pi, blue, red, pi_dispersion, blue_dispersion, red_dispersion = parts
    return (
        pi,
        (blue + red).mul_(0.5),
        red - blue,
        torch.sub(pi_dispersion, blue_dispersion + red_dispersion, alpha=0.5),
        red_dispersion - blue_dispersion,
    )


def _combined(parts, across, along, both):
    pi, sigma, difference, across_dispersion, difference_dispersion = parts
    return (
        torch.addcmul(across * pi, both, sigma),
        (pi - sigma).mul_(across),
        along * difference,
        across * across_dispersion,
        along * difference_dispersion,
    )
