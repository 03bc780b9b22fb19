import astropy.units as u
import numpy as np
import pytest

from sunpy_specfit import TemperatureResponse

UNIT = u.Unit("DN cm5 / (s pix)")


@pytest.fixture
def response():
    """Six channels that see humps of temperature, as AIA's do, on a table of 0.05 dex."""
    log_t = np.arange(5.0, 8.001, 0.05)
    centres = {"94": 6.85, "131": 5.75, "171": 5.9, "193": 6.2, "211": 6.3, "335": 6.45}
    strength = {"94": 1e-27, "131": 3e-26, "171": 1e-24, "193": 6e-25, "211": 2e-25, "335": 6e-27}
    values = {c: (strength[c] * np.exp(-0.5 * ((log_t - centres[c]) / 0.15) ** 2) + 1e-29) * UNIT for c in centres}
    return TemperatureResponse(values, 10**log_t * u.K, meta={"source": "made up"})


@pytest.fixture
def bins():
    return np.logspace(5.7, 7.3, 33) * u.K
