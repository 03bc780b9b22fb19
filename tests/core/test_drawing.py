"""Numbers of an observation's pixels as NDCubes: every axis back where the cube had it."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.wcs import WCS
from ndcube import NDCube

from sunpy_specfit.core.drawing import Drawing
from sunpy_specfit.core.observation import Observation

AXES = {"HPLN-TAN": "arcsec", "HPLT-TAN": "arcsec", "STOKES": "", "WAVE": "Angstrom"}


def stokes_cube(order):
    """A cube of 2 x 3 pixels, four Stokes parameters and five wavelengths, its array axes in an order of one's own."""
    sizes = dict(zip(AXES, (3, 2, 4, 5), strict=True))
    wcs = WCS(naxis=4)
    wcs.wcs.ctype = list(order)[::-1]
    wcs.wcs.cunit = [AXES[name] for name in wcs.wcs.ctype]
    wcs.wcs.crpix = [1.0] * 4
    wcs.wcs.crval = [6302.0 if name == "WAVE" else 1.0 for name in wcs.wcs.ctype]
    wcs.wcs.cdelt = [0.02 if name == "WAVE" else 1.0 for name in wcs.wcs.ctype]
    shape = tuple(sizes[name] for name in order)
    data = np.arange(np.prod(shape), dtype=float).reshape(shape)
    return NDCube(data, wcs=wcs, unit="ct", uncertainty=None)


@pytest.mark.parametrize(
    "order",
    [
        ("HPLT-TAN", "HPLN-TAN", "STOKES", "WAVE"),
        ("WAVE", "STOKES", "HPLT-TAN", "HPLN-TAN"),
        ("STOKES", "HPLN-TAN", "WAVE", "HPLT-TAN"),
    ],
)
def test_light_goes_back_to_where_it_was_read(order):
    cube = stokes_cube(order)
    observation = Observation.from_cube(cube, stokes="IQUV", uncertainty=1 * u.ct, spectral_unit=u.AA)
    samples = observation.block(slice(0, observation.grid.size)).data.numpy()
    light = Drawing(observation).light_cube(samples, u.ct)
    assert np.array_equal(light.data, cube.data)
    assert light.array_axis_physical_types == cube.array_axis_physical_types

    only = Observation.from_cube(cube, stokes="V", uncertainty=1 * u.ct, spectral_unit=u.AA)
    part = Drawing(only).light_array(only.block(slice(0, only.grid.size)).data.numpy())
    known = np.isfinite(part)
    assert known.sum() == cube.data.size / 4
    assert np.array_equal(part[known], cube.data[known])


def test_a_map_of_vectors_has_their_axis_in_front():
    observation = Observation.from_cube(
        stokes_cube(("HPLT-TAN", "HPLN-TAN", "STOKES", "WAVE")), uncertainty=1 * u.ct, spectral_unit=u.AA
    )
    values = np.arange(24.0).reshape(4, 6)
    drawn = Drawing(observation).map_cube(values, u.G, sigma=values, leading=[("height", [0, 10, 20, 30] * u.km)])
    assert drawn.data.shape == (4, 2, 3)
    assert drawn.unit == u.G
    assert np.array_equal(drawn.uncertainty.array, drawn.data)
    assert drawn.axis_world_coords_values("custom:height")[0].to_value("km").tolist() == [0, 10, 20, 30]
