"""The potential field that has a given component along the line of sight."""

from __future__ import annotations

import numpy as np
from scipy.fft import fft2, ifft2, next_fast_len

__all__ = ["potential_transverse"]


def potential_transverse(
    b_los: np.ndarray, steps: np.ndarray, vertical: np.ndarray, *, beyond: str = "nothing"
) -> tuple[np.ndarray, np.ndarray]:
    r"""The components towards west and north of the current-free field whose line-of-sight component is known.

    On the plane that touches the Sun, whose normal n is the vertical, a field that vanishes far above is

    .. math:: B = Σ_k (-i k_1 e_1 - i k_2 e_2 + |k| n) Φ_k e^{i k u}

    with e₁, e₂ in the plane; its component along any direction that is not in the plane tells Φ_k (Alissandrakis 1981,
    1981A&A...100..197A, for constant α; here α = 0).

    Parameters
    ----------
    b_los : `numpy.ndarray`
        ``(ny, nx)``, without NaN.
    steps : `numpy.ndarray`
        As of `SolarFrame.steps`.
    vertical : `numpy.ndarray`
        Unit vector (west, north, towards the observer).
    beyond : {"nothing", "mirror"}
        What is taken to lie outside the map: no field, or half a map's width of the field inside, mirrored at the
        edges.
    """
    cut = tuple(slice(0, n) for n in b_los.shape)
    if beyond == "mirror":
        cut = tuple(slice(n // 2, n // 2 + n) for n in b_los.shape)
        b_los = np.pad(b_los, [(n // 2, n // 2) for n in b_los.shape], mode="symmetric")
    # Zeros as wide again between the map and its repetition, of which a Fourier transform makes an endless row.
    shape = [next_fast_len(2 * n, real=False) for n in b_los.shape]
    rows, columns = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in shape), indexing="ij")
    # Waves on the sky, then along the surface: a place on it, u, is seen at P u.
    q = np.linalg.solve(steps.T, np.stack([columns.ravel(), rows.ravel()]))
    first = np.cross(vertical, (1.0, 0.0, 0.0) if abs(vertical[1]) > abs(vertical[0]) else (0.0, 1.0, 0.0))
    first /= np.linalg.norm(first)
    second = np.cross(vertical, first)
    plane = np.stack([first, second], axis=1)
    k = plane[:2].T @ q
    field = -1j * (plane @ k) + vertical[:, None] * np.hypot(*k)
    along = field[2].reshape(shape)
    along[0, 0] = 1.0
    waves = fft2(b_los, shape) / along
    waves[0, 0] = 0.0
    return tuple(ifft2(waves * part.reshape(shape)).real[cut] for part in field[:2])
