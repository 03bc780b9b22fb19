"""What the weak-field approximation reads off the intensity: line centres and widths."""

from __future__ import annotations

import numpy as np
import torch

from .compiled import of_loops

__all__ = ["LineWindow", "assign_samples"]

# Half the depth, but for rounding.
_HALF = 0.5 * (1 - 1e-5)
# Pixels whose samples stay in the processor's cache.
_TOGETHER = 2**13
# The Doppler width of a Gaussian profile, in units of its full width at half maximum.
_DOPPLER = 1 / (2 * np.sqrt(np.log(2)))


def assign_samples(x: np.ndarray, rests: np.ndarray, names: list[str], foreign: np.ndarray) -> np.ndarray:
    """To which line each sample belongs: the nearest; -1 where that is none of those to be fitted.

    Parameters
    ----------
    x : `numpy.ndarray`
        ``(n,)``.
    rests : `numpy.ndarray`
        ``(lines,)``, in the unit of ``x``.
    names : list of str
    foreign : `numpy.ndarray`
        Other lines among the wavelengths, ``(others,)``.

    Returns
    -------
    `numpy.ndarray`
        Numbers of lines, ``(n,)``.

    Raises
    ------
    ValueError
        If a line does not lie among the wavelengths, or has fewer than three samples for itself.
    """
    owner = np.abs(x[:, None] - np.concatenate([rests, foreign])).argmin(1)
    owner = np.where(owner < len(rests), owner, -1)
    for number, (rest, name) in enumerate(zip(rests, names, strict=True)):
        count = int((owner == number).sum())
        if not x.min() <= rest <= x.max() or count < 3:
            raise ValueError(
                f"{name} at {rest:.8g} has {count} samples of its own among the wavelengths from {x.min():.8g} to "
                f"{x.max():.8g}: the weak-field approximation needs the line, with three samples or more. Is the rest "
                "wavelength in the medium (air or vacuum) and unit of the data?"
            )
    return owner


class LineWindow:
    """The samples of one line.

    Parameters
    ----------
    x : `numpy.ndarray`
        ``(m,)``: the wavelengths of the line's samples.
    rest : float
    intensity : `torch.Tensor`
        ``(m, pixels)``.

    Attributes
    ----------
    moment, extent : `numpy.ndarray`
        ``(m,)``: what to multiply I by for Σ λ (I_c - I) Δλ and Σ (I_c - I) Δλ, with I_c the mean of the first and the
        last sample, λ from the middle of the window, and Δλ in units of `spacing`.
    reach : float
        How far the window goes from its middle.
    center : `torch.Tensor`
        Centre of gravity of each pixel's profile below (or above) the continuum, float64 ``(pixels,)``; where there
        is none within the window, the wavelength at rest.
    depth : `torch.Tensor`
        Σ (I_c - I) Δλ, float64 ``(pixels,)``.
    doppler_width : `torch.Tensor`
        Of each pixel's profile, from its full width at half depth, float64 ``(pixels,)``; where there is no line, twice
        the spacing.
    """

    def __init__(self, x: np.ndarray, rest: float, intensity: torch.Tensor):
        order = np.argsort(x)
        self.x, self.rest = x[order], rest
        self.intensity = intensity if np.array_equal(order, np.arange(len(x))) else intensity[torch.as_tensor(order)]
        self.moment, self.extent = self._sums(order)
        self.reach = 0.5 * (self.x[-1] - self.x[0])
        moment, depth, stretch = self._compiled_sums(order) or self._plain_sums(order)
        self.depth = depth.double()
        center = moment.double() / self.depth
        # λ₀ = Σ λ (I_c - I) Δλ / Σ (I_c - I) Δλ
        self.center = torch.where(center.abs() <= self.reach, center, rest - self.middle) + self.middle
        width = stretch.double() * _DOPPLER
        self.doppler_width = torch.where(width > 0, width.clamp_min(0.5 * self.spacing), 2 * self.spacing)

    @property
    def spacing(self) -> float:
        """Of the samples."""
        return float(np.median(np.diff(self.x)))

    @property
    def middle(self) -> float:
        """Of the window."""
        return float(0.5 * (self.x[0] + self.x[-1]))

    def center_noise(self, variance: torch.Tensor) -> torch.Tensor:
        """The standard deviation of each centre, from the variance of I, ``(1 or m, 1 or pixels)``."""
        moment, extent = (torch.as_tensor(row)[:, None] for row in (self.moment, self.extent))
        place = self.center - self.middle
        if len(variance) == 1:
            # The square of a line in the place: three sums for all pixels.
            squares = (moment**2).sum() - 2 * place * (moment * extent).sum() + place**2 * (extent**2).sum()
            total = variance[0].double() * squares
        else:
            total = (variance.double() * (moment - place * extent).square()).sum(0)
        return total.sqrt() / self.depth.abs()

    def _sums(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = self.x - self.middle
        steps = np.gradient(self.x) / self.spacing
        ends = np.zeros_like(place)
        ends[[0, -1]] = 0.5
        rows = np.empty((2, len(place)))
        rows[:, order] = ends * (place * steps).sum() - place * steps, ends * steps.sum() - steps
        return rows[0], rows[1]

    def _plain_sums(self, order: np.ndarray):
        """Both sums and the longest stretch at half depth, in the precision of the data."""
        rows = torch.as_tensor(np.stack([self.moment, self.extent])[:, order]).to(self.intensity)
        steps = torch.as_tensor(np.diff(self.x)).to(self.intensity)[:, None]
        longest = self.intensity.new_empty(self.intensity.shape[1])
        for first in range(0, len(longest), _TOGETHER):
            light = self.intensity[:, first : first + _TOGETHER]
            longest[first : first + _TOGETHER] = _longest_stretch(light, steps)
        return *(rows @ self.intensity), longest

    def _compiled_sums(self, order: np.ndarray):
        """The same in one look at each spectrum; None where nothing is compiled."""
        if self.intensity.device.type != "cpu":
            return None
        light = self.intensity.numpy()
        rows = [row.astype(light.dtype) for row in (self.moment[order], self.extent[order], np.diff(self.x))]

        def fill(loops):
            found = np.empty((3, light.shape[1]), light.dtype)
            loops.look_at(light, *rows, light.dtype.type(_HALF), found)
            return tuple(torch.as_tensor(found))

        return of_loops("profile_loops", light.shape[1], fill)


def _longest_stretch(light: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """How long a profile stays away from its ends by half its depth or more, ``(pixels,)``, between samples too."""
    away = torch.sub(light, 0.5 * (light[0] + light[-1])).abs_()
    # A little less than half: samples at half the depth, as whole numbers may have it, are as deep.
    beyond = away.sub_(_HALF * away.amax(0))
    size = beyond.abs()
    # The part of a straight line from a to b that is above zero is (1 + (a + b) / (|a| + |b|)) / 2.
    part = (beyond[1:] + beyond[:-1]).div_(size[1:] + size[:-1]).add_(1.0).mul_(0.5 * steps)
    on = beyond.sign_().clamp_min_(0.0)
    stretch = part[0]
    longest = stretch.clone()
    for row, goes_on in zip(part[1:], on[1:-1], strict=True):
        stretch = torch.addcmul(row, stretch, goes_on)
        torch.maximum(longest, stretch, out=longest)
    return longest.nan_to_num_(nan=0.0)
