"""Stokes profiles of Milne-Eddington atmospheres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import astropy.units as u
import numpy as np
from astropy.constants import c
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube
from scipy.special import wofz

from .atomic_line import AtomicLine
from .lines import line as find_line
from .weak_field import stokes_wcs
from .zeeman import LORENTZ_SPLITTING

__all__ = ["milne_eddington_cube"]

# Pixels whose propagation matrices are solved for at once.
_AT_ONCE = 512
_RANGES = {
    "doppler_width": (0.02, 0.045),
    "line_strength": (4.0, 25.0),
    "damping": (0.1, 0.8),
    "source_constant": (0.1, 0.3),
    "source_gradient": (0.5, 0.9),
}


def milne_eddington_cube(
    shape: tuple[int, int] = (16, 16),
    *,
    lines: Sequence[str | AtomicLine] = ("Fe I 6301.5", "Fe I 6302.5"),
    wavelength: u.Quantity | None = None,
    noise: float = 1e-3,
    truth: Mapping[str, np.ndarray] | None = None,
    mu: float = 1.0,
    seed: int = 0,
    dtype=np.float32,
) -> NDCube:
    """Stokes I, Q, U and V of Milne-Eddington atmospheres, with noise.

    With the propagation matrix K of Landi Degl'Innocenti & Landolfi (2004, chapter 9; doi:10.1007/1-4020-2415-0) the
    light is S0 (1, 0, 0, 0) + mu S1 K⁻¹ (1, 0, 0, 0). Here K is inverted as it stands, by other means than those of
    `sunpy_specfit.MilneEddington`, and far more slowly.

    Parameters
    ----------
    shape : tuple of int
        The map's shape (y, x).
    lines : sequence of str or `~sunpy_specfit.data.AtomicLine`
    wavelength : `~astropy.units.Quantity`, optional
        Evenly spaced, in air; by default the 112 samples of Hinode/SP where the lines are those at 6302 Å, else 21.5 mÅ
        a sample to 0.4 Å either side.
    noise : float
        Of each sample, in units of the continuum of the quiet Sun.
    truth : mapping, optional
        Maps by the names of the parameters of `sunpy_specfit.MilneEddington`, in G, deg, km/s, Å and units of the
        continuum. What is missing is drawn at random; without any, the field is that of a spot.
    mu : float
        Cosine of the heliocentric angle.
    seed : int
    dtype : numpy dtype

    Returns
    -------
    `~ndcube.NDCube`
        ``(stokes, wavelength, y, x)``, the truth in ``meta["truth"]``.

    Examples
    --------
    >>> from sunpy_specfit.data import milne_eddington_cube
    >>> cube = milne_eddington_cube((3, 4))
    >>> cube.data.shape
    (4, 112, 3, 4)
    >>> sorted(cube.meta["truth"])[:4]
    ['azimuth', 'damping', 'doppler_width', 'field_strength']
    """
    rng = np.random.default_rng(seed)
    entries = [find_line(one) if isinstance(one, str) else one for one in lines]
    if wavelength is None:
        rests = [entry.air.to_value(u.AA) for entry in entries]
        low, high = (
            (6300.88, 6303.27) if min(rests) > 6301 and max(rests) < 6303 else (min(rests) - 0.4, max(rests) + 0.4)
        )
        wavelength = (low + 0.0215 * np.arange(round((high - low) / 0.0215) + 1)) * u.AA
    truth = dict(_spot(shape) if truth is None else truth)
    truth.setdefault("velocity", rng.normal(0.0, 1.0, shape))
    for name, (low, high) in _RANGES.items():
        drawn = rng.uniform(low, high, shape)
        truth.setdefault(name, drawn)
    flat = {name: np.asarray(value, float).reshape(-1) for name, value in truth.items()}
    x = wavelength.to_value(u.AA)
    data = np.empty((4, len(x), *shape), dtype)
    columns = data.reshape(4, len(x), -1)
    for start in range(0, columns.shape[-1], _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        columns[..., part] = _light(x, entries, {name: value[part] for name, value in flat.items()}, mu)
    data += noise * rng.standard_normal(data.shape, dtype=np.float32).astype(dtype)
    return NDCube(
        data,
        wcs=stokes_wcs(shape, wavelength),
        unit=u.dimensionless_unscaled,
        uncertainty=StdDevUncertainty(np.broadcast_to(dtype(noise), data.shape)) if noise else None,
        meta={"truth": truth},
    )


def _light(x, entries, truth, mu) -> np.ndarray:
    """``(4, n, pixels)``."""
    pixels = len(truth["velocity"])
    phi, psi = np.zeros((3, len(x), pixels)), np.zeros((3, len(x), pixels))
    for entry in entries:
        rest = entry.air.to_value(u.AA)
        strength = 10.0 ** (entry.log_gf - entries[0].log_gf)
        center = rest * (1 + truth["velocity"] / c.to_value(u.km / u.s))
        split = LORENTZ_SPLITTING * rest**2 * truth["field_strength"]
        pattern = entry.zeeman_pattern()
        for number, group in enumerate((pattern.sigma_blue, pattern.pi, pattern.sigma_red)):
            for shift, part in zip(group.shifts, group.strengths, strict=True):
                v = (x[:, None] - center - shift * split) / truth["doppler_width"]
                found = strength * part * wofz(v + 1j * truth["damping"])
                phi[number] += found.real
                psi[number] += found.imag
    inclination, twice = np.deg2rad(truth["inclination"]), 2 * np.deg2rad(truth["azimuth"])
    cosine, square = np.cos(inclination), np.sin(inclination) ** 2

    def four(blue, pi, red):
        across = 0.5 * (pi - 0.5 * (blue + red)) * square
        total = 0.5 * (pi * square + 0.5 * (blue + red) * (1 + cosine**2))
        parts = total, across * np.cos(twice), across * np.sin(twice), 0.5 * (red - blue) * cosine
        return [truth["line_strength"] * part for part in parts]

    (i, q, u_, v), (_, rho_q, rho_u, rho_v) = four(*phi), four(*psi)
    i = i + 1.0
    matrix = np.array(
        [[i, q, u_, v], [q, i, rho_v, -rho_u], [u_, -rho_v, i, rho_q], [v, rho_u, -rho_q, i]], dtype=float
    )
    unit = np.array([1.0, 0.0, 0.0, 0.0])[:, None]
    inverse = np.linalg.solve(np.moveaxis(matrix, (0, 1), (-2, -1)), unit)[..., 0]
    light = mu * truth["source_gradient"] * np.moveaxis(inverse, -1, 0)
    light[0] += truth["source_constant"]
    return light


def _spot(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """A field that is strong and vertical in the middle, and weak and horizontal far out."""
    y, x = np.meshgrid(*(np.linspace(-1.5, 1.5, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    r = np.hypot(x, y)
    return {
        "field_strength": 2600 * np.exp(-(r**2)) + 150,
        "inclination": 170 - 80 * np.clip(r / 1.2, 0, 1),
        "azimuth": np.rad2deg(np.arctan2(y, x)) % 180,
    }
