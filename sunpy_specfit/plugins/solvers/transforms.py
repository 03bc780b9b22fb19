"""Hard limits by a change of variables: numbers without limits that stand for numbers with them."""

from __future__ import annotations

import torch

__all__ = ["Transform"]


class Transform:
    """Free numbers as smooth functions of unlimited ones: softplus for one limit, a sigmoid for two.

    Well inside of its limits a number and what stands for it differ by a constant only.

    Parameters
    ----------
    lower, upper : `torch.Tensor`
        ``(k, 1)``, infinite where there is no limit.
    scale : `torch.Tensor`
        ``(k, 1)``: how near to a limit the bend begins.
    """

    def __init__(self, lower: torch.Tensor, upper: torch.Tensor, scale: torch.Tensor):
        low, high = torch.isfinite(lower), torch.isfinite(upper)
        self.lower, self.upper, self.scale = lower, upper, scale
        self.kinds = torch.where(low & high, 3, torch.where(high, 2, torch.where(low, 1, 0)))[:, 0].tolist()

    def forward(self, unlimited: torch.Tensor) -> torch.Tensor:
        """Free numbers ``(k, pixels)``; differentiable."""
        rows = []
        for row, kind, low, high, s in zip(unlimited, self.kinds, self.lower, self.upper, self.scale, strict=True):
            if kind == 1:
                row = low + s * torch.nn.functional.softplus(row / s, threshold=40.0)
            elif kind == 2:
                row = high - s * torch.nn.functional.softplus(-row / s, threshold=40.0)
            elif kind == 3:
                row = low + (high - low) * torch.sigmoid(4 * row / (high - low))
            rows.append(row)
        return torch.stack(rows)

    def inverse(self, free: torch.Tensor) -> torch.Tensor:
        """Unlimited numbers; those on a limit are moved a little inside first."""
        rows = []
        for row, kind, low, high, s in zip(free, self.kinds, self.lower, self.upper, self.scale, strict=True):
            if kind == 1:
                row = _inverse_softplus(((row - low) / s).clamp_min(0.05)) * s
            elif kind == 2:
                row = -_inverse_softplus(((high - row) / s).clamp_min(0.05)) * s
            elif kind == 3:
                row = torch.logit(((row - low) / (high - low)).clamp(0.01, 0.99)) * (high - low) / 4
            rows.append(row)
        return torch.stack(rows)

    def slope(self, unlimited: torch.Tensor) -> torch.Tensor:
        """d free / d unlimited, ``(k, pixels)``."""
        with torch.enable_grad():
            leaf = unlimited.detach().requires_grad_()
            return torch.autograd.grad(self.forward(leaf).sum(), leaf)[0]


def _inverse_softplus(y: torch.Tensor) -> torch.Tensor:
    return torch.where(y > 30.0, y, torch.log(torch.expm1(y.clamp_max(30.0))))
