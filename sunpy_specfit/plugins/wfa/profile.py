"""What the weak-field approximation reads off the intensity: line centres and widths."""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import make_interp_spline

__all__ = ["LineWindow", "assign_samples"]

# Pixels whose mean profile tells the width of a line.
_SAMPLE = 200
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
        is none within the window, the median of the others.
    depth : `torch.Tensor`
        Σ (I_c - I) Δλ, float64 ``(pixels,)``.
    doppler_width : float
        Of the mean profile.
    """

    def __init__(self, x: np.ndarray, rest: float, intensity: torch.Tensor):
        order = np.argsort(x)
        self.x, self.rest = x[order], rest
        self.intensity = intensity if np.array_equal(order, np.arange(len(x))) else intensity[torch.as_tensor(order)]
        self.moment, self.extent = self._sums(order)
        self.reach = 0.5 * (self.x[-1] - self.x[0])
        self.center = self._centers(intensity)
        self.doppler_width = self._doppler_width()

    @property
    def spacing(self) -> float:
        """Of the samples."""
        return float(np.median(np.diff(self.x)))

    @property
    def middle(self) -> float:
        """Of the window."""
        return float(0.5 * (self.x[0] + self.x[-1]))

    def center_noise(self, variance: torch.Tensor) -> float:
        """The usual standard deviation of the centre, from the variance of I, ``(1 or m, 1 or pixels)``."""
        some = slice(None, None, max(1, len(self.center) // _SAMPLE))
        moment, extent = (torch.as_tensor(row)[:, None] for row in (self.moment, self.extent))
        own = variance[:, some] if variance.shape[-1] > 1 else variance
        slope = moment - (self.center[some] - self.middle) * extent
        deviation = (own.double() * slope.square()).sum(0).sqrt() / self.depth[some].abs()
        deviation = deviation[torch.isfinite(deviation)]
        return float(deviation.median()) if len(deviation) else 0.0

    def _sums(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = self.x - self.middle
        steps = np.gradient(self.x) / self.spacing
        ends = np.zeros_like(place)
        ends[[0, -1]] = 0.5
        rows = np.empty((2, len(place)))
        rows[:, order] = ends * (place * steps).sum() - place * steps, ends * steps.sum() - steps
        return rows[0], rows[1]

    def _centers(self, intensity: torch.Tensor) -> torch.Tensor:
        """λ₀ = Σ λ (I_c - I) Δλ / Σ (I_c - I) Δλ."""
        # Both sums at once, in the precision of the data.
        both = torch.as_tensor(np.stack([self.moment, self.extent])).to(intensity) @ intensity
        moment, self.depth = both.double()
        center = moment / self.depth
        inside = center.abs() <= self.reach
        usual = center[inside].median() if bool(inside.any()) else torch.tensor(self.rest - self.middle).double()
        return torch.where(inside, center, usual) + self.middle

    def _doppler_width(self) -> float:
        some = self._mean_profile()
        spacing = self.spacing
        away = some - 0.5 * (some[0] + some[-1])
        peak = int(np.abs(away).argmax())
        half = np.abs(away) - 0.5 * abs(away[peak])
        if not np.isfinite(half).all() or abs(away[peak]) == 0:
            return 2 * spacing
        left, right = self._crossing(half, peak, -1), self._crossing(half, peak, 1)
        return max(float(right - left) * _DOPPLER, 0.5 * spacing)

    def _mean_profile(self) -> np.ndarray:
        """The mean of some pixels' profiles, ``(m,)``, each moved to where its centre is in the middle of all."""
        every = max(1, self.intensity.shape[1] // _SAMPLE)
        profiles, centers = self.intensity[:, ::every].double().numpy(), self.center[::every].numpy()
        good = np.isfinite(profiles).all(0)
        if not good.any():
            return np.nanmean(profiles, axis=1) if np.isfinite(profiles).any() else np.full(len(self.x), np.nan)
        profiles, centers = profiles[:, good], centers[good]
        shifts = centers - np.median(centers)
        moved = make_interp_spline(self.x, profiles, k=min(3, len(self.x) - 1))(self.x[:, None] + shifts)
        # The spline has all profiles at all places: of each, those moved by its own shift.
        return np.diagonal(moved, axis1=1, axis2=2).mean(1)

    def _crossing(self, half: np.ndarray, peak: int, step: int) -> float:
        i = peak
        while 0 <= i + step < len(half) and half[i + step] > 0:
            i += step
        j = i + step
        if not 0 <= j < len(half):
            return self.x[i]
        return self.x[i] + (self.x[j] - self.x[i]) * half[i] / (half[i] - half[j])
