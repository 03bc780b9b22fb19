"""An NDCube as tensors: validated once, handed out in blocks of pixels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import astropy.units as u
import numpy as np
import torch
from ndcube import NDCube

from .axes import Axes, find_axes, spectral_values, stokes_index
from .eis import corrected_unit, corrected_wavelengths
from .grid import Grid
from .in_place import InPlace
from .mask import read_mask
from .members import check_cube
from .noise import Noise
from .pixel_views import PixelViews
from .samples import Block, as_it_is, as_tensor, pixel_last, to_weight
from .status import Status
from .uncertainty import Sigma, estimate_noise, read_uncertainty
from .warnings import SpecfitWarning
from .window import read_spectral_axis, read_window

__all__ = ["Observation"]

# So many times the typical value nothing is a measurement.
_WILD = 1e8


@dataclass(frozen=True)
class Observation:
    """A cube whose axes, units, errors and masks have been understood. It holds views of the cube, never copies.

    Attributes
    ----------
    cube : `~ndcube.NDCube`
    axes : `Axes`
    grid : `Grid`
        The maps' shape and the meaning of their axes; ``(1,)`` for a single spectrum.
    stokes : str
        The Stokes parameters of the samples, in order.
    x : `numpy.ndarray`
        The spectral axis in ``spectral_unit``, float64 ``(n,)`` or ``(n, pixels)``.
    spectral_unit, data_unit : `~astropy.units.Unit`
    noise : `Noise` or None
    noise_origin : {"given", "cube", "noise model", "estimated"}
    """

    cube: NDCube
    axes: Axes
    grid: Grid
    stokes: str
    x: np.ndarray
    spectral_unit: u.UnitBase | None
    data_unit: u.UnitBase
    noise: Noise | None
    noise_origin: str
    sigma: Sigma | None = field(repr=False)
    masks: tuple[np.ndarray, ...] = field(repr=False)
    used: np.ndarray | None = field(repr=False)
    stokes_index: tuple[int, ...] | None = field(repr=False)

    @classmethod
    def from_cube(
        cls,
        cube: NDCube,
        *,
        data_axis: str | None = "spectral",
        stokes: str = "I",
        uncertainty=None,
        mask=None,
        spectral_axis: u.Quantity | None = None,
        window=None,
        spectral_unit: u.UnitBase | None = None,
        rest_wavelengths: Sequence[u.Quantity] = (),
    ) -> Observation:
        """Understand a cube.

        Parameters
        ----------
        cube : `~ndcube.NDCube`
            In any axis order, with one to five dimensions.
        data_axis : {"spectral", "channel", None}
            What the samples of a pixel lie along.
        stokes : str
            The Stokes parameters wanted, such as "I" or "IQUV".
        uncertainty : `~astropy.units.Quantity`, `~astropy.nddata.NDUncertainty` or `Noise`, optional
            In place of the cube's.
        mask : array of bool, optional
            True = do not use; shaped as the cube, the map, or the spectral axis. Joined with the cube's.
        spectral_axis : `~astropy.units.Quantity`, optional
            ``(n,)``, or shaped as the cube; in place of the WCS's.
        window : `~astropy.units.Quantity` or list, optional
            Ranges to use, as wavelengths or as velocities about the lines.
        spectral_unit : `~astropy.units.Unit`, optional
            The unit to work in.
        rest_wavelengths : sequence of `~astropy.units.Quantity`
            Of the model's lines.

        Raises
        ------
        TypeError
            If it is no NDCube, or holds no numpy or dask array.
        ValueError
            If there is no such axis, or shapes do not fit.
        astropy.units.UnitConversionError
            If units do not convert.

        Examples
        --------
        >>> from sunpy_specfit.core.observation import Observation
        >>> from sunpy_specfit.data import gaussian_cube
        >>> observation = Observation.from_cube(gaussian_cube((3, 4)))
        >>> observation.grid.shape, observation.sample_shape, observation.spectral_unit
        ((3, 4), (32,), Unit("Angstrom"))
        """
        check_cube(cube)
        axes = find_axes(cube, data_axis, spectral_axis)
        unit = corrected_unit(cube)
        shape = tuple(cube.data.shape[i] for i in axes.grid)
        grid = Grid(shape, axes.kinds) if shape else Grid((1,), ("other",))
        if data_axis == "spectral":
            given = spectral_axis if spectral_axis is not None else corrected_wavelengths(cube)
            found = given if given is not None else spectral_values(cube, axes)
            x, spectral_unit = read_spectral_axis(found, cube, axes, grid, spectral_unit, rest_wavelengths)
        else:
            n = 1 if axes.sample is None else cube.data.shape[axes.sample]
            x, spectral_unit = np.arange(n, dtype=float), None
        errors, origin = read_uncertainty(uncertainty, cube, unit)
        noise = errors if isinstance(errors, Noise) else None
        self = cls(
            cube=cube,
            axes=axes,
            grid=grid,
            stokes=stokes,
            x=x,
            spectral_unit=spectral_unit,
            data_unit=unit,
            noise=noise,
            noise_origin=origin,
            sigma=None if noise is not None else errors,
            masks=tuple(m for m in (read_mask(cube.mask, cube, axes), read_mask(mask, cube, axes)) if m is not None),
            used=read_window(window, x, spectral_unit, rest_wavelengths),
            stokes_index=stokes_index(cube, axes, stokes),
        )
        if self.sigma is None and noise is None:
            return self._with_estimated_noise()
        return self

    def _with_estimated_noise(self) -> Observation:
        pixels = np.unique(np.linspace(0, self.grid.size - 1, min(self.grid.size, 4096)).astype(int))
        probe = Sigma(np.broadcast_to(np.float32(1.0), self.cube.data.shape), 1, 1.0)
        block = replace(self, sigma=probe).block(pixels, largest=np.inf)
        samples = torch.where(block.weight > 0, block.data, torch.nan).reshape(-1, *self.sample_shape[-1:], len(pixels))
        x = self.x[:, None] if self.x.ndim == 1 else self.x[:, pixels]
        sigma = estimate_noise(np.take_along_axis(samples[0].numpy(), np.argsort(x, axis=0), 0).T)
        found = f"a noise of {sigma:.3g} {self.data_unit} was estimated from their scatter"
        if np.isnan(sigma):
            sigma, found = 1.0, f"they do not scatter either, so that a noise of 1 {self.data_unit} stands in for it"
        warnings.warn(
            f"these data have no uncertainty: {found}. "
            "Pass uncertainty=, as a Quantity, an NDUncertainty or a noise model such as CountNoise",
            SpecfitWarning,
            stacklevel=6,
        )
        estimated = Sigma(np.broadcast_to(np.float64(sigma), self.cube.data.shape), 1, 1.0)
        return replace(self, sigma=estimated, noise_origin="estimated")

    def with_stokes(self, stokes: str) -> Observation:
        """The same cube for other Stokes parameters: what a model takes as given, such as I for the fit of V.

        Raises
        ------
        ValueError
            If the cube does not have them.
        """
        return replace(self, stokes=stokes, stokes_index=stokes_index(self.cube, self.axes, stokes))

    def samples(
        self, screen: Callable[[torch.Tensor, torch.Tensor], float | None] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """All samples and their variances in physical numbers, as views of the cube wherever that is possible.

        Parameters
        ----------
        screen : callable, optional
            Of what would be returned if no sample were to be left out: the size of the largest sample, NaN where one is
            none, if the caller looks at all of them anyway; else None.

        Returns
        -------
        data : `torch.Tensor`
            ``([stokes,] n, pixels)``; NaN where a sample is masked or no measurement.
        variance : `torch.Tensor`
            The same shape, or ``(1,)`` where one number serves all.
        complete : bool
            Whether every sample is known to be a number.

        Raises
        ------
        ValueError
            Where the noise depends on the light.
        """
        if self.noise is not None:
            raise ValueError(
                "a model that takes part of the data as given needs their errors: give an uncertainty, no noise model"
            )
        whole = slice(0, self.grid.size)
        data = as_tensor(self._views.of("data", whole))
        variance = None if self.sigma.uniform else as_tensor(self._views.of("sigma", whole))
        if variance is None or bool(variance.amin() == variance.amax()):
            first = self.sigma.values.flat[0] if variance is None else variance[(0,) * variance.ndim]
            variance = torch.tensor([float(first)], dtype=torch.float64)
        # As `to_weight` does, here in physical numbers.
        power, factor = self.sigma.power, self.sigma.factor
        variance = {1: lambda v: (v * factor) ** 2, 2: lambda v: v * factor, -2: lambda v: 1 / (v * factor)}[power](
            variance
        )
        bad = None
        for number in range(len(self.masks)):
            mask = torch.as_tensor(np.ascontiguousarray(self._views.of(f"mask{number}", whole))).movedim(0, -1)
            bad = mask if bad is None else bad | mask
        limit = _WILD * self.typical if np.isfinite(self.typical) else np.inf
        largest = screen(data, variance) if screen is not None and data.numel() and bad is None else None
        if largest is None:
            largest = float(torch.stack(torch.aminmax(data)).abs().amax()) if data.numel() else 0.0
        if not (largest <= limit and np.isfinite(largest)):
            wild = ~(data.abs() <= limit)
            bad = wild if bad is None else bad | wild
        if bad is not None and bool(bad.any()):
            data = torch.where(bad, torch.nan, data)
            return data, variance, False
        return data, variance, bool(np.isfinite(largest))

    # -- shapes ----------------------------------------------------------------------------------

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one pixel's samples: ``(n,)`` or ``(stokes, n)``."""
        n = self.x.shape[0]
        return (len(self.stokes), n) if len(self.stokes) > 1 else (n,)

    @property
    def window_middle(self) -> float:
        """The middle of the spectral range in use, in ``spectral_unit``."""
        x = self.x if self.used is None else self.x[self.used]
        return 0.5 * (float(np.min(x)) + float(np.max(x)))

    @cached_property
    def typical(self) -> float:
        """A size for the data: over a sample of pixels, the median of their largest values; few wild ones do not sway.

        NaN where no sample can be used.
        """
        index = np.unique(np.linspace(0, self.grid.size - 1, min(self.grid.size, 1024)).astype(int))
        block = self.block(index, largest=np.inf)
        largest = torch.where(block.weight > 0, block.data.abs(), 0.0).flatten(0, -2).amax(0)
        largest = largest[(largest > 0) & torch.isfinite(largest)]
        return float(largest.median()) if largest.numel() else np.nan

    @cached_property
    def _views(self) -> PixelViews:
        arrays = {"data": self.cube.data} | {f"mask{number}": mask for number, mask in enumerate(self.masks)}
        if self.sigma is not None:
            arrays["sigma"] = self.sigma.values
        return PixelViews(arrays, self.axes, self.grid, self.stokes_index)

    # -- blocks ----------------------------------------------------------------------------------

    def block(
        self,
        index: slice | np.ndarray,
        *,
        dtype: torch.dtype = torch.float64,
        device="cpu",
        origin: float = 0.0,
        scale: float = 1.0,
        data_scale: float = 1.0,
        largest: float | None = None,
    ) -> Block:
        """Some pixels as tensors, in the frame ``(x - origin) / scale``, ``data / data_scale``.

        Parameters
        ----------
        index : slice or `numpy.ndarray`
            Flat pixel numbers, in the C order of the map.
        dtype, device
            Of the tensors. The axis is centred in float64 before it is rounded.
        largest : float, optional
            Values beyond it are no measurements: one of 1e30 would outweigh all other pixels of a coupled map. By
            default 1e8 times what is typical of the cube.
        """
        if largest is None:
            largest = _WILD * self.typical if np.isfinite(self.typical) else np.inf
        largest = largest / data_scale
        data = pixel_last(self._views.of("data", index), dtype, device, scale=1 / data_scale)
        if self.sigma is None:
            weight = torch.ones((), dtype=dtype, device=device).expand(data.shape)
        elif self.sigma.uniform:
            one = torch.full((), self.sigma.values.flat[0], dtype=torch.float64)
            weight = to_weight(one, self.sigma, data_scale).to(dtype=dtype, device=device).expand(data.shape)
        else:
            # What single precision cannot hold before it is scaled is read in double, such as variances of 1e-46.
            wide = _wide_enough(dtype, data_scale**self.sigma.power / self.sigma.factor)
            weight = pixel_last(self._views.of("sigma", index), wide, device)
            weight = to_weight(weight, self.sigma, data_scale).to(dtype)
            if weight.numel() and bool(weight.amin() == weight.amax()):
                weight = weight.flatten()[0].expand(data.shape)  # one number in memory, of which solvers make use
        masked = None
        for number in range(len(self.masks)):
            mask = pixel_last(self._views.of(f"mask{number}", index), torch.bool, device)
            masked = mask if masked is None else masked | mask
        used = None
        if self.used is not None:
            used = torch.as_tensor(self.used if self.used.ndim == 1 else self.used[:, index], device=device)
            used = used[:, None] if used.ndim == 1 else used
        flags = torch.zeros(data.shape[-1], dtype=torch.int32, device=device)
        if masked is not None or used is not None or not _all_good(data, weight, largest):
            good = data.abs() <= largest
            good &= torch.isfinite(data)
            good &= weight > 0
            good &= torch.isfinite(weight)
            bad = ~good
            if masked is not None:
                bad &= ~masked
                good &= ~masked
            if used is not None:
                bad &= used
                good &= used
            samples = tuple(range(data.ndim - 1))
            flags[bad.any(samples) if len(samples) == 1 else bad.flatten(0, -2).any(0)] |= int(Status.BAD_DATA)
            if masked is not None:
                flags[~good.flatten(0, -2).any(0)] |= int(Status.MASKED)
            data.masked_fill_(~good, 0.0)
            weight = weight.masked_fill(~good, 0.0) if weight.stride(-1) == 0 else weight.masked_fill_(~good, 0.0)
        x = self.x[:, None] if self.x.ndim == 1 else self.x[:, index]
        x = torch.as_tensor((x - origin) / scale, dtype=dtype, device=device)
        return Block(data, weight, x, flags)

    @property
    def lies_in_memory(self) -> bool:
        """Whether all pixels' data can be read where they are, without a copy."""
        return self._views.is_view("data") and as_it_is(self._views.of("data", slice(0, 1)))

    def in_place(
        self, index: slice | np.ndarray, *, data_scale: float = 1.0
    ) -> tuple[InPlace, torch.Tensor, float] | None:
        """Some pixels as they lie in the cube, where each sample counts and all have one noise; else None.

        Returns
        -------
        samples : `InPlace`
            ``([stokes,] n, pixels)``; what is no number, or beyond ``largest``, is no measurement.
        weight : `torch.Tensor`
            1/sigma² in the internal frame, one number, float64.
        largest : float
            In the internal frame.
        """
        if self.sigma is None or self.masks or self.used is not None:
            return None
        values = self.sigma.values if self.sigma.uniform else self._views.of("sigma", index)
        if not values.size or (not self.sigma.uniform and values.min() != values.max()):
            return None
        weight = to_weight(torch.full((), values.flat[0], dtype=torch.float64), self.sigma, data_scale)
        if not 0 < float(weight) < np.inf or not np.isfinite(self.typical):
            return None
        samples = InPlace(as_tensor(self._views.of("data", index)), factor=data_scale)
        return samples, weight, _WILD * self.typical / data_scale

    def deviations(self, index: slice | np.ndarray = slice(None)) -> np.ndarray | None:
        """The stored standard deviation of some pixels' samples, ``([stokes,] n, pixels)``; None with a noise model."""
        return None if self.sigma is None else np.moveaxis(self.sigma.deviations(self._views.of("sigma", index)), 0, -1)

    def masked(self, index: slice | np.ndarray = slice(None)) -> np.ndarray | None:
        """Which samples of some pixels are masked, ``([stokes,] n, pixels)``; None where there is no mask."""
        found = [self._views.of(f"mask{number}", index) for number in range(len(self.masks))]
        return np.moveaxis(np.logical_or.reduce(found), 0, -1) if found else None


def _wide_enough(dtype: torch.dtype, size: float) -> torch.dtype:
    """A type for numbers of some size and far smaller or larger ones."""
    return dtype if 1e-15 < size < 1e15 else torch.float64


def _all_good(data: torch.Tensor, weight: torch.Tensor, largest: float) -> bool:
    """Whether every sample is a measurement and has a weight; two passes over memory instead of six."""
    if not data.numel():
        return True
    low, high = torch.aminmax(weight if weight.stride(-1) else weight[..., :1])
    least, most = torch.aminmax(data)
    return bool((low > 0) & (high < torch.inf) & (least >= -largest) & (most <= largest) & torch.isfinite(most))
