"""A field by what the light knows of it, without angles: b_los, and b_q and b_u of the part across."""

from __future__ import annotations

import numpy as np
import torch

from ...core.chart import Chart

__all__ = ["CHART", "components"]

_RADIAN = np.pi / 180
# No part across is shorter than this (G), far below what is ever seen: of none at all the azimuth has no slope.
_SHORTEST = 0.1


def components(strength, inclination, azimuth):
    """b_los = B cos γ (G), and b_q and b_u = (B sin γ)² cos 2χ and sin 2χ (G²); angles in degrees, of any size."""
    angle, twice = inclination * _RADIAN, 2 * _RADIAN * azimuth
    square = (strength * torch.sin(angle)).square()
    return strength * torch.cos(angle), square * torch.cos(twice), square * torch.sin(twice)


def angles(b_los, b_q, b_u):
    """Strength (G), inclination and azimuth (deg, 0 to 180) for `components`; of b_q = b_u = 0 the azimuth is 0."""
    across = torch.hypot(b_q, b_u).sqrt().clamp_min(_SHORTEST)
    return (
        torch.hypot(b_los, across),
        torch.atan2(across, b_los) / _RADIAN,
        torch.remainder(0.5 * torch.atan2(b_u, b_q) / _RADIAN, 180.0),
    )


CHART = Chart(
    ("field_strength", "inclination", "azimuth"),
    components,
    angles,
    vector=(1, 2),
    shortest=_SHORTEST**2,
    pointing=("inclination", "azimuth"),
)
