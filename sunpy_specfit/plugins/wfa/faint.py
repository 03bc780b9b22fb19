"""Errors of the transverse field and its azimuth where these are far from Gaussian, without drawing samples."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.special import gamma, hyp1f1

from ...numerics.threads import over_pixels
from .compiled import of_loops

__all__ = ["spread_of_transverse", "transverse_in_loops"]

# Signals in units of their noise for which there is a table, and how finely.
_HIGHEST, _STEP = 5.0, 2.5e-3
# Beyond this difference of the two variances, in units of their mean, first order in it is not enough.
_MOST_UNEQUAL = 0.3


def spread_of_transverse(
    b_q: torch.Tensor, b_u: torch.Tensor, var_q: torch.Tensor, var_u: torch.Tensor, cov: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""The standard deviations of B_t and of the azimuth in degrees, for Gaussian b_q and b_u of any signal up to 4 σ.

    With ρ the signal over the noise, |b| follows Rice's law, whose moments are

    .. math:: E\,|b|^p = (2 σ^2)^{p/2} \, Γ(1 + p/2) \, {}_1F_1(-p/2; 1; -ρ^2/2)

    and the mean direction has the length :math:`R = \sqrt{π/8} \, ρ \, {}_1F_1(1/2; 2; -ρ^2/2)`; from these follow
    the variance of B_t = |b|^{1/2} and the circular deviation of the azimuth, ½ √(-2 ln R). That is for noise alike in
    all directions; what differs is added to first order, as the heat equation has it: the expectation of any f
    changes by half the change of the covariance times the second derivatives of f's expectation.

    Parameters
    ----------
    b_q, b_u, var_q, var_u, cov : `torch.Tensor`
        ``(pixels,)``, float64: values, variances and covariance.

    Returns
    -------
    tuple of `torch.Tensor`
        NaN where signal or asymmetry are beyond what this can tell.

    References
    ----------
    Rice (1945), https://doi.org/10.1002/j.1538-7305.1945.tb00453.x; Mardia & Jupp (2000), Directional Statistics

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.plugins.wfa.faint import spread_of_transverse
    >>> zero, one = torch.zeros(1).double(), torch.ones(1).double()
    >>> b_trans, azimuth = spread_of_transverse(zero, zero, one, one, zero)
    >>> round(float(b_trans), 4), round(float(azimuth), 2)  # Rayleigh's law; any direction
    (0.3024, 51.96)
    """
    noise = 0.5 * (var_q + var_u)
    squared = b_q.square() + b_u.square()
    # The part of the variance along the signal that goes beyond the mean one.
    along = (0.5 * (var_q - var_u) * (b_q.square() - b_u.square()) + 2 * cov * b_q * b_u) / (squared * noise)
    along = torch.where(squared > 0, along, 0.0)
    unequal = (0.25 * (var_q - var_u).square() + cov.square()).sqrt() / noise
    rho = (squared / noise).sqrt()
    known = (rho < _HIGHEST) & (unequal < _MOST_UNEQUAL)
    place = torch.where(known, rho, 0.0) / _STEP
    cell = place.long()
    low, high = (_table().index_select(0, cell + i).T for i in (0, 1))
    even, odd = torch.lerp(low, high, place - cell).split(3)
    root, length, direction = torch.addcmul(even, odd, 0.5 * along)
    spread = (noise.sqrt() * (length - root.square()).clamp_min(0.0)).sqrt()
    angle = torch.rad2deg(0.5 * (-2 * direction.clamp(1e-9, 1.0).log()).sqrt()).clamp_max(180 / np.sqrt(12))
    return torch.where(known, spread, torch.nan), torch.where(known, angle, torch.nan)


def transverse_in_loops(values, covariance, turn: float, limit: float):
    """B_t, the azimuth in degrees and the errors of both in compiled code; None where there is none.

    Parameters
    ----------
    values : dict of str to `numpy.ndarray`
        ``b_q`` and ``b_u``, float64 ``(pixels,)``.
    covariance : callable
        Of two names.
    turn : float
        What to add to the azimuth, in degrees.
    limit : float
        Below how many sigma squared errors are those of Rice's law.

    Returns
    -------
    found : dict
        ``b_trans`` and ``azimuth``: values and standard deviations, ``(pixels,)`` each.
    settled : `numpy.ndarray`
        Where these are such, bool ``(pixels,)``.
    """
    fields = tuple(np.ascontiguousarray(values[name], float) for name in ("b_q", "b_u"))
    shares = tuple(np.ascontiguousarray(covariance(*pair)) for pair in (("b_q", "b_q"), ("b_u", "b_u"), ("b_q", "b_u")))

    def fill(loops):
        found = tuple(np.empty((4, *fields[0].shape)))  # in one piece, which is quicker to be had than four
        settled = np.empty(fields[0].shape, bool)
        scale = _STEP, _HIGHEST, _MOST_UNEQUAL
        given = fields, shares, float(turn), float(limit), _table().numpy(), scale, found, settled
        over_pixels(lambda begin, end: loops.transverse(begin, end, *given), len(settled), loops.AT_ONCE)
        return {"b_trans": found[::2], "azimuth": found[1::2]}, settled

    return of_loops("faint_loops", len(fields[0]), fill)


@cache
def _table() -> torch.Tensor:
    """E|b|^½, E|b| and R for unit noise, and what half an excess of variance along the signal adds, ``(nodes, 6)``."""
    rho = np.arange(0, _HIGHEST + 2 * _STEP, _STEP)
    z = -0.5 * rho**2
    columns, corrections = [], []
    for p in (0.5, 1.0):
        size = 2 ** (p / 2) * gamma(1 + p / 2)
        columns.append(size * hyp1f1(-p / 2, 1, z))
        # F″ - F′/ρ; each derivative along z raises both arguments by one.
        corrections.append(size * (-p / 2) * (1 - p / 2) / 2 * hyp1f1(2 - p / 2, 3, z) * rho**2)
    size = np.sqrt(np.pi / 8) * rho
    columns.append(size * hyp1f1(0.5, 2, z))
    # R″ - R′/ρ + R/ρ².
    corrections.append(size * (-0.5 * hyp1f1(1.5, 3, z) + 0.125 * rho**2 * hyp1f1(2.5, 4, z)))
    return torch.as_tensor(np.stack([*columns, *corrections], 1))
