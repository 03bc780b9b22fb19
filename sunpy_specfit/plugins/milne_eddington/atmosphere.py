"""The Stokes parameters of a Milne-Eddington atmosphere and their derivatives, from profiles to light."""

from __future__ import annotations

import math

import torch

from .absorption import elements, elements_jacobian, profiles, profiles_jacobian
from .transfer import emergent, emergent_jacobian, rotated

__all__ = ["NAMES", "stokes", "stokes_jacobian"]

NAMES = (
    "field_strength",
    "inclination",
    "azimuth",
    "velocity",
    "doppler_width",
    "line_strength",
    "damping",
    "source_constant",
    "source_gradient",
)
_RADIAN = math.pi / 180


def stokes(
    lines,
    x,
    field_strength,
    inclination,
    azimuth,
    velocity,
    doppler_width,
    line_strength,
    damping,
    source_constant,
    source_gradient,
    *,
    rest,
    splitting,
    doppler,
    mu,
):
    """I, Q, U and V, each ``(n[, pixels])``; angles in degrees."""
    found = profiles(x, lines, rest, splitting, doppler, field_strength, velocity, doppler_width, damping)
    i, q, across, v = emergent(elements(found, line_strength, inclination * _RADIAN))
    twice = 2 * _RADIAN * azimuth
    q, across = rotated(q, across, torch.cos(twice), torch.sin(twice))
    gradient = mu * source_gradient
    return source_constant + gradient * i, gradient * q, gradient * across, gradient * v


def stokes_jacobian(
    lines,
    x,
    field_strength,
    inclination,
    azimuth,
    velocity,
    doppler_width,
    line_strength,
    damping,
    source_constant,
    source_gradient,
    *,
    rest,
    splitting,
    doppler,
    mu,
    sums=None,
):
    """I, Q, U and V, and for each parameter four derivatives, None where there is none.

    ``sums`` are those of `profiles_jacobian`, where they are known.
    """
    found, slopes = profiles_jacobian(
        x, lines, rest, splitting, doppler, field_strength, velocity, doppler_width, damping, sums
    )
    matrix, derivatives = elements_jacobian(found, slopes, line_strength, inclination * _RADIAN)
    derivatives["inclination"] = [part * _RADIAN for part in derivatives["inclination"]]
    light, jacobian = emergent_jacobian(matrix)
    twice = 2 * _RADIAN * azimuth
    cosine, sine = torch.cos(twice), torch.sin(twice)
    turned = [rotated(q, across, cosine, sine) for q, across in zip(jacobian[1], jacobian[2], strict=True)]
    rows = [jacobian[0], [q for q, _ in turned], [across for _, across in turned], jacobian[3]]
    gradient = mu * source_gradient
    columns = {name: [_product(row, parts) * gradient for row in rows] for name, parts in derivatives.items()}
    shape = [light[0], *rotated(light[1], light[2], cosine, sine), light[3]]
    own = [part * gradient for part in shape]
    columns["azimuth"] = [None, own[2] * (-2 * _RADIAN), own[1] * (2 * _RADIAN), None]
    columns["source_gradient"] = [part * mu for part in shape]
    columns["source_constant"] = [torch.ones_like(own[0]), None, None, None]
    own[0] = own[0] + source_constant
    return own, columns


def _product(row, parts) -> torch.Tensor:
    total = row[0] * parts[0]
    for a, b in zip(row[1:], parts[1:], strict=True):
        total = torch.addcmul(total, a, b)
    return total
