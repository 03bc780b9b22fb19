"""The noise of the line's centre, which comes from the same noisy I as the derivative does."""

from __future__ import annotations

import torch

__all__ = ["Centers"]


class Centers:
    r"""How the noise of I moves the centres of gravity, and how that changes the wing's formula.

    With the sums M and E over samples of I, λ0 = M I / E I, so that ∂λ0/∂I = (M - λ0 E) / E I; and a shape that goes
    as 1 / (λ - λ0) changes with λ0 by itself over λ - λ0, in all samples of the line at once.

    Parameters
    ----------
    intensity : `torch.Tensor`
        ``(n, pixels)``.
    moment, extent : `torch.Tensor`
        M and E of each line, ``(lines, n)``, with wavelengths counted from the middle of the line's samples.
    reach : `torch.Tensor`
        How far from there these go, ``(lines, 1)``: a centre beyond is none, and was replaced by a fixed number.
    members : `torch.Tensor`
        1 for the samples of each line, else 0, ``(lines, n)``.
    nearness : `torch.Tensor`
        1 / (λ - λ0) where the wing's formula holds, else 0, ``(n, pixels)``.
    """

    def __init__(self, intensity, moment, extent, reach, members, nearness):
        self.moment, self.extent, self.members, self.nearness = moment, extent, members, nearness
        depth = extent @ intensity
        place = moment @ intensity / depth
        inside = place.abs() <= reach
        self.place, self.lever = torch.where(inside, place, 0.0), torch.where(inside, 1 / depth, 0.0)

    def select(self, index: torch.Tensor) -> Centers:
        """Those of some pixels."""
        new = object.__new__(Centers)
        new.moment, new.extent, new.members = self.moment, self.extent, self.members
        new.nearness, new.place, new.lever = (
            v.index_select(-1, index) for v in (self.nearness, self.place, self.lever)
        )
        return new

    def pulled_back(self, product: torch.Tensor) -> torch.Tensor:
        """What each sample of I adds, through the centres, to the sum of a column times the shape, ``(n, pixels)``.

        Parameters
        ----------
        product : `torch.Tensor`
            The column times the shape, ``(n, pixels)``.
        """
        moved = self.lever * (self.members @ (product * self.nearness))
        return self.moment.T @ moved - self.extent.T @ (moved * self.place)
