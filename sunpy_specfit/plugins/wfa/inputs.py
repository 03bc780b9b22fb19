"""What a weak-field model takes from the observation beside the data that it fits."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import torch

from ...data import AtomicLine
from ...data.lines import all_lines
from ...data.zeeman import LORENTZ_SPLITTING
from ...numerics.derivative import derivative_matrix
from .even_noise import EvenModes
from .profile import LineWindow, assign_samples

__all__ = ["prepared"]

# Where the splitting exceeds this part of the Doppler width, a Gaussian profile's slope is ten per cent off.
_STRONG = 0.45
# Lines nearer to each other than this part of their wavelength are one line (20 km/s).
_APART = 6.7e-5


def prepared(model, observation, lines, wavelengths) -> dict[str, torch.Tensor]:
    """I, its variance, the matrices of its derivatives, and the centre and splitting of the line at each sample.

    Parameters
    ----------
    model : `WeakField`
    observation : `Observation`
    lines : sequence of `~sunpy_specfit.data.AtomicLine`
    wavelengths : sequence of `~astropy.units.Quantity`
        Of the lines at rest, in the medium of the data.

    Raises
    ------
    ValueError
        If a line is not in the data or in the window, or a wavelength occurs twice.
    """
    intensity, variance = observation.with_stokes("I").samples()
    known = _known(observation, intensity)
    x = np.asarray(observation.x, float)
    mean = x if x.ndim == 1 else x.mean(1)
    if len(np.unique(mean)) < len(mean):
        raise ValueError(
            f"{len(mean) - len(np.unique(mean))} wavelengths occur more than once: the derivative of I needs each "
            "once; average those samples, or cut them out of the cube"
        )
    unit = observation.spectral_unit
    rests = np.array([rest.to_value(unit) for rest in wavelengths])
    owner = assign_samples(mean, rests, [one.name for one in lines], _foreign(mean, rests, unit, model.medium or "air"))
    used = observation.used if observation.used is not None and observation.used.ndim == 1 else np.ones_like(mean) > 0
    shift = torch.as_tensor(x - mean[:, None] if x.ndim > 1 else np.zeros((1, 1)))
    centers, edges, strengths = [], [], []
    for number, one in enumerate(lines):
        own = (owner == number) & known
        _check_window(one, own & used, own)
        # Where a window holds one side of the line only, the line's centre is not in it.
        own = own & used if mean[own & used].min() <= rests[number] <= mean[own & used].max() else own
        light = intensity if own.all() else intensity[torch.as_tensor(np.flatnonzero(own))]
        window = LineWindow(mean[own], rests[number], light)
        centers.append(window.center + shift.mean(0))
        # In whole quarters of a sample, so that one pixel more or less in the mean hardly ever moves an edge.
        quarter = 0.25 * window.spacing
        width, margin = quarter * round(window.doppler_width / quarter), 2 * quarter
        if model.core_width is not None:
            width, margin = model.core_width.to_value(unit), 0.0
        lorentz = LORENTZ_SPLITTING * wavelengths[number].to_value(u.AA) ** 2 * u.AA.to(unit)
        edges.append((max(width - margin, margin), width + margin))
        strengths.append((lorentz * one.g_eff, lorentz**2 * _transverse_factor(model, one), window.doppler_width))
    index, own = torch.as_tensor(np.maximum(owner, 0)), torch.as_tensor((owner >= 0) & known).double()[:, None]
    splitting, squared, doppler = (torch.tensor(v, dtype=torch.float64) for v in zip(*strengths, strict=True))
    core, wing = torch.tensor(edges, dtype=torch.float64).T
    first, second = (_matrix(x, known, order, model.derivative) for order in (1, 2))
    lengthwise = -splitting[index][:, None] * first.mean(-1)
    modes = EvenModes(lengthwise, own[:, 0] > 0)
    center = torch.stack(centers)
    return {
        "intensity": intensity if known.all() else torch.where(torch.as_tensor(known)[:, None], intensity, 0.0),
        "variance": _variance(variance, known),
        "slope": first,
        "bend": second,
        # One line: one centre a pixel; several: that of the line that a sample belongs to.
        "center": center if len(lines) == 1 else center[index],
        "splitting": splitting[index][:, None],
        "squared_splitting": squared[index][:, None],
        "own": own,
        "core": core[index][:, None],
        "wing": wing[index][:, None],
        "modes": modes.vectors[..., None],
        "mode_slope": modes.slope[..., None],
        "mode_noise": modes.values[:, None],
        "strongest": (_STRONG * doppler / splitting.abs().clamp_min(1e-300)).amin()[None],
        "flat": _flat(first, splitting[index], intensity, variance, observation),
    }


def _foreign(x: np.ndarray, rests: np.ndarray, unit: u.UnitBase, medium: str) -> np.ndarray:
    """Known lines among the wavelengths that are not fitted: samples nearest to them tell of other factors."""
    places = [one.wavelength("vacuum" if one.air is None else medium).to_value(unit) for one in all_lines()]
    # Nearer than that, an entry is one of the lines that are fitted, by another source.
    return np.array([p for p in places if x.min() <= p <= x.max() and np.abs(p - rests).min() > _APART * p])


def _transverse_factor(model, one: AtomicLine) -> float:
    # Without b_q and b_u, or with both held fixed, a line needs no second-order factor.
    if model.linear is None or all(model.parameters[name].fixed for name in ("b_q", "b_u")):
        return 0.0
    return one.G


def _check_window(one: AtomicLine, used: np.ndarray, known: np.ndarray) -> None:
    if used.sum() < 3:
        raise ValueError(
            f"the window or mask leaves {used.sum()} of the {known.sum()} samples of {one.name}; expected three or "
            "more: take in more of the line, or leave the line out of the model"
        )


def _known(observation, intensity: torch.Tensor) -> np.ndarray:
    """At which wavelengths I is known, in most pixels, or outside the window in all: the derivative's grid."""
    if bool(torch.isfinite(intensity.sum())):
        return np.ones(len(intensity), bool)
    missing = torch.isnan(intensity).double().mean(1).numpy()
    used = observation.used
    outside = ~used if used is not None and used.ndim == 1 else np.zeros(len(missing), bool)
    known = missing <= np.where(outside, 0.0, 0.5)
    return known if known.sum() >= 3 else np.ones_like(known)


