"""What priors that couple pixels say of the logarithm of a vector, at some place."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["Neighbours"]


class Neighbours:
    """Energy, slope and curvature of a problem's coupled priors, with the logarithms g = mean + B z of a vector.

    Priors that are quadratic in the logarithm need no more than one product with their matrix; of others the quadratic
    is taken anew wherever it is asked for.

    Parameters
    ----------
    problem : `~sunpy_specfit.core.problem.Problem`
    free : `torch.Tensor`
        Some place, ``(k, pixels)``.
    """

    def __init__(self, problem, free: torch.Tensor):
        self.products, self.diagonal, self.others = [], torch.zeros(free.shape[1], dtype=free.dtype), []
        for prior, (name, *_) in problem.coupled_priors():
            told = prior.quadratic({name: free[:, :1].expand_as(free)}).of_logarithm
            if told is None:
                self.others.append((prior, name))
            else:
                self.products.append(told[name][0])
                self.diagonal = self.diagonal + told[name][1]

    def at(self, free: torch.Tensor, logarithm: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The energy, and its slope with the logarithms."""
        energy, slope = 0.0, torch.zeros_like(logarithm)
        for product in self.products:
            slope += product(logarithm)
        if self.products:
            energy = 0.5 * float((slope * logarithm).sum())
        for prior, name in self.others:
            energy += float(prior.energy({name: free}).sum())
            slope += free * prior.quadratic({name: free}).gradient[name]
        return energy, slope

    def held(self, free: torch.Tensor) -> torch.Tensor:
        """How firmly neighbours hold each logarithm, on the average, ``(k,)``."""
        held = self.diagonal.mean().expand(len(free))
        for prior, name in self.others:
            held = held + (prior.quadratic({name: free}).diagonal[name] * free.square()).mean(1)
        return held

    def curvature(self, free: torch.Tensor, root: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function that multiplies numbers z, with logarithms root · z, with the curvature."""
        quadratics = [(prior.quadratic({name: free}), name) for prior, name in self.others]
        joined = root.T @ root

        def product(z: torch.Tensor) -> torch.Tensor:
            told = None
            for own in self.products:
                told = own(z) if told is None else told.add_(own(z))
            out = torch.zeros_like(z) if told is None else joined @ told
            for quadratic, name in quadratics:
                moved = free * (root @ z)
                out.addmm_(root.T, quadratic.matvec({name: moved})[name] * free)
            return out

        return product
