"""Milne-Eddington inversions of polarised lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import astropy.units as u
import numpy as np
import torch
from astropy.constants import c

from ...core.parameter import Auxiliary, Parameter
from ...core.polarized import PolarizedModel
from ...core.status import Status
from ...data import AtomicLine
from ...data.lines import lines_of
from . import compiled
from .absorption import Line
from .atmosphere import NAMES, stokes, stokes_jacobian
from .components import CHART, components
from .inputs import prepared
from .observed import Observed
from .start import beside, drawn_anew, leaked, projected, start_values

__all__ = ["MilneEddington"]

_KM_S = u.km / u.s
_SPEED_OF_LIGHT = c.to_value(_KM_S)
_RADIAN = np.pi / 180
_PHYSICS = (*NAMES, "rest", "splitting", "doppler", "mu")
# Doppler widths between these velocities (km/s), from cold and quiet to far beyond what is seen on the Sun.
_WIDTHS = 0.2, 20.0
# Fewer pixels than these are looked at, not fitted.
_FEW = 64
# Signals below so many sigma: the transverse field's errors are no longer Gaussian; there is none at all.
_LINEAR, _DETECTED = 4.0, 3.0


class MilneEddington(PolarizedModel):
    r"""A Milne-Eddington atmosphere: Stokes I, Q, U and V of lines in one magnetic field.

    Everything but the source function is constant with depth, and that is S0 + S1 τ. The light is then the
    Unno-Rachkovsky solution, here with magneto-optical effects, damping, and the complete Zeeman pattern of each line:

    .. math:: (I, Q, U, V) = S_0 \, e_0 + μ S_1 \, K^{-1} e_0, \qquad e_0 = (1, 0, 0, 0)

    with K the propagation matrix, whose absorption profiles are
    line_strength · gf/gf₁ · Σ S H(damping, (λ - λ0 - v λ0/c)/doppler_width - shifts) with H(0, 0) = 1, and whose
    dispersion profiles have the Faraday-Voigt function F in the place of H.

    Parameters
    ----------
    lines : str, `~sunpy_specfit.data.AtomicLine`, or sequence of these
        By name, as in `sunpy_specfit.data.list_lines`, or made by hand with levels. Several are fitted jointly, their
        strengths in the ratio of their gf.
    stray_light : {"local", "mean"}, `~astropy.units.Quantity` or array, optional
        Light without a field that fills the rest of a pixel, which adds the parameter ``filling_factor``: the mean of
        the pixels around, the mean of the map, or profiles ``(n,)`` or ``(n, *map)`` in the data's unit.
    part : {"first", "second"}, optional
        One of two atmospheres that share a pixel, which adds the parameter ``filling_factor``: its part of the light.
        `sunpy_specfit.two_atmospheres` puts two together.
    macroturbulence : bool
        Whether the light is broadened by a Gaussian distribution of velocities, with ``macroturbulence`` its most
        probable speed. Needs evenly spaced wavelengths.
    mu : float or array
        Cosine of the heliocentric angle, one or a map.
    scale_width : bool
        Whether Doppler widths grow with the wavelength from line to line; ``doppler_width`` is then that of the first.
    offset, crosstalk : bool
        Whether Q, U and V each have a constant offset (``offset_q`` and so on), or a part of I (``crosstalk_q``).
    medium : {"air", "vacuum"}, optional
        Of the data's wavelengths, for lines known in both. By default as the header says: air for an axis AWAV; vacuum
        for IRIS and below 2000 Å; else air, with a warning.
    stokes_sign : mapping, optional
        ``{"V": -1}`` for files of the opposite convention; also for "Q" and "U".
    stokes_reference : `~astropy.units.Quantity`, optional
        The angle of +Q from solar north, counter-clockwise: azimuths then count from north, else from +Q.
    normalization : {"pixel", "quiet Sun"}, optional
        What the data's continuum was divided by. It changes nothing, and is kept with the result.
    compiled : bool, optional
        Whether light, derivatives and fits run compiled code, which takes seconds to make the first time and is kept
        on disk. It needs a C++ compiler (GCC or Clang). By default maps of 100 000 pixels and more do where there is
        one.
    label : str, optional

    Raises
    ------
    KeyError
        If a line is not known by that name; close matches are named.
    TypeError
        If a line is neither a name nor an `~sunpy_specfit.data.AtomicLine`.
    ValueError
        If an option is none of those above, if a line is given twice, if lines lack levels or gf, or, when the model
        meets the data, if a line lies outside their wavelengths.

    Notes
    -----
    Fitted: ``field_strength`` (G), ``inclination`` (0 to 180 deg, 0 towards the observer), ``azimuth`` (0 to 180 deg,
    counter-clockwise from +Q to +U), ``velocity`` (km/s, positive away from the observer, in the frame of the file; on
    the Sun with its gravitational redshift of 0.633 km/s), ``doppler_width`` (spectral), ``line_strength`` (of the
    first line), ``damping``, ``source_constant`` S0 and ``source_gradient`` S1 (data).

    Derived: ``b_los`` = B cos γ (G), positive towards the observer, and ``b_trans`` = B sin γ (G), of the magnetic part
    of the pixel alone; ``b_q``, ``b_u`` = b_trans² cos 2χ and sin 2χ (G²), which do not wrap and which priors can
    smooth; with stray light ``flux_density`` = filling_factor · b_los (G).

    Status: AMBIGUOUS where there is a transverse field, for the light of azimuths 180 degrees apart is the same;
    NO_LINEAR_SIGNAL where b_q and b_u are below four sigma: V alone does not tell field strength from inclination
    there; NO_POLARIZATION where b_los is below three as well.

    Pixels whose chi² is poor are started anew, from other inclinations, widths, strengths and dampings; the seed of
    `sunpy_specfit.fit` decides which.

    References
    ----------
    Unno (1956, 1956PASJ....8..108U); Landi Degl'Innocenti & Landolfi (2004), https://doi.org/10.1007/1-4020-2415-0

    Examples
    --------
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import milne_eddington_cube
    >>> cube = milne_eddington_cube((3, 4), noise=3e-4, seed=1)
    >>> result = specfit.fit(cube, specfit.MilneEddington(["Fe I 6301.5", "Fe I 6302.5"]))
    >>> list(result)[:4]
    ['field_strength', 'inclination', 'azimuth', 'velocity']
    >>> error = result["field_strength"].data - cube.meta["truth"]["field_strength"]
    >>> bool(abs(error).max() < 5 * result["field_strength"].uncertainty.array.max())
    True
    """

    name = "milne_eddington"
    stokes = "IQUV"
    references = ("10.1007/1-4020-2415-0",)

    field_strength = Parameter(
        u.G, lower=0.0, upper=6000.0, opposite="inclination", description="magnetic field strength"
    )
    inclination = Parameter(
        u.deg, lower=0.0, upper=180.0, beyond="reflect", description="of the field to the line of sight"
    )
    azimuth = Parameter(u.deg, lower=0.0, upper=180.0, beyond="wrap", description="of the field, from +Q towards +U")
    velocity = Parameter(_KM_S, description="along the line of sight, positive away from the observer")
    doppler_width = Parameter("spectral", lower=0.0, description="of the absorption profile")
    line_strength = Parameter(None, lower=0.0, upper=1000.0, description="line to continuum opacity of the first line")
    damping = Parameter(None, lower=0.0, upper=10.0, description="Lorentz width over Doppler width")
    source_constant = Parameter("data", lower=0.0, description="source function at the surface")
    source_gradient = Parameter("data", lower=0.0, description="of the source function with optical depth")

    rest = Auxiliary("spectral", location=True)
    splitting = Auxiliary("spectral")
    doppler = Auxiliary("spectral")

    chart = CHART

    smooth = (
        "b_los",
        "b_q",
        "b_u",
        "velocity",
        "doppler_width",
        "line_strength",
        "damping",
        "source_constant",
        "source_gradient",
    )

    def __init__(
        self,
        lines: str | AtomicLine | Sequence[str | AtomicLine],
        *,
        stray_light=None,
        part: str | None = None,
        macroturbulence: bool = False,
        mu: float | np.ndarray = 1.0,
        scale_width: bool = False,
        offset: bool = False,
        crosstalk: bool = False,
        medium: str | None = None,
        stokes_sign: Mapping[str, int] | None = None,
        stokes_reference: u.Quantity | None = None,
        normalization: str | None = None,
        compiled: bool | None = None,
        label: str | None = None,
    ):
        self.lines = lines
        self.stray_light = stray_light
        self.part = part
        self.macroturbulence = bool(macroturbulence)
        self.mu = mu
        self.scale_width = bool(scale_width)
        self.offset = bool(offset)
        self.crosstalk = bool(crosstalk)
        self.medium = medium
        self.stokes_sign = stokes_sign
        self.stokes_reference = stokes_reference
        self.normalization = normalization
        self.compiled = compiled
        self.label = label
        self._check()
        self._atomic = lines_of(lines, "MilneEddington")
        for one in self._atomic:
            self._check_line(one)
        self.place_lines()
        self._factors = tuple((one.g_eff, one.G) for one in self._atomic)
        signs = [self.sign(name) for name in "QUV"]
        self._observed = Observed(
            macroturbulence=self.macroturbulence,
            partial=part is not None,
            stray=stray_light is not None,
            offset=self.offset,
            crosstalk=self.crosstalk,
            signs=signs,
        )
        self._declared = self._declare()

    def _check(self) -> None:
        if isinstance(self.stray_light, str) and self.stray_light not in ("local", "mean"):
            raise ValueError(
                f"MilneEddington: stray_light is 'local', 'mean' or profiles of I, found {self.stray_light!r}"
            )
        if self.part not in (None, "first", "second"):
            raise ValueError(f"MilneEddington: part is 'first', 'second' or None, found {self.part!r}")
        if self.part is not None and self.stray_light is not None:
            raise ValueError("MilneEddington: two atmospheres fill the pixel, so that no stray light has room in it")
        if not (np.all(np.isfinite(self.mu)) and np.all(np.asarray(self.mu) > 0) and np.all(np.asarray(self.mu) <= 1)):
            raise ValueError(f"MilneEddington: mu is a cosine between 0 and 1, found {self.mu!r}")
        self.check_polarization()
        if self.normalization not in (None, "pixel", "quiet Sun"):
            raise ValueError(
                f"MilneEddington: normalization is 'pixel', 'quiet Sun' or None, found {self.normalization!r}"
            )

    def place_lines(self) -> None:
        self._rests = self.rest_wavelengths()
        first = self._atomic[0]
        widths = [float(rest / self._rests[0]) if self.scale_width else 1.0 for rest in self._rests]
        self._patterns = tuple(Line.of(one, first, width) for one, width in zip(self._atomic, widths, strict=True))

    def _check_line(self, one) -> None:
        if one.blend and len(self._atomic) == 1:
            raise ValueError(
                f"MilneEddington: {one.name} is part of a blend, whose lines have patterns of their own: give a list "
                "of them all"
            )
        if len(self._atomic) > 1 and one.log_gf is None:
            raise ValueError(
                f"MilneEddington: {one.name} has no log_gf, which tells its strength beside other lines; "
                "AtomicLine(..., log_gf=...)"
            )

    @property
    def rest_wavelength(self) -> u.Quantity:
        """Of the first line; windows in km/s count from it."""
        return self._rests[0]

    def declare(self) -> Mapping[str, Parameter]:
        return self._declared

    def _declare(self) -> dict[str, Parameter]:
        declared = dict(super().declare())
        low, high = (self.rest_wavelength * width / _SPEED_OF_LIGHT for width in _WIDTHS)
        declared["doppler_width"] = declared["doppler_width"].replace(lower=low, upper=high)
        if self._is_partial:
            declared["filling_factor"] = Parameter(
                None, lower=0.0, upper=1.0, description="the part of the pixel that this atmosphere fills"
            )
        if self.macroturbulence:
            declared["macroturbulence"] = Parameter(
                _KM_S, lower=0.0, upper=6.0, description="most probable speed of motions that broaden the light"
            )
        return declared | self.nuisances()

    @property
    def _is_partial(self) -> bool:
        return self.stray_light is not None or self.part is not None

    @property
    def linear_parameters(self) -> tuple[str, ...]:
        offsets = tuple(f"offset_{s}" for s in "quv") if self.offset else ()
        return ("source_constant", "source_gradient", *offsets)

    @property
    def derived(self) -> Mapping[str, u.UnitBase]:
        """b_los, b_trans (G), b_q and b_u (G²), and the flux density (G) where a part of the pixel is fitted."""
        found = {"b_los": u.G, "b_trans": u.G, "b_q": u.G**2, "b_u": u.G**2}
        return {**found, "flux_density": u.G} if self._is_partial else found

    def remarks(self) -> dict[str, str]:
        known = {"pixel": "each pixel's own", "quiet Sun": "the mean one of the quiet Sun"}.get(self.normalization)
        return super().remarks() | ({"continuum": f"the data were divided by {known}"} if known else {})

    # -- from the data -----------------------------------------------------------------------------

    @property
    def auxiliaries(self) -> dict[str, Auxiliary]:
        found = super().auxiliaries
        if self.stray_light is not None:
            found["stray_light"] = Auxiliary("data")
        return found

    def prepare(self, observation) -> dict[str, torch.Tensor]:
        return prepared(self, observation, [one.name for one in self._atomic], self._rests)

    def start_values(self, x, data, weight, **inputs):
        return self._started(x, data, weight, inputs, lambda found: beside(found) if self.part == "second" else found)

    def restart_values(self, x, data, weight, values, attempt, draws, **inputs):
        """The start that the data give, with what they tell badly drawn anew: the field, or the rest with it."""
        if self.part == "second":
            return self._started(x, data, weight, inputs, lambda found: beside(found, attempt, draws))
        return self._started(x, data, weight, inputs, lambda found: drawn_anew(found, values, attempt, draws))

    def _started(self, x, data, weight, inputs, change):
        if self._observed.signs != (1, 1, 1):
            data = torch.stack([data[0], *(d * s for d, s in zip(data[1:], self._observed.signs, strict=True))])
        leaks = leaked(data, weight, self.offset, self.crosstalk)
        data = leaks.without(data)
        lines = {name: inputs[name] for name in ("rest", "splitting", "doppler")}
        found = change(start_values(x, data, weight, self._factors, **lines))
        given = {name: inputs[name] for name in ("mu", "compiled") if name in inputs}
        found = projected(self._magnetic, x, data, weight, found, {**lines, **given})
        found["azimuth"] = torch.remainder(found["azimuth"] + self.reference_angle, 180.0)
        ones = torch.ones_like(found["azimuth"])
        found |= leaks.by_name()
        usual = {"filling_factor": 0.8, "macroturbulence": 0.5}
        return {name: found.get(name, ones * usual.get(name, 0.0)) for name in self._declared}

    # -- the physics -------------------------------------------------------------------------------

    def evaluate(self, x, **inputs):
        return self._observed.light(self._magnetic(x, **self._turned(inputs)), inputs)

    def _magnetic(self, x, **inputs):
        """The light of the atmosphere itself."""
        found = self._quickly(compiled.light, x, inputs)
        if found is not None:
            return found
        return torch.stack(stokes(self._patterns, x, **{name: inputs[name] for name in _PHYSICS}))

    def linearize(self, x, **inputs):
        """The light and its derivatives by all parameters."""
        turned = self._turned(inputs)
        found = self._quickly(compiled.jacobian, x, turned)
        if found is not None:
            return self._observed.linearize(*found, inputs)
        rows, derivatives = stokes_jacobian(self._patterns, x, **{name: turned[name] for name in _PHYSICS})
        zero = torch.zeros_like(rows[0])
        columns = {
            name: torch.stack([zero if row is None else row for row in parts]) for name, parts in derivatives.items()
        }
        return self._observed.linearize(torch.stack(rows), columns, inputs)

    def normal_equations(self, x, data, weight, **inputs):
        """What the fit of large maps needs, in compiled code; None where there is none."""
        if not self._observed.plain:
            return None
        return self._quickly(compiled.normal_equations, x, self._turned(inputs), data, weight)

    def _quickly(self, function, x, inputs, *data):
        """What a function of compiled code gives; None where that is not to be had, or not worth it."""
        own = [inputs[name] for name in _PHYSICS]
        if "compiled" not in inputs or not compiled.runs_on(x, *own, *data) or not bool(inputs["compiled"].any()):
            return None
        # x: (n, 1 or pixels), and not one pixel on its own.
        if x.ndim < 2 or not data and own[0].shape[-1] < _FEW:
            return None
        return function(self._patterns, x, *data, own[: len(NAMES)], inputs)

    def _turned(self, inputs):
        """The inputs, with the azimuth from +Q."""
        return {**inputs, "azimuth": inputs["azimuth"] - self.reference_angle} if self.reference_angle else inputs

    # -- what follows -------------------------------------------------------------------------------

    def derive(self, field_strength, inclination, azimuth, **others):
        along, b_q, b_u = components(field_strength, inclination, azimuth)
        across = field_strength * torch.sin(inclination * _RADIAN)
        found = {"b_los": along, "b_trans": across, "b_q": b_q, "b_u": b_u}
        if self._is_partial:
            found["flux_density"] = others["filling_factor"] * along
        return found

    def flag(self, values, sigma, covariance) -> torch.Tensor:
        """Status bits of each pixel, int32 ``(pixels,)``: whether the azimuth is known and any polarisation seen."""
        strength, angle = values["field_strength"], values["inclination"] * _RADIAN
        # A signal of four sigma in b_q and b_u is an azimuth known to an eighth of a radian: σ(χ) = σ(b) / 2 b.
        blurred = sigma["azimuth"] * _RADIAN
        by_strength, by_angle = torch.cos(angle), -strength * torch.sin(angle) * _RADIAN
        variance = (
            (by_strength * sigma["field_strength"]).square()
            + (by_angle * sigma["inclination"]).square()
            + 2 * by_strength * by_angle * covariance("field_strength", "inclination")
        )
        bits = torch.zeros_like(strength, dtype=torch.int32)
        for where, flag in (
            (blurred <= 0.5 / _LINEAR, Status.AMBIGUOUS),
            (~(blurred <= 0.5 / _LINEAR), Status.NO_LINEAR_SIGNAL),
            (
                ~(blurred <= 0.5 / _DETECTED)
                & ((strength * by_strength).abs() < _DETECTED * variance.clamp_min(0).sqrt()),
                Status.NO_POLARIZATION,
            ),
        ):
            bits[where] |= int(flag)
        return bits
