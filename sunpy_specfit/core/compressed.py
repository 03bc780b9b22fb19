"""Linear models without their spectra: what the data say of a pixel is one small quadratic."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..numerics import packed
from .pixels import PixelBlock, TermData, chosen
from .term import Term

__all__ = ["CompressedBlock", "compress", "in_free_numbers"]


@dataclass(frozen=True)
class CompressedBlock(PixelBlock):
    """Pixels whose misfit is chi² = constant - 2 bᵀ f + fᵀ A f in the free numbers f, by `Model.quadratic`.

    It answers as a `PixelBlock` does, at the cost of a few numbers a pixel, and holds no spectra.

    Attributes
    ----------
    constant : `torch.Tensor`
        ``(pixels,)``.
    matrix : `torch.Tensor`
        A, packed ``(k (k + 1) / 2, pixels)``.
    vector : `torch.Tensor`
        b, ``(k, pixels)``.
    valid : `torch.Tensor`
        Samples in use, ``(pixels,)``.
    peak : `torch.Tensor`
        The largest signal-to-noise ratio of a sample, ``(pixels,)``.
    """

    constant: torch.Tensor = None
    matrix: torch.Tensor = None
    vector: torch.Tensor = None
    valid: torch.Tensor = None
    peak: torch.Tensor = None

    _PIXELS = ("constant", "matrix", "vector", "valid", "peak")

    @classmethod
    def of(cls, block: PixelBlock, **quadratic: torch.Tensor) -> CompressedBlock:
        """The pixels of a block with a quadratic in place of their samples; ``quadratic`` are the attributes above."""
        kept = ("transform", "base", "lower", "upper", "flags", "loss", "priors", "simple", "memo")
        return cls(terms=[], **{name: getattr(block, name) for name in kept}, **quadratic)

    @classmethod
    def about(cls, block: PixelBlock, free: torch.Tensor, matrix: torch.Tensor, vector: torch.Tensor):
        """The pixels of a block with ½ sᵀ A s - bᵀ s for steps s from ``free`` in place of their samples."""
        away = packed.matvec(matrix, free)
        return cls.of(
            block,
            constant=(free * (away + 2 * vector)).sum(0),
            matrix=matrix,
            vector=vector + away,
            valid=block.n_valid,
            peak=torch.zeros_like(vector[0]),
        )

    def select(self, index) -> CompressedBlock:
        part = super().select(index)
        return replace(part, **{name: chosen(getattr(self, name), index) for name in self._PIXELS})

    @property
    def pieces(self):
        return [(slice(0, self.n_pixels), self)]

    def chi2(self, free: torch.Tensor) -> torch.Tensor:
        total, product = self.constant, packed.matvec(self.matrix, free)
        # Number by number: for large maps the memory of all their terms costs more than the sums.
        for own, bent, slope in zip(free, product, self.vector, strict=True):
            total = total + own * (bent - 2 * slope)
        return total

    def at_zero(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `linearize` of the data alone returns where all free numbers are zero; not to be changed in place."""
        return 0.5 * self.constant, self.matrix, self.vector

    def linearize(self, free: torch.Tensor, *, priors: bool = True):
        product = packed.matvec(self.matrix, free)
        objective = 0.5 * (self.constant + (free * (product - 2 * self.vector)).sum(0))
        # Without priors it is the block's own, which is not to be changed.
        matrix, vector = self.matrix.clone() if priors else self.matrix, self.vector - product
        if priors and self.priors:
            objective = objective + self._add_priors(self.theta(free), matrix, vector)
        return torch.where(torch.isfinite(objective), objective, torch.inf), matrix, vector

    @property
    def signal(self) -> torch.Tensor:
        return self.peak

    @property
    def n_valid(self) -> torch.Tensor:
        return self.valid

    def to(self, dtype: torch.dtype) -> CompressedBlock:
        """The same in another precision."""
        names = ("transform", "base", "lower", "upper", "constant", "matrix", "vector", "peak")
        return replace(self, **{name: getattr(self, name).to(dtype) for name in names})

    def with_pixels(self, index: torch.Tensor, own: CompressedBlock) -> CompressedBlock:
        """The same with some pixels from another block."""
        rows = {}
        for name in (*self._PIXELS, "flags"):
            rows[name] = getattr(self, name).clone()
            rows[name][..., index] = getattr(own, name)
        return replace(self, **rows)

    @classmethod
    def join(cls, blocks: list[CompressedBlock]) -> CompressedBlock:
        """Several blocks side by side."""
        first = blocks[0]
        if len(blocks) == 1:
            return first
        rows = {name: torch.cat([getattr(b, name) for b in blocks], -1) for name in (*cls._PIXELS, "flags")}
        if first.base.shape[-1] > 1:
            rows["base"] = torch.cat([b.base for b in blocks], -1)
        return replace(first, **rows)


def compress(block: PixelBlock) -> CompressedBlock:
    """A block of linear models as quadratics."""
    constant, matrix, vector, valid = _quadratic(block)
    return CompressedBlock.of(block, constant=constant, matrix=matrix, vector=vector, valid=valid, peak=_peak(block))


def _peak(block: PixelBlock) -> torch.Tensor:
    """The largest signal-to-noise ratio of each pixel's samples, or of any of them where all have the same noise."""
    if any(data.weight.stride(-1) or data.weight.stride(-2) for data in block.terms):
        return block.signal
    largest = [
        torch.stack(torch.aminmax(data.data)).abs().amax() * data.weight[(0,) * data.weight.ndim].sqrt()
        for data in block.terms
    ]
    return torch.stack(largest).amax().expand(block.n_pixels)


def _quadratic(block: PixelBlock) -> tuple[torch.Tensor, ...]:
    total = None
    for data in block.terms:
        own = _of_term(data, block)
        total = own if total is None else tuple(a + b for a, b in zip(total, own, strict=True))
    return total


def _of_term(data: TermData, block: PixelBlock):
    """Constant, A, b and the number of samples of one term in the free numbers."""
    found = data.term.model.components[0].quadratic(data.x, data.data, data.weight, **data.auxiliary[0])
    return in_free_numbers(data.term, block, *found)


def in_free_numbers(term: Term, block: PixelBlock, constant, matrix, vector, valid):
    """The quadratic of a term's own parameters as one of the free numbers: θ = base + T · free."""
    index = term.component_indices[0]
    keys = term.layout.keys[index]
    own = [
        row
        for name in term.layout.components[index].parameters
        for row in range(term.layout.rows[keys[name]].start, term.layout.rows[keys[name]].stop)
    ]
    if block.simple and own == list(range(block.n_free)):
        return constant, matrix, vector, valid
    transform, base = block.transform[own], block.base[own]
    at_base = packed.matvec(matrix, base.expand(vector.shape))
    constant = constant + (base * (at_base - 2 * vector)).sum(0)
    vector = vector - at_base
    full = torch.einsum("ai,pab,bj->pij", transform, packed.unpack(matrix), transform)
    return constant, packed.pack(full), transform.T @ vector, valid
