"""Images of synthetic coronae of which the differential emission measure is known."""

from __future__ import annotations

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube
from scipy.ndimage import gaussian_filter

__all__ = ["DEMScene", "dem_scene", "scene_of"]

# DN for each photon and read noise in DN of AIA's cameras (Boerner et al. 2012), mean exposure time in s.
_DN_PER_PHOTON = {"94": 2.128, "131": 1.523, "171": 1.168, "193": 1.024, "211": 0.946, "335": 0.596}
_READ_NOISE, _EXPOSURE = 1.2, 2.0
_FINE = np.round(np.arange(5.7, 7.3001, 0.01), 4)
_KINDS = ("quiet_sun", "active_region", "flare", "isothermal")


@dataclass(frozen=True)
class DEMScene:
    """Images, and the truth behind them.

    Attributes
    ----------
    images : dict of str to `~ndcube.NDCube`
        DN/s, with uncertainty, ``(ny, nx)``; photon and read noise of AIA.
    responses : mapping
        What the images were made with.
    edges : `~astropy.units.Quantity`
        The edges of the fine bins of the truth, K.
    emission : `numpy.ndarray`
        The emission measure in each fine bin, cm⁻⁵, ``(fine, ny, nx)``.
    clean : dict of str to `numpy.ndarray`
        The images without noise, DN/s.
    """

    images: dict[str, NDCube]
    responses: object
    edges: u.Quantity
    emission: np.ndarray
    clean: dict[str, np.ndarray]

    def dem(self, bins: u.Quantity) -> np.ndarray:
        """The true DEM averaged over bins, cm⁻⁵ K⁻¹, ``(k, ny, nx)``."""
        edges, own = bins.to_value(u.K), self.edges.value
        running = np.concatenate([np.zeros((1, *self.emission.shape[1:])), np.cumsum(self.emission, 0)])
        flat = running.reshape(len(running), -1)
        at = np.stack([np.interp(edges, own, column) for column in flat.T], axis=1)
        return (np.diff(at, axis=0) / np.diff(edges)[:, None]).reshape(-1, *self.emission.shape[1:])

    def total(self, low: u.Quantity | None = None, high: u.Quantity | None = None) -> np.ndarray:
        """The true emission measure, all of it or between two temperatures, cm⁻⁵, ``(ny, nx)``."""
        own = self.edges.value
        low = own[0] if low is None else low.to_value(u.K)
        high = own[-1] if high is None else high.to_value(u.K)
        share = np.clip((np.minimum(own[1:], high) - np.maximum(own[:-1], low)) / np.diff(own), 0, 1)
        return np.tensordot(share, self.emission, 1)

    def log_temperature(self) -> np.ndarray:
        """The true mean of log10 T, weighted by emission measure, ``(ny, nx)``."""
        middle = 0.5 * (np.log10(self.edges.value[1:]) + np.log10(self.edges.value[:-1]))
        return np.tensordot(middle, self.emission, 1) / self.emission.sum(0)


def dem_scene(
    kind: str = "active_region",
    shape: tuple[int, int] = (32, 32),
    *,
    seed: int = 0,
    exposure: float = 1.0,
    responses=None,
) -> DEMScene:
    """Images of a corona in AIA's six channels.

    Parameters
    ----------
    kind : {"quiet_sun", "active_region", "flare", "isothermal"}
        Quiet Sun: one hump about 1.2 MK with a cool tail. Active region: loops of 2 to 4 MK over it. Flare: these, and
        plasma of 8 to 14 MK in a part of the map. Isothermal: one temperature a pixel, 0.6 to 14 MK.
    shape : tuple of int
        (ny, nx).
    seed : int
    exposure : float
        Exposure times in units of 2 s.
    responses : `~sunpy_specfit.TemperatureResponse`, optional
        By default AIA's, which come with demregpy.

    Examples
    --------
    >>> from sunpy_specfit.data import dem_scene
    >>> scene = dem_scene("quiet_sun", shape=(3, 4))
    >>> list(scene.images), scene.images["171"].unit
    (['94', '131', '171', '193', '211', '335'], Unit("DN / s"))
    """
    if kind not in _KINDS:
        raise ValueError(f"kind is one of {', '.join(map(repr, _KINDS))}; found {kind!r}")
    if responses is None:
        from ..plugins.dem import TemperatureResponse  # whose table comes with another package

        responses = TemperatureResponse.aia()
    rng = np.random.default_rng(seed)
    log_t = 0.5 * (_FINE[1:] + _FINE[:-1])
    return scene_of(_emission(kind, shape, log_t, rng), rng, exposure=exposure, responses=responses)


