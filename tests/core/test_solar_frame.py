"""Where pixels are on the Sun."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS
from ndcube import NDCube

from sunpy_specfit.core.solar_frame import solar_frame


def picture(lon, lat, *, order=("HPLN-TAN", "HPLT-TAN"), **observer):
    """A map of 5 x 7 pixels of 2 arcsec about a place (arcsec), seen from 1 au."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = list(order)
    wcs.wcs.cunit = ["arcsec", "arcsec"]
    wcs.wcs.crpix = [4, 3]
    wcs.wcs.cdelt = [2, 2]
    wcs.wcs.crval = [lon if name == "HPLN-TAN" else lat for name in order]
    wcs.wcs.dateobs = "2014-03-29T17:00:00"
    if observer:
        wcs.wcs.aux.hgln_obs, wcs.wcs.aux.hglt_obs, wcs.wcs.aux.dsun_obs = 0.0, 0.0, observer["distance"]
        wcs.wcs.aux.rsun_ref = 6.957e8
    return NDCube(np.zeros((5, 7)), wcs=wcs)


def test_places_and_the_vertical():
    # At this distance the Sun's radius is 1000 arcsec.
    distance = 6.957e8 / np.tan(np.deg2rad(1000 / 3600))
    frame = solar_frame(picture(480.0, 640.0, distance=distance))
    assert frame.x.mean() == pytest.approx(0.48, abs=1e-4)
    assert frame.y.mean() == pytest.approx(0.64, abs=1e-4)
    assert frame.vertical == pytest.approx([0.48, 0.64, 0.6], abs=1e-3)
    assert frame.mu[2, 3] == pytest.approx(0.6, abs=1e-3)
    assert frame.steps == pytest.approx(np.diag([2e-3, 2e-3]), abs=1e-5)
    assert frame.unevenness < 0.02
    assert np.isnan(solar_frame(picture(1100.0, 0.0, distance=distance)).mu).all()


def test_axes_in_another_order():
    distance = 6.957e8 / np.tan(np.deg2rad(1000 / 3600))
    frame = solar_frame(picture(480.0, 640.0, order=("HPLT-TAN", "HPLN-TAN"), distance=distance))
    assert frame.x.mean() == pytest.approx(0.48, abs=1e-4)
    assert frame.steps == pytest.approx(np.array([[0, 2e-3], [2e-3, 0]]), abs=1e-5)


def test_without_an_observer_it_is_the_earth():
    frame = solar_frame(picture(480.0, 0.0))
    # The Sun's radius on that day.
    assert 480 / frame.x[2, 3] == pytest.approx(961, abs=2)


def test_maps_without_solar_coordinates_have_none():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["LINEAR", "LINEAR"]
    assert solar_frame(NDCube(np.zeros((5, 7)), wcs=wcs)) is None
    assert solar_frame(picture(0.0, 0.0)[:1]) is None
