"""The same inversion with foreign code: a Milne-Eddington function in numpy around a Voigt function in C++."""

import astropy.units as u
import numpy as np
from scipy.special import wofz

import sunpy_specfit as specfit
from sunpy_specfit.data import line, milne_eddington_cube
from sunpy_specfit.data.zeeman import LORENTZ_SPLITTING

LINES = ["Fe I 6301.5", "Fe I 6302.5"]


def foreign(x, strength, inclination, azimuth, velocity, width, opacity, damping, constant, gradient):
    """Stokes profiles ``(4, n, pixels)`` of what torch knows nothing of: Faddeeva's function by Steven G. Johnson."""
    entries = [line(name) for name in LINES]
    phi, psi = np.zeros((2, 3, len(x), len(strength)))
    for entry in entries:
        rest = entry.air.to_value(u.AA)
        ratio = 10.0 ** (entry.log_gf - entries[0].log_gf)
        pattern = entry.zeeman_pattern()
        for number, group in enumerate((pattern.sigma_blue, pattern.pi, pattern.sigma_red)):
            for shift, part in zip(group.shifts, group.strengths, strict=True):
                away = x - rest * (1 + velocity / 299792.458) - shift * LORENTZ_SPLITTING * rest**2 * strength
                w = ratio * part * wofz(away / width + 1j * damping)
                phi[number] += w.real
                psi[number] += w.imag
    tilt, twice = np.deg2rad(inclination), 2 * np.deg2rad(azimuth)

    def elements(blue, pi, red):
        across = 0.5 * opacity * (pi - 0.5 * (blue + red)) * np.sin(tilt) ** 2
        total = 0.5 * opacity * (pi * np.sin(tilt) ** 2 + 0.5 * (blue + red) * (1 + np.cos(tilt) ** 2))
        return total, across * np.cos(twice), across * np.sin(twice), 0.5 * opacity * (red - blue) * np.cos(tilt)

    (i, q, u_, v), (_, a, b, c) = elements(*phi), elements(*psi)
    i = i + 1
    determinant = i**2 * (i**2 - q**2 - u_**2 - v**2 + a**2 + b**2 + c**2) - (q * a + u_ * b + v * c) ** 2
    dot = q * a + u_ * b + v * c
    stokes = (
        i * (i**2 + a**2 + b**2 + c**2),
        -(i**2 * q + i * (v * b - u_ * c) + a * dot),
        -(i**2 * u_ + i * (q * c - v * a) + b * dot),
        -(i**2 * v + i * (u_ * a - q * b) + c * dot),
    )
    light = gradient * np.stack(stokes) / determinant
    light[0] += constant
    return light


def test_foreign_code_finds_the_same_maps():
    cube = milne_eddington_cube((4, 5), noise=1e-3, seed=6)
    ours = specfit.MilneEddington(LINES)
    result = specfit.fit(cube, ours)
    theirs = specfit.ExternalModel(foreign, ours.parameters, vectorized=True, stokes="IQUV")
    # From numbers a few per cent off, for foreign code knows no start values of its own.
    start = {name: 1.03 * result[name].data for name in result.parameters}
    start["inclination"] = np.clip(start["inclination"], 0, 179)
    start["azimuth"] = result["azimuth"].data % 179
    found = specfit.fit(cube, theirs, init=start, spectral_axis=(6300.88 + 0.0215 * np.arange(112)) * u.AA)
    assert found.meta["dtype"] == "float64"
    np.testing.assert_allclose(found.chi2.data, result.chi2.data, rtol=1e-5)
    for name in result.parameters:
        apart = found[name].data - result[name].data
        apart = (apart + 90) % 180 - 90 if name == "azimuth" else apart
        assert np.abs(apart / result[name].uncertainty.array).max() < 0.02, name
