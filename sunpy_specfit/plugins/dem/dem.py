"""The differential emission measure: how much plasma there is at each temperature along the line of sight."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import astropy.units as u
import numpy as np
import torch

from ...core.model import Model
from ...core.parameter import Parameter
from .images import gather, without_pixels
from .integrate import integrate_response, response_matrix
from .response import TemperatureResponse, channel_name
from .temperature_prior import TemperaturePrior

__all__ = ["DEM"]

_UNIT = u.Unit("cm-5 K-1")
_FORMS = ("log", "nonnegative", "linear")


class DEM(Model):
    """Differential emission measure, I_c = ∫ R_c(T) DEM(T) dT, linear in log T within each temperature bin.

    A few channels cannot tell the emission in a few dozen bins: what they leave open a `TemperaturePrior` says, and the
    errors tell how much of it is the prior's. Without one in ``priors`` the model brings the default one.

    Parameters
    ----------
    responses : mapping of channel to `~astropy.units.Quantity`, or `TemperatureResponse`
        Each on ``temperature``: DN cm⁵ s⁻¹ pix⁻¹ for images, erg cm³ s⁻¹ sr⁻¹ for lines.
    temperature : `~astropy.units.Quantity`, optional
        Of the responses; not needed with a `TemperatureResponse`.
    bins : `~astropy.units.Quantity`
        The edges of the temperature bins, one more than there are bins, in K. The DEM is each bin's mean; responses
        are integrated over bins within which it changes linearly with log T. (Emission measures and mean temperatures
        are sums over bins.)
    form : {"log", "nonnegative", "linear"}
        "log": the prior is on the logarithm of the DEM, which is positive whatever the data. "nonnegative": the prior
        is on the DEM, which is held at or above zero. "linear": the prior is on the DEM, which may be negative (then
        read its error): Tikhonov's closed form, the fastest.
    bands : `~astropy.units.Quantity`, optional
        Edges of temperature bands, ``(n + 1,)``: ``band_emission_measure`` is then derived too.
    response_error : float or mapping of channel to float, optional
        Relative error of the responses, such as 0.2: it adds to the noise of each pixel. It is the same error in all
        pixels, so that no averaging over pixels makes it smaller. Where none is given, a map that teaches its own prior
        teaches by how much the light of bins and responses is off, too; 0 for not at all.
    pixel_scale : `~astropy.units.Quantity`, optional
        The pixel's side in the data, where intensities are sums over pixels of another size than the responses' (those
        in their meta): responses then grow with its area.
    meta : mapping, optional
        What the responses are; by default what a `TemperatureResponse` says of itself.
    label : str, optional

    Raises
    ------
    ValueError
        If bins do not increase or reach beyond the responses, or a response is zero over all bins.
    TypeError
        If something has no unit.
    astropy.units.UnitConversionError
        If the channels' responses have different units.

    References
    ----------
    Hannah & Kontar (2012), https://doi.org/10.1051/0004-6361/201117576; Cheung et al. (2015),
    https://doi.org/10.1088/0004-637X/807/2/143; Plowman & Caspi (2020), https://doi.org/10.3847/1538-4357/abc260

    Examples
    --------
    >>> import astropy.units as u
    >>> import numpy as np
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import dem_scene
    >>> scene = dem_scene("active_region", shape=(4, 5), seed=1)
    >>> bins = np.logspace(5.7, 7.3, 33) * u.K
    >>> result = specfit.fit(scene.images, specfit.DEM(scene.responses, bins=bins))
    >>> result["dem"].data.shape, str(result["emission_measure"].unit)
    ((32, 4, 5), '1 / cm5')
    """

    name = "dem"
    references = ("10.1051/0004-6361/201117576", "10.1088/0004-637X/807/2/143")
    data_axis = "channel"
    linear_parameters = ("dem",)

    def __init__(
        self,
        responses: Mapping[Any, u.Quantity],
        temperature: u.Quantity | None = None,
        bins: u.Quantity | None = None,
        *,
        form: str = "log",
        bands: u.Quantity | None = None,
        response_error=None,
        pixel_scale: u.Quantity | None = None,
        meta: Mapping | None = None,
        label: str | None = None,
    ):
        if isinstance(responses, TemperatureResponse):
            temperature = responses.temperature if temperature is None else temperature
            meta = responses.meta if meta is None else meta
        if temperature is None:
            raise TypeError("DEM needs the temperatures that the responses are given at: temperature=")
        if bins is None:
            raise TypeError("DEM needs temperature bins: bins=, their edges in K, one more than there are bins")
        if form not in _FORMS:
            raise ValueError(f"form is one of {', '.join(map(repr, _FORMS))}; found {form!r}")
        # Plain, so that a file can hold it.
        self.responses = dict(responses) if isinstance(responses, Mapping) else responses
        self.temperature = temperature
        self.bins = bins
        self.form = form
        self.bands = bands
        self.response_error = response_error
        self.pixel_scale = pixel_scale
        self.meta = None if meta is None else dict(meta)
        self.label = label
        self._table = TemperatureResponse(self.responses, temperature, meta=meta)
        self._edges = _edges(bins, "bins")
        _check_covered(self._edges, self._table)
        self._units = _common_unit(self._table)
        if response_error is not None:
            given = response_error.values() if isinstance(response_error, Mapping) else [response_error]
            if not all(np.isfinite(e) and e >= 0 for e in given):
                raise ValueError(f"response_error is a relative error, zero or above; found {response_error!r}")
        zero = [c for c, row in zip(self.channels, self.matrix, strict=True) if not row.any()]
        if zero:
            raise ValueError(f"the response of channel {', '.join(zero)} is zero in all bins: leave it out")
        self._parameters = {
            "dem": Parameter(
                _UNIT, shape=(self.n_bins,), lower=None if form == "linear" else 0, description="emission per kelvin"
            )
        }
        self.derived = {
            "emission_measure": u.Unit("cm-5"),
            "temperature": u.K,
            "log_temperature": u.dimensionless_unscaled,
        }
        if bands is not None:
            self._band_shares = _shares(_edges(bands, "bands"), self._edges)
            self.derived["band_emission_measure"] = u.Unit("cm-5")

    # -- what is known beforehand ----------------------------------------------------------------

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels, in the order of the responses."""
        return tuple(self._table)

    @property
    def n_bins(self) -> int:
        """How many temperature bins there are."""
        return len(self._edges) - 1

    @cached_property
    def matrix(self) -> np.ndarray:
        """The light of a unit of each bin's mean DEM ``(channels, bins)``, in the responses' unit times K.

        ∫ R DEM dT for DEMs that change linearly with log T within bins, with the slope that neighbours' means tell.
        """
        return response_matrix(self._tabulated(), self._table.temperature.value, self._edges)

    @property
    def mean_response(self) -> np.ndarray:
        """The mean of the response over each bin, ``(channels, bins)``, in the responses' unit."""
        whole = integrate_response(self._tabulated(), self._table.temperature.value, self._edges)
        return whole / np.diff(self._edges)

    def _tabulated(self) -> np.ndarray:
        """The responses for the pixels of the data, ``(channels, temperatures)``."""
        values = np.stack([value.to_value(self._units) for value in self._table.values()])
        scale = (self.meta or {}).get("pixel_scale")
        if self.pixel_scale is None or scale is None:
            return values
        return values * float((self.pixel_scale / scale).to_value(u.dimensionless_unscaled)) ** 2

    @property
    def data_unit(self) -> u.UnitBase:
        """What the responses predict, such as DN/s."""
        return without_pixels(self._units * u.Unit("cm-5"))

    @property
    def centers(self) -> u.Quantity:
        """The middle of each bin in log T."""
        return np.sqrt(self._edges[:-1] * self._edges[1:]) * u.K

    def declare(self) -> Mapping[str, Parameter]:
        return self._parameters

    def own_priors(self) -> tuple:
        return (TemperaturePrior(),)

    def vector_axis(self, name: str) -> tuple[str, u.Quantity | None]:
        if name == "band_emission_measure":
            edges = _edges(self.bands, "bands")
            return "temperature", np.sqrt(edges[:-1] * edges[1:]) * u.K
        return "temperature", self.centers

    def remarks(self) -> dict[str, Any]:
        about = {str(key): str(value) for key, value in (self.meta or {}).items()}
        return {"responses": about, "temperature_bins": self._edges * u.K}

    def __repr__(self) -> str:
        low, high = np.log10(self._edges[[0, -1]])
        options = "".join(
            f", {name}={value!r}"
            for name in ("form", "response_error", "pixel_scale", "label")
            if (value := getattr(self, name)) is not None and (name, value) != ("form", "log")
        )
        return f"DEM({', '.join(self.channels)}; {self.n_bins} bins of log T {low:.4g} to {high:.4g}{options})"

    # -- data ------------------------------------------------------------------------------------

    def gather(self, data, *, uncertainty=None, mask=None):
        """One cube of count rates from a mapping of channels to NDCubes or sunpy Maps, or from a cube."""
        if isinstance(data, Mapping):
            self._check_pixel_scale(data)
        return gather(
            data,
            self.channels,
            self._units * u.Unit("cm-5"),
            uncertainty=uncertainty,
            mask=mask,
            response_error=self.response_error,
        )

    def _check_pixel_scale(self, data) -> None:
        expected = (self.meta or {}).get("pixel_scale")
        if expected is None or self.pixel_scale is not None:
            return
        for key, image in data.items():
            scale = getattr(image, "scale", None)
            if scale is None:
                continue
            found = u.Quantity(scale[0])
            if abs(float((found / expected).to_value(u.dimensionless_unscaled)) - 1) > 0.05:
                raise ValueError(
                    f"the pixels of channel {channel_name(key)!r} are {found:.3g} wide, those of the responses "
                    f"{expected}: give pixel_scale= (the data's where intensities are summed over larger pixels, the "
                    "responses' where they are averages)"
                )

    def prepare(self, observation) -> dict[str, torch.Tensor]:
        unit = without_pixels(observation.data_unit)
        if not self.data_unit.is_equivalent(unit):
            raise u.UnitConversionError(
                f"the data are in {observation.data_unit}, which does not convert to {self.data_unit}, as the "
                "responses predict"
            )
        return {"response": torch.as_tensor(self.matrix * float(self.data_unit.to(unit)))[:, :, None]}

    # -- physics ---------------------------------------------------------------------------------

    def evaluate(self, x, dem, response):
        if response.ndim == 3 and response.shape[-1] == 1:
            return response[..., 0] @ dem
        return (response * dem).sum(1)

    def linearize(self, x, dem, response):
        """The light, and its derivative, which is the response itself."""
        return self.evaluate(x, dem, response), {"dem": response.movedim(1, 0)}

    def derive(self, dem):
        edges = torch.as_tensor(self._edges).to(dem)
        width = edges.diff()
        amount = dem * width[:, None]
        total = amount.sum(0)
        middle = 0.5 * (edges[1:] + edges[:-1])
        # The mean of log10 T over a bin of constant DEM: ∫ log10 T dT / ΔT.
        integral = edges * (edges.log10() - 1 / np.log(10))
        logarithm = integral.diff() / width
        found = {
            "emission_measure": total,
            "temperature": (amount * middle[:, None]).sum(0) / total,
            "log_temperature": (amount * logarithm[:, None]).sum(0) / total,
        }
        if self.bands is not None:
            found["band_emission_measure"] = torch.as_tensor(self._band_shares).to(dem) @ amount
        return found


