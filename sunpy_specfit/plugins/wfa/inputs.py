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
from .profile import LineWindow, Profiles, assign_samples

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
    looks = _Looks(mean, rests, owner, used)
    intensity, variance, complete = observation.with_stokes("I").samples(looks.at_all)
    known = np.ones(len(intensity), bool) if complete else _known(observation, intensity)
    variance = _variance(variance, known)
    centers, edges, strengths, dopplers = [], [], [], []
    for number, one in enumerate(lines):
        _check_window(one, (owner == number) & known & used, (owner == number) & known)
        found = looks.at(number, intensity, variance, known)
        centers.append(found.center if x.ndim == 1 else found.center + torch.as_tensor(x - mean[:, None]).mean(0))
        given = None if model.core_width is None else torch.tensor([model.core_width.to_value(unit)]).double()
        edges.append((found.core, found.wing) if given is None else (given, given))
        lorentz = LORENTZ_SPLITTING * wavelengths[number].to_value(u.AA) ** 2 * u.AA.to(unit)
        strengths.append((lorentz * one.g_eff, lorentz**2 * _transverse_factor(model, one)))
        dopplers.append(found.width * (_STRONG / torch.tensor(lorentz * abs(one.g_eff))))
    index, own = torch.as_tensor(np.maximum(owner, 0)), torch.as_tensor((owner >= 0) & known).double()[:, None]
    splitting, squared = (torch.tensor(v, dtype=torch.float64) for v in zip(*strengths, strict=True))
    core, wing = (_together(rows) for rows in zip(*edges, strict=True))
    first, second = (_matrix(x, known, order, model.derivative) for order in (1, 2))
    lengthwise = -splitting[index][:, None] * first.mean(-1)
    modes = EvenModes(lengthwise, own[:, 0] > 0)
    center = _together(centers)
    moment, extent, members = torch.zeros((3, len(lines), len(x), 1), dtype=torch.float64)
    for number, (window, place) in looks.windows.items():
        moment[number, place, 0], extent[number, place, 0] = (
            torch.as_tensor(window.moment),
            torch.as_tensor(window.extent),
        )
        members[number] = own * (index == number)[:, None]
    return {
        "intensity": intensity if known.all() else torch.where(torch.as_tensor(known)[:, None], intensity, 0.0),
        "variance": variance,
        "slope": first,
        "bend": second,
        # One line: one centre a pixel; several: that of the line that a sample belongs to.
        "center": center if len(lines) == 1 else center[index],
        "splitting": splitting[index][:, None],
        "squared_splitting": squared[index][:, None],
        "own": own,
        "core": core if len(lines) == 1 else core[index],
        "wing": wing if len(lines) == 1 else wing[index],
        "moment": moment,
        "extent": extent,
        "members": members,
        "reach": torch.tensor([[window.reach] for window, _ in looks.windows.values()], dtype=torch.float64),
        "modes": modes.vectors[..., None],
        "mode_slope": modes.slope[..., None],
        "mode_noise": modes.values[:, None],
        "strongest": _together(dopplers).amin(0) if len(dopplers) > 1 else dopplers[0],
        "flat": _flat(first, splitting[index], intensity, variance, observation),
    }


class _Looks:
    """The windows of lines, and what is read off their profiles: once, while the samples are looked at anyway."""

    def __init__(self, mean: np.ndarray, rests: np.ndarray, owner: np.ndarray, used: np.ndarray):
        self._mean, self._rests, self._owner, self._used = mean, rests, owner, used
        self.windows: dict[int, tuple[LineWindow, np.ndarray]] = {}
        self._found: dict[int, Profiles] = {}
        self._seen: torch.Tensor | None = None

    def at_all(self, intensity: torch.Tensor, variance: torch.Tensor) -> float | None:
        """The size of the largest sample, if all belong to one line or another; see `Observation.samples`."""
        everywhere = np.ones_like(self._used)
        if not self._used.all() or (self._owner < 0).any():
            return None
        variance = _variance(variance, everywhere)
        self._found = {n: self.at(n, intensity, variance, everywhere) for n in range(len(self._rests))}
        # Kept for later, if it turns out that no sample is to be left out.
        self._seen = intensity
        return float(np.max([one.largest for one in self._found.values()]))

    def at(self, number: int, intensity: torch.Tensor, variance: torch.Tensor, known: np.ndarray) -> Profiles:
        """Of one line."""
        if intensity is self._seen:
            return self._found[number]
        own = (self._owner == number) & known
        inside = self._mean[own & self._used]
        # Where a window holds one side of the line only, the line's centre is not in it.
        own = own & self._used if inside.min() <= self._rests[number] <= inside.max() else own
        rows = np.flatnonzero(own)
        self.windows[number] = LineWindow(self._mean[own], self._rests[number]), rows
        return self.windows[number][0].look(intensity, variance, rows)


def _together(rows: list[torch.Tensor]) -> torch.Tensor:
    """Maps ``(pixels,)`` or single numbers as ``(lines, 1 or pixels)``."""
    return rows[0][None] if len(rows) == 1 else torch.stack(rows)


def _foreign(x: np.ndarray, rests: np.ndarray, unit: u.UnitBase, medium: str) -> np.ndarray:
    """Known lines among the wavelengths that are not fitted: samples nearest to them tell of other factors."""
    places = [one.wavelength("vacuum" if one.air is None else medium).to_value(unit) for one in all_lines()]
    # Nearer than that, an entry is one of the lines that are fitted, by another source.
    return np.array([p for p in places if x.min() <= p <= x.max() and np.abs(p - rests).min() > _APART * p])


def _transverse_factor(model, one: AtomicLine) -> float:
    # Without b_q and b_u, or with both held fixed, a line needs no second-order factor.
    return 0.0 if model.has_no_transverse_field() else one.G


def _check_window(one: AtomicLine, used: np.ndarray, known: np.ndarray) -> None:
    if used.sum() < 3:
        raise ValueError(
            f"the window or mask leaves {used.sum()} of the {known.sum()} samples of {one.name}; expected three or "
            "more: take in more of the line, or leave the line out of the model"
        )


def _known(observation, intensity: torch.Tensor) -> np.ndarray:
    """At which wavelengths I is known, in most pixels, or outside the window in all: the derivative's grid."""
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
