"""What the weak-field approximation reads off the intensity: line centres and widths."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ...core.in_place import InPlace
from ...numerics.threads import over_pixels
from .compiled import of_loops

__all__ = ["LineWindow", "Profiles", "assign_samples"]

# Half the depth, but for rounding.
_HALF = 0.5 * (1 - 1e-5)
# By how many standard deviations of the line's centre a sample is to be clear of where its formula does not hold.
_CLEAR = 3.0
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


@dataclass(frozen=True)
class Profiles:
    """What is read off the profiles of one line.

    Attributes
    ----------
    center : `torch.Tensor`
        Centre of gravity of each pixel's profile below (or above) the continuum, float64 ``(pixels,)``; where there
        is none within the window, the wavelength at rest.
    depth : `torch.Tensor`
        Σ (I_c - I) Δλ, ``(pixels,)``, as the rest in the precision of the data; none where nobody asks for it.
    width : `torch.Tensor`
        The Doppler width, from the full width at half depth, ``(pixels,)``; where there is no line, twice the spacing.
    core, wing : `torch.Tensor`
        How far the core reaches to either side of the centre, and where the wing begins, ``(pixels,)``.
    largest : float
        The size of the largest sample, NaN where one is no number.
    """

    center: torch.Tensor
    depth: torch.Tensor
    width: torch.Tensor
    core: torch.Tensor
    wing: torch.Tensor
    largest: float


class LineWindow:
    """The samples of one line.

    Parameters
    ----------
    x : `numpy.ndarray`
        ``(m,)``: the wavelengths of the line's samples.
    rest : float

    Attributes
    ----------
    moment, extent : `numpy.ndarray`
        ``(m,)``: what to multiply I by for Σ λ (I_c - I) Δλ and Σ (I_c - I) Δλ, with I_c the mean of the first and the
        last sample, λ from the middle of the window, and Δλ in units of `spacing`.
    reach : float
        How far the window goes from its middle.
    """

    def __init__(self, x: np.ndarray, rest: float):
        self._order = np.argsort(x)
        self.x, self.rest = x[self._order], rest
        self.moment, self.extent = self._sums()
        self.reach = 0.5 * (self.x[-1] - self.x[0])

    @property
    def spacing(self) -> float:
        """Of the samples."""
        return float(np.median(np.diff(self.x)))

    @property
    def middle(self) -> float:
        """Of the window."""
        return float(0.5 * (self.x[0] + self.x[-1]))

    def look(self, intensity: torch.Tensor, variance: torch.Tensor, rows: np.ndarray | None = None) -> Profiles:
        """Centres, widths and edges of all profiles.

        Parameters
        ----------
        intensity : `torch.Tensor`
            ``(n, pixels)``.
        variance : `torch.Tensor`
            Of I, ``(1 or n, 1 or pixels)``.
        rows : `numpy.ndarray`, optional
            Which of the samples are the line's, ``(m,)``; all by default.
        """
        rows = np.arange(len(intensity)) if rows is None else rows
        ordered = rows[self._order]
        found = self._by_loops(intensity, variance, ordered)
        if found is None:
            whole = np.array_equal(ordered, np.arange(len(intensity)))
            found = self._plainly(intensity if whole else intensity[torch.as_tensor(ordered)])
        if variance.numel() == 1 and found.wing.numel():
            return found
        noise = self._center_noise(found, variance if len(variance) == 1 else variance[torch.as_tensor(rows)])
        return replace(found, **self._edges(found.width, noise))

    def _edges(self, width: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """Half a sample from the Doppler width, or more where noise hides what that margin is for.

        That is where the centre is less certain than by half a sample.
        """
        margin = 0.5 * self.spacing
        clear = (margin**2 + (_CLEAR * noise).nan_to_num(nan=margin).clamp_max(margin) ** 2).sqrt()
        return {"core": (width - clear).clamp_min(margin).to(width), "wing": (width + clear).to(width)}

    def _center_noise(self, found: Profiles, variance: torch.Tensor) -> torch.Tensor:
        """The standard deviation of each centre, from the variance of I, ``(1 or m, 1 or pixels)``."""
        moment, extent = (torch.as_tensor(row)[:, None] for row in (self.moment, self.extent))
        place = found.center - self.middle
        if len(variance) == 1:
            # The square of a line in the place: three sums for all pixels.
            squares = (moment**2).sum() - 2 * place * (moment * extent).sum() + place**2 * (extent**2).sum()
            total = variance[0].double() * squares
        else:
            total = (variance.double() * (moment - place * extent).square()).sum(0)
        return total.sqrt() / found.depth.double().abs()

    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        place = self.x - self.middle
        steps = np.gradient(self.x) / self.spacing
        ends = np.zeros_like(place)
        ends[[0, -1]] = 0.5
        rows = np.empty((2, len(place)))
        rows[:, self._order] = ends * (place * steps).sum() - place * steps, ends * steps.sum() - steps
        return rows[0], rows[1]

    def _plainly(self, intensity: torch.Tensor) -> Profiles:
        """All but the edges, from the line's samples in the order of their wavelengths."""
        rows = torch.as_tensor(np.stack([self.moment, self.extent])[:, self._order]).to(intensity)
        steps = torch.as_tensor(np.diff(self.x)).to(intensity)[:, None]
        stretch = intensity.new_empty(intensity.shape[1])
        for first in range(0, len(stretch), _TOGETHER):
            light = intensity[:, first : first + _TOGETHER]
            stretch[first : first + _TOGETHER] = _longest_stretch(light, steps)
        moment, depth = rows @ intensity
        center = moment.double() / depth.double()
        # λ₀ = Σ λ (I_c - I) Δλ / Σ (I_c - I) Δλ
        center = torch.where(center.abs() <= self.reach, center, self.rest - self.middle) + self.middle
        width = stretch * _DOPPLER
        width = torch.where(width > 0, width.clamp_min(0.5 * self.spacing), 2 * self.spacing)
        return Profiles(center, depth, width, *width.new_empty((2, 0)), float(intensity.abs().amax()))

    def _by_loops(self, intensity: torch.Tensor, variance: torch.Tensor, rows: np.ndarray) -> Profiles | None:
        """All in one look at each spectrum; None where nothing is compiled."""
        flat = InPlace(intensity).flat() if intensity.device.type == "cpu" else None
        if flat is None:
            return None
        kind, pixels = intensity.numpy().dtype, intensity.shape[1]
        even = variance.numel() == 1
        sums = [row[self._order].astype(kind) for row in (self.moment, self.extent)]
        noise = (self.moment**2).sum(), 2 * (self.moment * self.extent).sum(), (self.extent**2).sum()
        noise = tuple(kind.type(float(variance) * v if even else 0.0) for v in noise)
        shape = tuple(kind.type(v) for v in (_DOPPLER, self.spacing, 0.5 * self.spacing, _CLEAR))
        place = self.middle, float(self.reach), float(self.rest - self.middle)

        def fill(loops):
            found = np.empty(pixels), *(np.empty(n, kind) for n in (0 if even else pixels, pixels, pixels, pixels))
            given = rows, *sums, np.diff(self.x).astype(kind), kind.type(_HALF), place, shape, noise, found
            largest = over_pixels(lambda begin, end: loops.look_at(begin, end, *flat, *given), pixels, loops.AT_ONCE)
            return Profiles(*map(torch.from_numpy, found), float(np.max(largest)))

        return of_loops("profile_loops", pixels, fill)


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
