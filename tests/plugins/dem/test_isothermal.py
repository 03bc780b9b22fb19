import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS
from ndcube import NDCube

import sunpy_specfit as specfit


def test_one_temperature_is_found_within_its_error():
    rng = np.random.default_rng(2)
    t = np.geomspace(1e6, 1e7, 41) * u.K
    unit = u.Unit("DN cm5 / (s pix)")
    thin, thick = 1e-26 * (t.value / 1e6) * unit, 1e-28 * (t.value / 1e6) ** 3 * unit
    two = specfit.TemperatureResponse({"thin": thin, "thick": thick}, t)
    log_t, log_em = rng.uniform(6.2, 6.6, 60), rng.uniform(27, 28, 60)
    wcs = WCS(naxis=1)
    wcs.wcs.ctype = ["PIXEL"]
    wcs.wcs.set()
    images = {}
    for channel, values in two.items():
        clean = 10 ** (np.interp(log_t, np.log10(two.temperature.value), np.log10(values.value)) + log_em)
        sigma = 0.02 * clean
        data = clean + sigma * rng.standard_normal(60)
        images[channel] = NDCube(data, wcs=wcs, unit=u.DN / u.s, uncertainty=StdDevUncertainty(sigma))
    result = specfit.fit(images, specfit.Isothermal(two))
    pull = (result["log_temperature"].data - log_t) / result["log_temperature"].uncertainty.array
    assert 0.7 < np.std(pull) < 1.3
    assert np.median(result.chi2.data) < 1e-3  # two data, two unknowns
    pull = (result["log_emission_measure"].data - log_em) / result["log_emission_measure"].uncertainty.array
    assert 0.7 < np.std(pull) < 1.3


def test_channels_that_share_no_temperature_are_refused():
    t = np.geomspace(1e5, 1e7, 5) * u.K
    unit = u.Unit("DN cm5 / (s pix)")
    with pytest.raises(ValueError, match="no temperature is seen by all channels"):
        specfit.Isothermal({"a": [1, 1, 0, 0, 0] * unit, "b": [0, 0, 0, 1, 1] * unit}, t)
