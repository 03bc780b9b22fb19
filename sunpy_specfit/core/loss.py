"""How a misfit is weighed: Gaussian noise, or noise with outliers."""

from __future__ import annotations

import torch

__all__ = ["LOSSES", "excess", "reweight"]

LOSSES = ("gaussian", "student_t", "huber")

# Degrees of freedom of Student's t, and Huber's knee in sigma (95 % efficiency on Gaussian noise).
_NU = 4.0
_KNEE = 1.345


def excess(loss: str, squared: torch.Tensor) -> torch.Tensor:
    """The contribution of each sample to chi², given its squared residual in sigma.

    ``gaussian``: r²; ``student_t``: (ν + 1) ln(1 + r²/ν) with ν = 4; ``huber``: r² up to 1.345, then linear.
    All agree with r² (up to a factor for Student's t) near zero.
    """
    if loss == "gaussian":
        return squared
    if loss == "student_t":
        return (_NU + 1) * torch.log1p(squared / _NU)
    size = squared.sqrt()
    return torch.where(size <= _KNEE, squared, _KNEE * (2 * size - _KNEE))


def reweight(loss: str, squared: torch.Tensor) -> torch.Tensor | None:
    """The factor on each sample's weight in iteratively reweighted least squares; None for one."""
    if loss == "gaussian":
        return None
    if loss == "student_t":
        return (_NU + 1) / (_NU + squared)
    return (_KNEE / squared.sqrt().clamp_min(_KNEE)).clamp_max(1.0)
