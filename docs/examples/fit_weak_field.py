"""
Magnetic field maps of a spot: pixel by pixel, and coupled
===========================================================

The weak-field approximation on Mg I 5172.7 Å, at a noise that leaves little of the transverse field in single pixels.
A prior that neighbours resemble each other finds it again; how strongly it acts is chosen from the data. The cube is
synthetic, so that both can be held against the truth.
"""

import matplotlib.pyplot as plt
import numpy as np

import sunpy_specfit as specfit
from sunpy_specfit.data import weak_field_cube

y, x = np.mgrid[-1.5:1.5:100j, -1.5:1.5:100j]
r = np.hypot(x, y)
truth = {
    "b_los": 1400 * np.exp(-3 * r**2) - 60,  # G
    "b_trans": 3200 * r * np.exp(-2 * r**2) + 20,  # G
    "azimuth": np.rad2deg(np.arctan2(y, x) + 0.5 * r) % 180,
}
cube = weak_field_cube((100, 100), line="Mg I 5172.7", noise=5e-3, truth=truth, seed=1)

# %%
# Two fits: each pixel for itself, and all together. ``Smooth()`` without names acts on what the model calls its smooth
# maps, here ``b_los``, ``b_q`` and ``b_u``, and finds a scale for each.

model = specfit.WeakField("Mg I 5172.7")
alone = specfit.fit(cube, model)
smooth = specfit.fit(cube, model, priors=specfit.Smooth())
print(smooth)

# %%
# The maps. Pixel by pixel the transverse field drowns in noise: the root of a sum of squares is never small, and where
# there is no field the azimuth is anything. Coupled, ring and spiral appear. Around the spot, where there is hardly a
# transverse field, the coupled maps are noise as well, and say so: the last column is what they state as their error,
# one sigma.

ROWS = {
    "b_los": (r"$B_\mathrm{los}$ (G)", {"cmap": "RdBu_r", "vmin": -1400, "vmax": 1400}),
    "b_trans": (r"$B_\mathrm{t}$ (G)", {"cmap": "viridis", "vmin": 0, "vmax": 1000}),
    "azimuth": ("azimuth (deg)", {"cmap": "twilight", "vmin": 0, "vmax": 180}),
}
figure, axes = plt.subplots(3, 4, figsize=(10.5, 7.4), sharex=True, sharey=True, layout="constrained")
for row, (name, (label, style)) in zip(axes, ROWS.items(), strict=True):
    maps = truth[name], alone[name].data, smooth[name].data
    for panel, values in zip(row, maps, strict=False):
        image = panel.imshow(values, origin="lower", **style)
    figure.colorbar(image, ax=row[:3], label=label, aspect=14)
    error = smooth[name].uncertainty.array
    image = row[3].imshow(error, origin="lower", cmap="cividis", vmin=0, vmax=np.nanpercentile(error, 95))
    figure.colorbar(image, ax=row[3], label="error of " + label, aspect=14)
for panel, title in zip(axes[0], ("truth", "pixel by pixel", "coupled", "error, coupled"), strict=True):
    panel.set_title(title)
for panel in axes[-1]:
    panel.set_xlabel("x (pixels)")
for panel in axes[:, 0]:
    panel.set_ylabel("y (pixels)")
figure.savefig("weak_field_maps.png", dpi=150)

# %%
# How far from the truth, and do the errors say so? A pull is the distance from the truth in units of the stated error,
# and its standard deviation should be one. Pixel by pixel it is, where there is signal. The errors of coupled maps are
# right for maps as the prior expects them, whose neighbours differ by the same amount everywhere; this spot is smoother
# than that in most places and steeper in some.


def difference(result, name):
    apart = result[name].data - truth[name]
    return (apart + 90) % 180 - 90 if name == "azimuth" else apart


seen = truth["b_trans"] > 300
for name in ROWS:
    for what, result in (("pixel by pixel", alone), ("coupled", smooth)):
        apart = difference(result, name)[seen]
        pull = apart / result[name].uncertainty.array[seen]
        print(f"{name:8} {what:15} rms {np.sqrt(np.mean(apart**2)):6.1f}  pull {np.std(pull):.2f}")

# %%
# A scale is by how much neighbours typically differ: small ones smooth too much, large ones hardly at all. What is
# drawn is the expected error of prediction, which needs no truth, between the smallest (0) and that of the largest
# scale tried (1). ``result.meta`` holds these curves.

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained", sharey=True)
for panel, (name, entry) in zip(axes, smooth.meta["prior_scales"].items(), strict=True):
    error = np.array(entry["error_of_prediction"])
    error = (error - error.min()) / (error[-1] - error.min())
    panel.semilogx(entry["tried"], error, "o-", color="C0")
    panel.axvline(entry["scale"], color="C1", label=f"chosen: {entry['scale']:.3g} {entry['unit']}")
    panel.set(xlabel=f"scale of {name.partition(':')[2]} ({entry['unit']})", ylim=(-0.1, 2))
    panel.legend()
axes[0].set_ylabel("error of prediction")
figure.savefig("weak_field_scales.png", dpi=150)
