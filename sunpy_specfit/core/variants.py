"""Problems made of another one: on other data, priors or pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from .compressed import CompressedBlock
from .grid import Grid
from .prior import BoundPrior

if TYPE_CHECKING:
    from .pixels import PixelBlock
    from .term import Term

__all__ = ["Variants"]


class Variants:
    """What `Problem` has for making another of itself; nothing is read again that stays the same."""

    terms: list[Term]
    priors: list[tuple[BoundPrior, tuple[str, ...]]]
    _whole: PixelBlock | None

    def with_quadratics(self, free: torch.Tensor, matrix: torch.Tensor, vector: torch.Tensor) -> Self:
        """The same problem with a quadratic in each pixel for its data, ½ sᵀ A s - bᵀ s for steps s from ``free``.

        Parameters
        ----------
        free, vector : `torch.Tensor`
            ``(k, pixels)``.
        matrix : `torch.Tensor`
            A, packed ``(k (k + 1) / 2, pixels)``.
        """
        return replace(self, _whole=CompressedBlock.about(self.whole(), free, matrix, vector))

    def without_mixing(self) -> Self:
        """The same problem without the operators that mix pixels: what a preconditioner is made of."""
        if not self.mixes_pixels:
            return self
        terms = [term.without_mixing() for term in self.terms]
        data = [replace(d, term=term) for d, term in zip(self.whole().terms, terms, strict=True)]
        return replace(self, terms=terms, _whole=replace(self.whole(), terms=data))

    def with_priors(self, priors: Sequence[tuple[BoundPrior, tuple[str, ...]]]) -> Self:
        """The same problem with other bound priors."""

        def separable(pairs):
            return [prior for prior, _ in pairs if not prior.couples_pixels]

        every = [(prior, self.layout.resolve(names[0]) if names else "") for prior, names in priors]
        priors = [(prior.beside(every, key), names) for (prior, names), (_, key) in zip(priors, every, strict=True)]
        same = separable(priors) == separable(self.priors)
        return replace(self, priors=list(priors), _whole=self.whole() if same else None)

    def with_light_error(self, error: float) -> Self:
        """The same problem with light that may be off by this part of itself, beside the noise."""
        if all(term.light_error == error for term in self.terms):
            return self
        return replace(self, terms=[replace(term, light_error=error) for term in self.terms], _whole=None)

    def part(self, index: np.ndarray, grid: Grid) -> Self:
        """The same problem on some of its pixels, in a grid of their own.

        What couples pixels is left behind.

        Parameters
        ----------
        index : `numpy.ndarray`
            Flat pixel numbers, in the order of ``grid``.
        """
        chosen = torch.as_tensor(index, device=self.device)

        def own(value):
            return value if value.shape[-1] == 1 else value[..., chosen.to(value.device)]

        terms = [
            replace(term, auxiliary=[{name: own(v) for name, v in inputs.items()} for inputs in term.auxiliary])
            for term in self.terms
        ]
        size = self.n_pixels
        return replace(
            self,
            terms=terms,
            grid=grid,
            priors=[(prior.select(chosen), names) for prior, names in self.priors if not prior.couples_pixels],
            fixed={k: v[..., index] if np.shape(v)[-1:] == (size,) else v for k, v in self.fixed.items()},
            _whole=self.whole().select(chosen),
        )

    def with_learned(self, weights: Mapping[int, Mapping[int, Mapping[str, torch.Tensor]]]) -> Self:
        """The same problem with the operators' weights that a solver learned."""
        if not weights:
            return self
        terms = [replace(term, learned=weights.get(number, {})) for number, term in enumerate(self.terms)]
        whole = self._whole
        if whole is not None:
            data = [replace(d, term=term) for d, term in zip(whole.terms, terms, strict=True)]
            whole = replace(whole, terms=data)
        return replace(self, terms=terms, _whole=whole)
