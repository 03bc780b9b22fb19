"""
Emission measures of a flare: maps by temperature, and one pixel with other penalties
======================================================================================

Six AIA channels of a synthetic flare in an active region. Maps of emission measure in bands of temperature with their
errors; then one pixel, in which other penalty terms fit the same data with other DEMs: what the data say is what these
have in common.
"""

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np

import sunpy_specfit as specfit
from sunpy_specfit.data import dem_scene

scene = dem_scene("flare", (96, 96), seed=4)
bins = np.logspace(5.7, 7.3, 33) * u.K
bands = [0.52, 1.4, 3.5, 8, 19] * u.MK

# %%
# One call. The prior along temperature is learned from the map itself.

model = specfit.DEM(scene.responses, bins=bins, bands=bands)
result = specfit.fit(scene.images, model)
print(result)

# %%
# Emission measure in bands: truth, fit, and how far they are apart in units of the error.

figure, axes = plt.subplots(3, 4, figsize=(10.5, 7.6), sharex=True, sharey=True, layout="constrained")
band = result["band_emission_measure"]
for number, column in enumerate(axes.T):
    true = scene.total(bands[number], bands[number + 1])
    low, high = np.percentile(np.log10(true), [1, 99])
    for panel, values in zip(column, (true, band.data[number]), strict=False):
        image = panel.imshow(np.log10(values), origin="lower", vmin=low, vmax=high, cmap="inferno")
    figure.colorbar(image, ax=column[:2], label=r"log EM (cm$^{-5}$)", aspect=30)
    pull = (band.data[number] - true) / band.uncertainty.array[number]
    image = column[2].imshow(pull, origin="lower", vmin=-3, vmax=3, cmap="RdBu_r")
    figure.colorbar(image, ax=column[2], label="(fit - truth) / error")
    column[0].set_title(f"{bands[number].value:.3g} to {bands[number + 1]:.3g}")
for panel, title in zip(axes[:, 0], ("truth", "fit", ""), strict=True):
    panel.set_ylabel(title)
figure.savefig("dem_bands.png", dpi=150)

# %%
# Penalty terms compared on one pixel: all of them fit the six channels. The valley between the loops and the flare is
# narrower than what the channels resolve there. No smooth prior finds it, and only independent bins have errors that
# reach down to it: an error band is as good as the prior it comes with.

PENALTIES = {
    "independent bins": specfit.TemperaturePrior(order=0),
    "continuous": specfit.TemperaturePrior(order=1),
    "continuous slope": specfit.TemperaturePrior(order=2),
    "smooth": specfit.TemperaturePrior(order="gaussian"),
}
pixel = (48, 30)
figure, axes = plt.subplots(1, 4, figsize=(13, 3.8), sharey=True, layout="constrained")
temperature = model.centers.to_value(u.K)
for panel, (name, prior) in zip(axes, PENALTIES.items(), strict=True):
    one = specfit.fit(scene.images, model, priors=prior)
    specfit.plot_dem(one, pixel, axes=panel)
    panel.plot(np.log10(temperature), scene.dem(bins)[:, *pixel] * temperature, "k", lw=1, label="truth")
    panel.set_title(f"{name}: chi² {one.chi2.data[pixel]:.1f}")
    if panel is not axes[0]:
        panel.get_legend().remove()
        panel.set_ylabel("")
figure.savefig("dem_penalties.png", dpi=150)
