"""Maps of few wavelets."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import torch

from ...core.grid import Grid
from ...core.prior import BoundPrior, Quadratic
from ...numerics.wavelet import Wavelet
from .scales import ScaledPrior, check_names, check_scale

__all__ = ["Sparse"]


class Sparse(ScaledPrior):
    """Few wavelets make up the map: Σ \\|detail\\| / scale, over the details of an orthonormal wavelet transform.

    Structure that stands out is kept sharp where the data show it, and elsewhere the map is smooth. A detail counts by
    the size of the structure that it stands for, its coefficient over the root of the number of pixels it extends over,
    so that one scale holds for small and large structure. Polynomials of the wavelet's order cost nothing, up to the
    map's borders. Any shape will do. The wavelets' filters come from PyWavelets, which the extra ``wavelets`` installs.

    Parameters
    ----------
    *names : str
        Quantities to act on, fitted or derived; none for those that the model names as its smooth ones.
    scale : `~astropy.units.Quantity`, mapping of name to Quantity, or "auto"
        The typical size of a detail: by how much the map rises and falls with it, on average over details, at any
        level. ``"auto"`` chooses one for each quantity from the data.
    wavelet : str
        An orthogonal wavelet of PyWavelets: ``"haar"``, ``"db4"``, ``"sym5"``, ``"coif2"``, ...
    levels : int, optional
        At most so many levels; by default as many as the map is large enough for.
    axes : {"space", "time", "all"}, int, or tuple of these
        Along which axes of the map.
    softness : float
        Coefficients below this many scales cost as their square does: it rounds the kink at zero (Huber).

    Raises
    ------
    ImportError
        If PyWavelets is not installed.
    ValueError
        If scale, levels or softness is not positive, the map has no such axis or is too short along all of them, or
        the wavelet is unknown or not orthogonal.
    astropy.units.UnitConversionError
        If the scale's unit does not fit the quantity's.

    Notes
    -----
    With one pixel's error sigma and n pixels below a detail, its coefficient c lies at least sigma² / (scale √n) nearer
    to zero than the data have it, and (nearly) at zero if it is less than that: the price of one convex minimum. The
    weight by √n makes this the norm of a Besov space, smoother than without; on maps of a magnetic field the error is a
    fifth less than with the same threshold for all levels.

    The errors of the maps are those of the parabola that touches the energy from above at the solution, as if each
    coefficient had a Gaussian prior as wide as the coefficient found (and no narrower than ``√softness`` scales). They
    tell where the data hold the map and where the prior does, but they are no calibrated intervals: what was set to
    zero counts as known to be small.

    References
    ----------
    Sparse inversions of Stokes profiles: Asensio Ramos & de la Cruz Rodríguez (2015),
    https://doi.org/10.1051/0004-6361/201425508; wavelets: Daubechies (1988), https://doi.org/10.1002/cpa.3160410705;
    on an interval: Cohen, Daubechies & Vial (1993), https://doi.org/10.1006/acha.1993.1005

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import gaussian_cube
    >>> model = specfit.Gaussian(195.119 * u.AA) + specfit.Polynomial(0)
    >>> prior = specfit.Sparse("velocity", scale=5 * u.km / u.s)
    >>> result = specfit.fit(gaussian_cube((16, 17), signal_to_noise=4), model, priors=prior)
    >>> result["velocity"].data.shape
    (16, 17)
    """

    name = "sparse"
    references = ("10.1051/0004-6361/201425508", "10.1002/cpa.3160410705", "10.1006/acha.1993.1005")
    couples_pixels = True

    def __init__(
        self,
        *names: str,
        scale="auto",
        wavelet: str = "db4",
        levels: int | None = None,
        axes="space",
        softness: float = 0.1,
    ):
        check_names("Sparse", names)
        check_scale("Sparse", scale, automatic=True)
        if not softness > 0:
            raise ValueError(f"softness must be positive, found {softness!r}")
        if levels is not None and not levels > 0:
            raise ValueError(f"levels is a positive number of levels, or None for all; found {levels!r}")
        self.names = names
        self.scale = scale
        self.wavelet = wavelet
        self.levels = levels
        self.axes = axes
        self.softness = softness

    def bind(self, units: Mapping[str, u.UnitBase], grid: Grid) -> BoundPrior:
        numbers = self.numbers(units)
        low_pass, moments = _filter(self.wavelet)
        transform = Wavelet(grid.shape, grid.axes(self.axes), low_pass, moments, self.levels)
        if not bool(transform.detail.any()):
            raise ValueError(
                f"a map of shape {grid.shape} is too small for {self.wavelet!r} along {self.axes!r}: it needs an axis "
                f"of more than {moments} pixels; use a shorter wavelet, such as 'haar'"
            )
        return BoundSparse(numbers, transform, self.softness)


def _filter(name: str) -> tuple[list[float], int]:
    """The scaling filter of an orthogonal wavelet, and its vanishing moments."""
    try:
        import pywt
    except ImportError:
        raise ImportError(
            "Sparse needs PyWavelets, which is not installed: pip install 'sunpy_specfit[wavelets]'"
        ) from None
    if name not in pywt.wavelist(kind="discrete"):
        raise ValueError(f"{name!r} is no discrete wavelet of PyWavelets; use one such as 'haar', 'db4' or 'sym5'")
    wavelet = pywt.Wavelet(name)
    # The filter of "dmey" is cut off, and orthogonal to three digits only.
    if not wavelet.orthogonal or not wavelet.vanishing_moments_psi:
        raise ValueError(f"{name!r} is not an orthogonal wavelet; use one such as 'haar', 'db4', 'sym5' or 'coif2'")
    return wavelet.rec_lo, wavelet.vanishing_moments_psi


class BoundSparse(BoundPrior):
    """Numbers only; see `Sparse`."""

    couples_pixels = True

    def __init__(self, scales: Mapping[str, float], transform: Wavelet, softness: float):
        self.scales, self.transform, self.softness = scales, transform, softness
        # A typical coefficient over the scale; endless for the approximation, which costs nothing.
        self._typical = torch.where(transform.detail, transform.extent.sqrt(), torch.inf)

    def _coefficients(self, q: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The coefficients of a map, and their typical size."""
        return self.transform.forward(q), scale * self._typical.to(q)

    def energy(self, maps) -> torch.Tensor:
        total = 0
        for name, scale in self.scales.items():
            coefficients, typical = self._coefficients(maps[name], scale)
            size = (coefficients / typical).abs()
            # Huber: linear beyond the softness, with one derivative through.
            inner = size.clamp_max(self.softness)
            total = total + (inner.square() / (2 * self.softness) + (size - inner)).sum()
        return total

    def quadratic(self, maps) -> Quadratic:
        # The parabola that touches |c| / s at c and at -c, with a curvature of 1 / (s |c|), lies above it.
        weights = {}
        for name, scale in self.scales.items():
            coefficients, typical = self._coefficients(maps[name], scale)
            weights[name] = 1 / (typical.square() * (coefficients / typical).abs().clamp_min(self.softness))

        def matvec(v):
            return {name: self.transform.transpose(w * self.transform.forward(v[name])) for name, w in weights.items()}

        diagonal = {name: self.transform.diagonal(w) for name, w in weights.items()}

        def noise(generator):
            drawn = {}
            for name, weight in weights.items():
                white = torch.randn(weight.shape, generator=generator, dtype=weight.dtype, device=weight.device)
                drawn[name] = self.transform.transpose(weight.sqrt() * white)
            return drawn

        return Quadratic(matvec({name: maps[name] for name in self.scales}), matvec, diagonal, noise=noise)

    def proximal(self, maps, step) -> dict[str, torch.Tensor]:
        found = {}
        for name, scale in self.scales.items():
            coefficients, typical = self._coefficients(maps[name], scale)
            pull = torch.as_tensor(step[name]).to(coefficients) / typical
            soft = self.softness * typical
            small = coefficients / (1 + pull / soft)
            large = coefficients - pull * coefficients.sign()
            shrunk = torch.where(coefficients.abs() <= soft + pull, small, large)
            found[name] = self.transform.transpose(shrunk)
        return found
