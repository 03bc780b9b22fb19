"""A map as an endless medium of average pixels: what neighbours add to each pixel's own precision."""

from __future__ import annotations

import torch

from ...numerics import data_space, packed
from .neighbours import Neighbours
from .seen_by_data import SeenByData

__all__ = ["Medium", "inverse_root"]

# So many waves stand for all of a map, half of them the lowest.
_WAVES = 2048
# How often, at the most, a medium of which pixels lack data is improved, and by what part of itself in the last.
_ROUNDS, _SAME = 30, 1e-2


def inverse_root(matrix: torch.Tensor) -> torch.Tensor:
    """The symmetric root of a matrix's inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(1e-12).rsqrt()) @ vectors.T


class Medium:
    """Pixels with data of the average precision, coupled as the priors couple them.

    Parameters
    ----------
    problem : `~sunpy_specfit.core.problem.Problem`
    root : `torch.Tensor`
        Of the prior's covariance, ``(k, r)``.
    response, free, weight : `torch.Tensor`
        ``(m, k)``; ``(k, pixels)``; ``(m, pixels)``.

    Attributes
    ----------
    known : `torch.Tensor`
        What the data of a pixel that has any know of its white numbers, on the average, ``(r, r)``.
    information : `torch.Tensor`
        What those of all pixels would have to know alike, for the medium to be as the map is.
    """

    def __init__(self, problem, root, response, free, weight):
        self.root, self.response, self.free, self.weight = root, response, free, weight

        def told(_, seen):
            rows = seen.permute(1, 0, 2).flatten(1)
            return rows @ rows.T

        total = sum(SeenByData(root, response, free, weight).each(told))
        known = int((weight.sum(0) > 0).sum())
        self.known = self.information = total / max(known, 1)
        self.eye = torch.eye(root.shape[1], dtype=root.dtype)
        # The precision that the priors alone give each wave, and what part of all waves are like it.
        waves, self.share = Neighbours(problem, root, free).waves(free, _WAVES)
        self.waves = self.eye + waves
        if 0 < known < free.shape[1]:
            self._empty_some(known / free.shape[1])

    def _empty_some(self, part: float) -> None:
        """Make a medium for pixels of which only a part have data.

        In it, a pixel with data or without has, on the average, the medium's own covariance: the coherent-potential
        approximation (Soven 1967, https://doi.org/10.1103/PhysRev.156.809).
        """
        self.information = part * self.known
        for _ in range(_ROUNDS):
            around, before = self.precision(), self.information
            mean = part * torch.linalg.inv(around + self.known) + (1 - part) * torch.linalg.inv(around)
            self.information = torch.linalg.inv(mean) - around
            self.information = 0.5 * (self.information + self.information.T)
            if float((self.information - before).norm()) <= _SAME * float(before.norm()):
                break

    def covariance(self) -> torch.Tensor:
        """Of a pixel's white numbers: the mean of (information + precision of the wave)⁻¹ over all waves."""
        each = torch.cholesky_inverse(torch.linalg.cholesky(self.information + self.waves))
        return torch.tensordot(self.share, each, 1)

    def precision(self) -> torch.Tensor:
        """What priors and neighbours give a pixel: with it alone the average pixel has the medium's covariance."""
        precision = torch.linalg.inv(self.covariance()) - self.information
        return 0.5 * (precision + precision.T)

    def effective_root(self) -> torch.Tensor:
        """Root of the prior's covariance with which a pixel by itself is as well known as in the map."""
        return self.root @ inverse_root(self.precision())

    def log_volume(self) -> float:
        """ln det of the curvature over that of the priors alone."""
        return self.log_determinant() - self.free.shape[1] * float(self.share @ torch.logdet(self.waves))

    def log_determinant(self) -> float:
        """ln det of the curvature.

        The waves of the average medium, and for each pixel by how much it differs from the average in it.
        """
        pixels = self.free.shape[1]
        total = self.share @ torch.logdet(self.information + self.waves)
        total = pixels * (total + torch.logdet(self.precision()) + torch.logdet(self.covariance()))

        def volume(_, factor):
            return -2 * data_space.factorize(factor)[packed.diagonal_index(len(factor))].log().sum()

        return float(total + sum(SeenByData(self.effective_root(), self.response, self.free, self.weight).each(volume)))
