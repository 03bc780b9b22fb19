"""
C II and Mg II k of an IRIS raster
==================================

Two windows of an IRIS level-2 raster of one's own: one Gaussian for C II 1335.7 Å, and for Mg II k an emission peak
with a central reversal. Give the file::

    python fit_iris_raster.py iris_l2_20140329_140938_3860258481_raster.fits

The numbers in the text are those of that file, the raster that crosses the ribbons of the X1 flare of 2014 March 29.
"""

import sys
import warnings

import astropy.units as u
import numpy as np
from irispy.io import read_files

import sunpy_specfit as specfit

if len(sys.argv) != 2:
    sys.exit(__doc__)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about old keywords of the headers
    windows = read_files(sys.argv[1])

# %%
# IRIS cubes come without uncertainties. A noise model takes their place: photons for each DN, and the read noise.
# Level 2 marks what is missing by -200 DN.

far = windows["C II 1336"][0]
line = specfit.Gaussian(1335.708 * u.AA).bound(width=(20, 400) * u.mAA) + specfit.Polynomial(0)
carbon = specfit.fit(
    far,
    line,
    uncertainty=specfit.CountNoise(4, 3.1),
    mask=np.asarray(far.data) <= -199,
    window=[-150, 150] * u.km / u.s,
)
print(carbon)
carbon.plot(["intensity", "velocity", "width"]).savefig("iris_c_ii.png", dpi=150)

# %%
# In the flare's ribbons, bright and with several components, one Gaussian is no description: the misfit tells where.

reduced = carbon.reduced_chi2.data
print(
    f"reduced chi-squared: median {np.nanmedian(reduced):.2f}, above 3 in {100 * np.mean(reduced > 3):.1f} % of pixels"
)

# %%
# Mg II k forms in the upper chromosphere. Its core is often reversed: an emission peak minus a narrower Gaussian, each
# with a velocity of its own. Two components of one line need labels.

near = windows["Mg II k 2796"][0]
k = 2796.352 * u.AA
reversed_line = (
    specfit.Gaussian(k, label="emission").bound(width=(80, 800) * u.mAA)
    + specfit.Gaussian(k, label="reversal", absorption=True).bound(width=(30, 400) * u.mAA)
    + specfit.Polynomial(0)
)
options = {
    "uncertainty": specfit.CountNoise(18, 1.2),
    "mask": np.asarray(near.data) <= -199,
    "window": [-110, 110] * u.km / u.s,
}
magnesium = specfit.fit(near, reversed_line, **options)
print(magnesium)
names = ["emission.intensity", "emission.velocity", "reversal.amplitude", "reversal.velocity"]
magnesium.plot(names).savefig("iris_mg_ii_k.png", dpi=150)

# %%
# Where does the reversal pay for its three numbers? The same fit without it, and a map of the better one.

plain = specfit.fit(near, specfit.Gaussian(k).bound(width=(80, 800) * u.mAA) + specfit.Polynomial(0), **options)
comparison = specfit.compare({"emission": plain, "with reversal": magnesium}, margin=6)
print(comparison)

# %%
# The worst pixel of those that a Gaussian should describe is always worth a look.

worst = np.unravel_index(np.nanargmax(np.where(carbon["velocity"].mask, np.nan, reduced)), reduced.shape)
carbon.plot_spectrum(worst).savefig("iris_c_ii_worst.png", dpi=150)
