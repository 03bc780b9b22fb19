"""What the instrument does to the light."""

from __future__ import annotations

from abc import abstractmethod

import torch

from .arguments import Configurable

__all__ = ["Operator"]


class Operator(Configurable):
    """A linear map of light to light: ``model | operator``.

    Light is a tensor ``(..., [stokes,] n, pixels)``, pixels last, in the C order of the map ``shape``.
    An operator that leaves pixels alone must treat every leading axis as a batch.

    Attributes
    ----------
    mixes_pixels : bool
        Whether the light of one pixel reaches another (a PSF). Such operators act on whole maps.
    weights : dict of str to `torch.Tensor`
        Numbers of the operator that a solver may learn (a PSF's). They are handed to `apply`, the
        initial ones are never changed in place.
    """

    mixes_pixels = False

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Learnable tensors; none by default."""
        return {}

    def input_axis(self, x: torch.Tensor) -> torch.Tensor:
        """The spectral grid ``(n_in, 1 or pixels)`` on which the light is wanted, given that of the data."""
        return x

    @abstractmethod
    def apply(self, light: torch.Tensor, x: torch.Tensor, shape: tuple[int, ...], **weights) -> torch.Tensor:
        """Send light through the instrument.

        Parameters
        ----------
        light : `torch.Tensor`
            ``(..., [stokes,] n_in, pixels)``.
        x : `torch.Tensor`
            The data's spectral axis, ``(n, 1)`` or ``(n, pixels)``.
        shape : tuple of int
            The map's shape; its product is ``pixels`` where the operator mixes pixels.

        Returns
        -------
        `torch.Tensor`
            ``(..., [stokes,] n, pixels)``.
        """

    def adjoint(self, light: torch.Tensor, x: torch.Tensor, shape: tuple[int, ...], **weights) -> torch.Tensor:
        """The transpose of `apply`; by default through automatic differentiation."""
        n_in = self.input_axis(x).shape[0]
        probe = light.new_zeros((*light.shape[:-2], n_in, light.shape[-1]))
        _, pullback = torch.func.vjp(lambda v: self.apply(v, x, shape, **weights), probe)
        return pullback(light)[0]
