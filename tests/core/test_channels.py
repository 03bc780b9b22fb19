import astropy.units as u
import numpy as np
import pytest
from astropy.time import Time
from astropy.wcs import WCS
from ndcube import NDCube

from sunpy_specfit.core.axes import find_axes
from sunpy_specfit.core.channels import stack


def image(shape=(3, 4)):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["HPLN-TAN", "HPLT-TAN"]
    wcs.wcs.cunit = ["arcsec", "arcsec"]
    wcs.wcs.cdelt = [0.6, 0.6]
    wcs.wcs.set()
    return NDCube(np.zeros(shape), wcs=wcs)


def test_a_channel_axis_says_what_it_is_beside_axes_that_say_nothing():
    plain = WCS(naxis=1)
    plain.wcs.ctype = ["PIXEL"]
    plain.wcs.set()
    line = NDCube(np.zeros(5), wcs=plain)
    cube = stack({"a": line, "b": line}, np.zeros((2, 5)), u.DN)
    axes = find_axes(cube, "channel")
    assert (axes.sample, axes.grid) == (0, (1,))


def test_times_of_the_first_image_are_kept():
    one = image()
    one.extra_coords.add("time", 0, Time("2020-01-01T00:00:00") + np.arange(3) * u.s)
    cube = stack({"a": one, "b": image()}, np.zeros((2, 3, 4)), u.DN)
    assert cube.array_axis_physical_types[1][-1] != ()
    assert list(cube.extra_coords.keys()) == ["time"]
    assert cube.extra_coords.mapping == one.extra_coords.mapping  # numbered from the last axis


def test_a_degree_beyond_the_turn_is_close():
    first, second = image(), image()
    header = second.wcs.to_header()
    header["CRVAL1"] = 360.0
    second = NDCube(np.zeros((3, 4)), wcs=WCS(header))
    stack({"a": first, "b": second}, np.zeros((2, 3, 4)), u.DN)
    header["CRVAL1"] = 1.0
    third = NDCube(np.zeros((3, 4)), wcs=WCS(header))
    with pytest.raises(ValueError, match="pixels away"):
        stack({"a": first, "b": third}, np.zeros((2, 3, 4)), u.DN)
