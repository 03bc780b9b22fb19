"""What an instrument's channels see of plasma at each temperature."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

__all__ = ["TemperatureResponse", "channel_name"]


def channel_name(key) -> str:
    """One spelling for a channel: ``94``, ``"94"``, ``"A94"``, ``"94 A"`` and ``94 * u.AA`` are the same.

    Examples
    --------
    >>> from sunpy_specfit.plugins.dem.response import channel_name
    >>> channel_name(94), channel_name("A94"), channel_name("Ti-poly")
    ('94', '94', 'Ti-poly')
    """
    if isinstance(key, u.Quantity):
        return f"{key.to_value(u.AA):g}"
    if isinstance(key, bytes):
        key = key.decode()
    if not isinstance(key, str):
        return f"{key:g}"
    wavelength = re.fullmatch(r"\s*[Aa]?(\d+)(?:\s*(?:A|Å|Angstrom|angstrom))?\s*", key)
    return str(int(wavelength[1])) if wavelength else key.strip()


class TemperatureResponse(Mapping):
    """Temperature responses of several channels, a mapping of channel to Quantity on one temperature grid.

    Parameters
    ----------
    responses : mapping of channel to `~astropy.units.Quantity`
        What each channel sees of plasma of unit emission measure, such as in DN cm⁵ s⁻¹ pix⁻¹, or for a spectral line
        its contribution function in erg cm³ s⁻¹ sr⁻¹; each ``(n,)``. Values below zero and NaN are refused.
    temperature : `~astropy.units.Quantity`
        ``(n,)``, increasing, in K.
    meta : mapping, optional
        What they are: "source", "date", "abundance", "emission_measure" ("n_e²" or "n_e n_H"), "pixel_scale". It goes
        into a result's meta.

    Raises
    ------
    ValueError
        If shapes do not fit, temperatures do not increase, or a response is negative, NaN or zero throughout.
    astropy.units.UnitConversionError
        If the temperature is none.

    Examples
    --------
    >>> import astropy.units as u
    >>> import numpy as np
    >>> import sunpy_specfit as specfit
    >>> t = np.geomspace(3e5, 3e7, 41) * u.K
    >>> peak = 1e-24 * np.exp(-(np.log10(t.value / 1e6) ** 2) / 0.05) * u.Unit("DN cm5 / (s pix)")
    >>> response = specfit.TemperatureResponse({171: peak}, t, meta={"source": "an example"})
    >>> list(response), response["171"].unit
    (['171'], Unit("cm5 DN / (pix s)"))
    """

    def __init__(self, responses: Mapping[Any, u.Quantity], temperature: u.Quantity, *, meta: Mapping | None = None):
        if not isinstance(responses, Mapping) or not len(responses):
            raise TypeError(f"responses is a mapping of channels to Quantities, found {type(responses).__name__}")
        if not isinstance(temperature, u.Quantity):
            raise TypeError("the temperature of responses is a Quantity in K; found plain numbers")
        temperature = np.atleast_1d(temperature.to(u.K))
        if temperature.ndim != 1 or len(temperature) < 2 or not np.all(np.diff(temperature.value) > 0):
            raise ValueError("the temperatures of responses are one increasing list of two or more")
        if not temperature[0].value > 0:
            raise ValueError(f"temperatures are above zero, found {temperature[0]}: is this their logarithm?")
        found = {}
        for key, value in responses.items():
            name = channel_name(key)
            if not isinstance(value, u.Quantity):
                raise TypeError(f"the response of channel {name!r} has no unit: make it a Quantity")
            if value.shape != temperature.shape:
                raise ValueError(
                    f"the response of channel {name!r} has shape {value.shape}, its temperatures {temperature.shape}"
                )
            if not np.all(np.isfinite(value.value)) or np.any(value.value < 0):
                raise ValueError(f"the response of channel {name!r} has NaN or values below zero")
            if not np.any(value.value > 0):
                raise ValueError(f"the response of channel {name!r} is zero at all temperatures: leave the channel out")
            if name in found:
                raise ValueError(f"channel {name!r} stands twice in the responses")
            found[name] = value
        self._responses = found
        self.temperature = temperature
        self.meta = dict(meta or {})

    def __getitem__(self, key) -> u.Quantity:
        return self._responses[channel_name(key)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._responses)

    def __len__(self) -> int:
        return len(self._responses)

    def only(self, *channels) -> TemperatureResponse:
        """Some of the channels.

        Raises
        ------
        KeyError
            If there is no such channel.
        """
        missing = [c for c in channels if channel_name(c) not in self._responses]
        if missing:
            raise KeyError(f"no response for {', '.join(map(str, missing))}; there are {', '.join(self)}")
        return TemperatureResponse({c: self[c] for c in channels}, self.temperature, meta=self.meta)

    def at(self, date, *, correction_table=None) -> TemperatureResponse:
        """AIA responses as they were at a date: times what was left of each channel's sensitivity, from aiapy.

        Parameters
        ----------
        date : `~astropy.time.Time` or str
        correction_table : str, `~pathlib.Path` or `~astropy.table.QTable`, optional
            A file of AIA's response table or what `aiapy.calibrate.util.get_correction_table` reads from it; without
            one aiapy downloads JSOC's.

        Raises
        ------
        ImportError
            If aiapy is not installed.
        """
        try:
            from aiapy.calibrate import degradation
            from aiapy.calibrate.util import get_correction_table
        except ImportError as error:
            raise ImportError("the degradation of AIA comes from aiapy: pip install aiapy") from error
        from astropy.time import Time

        date = Time(date)
        if correction_table is None or isinstance(correction_table, (str, Path)):
            correction_table = get_correction_table(Path(correction_table) if correction_table else "JSOC")
        left = {
            name: float(np.squeeze(degradation(int(name) * u.AA, date, correction_table=correction_table)))
            for name in self
        }
        values = {name: value * left[name] for name, value in self.items()}
        return TemperatureResponse(values, self.temperature, meta={**self.meta, "date": date.isot, "degradation": left})

    # -- from where they come --------------------------------------------------------------------

    @classmethod
    def from_table(cls, table, temperature: str = "temperature", *, meta: Mapping | None = None) -> TemperatureResponse:
        """From an `~astropy.table.Table` with a column of temperatures and one for each channel, all with units.

        A column ``log_temperature`` (or ``logt``) without unit is taken for log10 of the temperature in K.
        """
        names = {name.lower(): name for name in table.colnames}
        own = names.get(temperature.lower()) or names.get("log_temperature") or names.get("logt")
        if own is None:
            raise ValueError(f"the table has no column {temperature!r}; its columns are {', '.join(table.colnames)}")
        column = u.Quantity(table[own])
        if column.unit == u.dimensionless_unscaled:
            column = 10**column.value * u.K
        values = {}
        for name in table.colnames:
            if name == own:
                continue
            if table[name].unit is None:
                raise ValueError(f"the column {name!r} of the response table has no unit")
            values[name] = u.Quantity(table[name])
        return cls(values, column, meta={"source": "table", **dict(table.meta), **dict(meta or {})})

    @classmethod
    def from_idl(cls, path, *, meta: Mapping | None = None) -> TemperatureResponse:
        """From an IDL save file with ``channels``, ``logt``, ``tr`` and ``units``, as those that demregpy brings.

        Parameters
        ----------
        path : str or `~pathlib.Path`
        """
        from scipy.io import readsav

        saved = readsav(Path(path))
        missing = [name for name in ("channels", "logt", "tr") if name not in saved]
        if missing:
            raise ValueError(f"{path} has no {', '.join(missing)}; it holds {', '.join(saved)}")
        unit = "DN cm5 / (s pix)"
        values = {channel_name(c): tr * u.Unit(unit) for c, tr in zip(saved["channels"], saved["tr"], strict=True)}
        own = {"source": Path(path).name, **dict(meta or {})}
        return cls(values, 10.0 ** np.asarray(saved["logt"], float) * u.K, meta=own)

    @classmethod
    def aia(cls) -> TemperatureResponse:
        """The six AIA channels of a DEM, from the table that demregpy brings (early 2010, CHIANTI, coronal).

        Raises
        ------
        ImportError
            If demregpy is not installed.
        """
        from importlib.util import find_spec

        spec = find_spec("demregpy")
        if spec is None:
            raise ImportError("the AIA responses come with demregpy: pip install demregpy, or give your own")
        path = Path(spec.origin).parent / "tresp" / "aia_tresp_en.dat"
        meta = {
            "source": "aia_get_response(/temp, /dn, /evenorm), demregpy",
            "instrument": "AIA",
            "abundance": "coronal (Feldman 1992)",
            "emission_measure": "as in aia_get_response",
            "pixel_scale": 0.6 * u.arcsec / u.pix,
        }
        return cls.from_idl(path, meta=meta)

    @classmethod
    def from_xrtpy(cls, *responses) -> TemperatureResponse:
        """From `xrtpy.response.temperature_response.TemperatureResponseFundamental` objects, one a filter."""
        values, temperature = {}, None
        for one in responses:
            own = u.Quantity(one.CHIANTI_temperature)
            if temperature is not None and not np.allclose(own.to_value(u.K), temperature.to_value(u.K)):
                raise ValueError("the responses of the filters are on different temperatures")
            temperature = own
            values[one.filter_name] = one.temperature_response()
        if temperature is None:
            raise ValueError("no response was given")
        meta = {
            "source": "xrtpy",
            "instrument": "XRT",
            "abundance": str(responses[0].abundances),
            "date": str(responses[0].observation_date),
            "emission_measure": "as in xrtpy",
        }
        return cls(values, temperature, meta=meta)

    def __repr__(self) -> str:
        low, high = np.log10(self.temperature[[0, -1]].value)
        return (
            f"<TemperatureResponse of {', '.join(self)}, log T {low:.2f} to {high:.2f}, {self.meta.get('source', '')}>"
        )
