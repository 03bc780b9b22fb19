"""
Velocity maps from a Hinode/EIS raster
======================================

One Gaussian and a constant in every pixel of Fe XII 192.394 Å: maps of intensity, velocity and width, with
uncertainties. The raster, of 2021 March 6, comes with the ``eispac`` package, so nothing is downloaded.
"""

from importlib.resources import files

import astropy.units as u
import eispac
import numpy as np

import sunpy_specfit as specfit

# %%
# ``eispac`` reads the calibrated spectra with their uncertainties. The wavelengths vary with the slit's position, and
# the unit lacks the "per Angstrom" that the values have: both are known of ``eispac``'s cubes, and a message says so.

raster = files("eispac") / "data" / "test" / "eis_20210306_064444.data.h5"
cube = eispac.read_cube(str(raster), window=192.394)

# %%
# The model is a sum of components. All pixels are fitted at once.

model = specfit.Gaussian(192.394 * u.AA) + specfit.Polynomial(0)
result = specfit.fit(cube, model)
print(result)

# %%
# Each map is an NDCube; ``plot`` shows some or all of them. EIS has no absolute wavelength scale, so the zero point of
# the velocities is arbitrary. The file holds everything needed to go on later:
# ``specfit.FitResult.load("eis_fe12_192.asdf")``.

figure = result.plot(["intensity", "velocity", "width"])
figure.savefig("eis_fe12_192.png", dpi=150)
result.save("eis_fe12_192.asdf")

# %%
# What the maps show: the loops of the active region's core, bright and some 10 km/s redder than the faint corona at its
# edges. Widths hardly vary; those of single pixels at the faint edges scatter, and are flagged ``LOW_SIGNAL``. It is
# always worth looking at the pixel that fits worst. In this one the line is well described, and chi-squared comes from
# a neighbouring line that enters the window at its red end and from one sample that is too low: ``window=`` or a second
# component would take care of the one, ``loss="student_t"`` of the other.

reduced = np.where(result["velocity"].mask, np.nan, result.reduced_chi2.data)
worst = np.unravel_index(np.nanargmax(reduced), reduced.shape)
result.plot_spectrum(worst).savefig("eis_fe12_192_worst.png", dpi=150)