def scene_of(emission: np.ndarray, rng: np.random.Generator, *, exposure: float = 1.0, responses) -> DEMScene:
    """The images that a corona gives, ``emission`` in cm⁻⁵ in bins of 0.01 dex from log T = 5.7 to 7.3."""
    from ..plugins.dem.integrate import integrate_response

    shape, edges = emission.shape[1:], 10.0**_FINE

    table = responses.temperature.to_value(u.K)
    values = np.stack([value.value for value in responses.values()])
    mean_response = integrate_response(values, table, edges) / np.diff(edges)
    time = _EXPOSURE * exposure
    images, clean = {}, {}
    for name, row in zip(responses, mean_response, strict=True):
        rate = np.tensordot(row, emission, 1)
        gain = _DN_PER_PHOTON.get(name, 1.0)
        photons = rng.poisson(np.minimum(rate * time / gain, 1e15))
        counts = photons * gain + _READ_NOISE * rng.standard_normal(shape)
        # The error is that of the expected counts, as a smooth estimate of them would give it.
        sigma = np.sqrt(rate * time * gain + _READ_NOISE**2) / time
        images[name] = NDCube(counts / time, wcs=_wcs(shape), unit=u.DN / u.s, uncertainty=StdDevUncertainty(sigma))
        clean[name] = rate
    return DEMScene(images, responses, edges * u.K, emission, clean)


def _field(shape, rng, size: float = 6.0) -> np.ndarray:
    """A smooth random map of mean 0 and spread 1."""
    if max(shape) == 1:
        return rng.standard_normal(shape)
    padded = gaussian_filter(rng.standard_normal((shape[0] + 64, shape[1] + 64)), size)[32:-32, 32:-32]
    rms = 1 / (2 * np.sqrt(np.pi) * size)  # of white noise so smoothed
    return padded / rms


def _hump(log_t, centre, width, total) -> np.ndarray:
    profile = np.exp(-0.5 * ((log_t[:, None, None] - centre) / width) ** 2)
    return total * profile / profile.sum(0)


def _emission(kind, shape, log_t, rng) -> np.ndarray:
    def field(size=6.0):
        return _field(shape, rng, size)

    if kind == "isothermal":
        centre = 6.45 + 0.65 * np.tanh(0.9 * field(8.0))
        total = 10 ** (27.5 + 0.4 * field())
        nearest = np.clip(np.round((centre - log_t[0]) / 0.01).astype(int), 0, len(log_t) - 1)
        return np.where(np.arange(len(log_t))[:, None, None] == nearest, total, 0.0)
    quiet = _hump(log_t, 6.08 + 0.04 * field(), 0.17 + 0.02 * field(), 10 ** (26.8 + 0.2 * field()))
    cool = _hump(log_t, 5.85 + 0.05 * field(), 0.1, 10 ** (25.6 + 0.3 * field()))
    emission = quiet + cool
    if kind == "quiet_sun":
        return emission
    loops = _hump(log_t, 6.45 + 0.07 * field(4.0), 0.13 + 0.02 * field(), 10 ** (27.6 + 0.45 * field(3.0)))
    warm = _hump(log_t, 6.65 + 0.06 * field(), 0.12, 10 ** (26.4 + 0.5 * field(3.0)))
    emission = emission + loops + warm
    if kind == "flare":
        bright = 1 / (1 + np.exp(-4 * field(5.0)))
        emission = emission + _hump(log_t, 7.02 + 0.06 * field(), 0.12, bright * 10 ** (28.8 + 0.4 * field(4.0)))
    return emission


def _wcs(shape) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["HPLN-TAN", "HPLT-TAN"]
    wcs.wcs.cunit = ["arcsec", "arcsec"]
    wcs.wcs.cdelt = [0.6, 0.6]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.crval = [0.0, 0.0]
    wcs.wcs.set()
    return wcs