def _edges(bins, what: str) -> np.ndarray:
    if not isinstance(bins, u.Quantity):
        raise TypeError(f"{what} are the edges of temperature bins, a Quantity in K; found plain numbers")
    edges = np.atleast_1d(bins.to_value(u.K)).astype(float)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0) or not edges[0] > 0:
        raise ValueError(f"{what} are increasing edges above zero, one more than there are bins; found {bins}")
    return edges


def _check_covered(edges: np.ndarray, table: TemperatureResponse) -> None:
    low, high = table.temperature.value[[0, -1]]
    if edges[0] < low * (1 - 1e-9) or edges[-1] > high * (1 + 1e-9):
        raise ValueError(
            f"the bins reach from log T {np.log10(edges[0]):.3f} to {np.log10(edges[-1]):.3f}, the responses only from "
            f"{np.log10(low):.3f} to {np.log10(high):.3f}: choose bins within them"
        )


def _common_unit(table: TemperatureResponse) -> u.UnitBase:
    first = next(iter(table.values())).unit
    for name, value in table.items():
        if not value.unit.is_equivalent(first):
            raise u.UnitConversionError(
                f"the response of channel {name!r} is in {value.unit}, that of {next(iter(table))!r} in {first}"
            )
    return first


def _shares(bands: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """What part of each bin lies in each band, ``(bands, bins)``."""
    if bands[0] < edges[0] * (1 - 1e-9) or bands[-1] > edges[-1] * (1 + 1e-9):
        raise ValueError("the bands reach beyond the bins")
    low = np.maximum(bands[:-1, None], edges[None, :-1])
    high = np.minimum(bands[1:, None], edges[None, 1:])
    return np.clip(high - low, 0.0, None) / np.diff(edges)
