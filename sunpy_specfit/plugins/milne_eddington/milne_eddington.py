"""Milne-Eddington inversions of polarised lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import astropy.units as u
import numpy as np
import torch
from astropy.constants import c

from ...core.model import Model
from ...core.parameter import Auxiliary, Parameter
from ...core.status import Status
from ...data import AtomicLine, line
from ...data.zeeman import LORENTZ_SPLITTING
from .absorption import Line, elements, elements_jacobian, profiles, profiles_jacobian
from .start import drawn_anew, start_values
from .transfer import emergent, emergent_jacobian, rotated

__all__ = ["MilneEddington"]

_KM_S = u.km / u.s
_SPEED_OF_LIGHT = c.to_value(_KM_S)
_RADIAN = np.pi / 180
# Doppler widths between these velocities (km/s), from cold and quiet to far beyond what is seen on the Sun.
_WIDTHS = 0.2, 20.0


class MilneEddington(Model):
    name = "milne_eddington"
    stokes = "IQUV"
    references = ("10.1007/1-4020-2415-0",)

    field_strength = Parameter(u.G, lower=0.0, upper=6000.0, description="magnetic field strength")
    inclination = Parameter(u.deg, lower=0.0, upper=180.0, beyond="reflect", description="of the field to the line of sight")
    azimuth = Parameter(u.deg, lower=0.0, upper=180.0, beyond="wrap", description="of the field, from +Q towards +U")
    velocity = Parameter(_KM_S, description="along the line of sight, positive away from the observer")
    doppler_width = Parameter("spectral", lower=0.0, description="of the absorption profile")
    line_strength = Parameter(None, lower=0.0, upper=1000.0, description="line to continuum opacity at the centre")
    damping = Parameter(None, lower=0.0, upper=10.0, description="Lorentz width over Doppler width")
    source_constant = Parameter("data", lower=0.0, description="source function at the surface")
    source_gradient = Parameter("data", lower=0.0, description="of the source function with optical depth")

    rest = Auxiliary("spectral", location=True)
    splitting = Auxiliary("spectral")
    doppler = Auxiliary("spectral")

    linear_parameters = ("source_constant", "source_gradient")
    derived = {"b_los": u.G, "b_trans": u.G}

    def __init__(
        self,
        lines: str | AtomicLine | Sequence[str | AtomicLine] = ("Fe I 6301.5", "Fe I 6302.5"),
        *,
        mu: float = 1.0,
        scale_width: bool = False,
        medium: str | None = None,
        label: str | None = None,
    ):
        self.lines = lines
        self.mu = mu
        self.scale_width = scale_width
        self.medium = medium
        self.label = label
        given = [lines] if isinstance(lines, (str, AtomicLine)) else list(lines)
        atomic = [line(one) if isinstance(one, str) else one for one in given]
        self._rests = [one.wavelength(medium or ("vacuum" if one.air is None else "air")) for one in atomic]
        first = atomic[0]
        self._lines = tuple(
            Line(
                1.0 if one is first else float(10.0 ** (one.log_gf - first.log_gf)),
                float(rest / self._rests[0]) if scale_width else 1.0,
                tuple(
                    tuple(zip(map(float, part.shifts), map(float, part.strengths), strict=True))
                    for pattern in [one.zeeman_pattern()]
                    for part in (pattern.pi, pattern.sigma_blue, pattern.sigma_red)
                ),
            )
            for one, rest in zip(atomic, self._rests, strict=True)
        )
        self._factors = tuple((one.g_eff, one.G) for one in atomic)

    @property
    def rest_wavelength(self) -> u.Quantity:
        """Of the first line; windows in km/s count from it."""
        return self._rests[0]

    def declare(self) -> Mapping[str, Parameter]:
        declared = dict(super().declare())
        low, high = (self.rest_wavelength * width / _SPEED_OF_LIGHT for width in _WIDTHS)
        declared["doppler_width"] = declared["doppler_width"].replace(lower=low, upper=high)
        return declared

    def prepare(self, observation) -> dict[str, torch.Tensor]:
        unit = observation.spectral_unit
        rests = torch.tensor([[rest.to_value(unit)] for rest in self._rests], dtype=torch.float64)
        splitting = [[LORENTZ_SPLITTING * rest.to_value(u.AA) ** 2 * u.AA.to(unit)] for rest in self._rests]
        return {
            "rest": rests,
            "splitting": torch.tensor(splitting, dtype=torch.float64),
            "doppler": rests / _SPEED_OF_LIGHT,
        }

    # -- the physics -------------------------------------------------------------------------------

    def evaluate(
        self,
        x,
        field_strength,
        inclination,
        azimuth,
        velocity,
        doppler_width,
        line_strength,
        damping,
        source_constant,
        source_gradient,
        *,
        rest,
        splitting,
        doppler,
    ):
        found = profiles(x, self._lines, rest, splitting, doppler, field_strength, velocity, doppler_width, damping)
        i, q, across, v = emergent(elements(found, line_strength, inclination * _RADIAN))
        twice = 2 * _RADIAN * azimuth
        q, across = rotated(q, across, torch.cos(twice), torch.sin(twice))
        gradient = self.mu * source_gradient
        return torch.stack([source_constant + gradient * i, gradient * q, gradient * across, gradient * v])

    def linearize(
        self,
        x,
        field_strength,
        inclination,
        azimuth,
        velocity,
        doppler_width,
        line_strength,
        damping,
        source_constant,
        source_gradient,
        *,
        rest,
        splitting,
        doppler,
    ):
        """The light and its nine derivatives."""
        found, slopes = profiles_jacobian(
            x, self._lines, rest, splitting, doppler, field_strength, velocity, doppler_width, damping
        )
        matrix, derivatives = elements_jacobian(found, slopes, line_strength, inclination * _RADIAN)
        light, jacobian = emergent_jacobian(matrix)
        twice = 2 * _RADIAN * azimuth
        cosine, sine = torch.cos(twice), torch.sin(twice)
        gradient = self.mu * source_gradient
        jacobian[1], jacobian[2] = zip(
            *(rotated(a, b, cosine, sine) for a, b in zip(jacobian[1], jacobian[2], strict=True)), strict=True
        )
        derivatives["inclination"] = [part * _RADIAN for part in derivatives["inclination"]]
        columns = {
            name: torch.stack([_product(row, parts) * gradient for row in jacobian])
            for name, parts in derivatives.items()
        }
        shape = torch.stack([light[0], *rotated(light[1], light[2], cosine, sine), light[3]])
        columns["source_gradient"] = shape * self.mu
        own = shape * gradient
        zero = torch.zeros_like(own[0])
        columns["azimuth"] = torch.stack([zero, -own[2], own[1], zero]) * (2 * _RADIAN)
        columns["source_constant"] = torch.stack([zero + 1.0, zero, zero, zero])
        own[0] += source_constant
        return own, columns

    # -- what follows -------------------------------------------------------------------------------

    def start_values(self, x, data, weight, **inputs):
        first = start_values(x, data, weight, self._factors, **inputs)
        return self._projected(x, data, weight, first, inputs)

    def restart_values(self, x, data, weight, draws, **inputs):
        """The start that the data give, with what they tell badly drawn anew."""
        first = start_values(x, data, weight, self._factors, **inputs)
        return self._projected(x, data, weight, drawn_anew(first, draws), inputs)

    def _projected(self, x, data, weight, values, inputs):
        """The same, with the source function and the azimuth that are best beside the others.

        I is linear in the source function. In the frame of the field Q and U are those of the model; turning them onto
        the data's is one angle, which magneto-optical effects are part of.
        """
        nothing = torch.zeros_like(values["velocity"])
        bare = {"azimuth": nothing, "source_constant": nothing, "source_gradient": nothing + 1.0}
        i, q, across, _ = self.evaluate(x, **values, **bare, **inputs)
        wi, wq, wu, _ = weight
        along = (wq * data[1] * q + wu * data[2] * across).sum(0)
        turned = (wu * data[2] * q - wq * data[1] * across).sum(0)
        azimuth = torch.rad2deg(0.5 * torch.atan2(turned, along))
        total = wi.sum(0).clamp_min(torch.finfo(wi.dtype).tiny)
        mean, level = (wi * i).sum(0) / total, (wi * data[0]).sum(0) / total
        away = wi * (i - mean)
        gradient = (away * data[0]).sum(0) / (away * i).sum(0).clamp_min(1e-30)
        # Neither may be negative: a source function that does not rise inwards shows no absorption line.
        gradient = torch.minimum(gradient.nan_to_num(0.0), 0.98 * level / mean).clamp_min(0.02 * level.abs())
        return {
            **values,
            "azimuth": torch.remainder(azimuth, 180.0),
            "source_constant": level - gradient * mean,
            "source_gradient": gradient,
        }

    def derive(self, field_strength, inclination, **parameters):
        angle = inclination * _RADIAN
        return {"b_los": field_strength * torch.cos(angle), "b_trans": field_strength * torch.sin(angle)}


def _product(row, parts) -> torch.Tensor:
    total = row[0] * parts[0]
    for a, b in zip(row[1:], parts[1:], strict=True):
        total = torch.addcmul(total, a, b)
    return total
