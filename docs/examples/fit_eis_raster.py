"""
Velocity maps from a Hinode/EIS raster
======================================

One Gaussian and a constant in every pixel of Fe XII 192.394 Å: maps of intensity, velocity and width, with
uncertainties. The raster, of 2021 March 6, comes with the ``eispac`` package, so nothing is downloaded.
"""

from importlib.resources import files

import astropy.units as u
import eispac
from astropy.nddata import StdDevUncertainty
from ndcube import NDCube

import sunpy_specfit as specfit

# %%
# ``eispac`` reads the calibrated spectra with their uncertainties. Its unit lacks the "per Angstrom" that the values
# have, and the wavelengths, which vary with the slit's position, stand beside the cube.

raster = files("eispac") / "data" / "test" / "eis_20210306_064444.data.h5"
eis_cube = eispac.read_cube(str(raster), window=192.394)
sigma = StdDevUncertainty(eis_cube.uncertainty.array)
cube = eis_cube.to_nddata(unit=eis_cube.unit / u.AA, uncertainty=sigma, nddata_type=NDCube)

# %%
# The model is a sum of components. All pixels are fitted at once.

model = specfit.Gaussian(192.394 * u.AA) + specfit.Polynomial(0)
result = specfit.fit(cube, model, spectral_axis=eis_cube.wavelength * u.AA)
print(result)

# %%
# Each map is an NDCube; ``plot`` shows them all. The file holds everything needed to go on later:
# ``specfit.FitResult.load("eis_fe12_192.asdf")``.

figure = result.plot()
figure.savefig("eis_fe12_192.png", dpi=150)
result.save("eis_fe12_192.asdf")
