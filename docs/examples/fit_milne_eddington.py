"""
A sunspot inverted: field, velocity and their errors from Stokes profiles
==========================================================================

A Milne-Eddington inversion of Fe I 6301.5 and 6302.5 Å, the lines of Hinode/SP. The cube is synthetic, so that the maps
can be held against the truth; that of a telescope takes the same two lines of code.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import sunpy_specfit as specfit
from sunpy_specfit.data import milne_eddington_cube

cube = milne_eddington_cube((48, 48), noise=1e-3, seed=1)
model = specfit.MilneEddington(["Fe I 6301.5", "Fe I 6302.5"])

# %%
# The start values come from the data. Every pixel is fitted for itself.

result = specfit.fit(cube, model)
print(result)

# %%
# Maps, and what they state as their errors. In the middle of the spot the field points at the observer's feet: its
# inclination is 170 degrees there, and the azimuth is less certain.

NAMES = {
    "field_strength": ("field strength (G)", "magma"),
    "inclination": ("inclination (deg)", "RdBu"),
    "azimuth": ("azimuth (deg)", "twilight"),
    "velocity": ("velocity (km/s)", "RdBu_r"),
}
figure, axes = plt.subplots(2, 4, figsize=(13, 5.6), sharex=True, sharey=True, layout="constrained")
for column, (name, (label, colours)) in zip(axes.T, NAMES.items(), strict=True):
    image = column[0].imshow(result[name].data, origin="lower", cmap=colours)
    figure.colorbar(image, ax=column[0], label=label)
    error = result[name].uncertainty.array
    image = column[1].imshow(error, origin="lower", cmap="cividis", vmin=0, vmax=np.nanpercentile(error, 95))
    figure.colorbar(image, ax=column[1], label="error of " + label)
figure.savefig("milne_eddington_maps.png", dpi=150)

# %%
# Do the errors say how far the truth is? A pull is the distance from the truth in units of the stated error.

for name in ("field_strength", "inclination", "velocity", "doppler_width"):
    pull = (result[name].data - cube.meta["truth"][name]) / result[name].uncertainty.array
    print(f"{name:15} within one sigma: {np.mean(np.abs(pull) < 1):.0%}, within two: {np.mean(np.abs(pull) < 2):.0%}")

# %%
# One pixel: data, fit and what is left.

result.plot_spectrum((30, 20))
plt.savefig("milne_eddington_profile.png", dpi=150)

# %%
# What each parameter does to the profiles: the change of the light with the parameter, as the fit sees it.

x = torch.linspace(6301.0, 6303.0, 201, dtype=torch.float64)[:, None]
numbers = {
    "field_strength": 1500.0,
    "inclination": 50.0,
    "azimuth": 20.0,
    "velocity": 0.0,
    "doppler_width": 0.03,
    "line_strength": 12.0,
    "damping": 0.3,
    "source_constant": 0.2,
    "source_gradient": 0.8,
}
values = {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()}
rest = torch.tensor([[6301.4995], [6302.4931]], dtype=torch.float64)
inputs = {"rest": rest, "splitting": 4.6686e-13 * rest**2, "doppler": rest / 299792.458, "mu": torch.ones(1)}
light, derivatives = model.linearize(x, **values, **inputs)

figure, axes = plt.subplots(len(derivatives) + 1, 4, figsize=(11, 14), sharex=True, layout="constrained")
for row, (name, profiles) in zip(axes, {"the light": light, **derivatives}.items(), strict=True):
    for panel, stokes, profile in zip(row, "IQUV", profiles[..., 0], strict=True):
        panel.plot(x, profile.expand(201), lw=1, color="tab:blue" if name == "the light" else "tab:orange")
        panel.axhline(0, lw=0.4, color="0.6")
        panel.tick_params(labelsize=6)
        if name == "the light":
            panel.set_title(stokes)
    row[0].set_ylabel(name, fontsize=7)
for panel in axes[-1]:
    panel.set_xlabel("wavelength (Å)")
figure.savefig("milne_eddington_responses.png", dpi=150)
