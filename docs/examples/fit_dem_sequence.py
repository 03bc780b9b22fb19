"""
Emission measures of a flare in time: frames alone, and coupled
================================================================

A flare lights up within a minute and cools for a quarter of an hour, seen every 12 s in six AIA channels. Each frame
can be fitted by itself; a prior along time lets the frames help each other. `Correlated` makes of the prior of a frame
that of a sequence, `Smooth` is for what changes steadily, `TotalVariation` keeps the onset sharp.
"""

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.wcs import WCS
from ndcube import NDCube

import sunpy_specfit as specfit
from sunpy_specfit.data.dem_scene import scene_of

# %%
# The truth: a quiet corona of 1.6 MK, and in front of it plasma that appears at 22 MK and cools.

log_t = np.arange(5.705, 7.3, 0.01)[:, None, None]
rng = np.random.default_rng(3)
minutes = np.arange(0, 20, 0.2)
since = minutes[:, None] - 2 + rng.uniform(-1, 1, 12)  # the onset, pixel by pixel
flare = 10**28.3 * (since > 0) * (1 - np.exp(-since / 0.8)) * np.exp(-since / 6)
hottest = 6.5 + 0.55 * np.exp(-since.clip(0) / 7)


def hump(centre, width, amount):
    profile = np.exp(-0.5 * ((log_t - centre) / width) ** 2)
    return amount * profile / profile.sum(0)


emission = hump(6.2, 0.15, np.full(since.shape, 10**27.0)) + hump(hottest, 0.12, flare.clip(1e24))
scene = scene_of(emission, rng, exposure=0.3, responses=specfit.TemperatureResponse.aia())
wcs = WCS(naxis=2)
wcs.wcs.ctype, wcs.wcs.cunit, wcs.wcs.cdelt = ["PIXEL", "TIME"], ["", "s"], [1, 12]
images = {
    channel: NDCube(image.data, wcs=wcs, unit=image.unit, uncertainty=image.uncertainty)
    for channel, image in scene.images.items()
}

# %%
# Four fits. How long frames resemble each other `Correlated` takes from the data; the scales of the others are those of
# the natural logarithm from one frame to the next.

bins = np.logspace(5.7, 7.3, 33) * u.K
model = specfit.DEM(scene.responses, bins=bins)
along = {"axes": "time", "logarithm": True}
fits = {
    "frames alone": specfit.fit(images, model),
    "Correlated": specfit.fit(images, model, priors=specfit.Correlated("dem", axes="time")),
    "Smooth": specfit.fit(images, model, priors=specfit.Smooth("dem", scale=1.2, **along)),
    "TotalVariation": specfit.fit(
        images, model, priors=specfit.TotalVariation("dem", scale=1.0, softness=1.0, joint=True, **along)
    ),
}

# %%
# One pixel in time and temperature (T times DEM), and its mean temperature with the error. Before the onset the short
# exposures do not exclude some hot plasma. The prior that the sequence taught itself, of the flare's frames for the
# most part, puts it there, with an error too small; coupling the frames takes back a part of that.

pixel = 5
temperature = model.centers.to_value(u.K)
maps = {"truth": scene.dem(bins)} | {name: fit["dem"].data for name, fit in fits.items()}
figure, axes = plt.subplots(1, 6, figsize=(17, 3.8), width_ratios=[1, 1, 1, 1, 1, 1.6], layout="constrained")
for panel, (name, dem) in zip(axes, maps.items(), strict=False):
    shown = np.log10(dem[:, :, pixel] * temperature[:, None])
    picture = panel.pcolormesh(minutes, np.log10(temperature), shown, vmin=26, vmax=29, cmap="inferno", rasterized=True)
    panel.set(title=name, xlabel="minutes")
axes[0].set_ylabel("log T (K)")
figure.colorbar(picture, ax=axes[:5], label=r"log T DEM (cm$^{-5}$)", aspect=30)
axes[5].plot(minutes, scene.log_temperature()[:, pixel], "k", lw=2, label="truth")
for name, color in (("frames alone", "0.6"), ("Correlated", "C3")):
    mean = fits[name]["log_temperature"]
    axes[5].errorbar(
        minutes, mean.data[:, pixel], mean.uncertainty.array[:, pixel], fmt=".", color=color, lw=0.7, ms=3, label=name
    )
axes[5].set(xlabel="minutes", ylabel="mean of log T", title="mean temperature")
axes[5].legend()
figure.savefig("dem_sequence.png", dpi=150)

# %%
# How far from the truth, in dex, all pixels, after the onset.

begun = since > 0
for name, fit in fits.items():
    away = fit["log_temperature"].data - scene.log_temperature()
    amount = np.log10(fit["emission_measure"].data / scene.total())
    print(
        f"{name:15s} log T {np.sqrt(np.mean(away[begun] ** 2)):.3f}, log EM {np.sqrt(np.mean(amount[begun] ** 2)):.3f}"
    )
