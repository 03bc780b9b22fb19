"""What priors that couple pixels say of the logarithm of a vector, at some place."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

__all__ = ["Neighbours"]


class Neighbours:
    """Energy, slope and curvature of a problem's coupled priors, with the logarithms g = mean + B z of a vector.

    Priors that are quadratic in the logarithm join the numbers z of a pixel by a matrix W and the pixels by one of
    their own; of others the quadratic is taken anew wherever it is asked for.

    Parameters
    ----------
    problem : `~sunpy_specfit.core.problem.Problem`
    root : `torch.Tensor`
        B, ``(k, r)``.
    free : `torch.Tensor`
        Some place, ``(k, pixels)``.

    Attributes
    ----------
    alike : bool
        Whether all z are joined alike, and each with itself only: any rotation of them is as good.
    """

    def __init__(self, problem, root: torch.Tensor, free: torch.Tensor):
        self.root, self._priors = root, problem.coupled_priors()
        eye, joined = torch.eye(root.shape[1], dtype=root.dtype), root.T @ root
        self.parts, self.others = [], []
        for prior, (name, *_) in self._priors:
            if (among := prior.among_pixels) is not None:
                self.parts.append((eye, among.product, among.diagonal, among.eigenvalues))
                continue
            quadratic = prior.quadratic({name: free[:, :1].expand_as(free)})
            if quadratic.of_logarithm is None:
                self.others.append((prior, name))
                continue
            product, diagonal = quadratic.of_logarithm[name]
            waves = diagonal.mean()[None] if quadratic.cosine is None else quadratic.cosine[name].eigenvalues
            self.parts.append((joined, product, diagonal.double(), waves.double()))
        self.alike = not self.others and all(within is eye for within, *_ in self.parts)

    def at(self, free: torch.Tensor, z: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The energy, and its slope with z."""
        energy, slope = 0.0, torch.zeros_like(z)
        for within, product, *_ in self.parts:
            slope.addmm_(within.to(z), product(z))
        if self.parts:
            energy = 0.5 * float((slope * z).sum(dtype=torch.float64))
        for prior, name in self.others:
            energy += float(prior.energy({name: free}).sum())
            slope += self.root.T @ (free * prior.quadratic({name: free}).gradient[name])
        return energy, slope

    def axes(self, free: torch.Tensor, shape: tuple[int, ...]) -> list[int]:
        """Along which axes of a map they join pixels: where one pixel's numbers are felt."""
        middle, eye = tuple(n // 2 for n in shape), torch.eye(self.root.shape[1], dtype=self.root.dtype)
        one = self.root.new_zeros((len(eye), *shape))
        one[:, *middle] = 1.0
        felt = self.curvature(free.to(one), self.root, eye)(one.flatten(1)).reshape(one.shape).nonzero()[:, 1:]
        return (felt != torch.tensor(middle)).any(0).nonzero()[:, 0].tolist()

    def held(self, free: torch.Tensor) -> torch.Tensor:
        """How firmly neighbours hold the z of a pixel, on the average, ``(r, r)``."""
        held = torch.zeros((self.root.shape[1],) * 2, dtype=self.root.dtype)
        for within, _, diagonal, _ in self.parts:
            held = held + within * diagonal.mean()
        for prior, name in self.others:
            own = (prior.quadratic({name: free}).diagonal[name] * free.square()).mean(1)
            held = held + self.root.T @ (own[:, None] * self.root)
        return held

    def waves(self, free: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The curvature among waves of the map, ``(waves, r, r)``, and what part of all waves each stands for.

        By rank of their curvature the lowest stand for themselves, which hold most of what priors leave free, and
        others for groups the larger the higher they rank.
        """
        waves = torch.zeros((1, *(self.root.shape[1],) * 2), dtype=self.root.dtype)
        spectra = [own.expand(self._count()) for *_, own in self.parts]
        share = torch.ones(1, dtype=self.root.dtype)
        if spectra:
            order = sum(own / own.abs().mean().clamp_min(1e-300) for own in spectra).argsort()
            edges = _groups(len(order), most)
            count = edges.diff()
            share = count.to(self.root) / len(order)
            for (within, *_), own in zip(self.parts, spectra, strict=True):
                total = torch.cat([own.new_zeros(1), own[order].cumsum(0)])
                mean = total[edges].diff() / count
                waves = waves + mean[:, None, None] * within
        for prior, name in self.others:
            own = (prior.quadratic({name: free}).diagonal[name] * free.square()).mean()
            waves = waves + own * self.root.T @ self.root
        return waves, share

    def _count(self) -> int:
        return max(len(own) for *_, own in self.parts)

    def eigenvalues(self) -> torch.Tensor:
        """What they multiply each cosine of the map with, where all z are joined alike, ``(pixels,)``."""
        return sum(own for *_, own in self.parts)

    @property
    def even(self) -> float:
        """What they multiply z with that is the same in all pixels."""
        return float(self.eigenvalues()[0]) if self.alike else 0.0

    def uneven(self, free: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """What they make of z beyond that."""
        if self.alike:
            return self.product(z).sub_(z, alpha=self.even)
        return self.curvature(free, self.root, torch.eye(len(z), dtype=z.dtype))(z)

    def product(self, z: torch.Tensor) -> torch.Tensor:
        """What they multiply z with, where all z are joined alike."""
        return sum(own(z) for _, own, *_ in self.parts)

    def curvature(
        self, free: torch.Tensor, root: torch.Tensor, shared: torch.Tensor
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function that multiplies v, z = shared · v with logarithms root · v, with the curvature."""
        quadratics = [(prior.quadratic({name: free}), name) for prior, name in self.others]
        parts = [(shared.T @ within.to(shared) @ shared, product) for within, product, *_ in self.parts]

        def product(v: torch.Tensor) -> torch.Tensor:
            out = torch.zeros_like(v)
            for within, own in parts:
                out.addmm_(within, own(v))
            for quadratic, name in quadratics:
                moved = free * (root @ v)
                out.addmm_(root.T, quadratic.matvec({name: moved})[name] * free)
            return out

        return product

    def noise(self, free: torch.Tensor, z: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """Noise like z whose covariance is the curvature of z's own prior and of all these.

        None where one of them does not tell it.
        """
        among = [prior.among_pixels for prior, _ in self._priors if prior.among_pixels is not None]
        if len(among) > 1:  # which make one curvature, and not a sum of two
            return None
        if among:
            out = among[0].noise(z, generator)
        else:
            out = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
        for prior, (name, *_) in self._priors:
            if prior.among_pixels is None:
                noise = prior.quadratic({name: free}).noise
                if noise is None:
                    return None
                out = out.addmm(self.root.T, free * noise(generator)[name])
        return out


def _groups(count: int, most: int) -> torch.Tensor:
    """Where groups of ranks begin, and the last ends: the first alone, then in steps of a factor."""
    if count <= most:
        return torch.arange(count + 1)
    alone = most // 2
    steps = torch.logspace(math.log2(alone), math.log2(count), most - alone + 1, base=2.0, dtype=torch.float64)
    return torch.cat([torch.arange(alone), steps.round().long()]).unique()
