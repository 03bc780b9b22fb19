"""How finely channels tell temperatures apart."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from ndcube import NDCube

from ...core.factored import FactoredCovariance

__all__ = ["temperature_resolution"]


def temperature_resolution(result, name: str = "dem") -> NDCube:
    """The temperature resolution of a DEM in each bin and pixel, a full width at half maximum in dex.

    What the answer in a bin says of the truth in other bins is its averaging kernel; this is the kernel's width. Finer
    structure is the prior's. It is what demreg calls ``elogt``. Where no channel looks, it is as wide as the way to
    where one does.

    Parameters
    ----------
    result : `~sunpy_specfit.FitResult`
        Of a `DEM`.
    name : str
        The key of the DEM.

    Returns
    -------
    `~ndcube.NDCube`
        ``(bins, *map)``, dex.

    References
    ----------
    Hannah & Kontar (2012), https://doi.org/10.1051/0004-6361/201117576, section 2.3

    Examples
    --------
    >>> import astropy.units as u
    >>> import numpy as np
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import dem_scene
    >>> scene = dem_scene("active_region", shape=(2, 3))
    >>> result = specfit.fit(scene.images, specfit.DEM(scene.responses, bins=np.logspace(5.7, 7.3, 33) * u.K))
    >>> specfit.temperature_resolution(result).data.shape
    (32, 2, 3)
    """
    key = result._layout.resolve(name)
    covariance = result._propagation.covariance_rows
    if not isinstance(covariance, FactoredCovariance):
        raise ValueError(f"the resolution of {name!r} is known where a solver works in data space, as for a DEM")
    component, own = result._layout.origin(key)
    places = np.log10(component.vector_axis(own)[1].to_value(u.K))
    return result._map(covariance.resolution(places), u.dex, of=(key,))
