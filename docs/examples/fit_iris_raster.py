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
line = specfit.Gaussian(1335.708 * u.AA).bound(center=(1335.35, 1336.07) * u.AA, width=(20, 400) * u.mAA)
line = line + specfit.Polynomial(0)
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
# The maps show two ribbons near Y = 270 and 280 arcsec, ten times as bright as the quiet Sun, and between 285 and 300
# arcsec material that comes towards us at some 25 km/s. Single columns at a bound of the velocity or of the width are
# faint pixels, of 5 to 10 DN at the peak and flagged ``LOW_SIGNAL``: without the bounds the line would leave the window
# there and grow without limit. The grey margin is the part of the slit outside the detector.
#
# In the ribbons, bright and with several components, one Gaussian is no description: the misfit tells where. Its median
# is 0.85, so the noise model is right elsewhere, but it exceeds 3 in 16 % of the pixels.

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
# The emission and its reversal shift together by a few km/s, except beside the ribbons near 275 and 295 arcsec, where
# the profile is one-sided and the reversal goes to a wing, 25 km/s and more away: there two Gaussians are a description
# of the profile and no measurement of two velocities.
#
# Where does the reversal pay for its three numbers? The same fit without it, and a map of the better one.

plain = specfit.fit(near, specfit.Gaussian(k).bound(width=(80, 800) * u.mAA) + specfit.Polynomial(0), **options)
comparison = specfit.compare({"emission": plain, "with reversal": magnesium}, margin=6)
print(comparison)

# %%
# BIC prefers the reversal in 95 % of the pixels. The worst pixel of the C II map is always worth a look. Here it lies
# in a ribbon: the profile's core is cut out, with edges sharper than the spectrograph draws, and the wings stand alone,
# as saturation leaves them. No line shape explains it, and ``mask=`` should leave such pixels out.

worst = np.unravel_index(np.nanargmax(np.where(carbon["velocity"].mask, np.nan, reduced)), reduced.shape)
carbon.plot_spectrum(worst).savefig("iris_c_ii_worst.png", dpi=150)

# %%
# The worst of Mg II k is in a ribbon as well, with thousands of photons a sample: two Gaussians follow both peaks and
# the core between them, but the outer flanks of the peaks are straighter than a Gaussian's. Emission and reversal are
# then both three times as large as anything seen: their difference is measured, each of them is not.

reduced = np.where(magnesium["emission.velocity"].mask, np.nan, magnesium.reduced_chi2.data)
worst = np.unravel_index(np.nanargmax(reduced), reduced.shape)
magnesium.plot_spectrum(worst).savefig("iris_mg_ii_k_worst.png", dpi=150)
