"""From the light of a magnetic atmosphere to what is observed: macroturbulence, stray light, crosstalk, offsets.

All of it is linear in the light, so that derivatives go the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

__all__ = ["Observed"]

# Frequencies that a broadening's kernel is summed over, and how many of its sigma it reaches.
_FREQUENCIES, _REACH = 48, 4.0


class Observed:
    """What happens to the light between a magnetic atmosphere and the data.

    Parameters
    ----------
    macroturbulence, partial, stray, offset, crosstalk : bool
        Which of these there are; they come in this order. Partial light fills a part of the pixel, and stray light the
        rest of it.
    signs : sequence of int
        Of Q, U and V in the data.
    """

    def __init__(
        self, *, macroturbulence=False, partial=False, stray=False, offset=False, crosstalk=False, signs=(1, 1, 1)
    ):
        self.macroturbulence, self.partial, self.stray = macroturbulence, partial or stray, stray
        self.offset, self.crosstalk = offset, crosstalk
        self.signs = tuple(signs)

    @property
    def plain(self) -> bool:
        """Whether the light is observed as it is."""
        return not (self.macroturbulence or self.partial or self.offset or self.crosstalk) and self.signs == (1, 1, 1)

    def light(self, light: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What is observed of the light ``(4, n[, pixels])``."""
        if self.plain:
            return light
        if self.macroturbulence:
            light = self._broadened(light, self._kernel(inputs)[0])
        light = self._mixed(light, inputs)
        if self.stray:
            light = torch.cat([light[:1] + (1 - inputs["filling_factor"]) * inputs["stray_light"], light[1:]])
        return self._signed(self._disturbed(light, inputs))

    def linearize(self, light, columns, inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The same, with the derivatives of the light by name; those of its own parameters are added."""
        if self.plain:
            return light, columns
        columns = dict(columns)
        if self.macroturbulence:
            kernel, slope = self._kernel(inputs)
            columns = {name: self._broadened(column, kernel) for name, column in columns.items()}
            columns["macroturbulence"] = self._broadened(light, slope)
            light = self._broadened(light, kernel)
        intensity = light[:1]
        if self.partial:
            foreign = inputs["stray_light"] if self.stray else torch.zeros_like(intensity)
            columns = {name: self._mixed(column, inputs) for name, column in columns.items()}
            columns["filling_factor"] = torch.cat([light[:1] - foreign, light[1:]])
            intensity = inputs["filling_factor"] * intensity + (1 - inputs["filling_factor"]) * foreign
            light = torch.cat([intensity, inputs["filling_factor"] * light[1:]])
        columns = {name: self._signed(self._crossed(column, inputs)) for name, column in columns.items()}
        zero = torch.zeros_like(intensity[0])
        for number, letter in enumerate("quv"):
            for kind, wanted, shape in (("offset", self.offset, zero + 1), ("crosstalk", self.crosstalk, intensity[0])):
                if wanted:
                    rows = [zero, zero, zero, zero]
                    rows[number + 1] = shape * self.signs[number]
                    columns[f"{kind}_{letter}"] = torch.stack(rows)
        return self._signed(self._disturbed(light, inputs)), columns

    def _mixed(self, light, inputs):
        return light * inputs["filling_factor"] if self.partial else light

    def _crossed(self, light, inputs):
        if not self.crosstalk:
            return light
        leaks = [light[s + 1] + inputs[f"crosstalk_{letter}"] * light[0] for s, letter in enumerate("quv")]
        return torch.stack([light[0], *leaks])

    def _disturbed(self, light, inputs):
        light = self._crossed(light, inputs)
        if not self.offset:
            return light
        return torch.stack([light[0], *(light[s + 1] + inputs[f"offset_{letter}"] for s, letter in enumerate("quv"))])

    def _signed(self, light):
        if self.signs == (1, 1, 1):
            return light
        return torch.stack([light[0], *(part * sign for part, sign in zip(light[1:], self.signs, strict=True))])

    # -- macroturbulence ---------------------------------------------------------------------------

    def _kernel(self, inputs) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Weights of the samples to either side and their derivatives by the velocity, from the middle outwards.

        Of light that its samples tell completely, the convolution with a Gaussian is exactly this sum: the kernel is
        the inverse Fourier transform of the Gaussian's, cut off at the highest frequency that there is.
        """
        per_velocity = inputs["macroturbulence_samples"] / math.sqrt(2)
        sigma = inputs["macroturbulence"] * per_velocity
        reach = self.reach(inputs)
        omega = [math.pi * (k + 0.5) / _FREQUENCIES for k in range(_FREQUENCIES)]
        damped = [torch.exp(-0.5 * (w * sigma) ** 2) / _FREQUENCIES for w in omega]
        pulled = [d * (-w * w * sigma * per_velocity) for d, w in zip(damped, omega, strict=True)]
        weights = [sum(d * math.cos(w * k) for d, w in zip(damped, omega, strict=True)) for k in range(reach + 1)]
        slopes = [sum(d * math.cos(w * k) for d, w in zip(pulled, omega, strict=True)) for k in range(reach + 1)]
        total = weights[0] + 2 * sum(weights[1:])
        change = slopes[0] + 2 * sum(slopes[1:])
        weights = [w / total for w in weights]
        return weights, [(s - w * change) / total for s, w in zip(slopes, weights, strict=True)]

    def reach(self, inputs) -> int:
        """How many samples the kernel reaches to either side."""
        return inputs["macroturbulence_reach"].shape[0] - 1

    @staticmethod
    def _broadened(light: torch.Tensor, kernel: list[torch.Tensor]) -> torch.Tensor:
        reach, n = len(kernel) - 1, light.shape[1]
        # What lies beyond the window is taken to go on as its last sample does: it is continuum.
        ends = [part.expand(-1, reach, *light.shape[2:]) for part in (light[:, :1], light[:, -1:])]
        padded = torch.cat([ends[0], light, ends[1]], 1)
        total = light * kernel[0]
        for k, weight in enumerate(kernel[1:], 1):
            total = total + (padded[:, reach - k : reach - k + n] + padded[:, reach + k : reach + k + n]) * weight
        return total


def reach_of(samples_per_velocity: float, widest: float) -> int:
    """How far the kernel of a macroturbulence must reach."""
    return max(2, math.ceil(_REACH * samples_per_velocity * widest / math.sqrt(2)) + 2)