def _variance(variance: torch.Tensor, known: np.ndarray) -> torch.Tensor:
    if variance.ndim <= 1:
        return variance.reshape(1, 1)
    return variance if known.all() else torch.where(torch.as_tensor(known)[:, None], variance, 0.0)


def _matrix(x: np.ndarray, known: np.ndarray, order: int, method: str) -> torch.Tensor:
    """A derivative matrix, ``(n, n, 1)``, or one for each pixel where grids differ by more than a shift.

    It is zero where nothing is known of I.
    """
    if not known.all():
        part = _matrix(x[known], known[known], order, method)
        whole = part.new_zeros((len(x), len(x), part.shape[-1]))
        place = torch.as_tensor(np.flatnonzero(known))
        whole[place[:, None], place] = part
        return whole
    grids = [x] if x.ndim == 1 else list(x.T)
    steps = np.diff(grids[0])
    if len(grids) == 1 or all(np.allclose(np.diff(g), steps, rtol=1e-6) for g in grids[1:]):
        grids = grids[:1]
    return torch.as_tensor(np.stack([derivative_matrix(g - g.mean(), order=order, method=method) for g in grids], -1))


def _flat(matrix, splitting, intensity, variance, observation) -> torch.Tensor:
    """The sigma of B_los where the derivative is twice what noise alone makes: above it a profile is flat."""
    few = observation.with_stokes("V").block(np.arange(min(observation.grid.size, 256)))
    weight = few.weight[few.weight > 0]
    noise = float(weight.median()) ** -0.5 if weight.numel() else 1.0
    own = float(variance.flatten()[:: max(1, variance.numel() // 4096)].median())
    power = (splitting[:, None].square() * matrix[..., 0].square()).sum()
    return (noise / (2 * own * power).sqrt())[None] if own > 0 else torch.full((1,), torch.inf).double()
