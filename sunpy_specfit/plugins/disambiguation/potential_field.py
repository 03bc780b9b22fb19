"""The potential field that has a given component along the line of sight."""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2

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
        What is taken to lie outside the map: no field, or a quarter of the field inside, mirrored at the edges.
    """
    cut = tuple(slice(0, n) for n in b_los.shape)
    if beyond == "mirror":
        cut = tuple(slice(n // 4, n // 4 + n) for n in b_los.shape)
        b_los = np.pad(b_los, [(n // 4, n // 4) for n in b_los.shape], mode="symmetric")
    # Zeros as wide again between the map and its repetition, of which a Fourier transform makes an endless row.
    shape = [next_fast_len(2 * n, real=True) for n in b_los.shape]
    rows, columns = 2 * np.pi * np.fft.fftfreq(shape[0])[:, None], 2 * np.pi * np.fft.rfftfreq(shape[1])
    first = np.cross(vertical, (1.0, 0.0, 0.0) if abs(vertical[1]) > abs(vertical[0]) else (0.0, 1.0, 0.0))
    first /= np.linalg.norm(first)
    plane = np.stack([first, np.cross(vertical, first)], axis=1)
    # Waves on the sky, then along the surface: a place on it, u, is seen at P u.
    turned = plane[:2].T @ np.linalg.inv(steps.T)
    k = [one[0] * columns + one[1] * rows for one in turned]
    size = np.hypot(*k)

    def component(number: int) -> np.ndarray:
        return vertical[number] * size - 1j * (plane[number, 0] * k[0] + plane[number, 1] * k[1])

    along = component(2)
    along[0, 0] = 1.0
    waves = rfft2(b_los, shape) / along
    waves[0, 0] = 0.0
    # The fastest wave of an even number of samples goes both ways.
    if shape[0] % 2 == 0:
        waves[shape[0] // 2] = 0.0
    if shape[1] % 2 == 0:
        waves[:, -1] = 0.0
    return tuple(irfft2(waves * component(number), shape)[cut] for number in (0, 1))
