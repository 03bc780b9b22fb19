"""The Unno-Rachkovsky solution: the light of a Milne-Eddington atmosphere, and its derivatives.

In the frame whose +Q lies along the transverse field, eta_U and rho_U vanish, and the light is a function of five
elements of the propagation matrix alone: eta_I (with the continuum's 1), eta_Q, eta_V, rho_Q and rho_V.

References
----------
Unno (1956, 1956PASJ....8..108U); Rachkovsky (1962); Landi Degl'Innocenti & Landolfi (2004), section 9.8,
https://doi.org/10.1007/1-4020-2415-0
"""

from __future__ import annotations

import torch

__all__ = ["emergent", "emergent_jacobian", "rotated"]


def emergent(elements) -> tuple[torch.Tensor, ...]:
    """(I, Q, U, V) of a unit gradient of the source function, without its constant, in the frame of the field.

    Parameters
    ----------
    elements : tuple of `torch.Tensor`
        eta_I, eta_Q, eta_V, rho_Q, rho_V.
    """
    _, _, light = _solution(*elements)
    return light


def _solution(e, q, v, r, s):
    square, dot = e * e, q * r + v * s
    with_rho = square + r * r + s * s
    inner = with_rho - q * q - v * v
    inverse = 1.0 / (square * inner - dot * dot)
    light = (
        e * with_rho * inverse,
        -(square * q + r * dot) * inverse,
        -e * (q * s - v * r) * inverse,
        -(square * v + s * dot) * inverse,
    )
    return (square, dot, with_rho, inner), inverse, light


def emergent_jacobian(elements) -> tuple[tuple[torch.Tensor, ...], list[list[torch.Tensor]]]:
    """`emergent` and its derivatives: for each of the four Stokes parameters, those by the five elements."""
    e, q, v, r, s = elements
    (square, dot, with_rho, inner), inverse, light = _solution(*elements)
    # Light is n / D: its derivative is (n' - light D') / D. With half of D':
    halves = (
        e * (inner + square),
        -(square * q + dot * r),
        -(square * v + dot * s),
        square * r - dot * q,
        square * s - dot * v,
    )
    crossed = q * s - v * r
    numerators = (
        (with_rho + 2 * square, None, None, 2 * e * r, 2 * e * s),
        (-2 * e * q, -(square + r * r), -r * s, -(dot + r * q), -r * v),
        (-crossed, -e * s, e * r, e * v, -e * q),
        (-2 * e * v, -r * s, -(square + s * s), -s * q, -(dot + s * v)),
    )
    doubled = [half.mul_(2.0) for half in halves]
    jacobian = [
        [
            (-one * slope if part is None else torch.addcmul(part, one, slope, value=-1)).mul_(inverse)
            for part, slope in zip(row, doubled, strict=True)
        ]
        for one, row in zip(light, numerators, strict=True)
    ]
    return light, jacobian


def rotated(q: torch.Tensor, u: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor):
    """Q and U in the frame of the instrument, from those in the frame of the field; cosine and sine of 2 χ."""
    return torch.addcmul(cosine * q, sine, u, value=-1), torch.addcmul(sine * q, cosine, u)
