from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table

from sunpy_specfit import TemperatureResponse
from sunpy_specfit.plugins.dem.response import channel_name

UNIT = u.Unit("DN cm5 / (s pix)")
T = np.geomspace(1e5, 1e7, 5) * u.K


def test_channels_have_one_spelling():
    assert {channel_name(c) for c in (94, "94", "A94", b"A94", "94 A", 94 * u.AA, 9.4 * u.nm)} == {"94"}
    assert channel_name("Al-poly") == "Al-poly"
    assert channel_name("Fe XII 195.119") == "Fe XII 195.119"


def test_a_mapping_with_meta():
    response = TemperatureResponse({171: np.ones(5) * UNIT}, T, meta={"source": "here", "abundance": "coronal"})
    assert list(response) == ["171"]
    assert response["A171"].unit == UNIT
    assert response.meta["abundance"] == "coronal"
    assert "171" in repr(response)
    with pytest.raises(KeyError, match="no response for 335"):
        response.only(335)


def test_a_table_gives_the_same():
    table = Table({"logt": np.log10(T.value), "A171": np.ones(5) * UNIT, "A193": 2 * np.ones(5) * UNIT})
    response = TemperatureResponse.from_table(table)
    np.testing.assert_allclose(response.temperature.value, T.value)
    assert response["193"][0] == 2 * UNIT
    table["A193"].unit = None
    with pytest.raises(ValueError, match="'A193' of the response table has no unit"):
        TemperatureResponse.from_table(table)


@pytest.mark.parametrize(
    ("values", "temperature", "error", "message"),
    [
        ({171: np.ones(4) * UNIT}, T, ValueError, "shape"),
        ({171: np.ones(5)}, T, TypeError, "no unit"),
        ({171: np.zeros(5) * UNIT}, T, ValueError, "zero at all temperatures"),
        ({171: -np.ones(5) * UNIT}, T, ValueError, "below zero"),
        ({171: np.full(5, np.nan) * UNIT}, T, ValueError, "NaN"),
        ({171: np.ones(5) * UNIT}, T[::-1], ValueError, "increasing"),
        ({171: np.ones(5) * UNIT}, T.value, TypeError, "Quantity in K"),
        ({171: np.ones(5) * UNIT}, np.ones(5) * u.m, u.UnitConversionError, "convertible"),
        ({171: np.ones(5) * UNIT, "A171": np.ones(5) * UNIT}, T, ValueError, "twice"),
        ({}, T, TypeError, "mapping"),
    ],
)
def test_bad_responses_are_refused(values, temperature, error, message):
    with pytest.raises(error, match=message):
        TemperatureResponse(values, temperature)


def test_the_tables_of_demregpy():
    pytest.importorskip("demregpy")
    response = TemperatureResponse.aia()
    assert list(response) == ["94", "131", "171", "193", "211", "335"]
    log_t = np.log10(response.temperature.value)
    # Where each channel sees most (Boerner et al. 2012, table 1; of 94 its hot and its warm peak).
    peaks = {"171": 5.9, "193": 6.2, "211": 6.3}
    for channel, peak in peaks.items():
        assert log_t[np.argmax(response[channel].value)] == pytest.approx(peak, abs=0.1)
    hot = log_t > 6.6
    assert log_t[hot][np.argmax(response["94"].value[hot])] == pytest.approx(6.85, abs=0.1)
    assert log_t[hot][np.argmax(response["131"].value[hot])] == pytest.approx(7.05, abs=0.1)
    assert response["94"].unit.is_equivalent(UNIT)
    assert response.meta["pixel_scale"].value == 0.6


def test_filters_of_xrtpy():
    module = pytest.importorskip("xrtpy.response.temperature_response")
    filters = [module.TemperatureResponseFundamental(f, "2011-01-28T01:31:55") for f in ("Ti-poly", "Be-thin")]
    response = TemperatureResponse.from_xrtpy(*filters)
    assert list(response) == ["Ti-poly", "Be-thin"]
    assert response["Ti-poly"].unit.is_equivalent(UNIT)
    np.testing.assert_allclose(response["Be-thin"].value, filters[1].temperature_response().value)
    assert response.meta["date"].startswith("2011-01-28")


def test_aia_ages():
    """With the table that demregpy brings, and no download."""
    pytest.importorskip("aiapy")
    demregpy = pytest.importorskip("demregpy")
    table = Path(demregpy.__file__).parent / "tresp" / "aia_V8_20171210_050627_response_table.txt"
    response = TemperatureResponse.aia()
    early, late = (response.at(date, correction_table=table) for date in ("2010-05-15", "2015-01-01"))
    left = {c: float(late[c].max() / response[c].max()) for c in response}
    # 335 has lost most (Boerner et al. 2014, https://doi.org/10.1007/s11207-013-0452-z).
    assert min(left, key=left.get) == "335"
    assert 0.1 < left["335"] < 0.5 < left["193"] < 1
    assert float(early["171"].max() / response["171"].max()) == pytest.approx(1, abs=0.1)
    assert late.meta["date"].startswith("2015-01-01")
