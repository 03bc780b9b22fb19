"""Coupled maps that are one quadratic, beside the dense solution."""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.data.synthetic import spectral_wcs

SHAPE, SAMPLES = (14, 15), np.linspace(-1, 1, 6)


def uneven_cube(signal_to_noise: float):
    """Straight lines in noise that differs a hundredfold from pixel to pixel."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    level = signal_to_noise * (1 + 0.3 * np.sin(3 * x + y))
    sigma = np.broadcast_to(10.0 ** rng.uniform(-1, 1, SHAPE)[..., None], (*SHAPE, 6))
    data = level[..., None] + 0.2 * signal_to_noise * SAMPLES + sigma * rng.standard_normal((*SHAPE, 6))
    cube = NDCube(data, wcs=spectral_wcs(SHAPE, SAMPLES * u.AA), unit=u.DN, uncertainty=StdDevUncertainty(sigma))
    return cube, data, sigma


def neighbours() -> np.ndarray:
    """The curvature of the sum of squared differences of neighbours."""
    number = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE)
    pairs = np.concatenate(
        [np.stack([number[1:], number[:-1]]).reshape(2, -1), np.stack([number[:, 1:], number[:, :-1]]).reshape(2, -1)],
        axis=1,
    )
    difference = np.zeros((pairs.shape[1], number.size))
    difference[np.arange(len(difference)), pairs[0]], difference[np.arange(len(difference)), pairs[1]] = 1, -1
    return difference.T @ difference


@pytest.mark.parametrize("signal_to_noise", [1e2, 1e4])
@pytest.mark.parametrize("shared", [False, True], ids=["own slopes", "one slope"])
def test_uneven_signal_is_solved_to_a_small_part_of_sigma(signal_to_noise, shared):
    cube, data, sigma = uneven_cube(signal_to_noise)
    pixels, scale = SHAPE[0] * SHAPE[1], 0.5
    model = specfit.Polynomial(1)
    model = model.share("c1") if shared else model
    found = specfit.fit(cube, model, specfit.Smooth("c0", scale=scale * u.DN), solver="gauss_newton")
    assert bool((found.status.data & int(specfit.Status.CONVERGED)).all())
    columns = np.zeros((pixels, 6, pixels + (1 if shared else pixels)))
    for p in range(pixels):
        columns[p, :, p] = 1
        columns[p, :, pixels + (0 if shared else p)] = SAMPLES
    columns, weight = columns.reshape(-1, columns.shape[-1]), 1 / sigma.reshape(-1) ** 2
    matrix = columns.T @ (weight[:, None] * columns)
    matrix[:pixels, :pixels] += neighbours() / scale**2
    exact = np.linalg.solve(matrix, columns.T @ (weight * data.reshape(-1)))[:pixels]
    error = np.sqrt(np.diag(np.linalg.inv(matrix)))[:pixels]
    away = (found["c0"].data.reshape(-1) - exact) / error
    assert np.sqrt(np.mean(away**2)) < 3e-3
    assert np.abs(away).max() < 2e-2
