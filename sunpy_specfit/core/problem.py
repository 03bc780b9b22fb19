"""One objective: ½ Σ chi² over every valid sample + Σ priors, over one grid of maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .blocks import DenseBlocks
from .chart import bind_charts
from .compressed import CompressedBlock
from .coupling import Coupling
from .flat import FlatVector
from .grid import Grid
from .layout import Layout
from .loss import excess
from .pixels import PixelBlock
from .prior import BoundPrior
from .quantities import Quantities
from .read_pixels import read_pixels
from .read_quadratics import precision_of, read_quadratics
from .term import Term
from .variants import Variants

__all__ = ["FLOAT32_SIGNAL", "Problem"]

# Up to this signal-to-noise ratio of a sample, rounding in float32 stays below 1e-3 sigma of any parameter.
FLOAT32_SIGNAL = 300.0


@dataclass
class Problem(Variants):
    """The whole fit, in numbers only, with three views that agree.

    1. `block` and `linearize`: the Gauss-Newton quadratic of each pixel.
    2. `residual`, `jvp`, `vjp`: matrix-free, through operators that mix pixels.
    3. `loss`: a scalar that automatic differentiation can follow, for anything at all.

    The free numbers are ``(k, pixels)``. Solvers of whole maps work on a flat vector in which a shared parameter
    stands once: `flatten` and `unflatten` go between the two.

    Attributes
    ----------
    terms : list of `Term`
    layout : `Layout`
    grid : `Grid`
    priors : list of (BoundPrior, tuple of str)
        Bound priors and the result keys they act on.
    loss_name : {"gaussian", "student_t", "huber"}
    dtype, device
    fixed : dict of str to `numpy.ndarray`
        Internal values of fixed parameters.
    seed : int
    physical_auxiliary : list of dict of str to `torch.Tensor`
        Auxiliary inputs of each of the layout's components, in physical units, pixels last.
    """

    terms: list[Term]
    layout: Layout
    grid: Grid
    priors: list[tuple[BoundPrior, tuple[str, ...]]]
    loss_name: str
    dtype: torch.dtype
    device: torch.device
    fixed: Mapping[str, np.ndarray]
    block_size: int
    seed: int = 0
    _whole: PixelBlock | None = field(default=None, repr=False)

    def __post_init__(self):
        lower, upper = self.layout.bounds()
        self.lower, self.upper = self._tensor(lower)[:, None], self._tensor(upper)[:, None]
        self.transform = self._tensor(self.layout.transform)
        self.base = torch.as_tensor(self.layout.fixed_base(self.fixed, self.grid.size))
        self.shared = torch.as_tensor(self.layout.shared, device=self.device)
        rows, free = self.layout.transform.shape
        self._flat = FlatVector(self.shared, self.n_pixels)
        self.memo: dict = {}
        self.simple = rows == free and self.layout.is_selection
        self.physical_auxiliary = self._collect_auxiliary()
        self.charts = bind_charts(self.layout)

    def _tensor(self, value) -> torch.Tensor:
        return torch.as_tensor(value, dtype=self.dtype, device=self.device)

    def _collect_auxiliary(self) -> list[dict[str, torch.Tensor]]:
        collected: list[dict[str, torch.Tensor]] = [{} for _ in self.layout.components]
        for term in self.terms:
            for number, index in enumerate(term.component_indices):
                collected[index] |= {name: value.to(self.device) for name, value in term.auxiliary[number].items()}
        return collected

    @property
    def n_free(self) -> int:
        """Free numbers a pixel."""
        return self.layout.n_free

    @property
    def n_pixels(self) -> int:
        """Pixels of the map."""
        return self.grid.size

    @property
    def mixes_pixels(self) -> bool:
        """Whether an operator sends light from one pixel to another."""
        return any(term.mixes_pixels for term in self.terms)

    @property
    def couples_pixels(self) -> bool:
        """Whether pixels cannot be fitted one by one: operators, priors or shared parameters join them."""
        return self.mixes_pixels or bool(self.shared.any()) or any(p.couples_pixels for p, _ in self.priors)

    @property
    def has_noise_model(self) -> bool:
        """Whether the noise of some term depends on the light."""
        return any(term.observation.noise is not None for term in self.terms)

    # -- view 1: blocks of pixels ----------------------------------------------------------------

    @property
    def compressible(self) -> bool:
        """Whether every term's misfit is a quadratic that its model works out, so that spectra are looked at once."""
        return isinstance(self._whole, CompressedBlock) or (
            self.loss_name == "gaussian"
            and not self.has_noise_model
            and all(
                len(term.model.components) == 1
                and term.model.components[0].quadratic is not None
                and not term.model.operators
                for term in self.terms
            )
        )

    @property
    def is_linear(self) -> bool:
        """Whether every free number enters the light linearly."""
        linear = {
            keys[name]
            for c, keys in zip(self.layout.components, self.layout.keys, strict=True)
            for name in c.linear_parameters
        }
        return self.loss_name == "gaussian" and not self.has_noise_model and set(self.layout.free_keys) <= linear

    @property
    def is_quadratic(self) -> bool:
        """Whether the objective is one quadratic: linear models, quadratic priors on fitted numbers, and no bounds."""
        names = [name for _, own in self.priors for name in own]
        return (
            self.is_linear
            and not self.charts
            and not bool(torch.isfinite(torch.cat([self.lower, self.upper])).any())
            and all(prior.is_quadratic for prior, _ in self.priors)
            and all(self.layout.resolve(name) in self.layout.parameters for name in names)
        )

    def block(self, index: slice | np.ndarray, dtype: torch.dtype | None = None) -> PixelBlock:
        """Some pixels as tensors, with the priors that do not couple them; without spectra where none are needed."""
        dtype = dtype or self.dtype
        if not self.compressible:
            return self.spectra(index, dtype)
        block = read_quadratics(self, index, precision_of(self, dtype))
        if block.dtype == torch.float32 and block.peak_signal > FLOAT32_SIGNAL:
            block = read_quadratics(self, index, torch.float64)
        return block.to(dtype)

    def spectra(self, index: slice | np.ndarray, dtype: torch.dtype, *, compressed: bool = False) -> PixelBlock:
        """Some pixels as tensors, with all their samples; those to be compressed have the data's own weights."""
        return read_pixels(self, index, dtype, compressed=compressed)

    def slices(self) -> list[slice]:
        """The blocks that work runs in: a pixel's block does not depend on which pixels are asked for."""
        return [slice(i, min(i + self.block_size, self.n_pixels)) for i in range(0, self.n_pixels, self.block_size)]

    def whole(self) -> PixelBlock:
        """All pixels as one block, kept."""
        if self._whole is None and self.compressible:
            self._whole = CompressedBlock.join([self.block(part) for part in self.slices()])
        elif self._whole is None:
            self._whole = self.block(slice(0, self.n_pixels))
        return self._whole

    def renew_weights(self, free: torch.Tensor) -> None:
        """Compute the noise from the light at these numbers, where it depends on the light."""
        if self.has_noise_model:
            self._whole = self.whole().with_weights_from(free)

    def linearize(self, free: torch.Tensor, *, priors: bool = True) -> tuple[torch.Tensor, DenseBlocks, torch.Tensor]:
        """The data (and, if asked, the priors that do not couple pixels) as per-pixel quadratics at ``free``.

        Returns
        -------
        objective : `torch.Tensor`
            ``(pixels,)``.
        blocks : `DenseBlocks`
            Curvature.
        vector : `torch.Tensor`
            Minus the gradient, ``(k, pixels)``.

        Raises
        ------
        ValueError
            Where an operator mixes pixels: there are no per-pixel quadratics then.
        """
        if self.mixes_pixels:
            raise ValueError(
                "an operator mixes the pixels of this problem: use residual, jvp and vjp instead of blocks"
            )
        objective, matrix, vector = [], [], []
        whole = self.whole()
        if self.compressible:
            objective, matrix, vector = whole.linearize(free, priors=priors)
            return objective, DenseBlocks(matrix), vector
        for part in self.slices():
            o, a, b = whole.select(part).linearize(free[:, part], priors=priors)
            objective.append(o)
            matrix.append(a)
            vector.append(b)
        return torch.cat(objective), DenseBlocks(torch.cat(matrix, -1)), torch.cat(vector, -1)

    # -- flat vectors, in which a shared parameter stands once -----------------------------------

    def unflatten(self, flat: torch.Tensor) -> torch.Tensor:
        """Free numbers ``(k, pixels)`` from the flat vector; differentiable."""
        return self._flat.unflatten(flat)

    def flatten(self, free: torch.Tensor) -> torch.Tensor:
        """The flat vector of free numbers; a shared parameter starts from the median over pixels."""
        return self._flat.flatten(free)

    def reduce(self, gradient: torch.Tensor) -> torch.Tensor:
        """The transpose of `unflatten`: a shared parameter collects what all pixels say."""
        return self._flat.reduce(gradient)

    def flat_bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Bounds of the flat vector."""
        return self._flat.spread(self.lower), self._flat.spread(self.upper)

    # -- steps -------------------------------------------------------------------------------------

    def moved(self, free: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """The place that a step leads to, all ``(k, pixels)``: their sum, or where a model's `Chart` has it."""
        found = free + step
        for chart in self.charts:
            found[chart.columns] = chart.moved(free, step)[chart.columns]
        return found

    def step_between(self, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """The step by which `moved` leads from one place to another, all ``(k, pixels)``."""
        step = end - start
        for chart in self.charts:
            step[chart.columns] = chart.step_between(start, end)
        return step

    # -- view 2: matrix-free, whole maps ---------------------------------------------------------

    def light(
        self, free: torch.Tensor, weights: Mapping[int, Mapping[str, torch.Tensor]] | None = None
    ) -> list[torch.Tensor]:
        """What each term predicts for the whole map, ``([stokes,] n, pixels)``, through its operators."""
        whole = self._samples()
        theta = whole.theta(free)
        if not any(term.model.operators for term in self.terms):
            return [whole._term_light(data, theta) for data in whole.terms]
        lights = []
        for number, data in enumerate(whole.terms):
            term, light = data.term, 0
            x = whole._model_axis(data)
            for component, batched in enumerate(term.batched):
                light = light + batched.light(x, term.inputs(theta, component), data.auxiliary[component])
            own = (weights or {}).get(number)
            lights.append(term.through_instrument(light, whole._physical_axis(data), self.grid.shape, own))
        return lights

    def _samples(self) -> PixelBlock:
        whole = self.whole()
        return whole if whole.terms else self.spectra(slice(0, self.n_pixels), self.dtype)

    def residual(self, free: torch.Tensor, weights=None) -> torch.Tensor:
        """Whitened residuals of all terms, (data - light) / sigma, ``(samples, pixels)``; 0 where not used."""
        parts = []
        for data, light in zip(self._samples().terms, self.light(free, weights), strict=True):
            parts.append(((data.data - light) * data.weight.sqrt()).reshape(-1, self.n_pixels))
        return torch.cat(parts)

    def jvp(self, free: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """The change of `residual` along a direction of the free numbers."""
        return torch.func.jvp(self.residual, (free,), (direction,))[1]

    def vjp(self, free: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
        """The transpose of `jvp`: ``(k, pixels)``."""
        return torch.func.vjp(self.residual, free)[1](cotangent)[0]

    # -- view 3: a scalar ------------------------------------------------------------------------

    def prior_energy(self, free: torch.Tensor) -> torch.Tensor:
        """Σ energies of all priors at ``free``, a scalar."""
        return self._energy(free, self.priors)

    def _energy(self, free: torch.Tensor, priors) -> torch.Tensor:
        total = free.new_zeros(())
        if priors:
            theta = self.whole().theta(free)
            for prior, names in priors:
                maps = Quantities(self.layout, names, self.physical_auxiliary).maps(theta)
                total = total + prior.energy(maps).sum()
        return total

    def coupled_energy(self, free: torch.Tensor) -> torch.Tensor:
        """Σ energies of the priors that couple pixels, a scalar."""
        return self._energy(free, self.coupled_priors())

    def loss(self, free: torch.Tensor, weights=None) -> torch.Tensor:
        """The objective, a scalar that can be differentiated with respect to ``free`` and ``weights``.

        Parameters
        ----------
        free : `torch.Tensor`
            ``(k, pixels)``: the numbers themselves, or anything they are computed from (a network's output).
        weights : dict, optional
            Term number -> operator number -> weights, for operators that learn.
        """
        if self.compressible:
            return 0.5 * self.whole().chi2(free).sum() + self.prior_energy(free)
        squared = self.residual(free, weights).square()
        return 0.5 * excess(self.loss_name, squared).sum() + self.prior_energy(free)

    def operator_weights(self) -> dict[int, dict[int, dict[str, torch.Tensor]]]:
        """Term number -> operator number -> copies of the weights that the operators offer for learning."""
        found: dict[int, dict[int, dict[str, torch.Tensor]]] = {}
        for number, term in enumerate(self.terms):
            for position, operator in enumerate(term.model.operators):
                if operator.weights:
                    copies = {
                        k: w.detach().to(device=self.device, dtype=self.dtype).clone()
                        for k, w in operator.weights.items()
                    }
                    found.setdefault(number, {})[position] = copies
        return found

    # -- priors that couple pixels ---------------------------------------------------------------

    def coupled_priors(self) -> Sequence[tuple[BoundPrior, tuple[str, ...]]]:
        """The bound priors that join neighbouring pixels."""
        return [(prior, names) for prior, names in self.priors if prior.couples_pixels]

    def coupled_quadratic(self, free: torch.Tensor):
        """The coupled priors' quadratic at ``free``, pulled back to the free numbers.

        Returns
        -------
        gradient : `torch.Tensor`
            ``(k, pixels)``.
        matvec : callable
            Curvature times a direction ``(k, pixels)``.
        diagonal : `torch.Tensor`
            ``(k, pixels)``.
        """
        coupling = Coupling(self, free)
        return coupling.gradient, coupling.product, coupling.diagonal
