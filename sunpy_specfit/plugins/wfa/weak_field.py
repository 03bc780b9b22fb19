"""Magnetic fields by the weak-field approximation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import astropy.units as u
import torch

from ...core.parameter import Auxiliary, Parameter
from ...core.polarized import PolarizedModel
from ...core.status import Status
from ...core.warnings import SpecfitWarning
from ...data import AtomicLine
from ...data.lines import lines_of
from ...numerics.derivative import METHODS
from .compiled import compiled_flags, quadratic_in_place
from .faint import spread_of_transverse, transverse_in_loops
from .formulas import factors_of, times
from .inputs import prepared
from .quadratic import field_quadratic

__all__ = ["WeakField"]

# Signals below so many sigma: the transverse field's errors are no longer Gaussian; there is none at all.
_LINEAR, _DETECTED = 4.0, 3.0


class WeakField(PolarizedModel):
    r"""The weak-field approximation: the polarisation of a line whose Zeeman splitting is far smaller than its width.

    With I(λ) as measured, C = 4.6686e-13 λ0² (Å, G), g the effective Landé factor and G its second-order companion:

    .. math::

        V &= -C g B_\mathrm{los} \, \frac{dI}{d\lambda} \\
        Q &= \tfrac34 C^2 G \, b_q \, \frac{1}{\lambda - \lambda_0} \frac{dI}{d\lambda} \quad\text{(wing)}, \qquad
        Q = -\tfrac14 C^2 G \, b_q \, \frac{d^2 I}{d\lambda^2} \quad\text{(core)}

    and U as Q with b_u, where b_q = B_t² cos 2χ and b_u = B_t² sin 2χ. All three are linear, so that the solution is a
    closed form. I is an input: it counts neither in chi² nor in the degrees of freedom, but its noise, which the
    derivative carries on, does (Notes).

    Parameters
    ----------
    lines : str, `~sunpy_specfit.data.AtomicLine`, or sequence of these
        By name, as in `sunpy_specfit.data.list_lines`, or made by hand. Several are fitted jointly with one field; each
        sample belongs to the line nearest to it, and does not count where that is another known one.
    linear : {"wing", "core", "both"} or None
        Which samples tell b_q and b_u. The wing's formula has the wrong sign at the line's centre, and the core's away
        from it, so each is used in its own part only. None fits b_los alone, from cubes that need I and V only.
    core_width : `~astropy.units.Quantity`, optional
        How far the core reaches to either side of the centre, and where the wing begins. By default the Doppler width
        of each pixel's own profile, with half a sample to either side of it that counts in neither.
    medium : {"air", "vacuum"}, optional
        Of the data's wavelengths, for lines known in both. By default as the header says: air for an axis AWAV; vacuum
        for IRIS and below 2000 Å; else air, with a warning.
    offset : bool
        Whether Q, U and V each have a constant offset, ``offset_q`` and so on.
    crosstalk : bool
        Whether a part of I is in Q, U and V each, ``crosstalk_q`` and so on. With ``offset`` for ``linear="both"``
        only: in the wing of a Gaussian line, dI/dλ / (λ - λ0) is 2 (I_c - I) / width², the sum of both, and in the core
        the second derivative is nearly so. Then b_q and b_u cannot be told from them, which a warning says, and where
        all that is left may be noise the status: UNCONSTRAINED, with infinite errors.
    derivative : {"spline", "cubic_spline", "three_point"}
        How dI/dλ is taken: by a spline of fifth degree, of third degree (a few tenths of a per cent low in Fe I 6302.5
        at 21 mÅ a sample), or by the parabola through three neighbours, which costs 5 to 7 G in quiet regions and 50 G
        in a sunspot.
    stokes_sign : mapping, optional
        ``{"V": -1}`` for files of the opposite convention; also for "Q" and "U".
    stokes_reference : `~astropy.units.Quantity`, optional
        The angle of +Q from solar north, counter-clockwise: added to the azimuth, which else counts from +Q in the
        instrument's frame.
    label : str, optional

    Raises
    ------
    KeyError
        If a line is not known by that name; close matches are named.
    ValueError
        If an option is none of those above, if a line is a blend, or, when it meets the data, if a line lies outside
        their wavelengths.

    Notes
    -----
    Fitted: ``b_los`` (G), positive towards the observer; ``b_q``, ``b_u`` (G²).

    Derived: ``b_trans`` = (b_q² + b_u²)^¼ (G); ``azimuth`` = ½ atan2(b_u, b_q) (0 to 180 deg, counter-clockwise from +Q
    to +U). Below four sigma of b_q and b_u their errors are those of Rice's law, and the status says NO_LINEAR_SIGNAL:
    the values are then upper limits, for the root of a sum of squares is never small.

    λ0 is the centre of gravity of each pixel's profile, not the rest wavelength.

    Errors in variables: the noise of I enters the right-hand side with the field. For V the fit weighs by its whole
    covariance, σ_V² + (C g B_los)² D Σ_I Dᵀ, with one round of re-weighting; for Q and U, whose errors are correlated
    by it, the errors count it and the weights do not. Without it pulls reach 1.4 to 5 at a kilogauss in Fe I 6302.5.
    The noise of λ0 comes from the same I, and is counted with the derivative's in the errors of b_q and b_u.

    Status: STRONG_FIELD where the splitting exceeds 0.45 Doppler widths (B_los is then ten per cent low), FLAT_PROFILE
    where I has no line, NO_POLARIZATION where nothing exceeds three sigma, AMBIGUOUS where there is a transverse field,
    whose direction is known up to 180 degrees.

    Scattering polarisation (Ca II, He I, Na I D, mostly near the limb) looks like a transverse field and is none.

    References
    ----------
    Landi Degl'Innocenti & Landolfi (2004), https://doi.org/10.1007/1-4020-2415-0; Centeno (2018),
    https://doi.org/10.3847/1538-4357/aae087

    Examples
    --------
    >>> import sunpy_specfit as specfit
    >>> from sunpy_specfit.data import weak_field_cube
    >>> cube = weak_field_cube((4, 5), seed=1)
    >>> result = specfit.fit(cube, specfit.WeakField("Mg I 5172.7"))
    >>> list(result)
    ['b_los', 'b_q', 'b_u', 'b_trans', 'azimuth']
    >>> str(result["b_los"].unit), str(result["b_q"].unit)
    ('G', 'G2')
    """

    name = "wfa"
    references = ("10.1007/1-4020-2415-0", "10.3847/1538-4357/aae087")
    losses = ("gaussian",)
    periods: Mapping[str, float] = {"azimuth": 180.0}

    b_los = Parameter(u.G, default=0.0, description="field along the line of sight, positive towards the observer")
    b_q = Parameter(u.G**2, default=0.0, description="B_t² cos 2χ")
    b_u = Parameter(u.G**2, default=0.0, description="B_t² sin 2χ")

    intensity = Auxiliary("data")
    variance = Auxiliary("data2")
    slope = Auxiliary("1 / spectral")
    bend = Auxiliary("1 / spectral2")
    center = Auxiliary("spectral", location=True)
    splitting = Auxiliary("spectral")
    squared_splitting = Auxiliary("spectral2")
    own = Auxiliary(None)
    core = Auxiliary("spectral")
    wing = Auxiliary("spectral")
    moment = Auxiliary("spectral")
    extent = Auxiliary(None)
    members = Auxiliary(None)
    reach = Auxiliary("spectral")
    strongest = Auxiliary(u.G)
    flat = Auxiliary(u.G)

    def __init__(
        self,
        lines: str | AtomicLine | Sequence[str | AtomicLine],
        *,
        linear: str | None = "wing",
        core_width: u.Quantity | None = None,
        medium: str | None = None,
        offset: bool = False,
        crosstalk: bool = False,
        derivative: str = "spline",
        stokes_sign: Mapping[str, int] | None = None,
        stokes_reference: u.Quantity | None = None,
        label: str | None = None,
    ):
        self.lines = lines
        self.linear = linear
        self.core_width = core_width
        self.medium = medium
        self.offset = bool(offset)
        self.crosstalk = bool(crosstalk)
        self.derivative = derivative
        self.stokes_sign = stokes_sign
        self.stokes_reference = stokes_reference
        self.label = label
        self._check(linear)
        self._atomic = lines_of(lines, "WeakField")
        for one in self._atomic:
            if one.blend:
                raise ValueError(
                    f"WeakField: {one.name} is a blend of several lines with Landé factors of their own, to which the "
                    "weak-field approximation does not apply as one line"
                )
        self.place_lines()

    def _check(self, linear: str | None) -> None:
        if linear not in ("wing", "core", "both", None):
            raise ValueError(f"WeakField: linear is 'wing', 'core', 'both' or None, found {linear!r}")
        if self.derivative not in METHODS:
            raise ValueError(
                f"WeakField: derivative is one of {', '.join(map(repr, METHODS))}; found {self.derivative!r}"
            )
        if self.core_width is not None and not (
            isinstance(self.core_width, u.Quantity)
            and self.core_width.isscalar
            and self.core_width.unit.is_equivalent(u.AA)
            and self.core_width > 0 * u.AA
        ):
            raise ValueError(
                f"WeakField: core_width is a positive wavelength such as 0.1 * u.AA, found {self.core_width!r}"
            )
        self.check_polarization()

    def has_no_transverse_field(self) -> bool:
        """Whether there is none to be fitted."""
        return self.linear is None or all(self.parameters[name].fixed for name in ("b_q", "b_u"))

    def place_lines(self) -> None:
        self._rests = self.rest_wavelengths()

    @property
    def rest_wavelength(self) -> u.Quantity:
        """Of the first line; windows in km/s count from it."""
        return self._rests[0]

    @property
    def stokes(self) -> str:
        return "V" if self.linear is None else "QUV"

    @property
    def smooth(self) -> tuple[str, ...]:
        """b_los, b_q and b_u, in which the light is linear: what ``Smooth()`` acts on."""
        return ("b_los",) if self.linear is None else ("b_los", "b_q", "b_u")

    @property
    def derived(self) -> Mapping[str, u.UnitBase]:
        """``b_trans`` in G and ``azimuth`` in degrees; nothing where b_los alone is fitted."""
        return {} if self.linear is None else {"b_trans": u.G, "azimuth": u.deg}

    def declare(self) -> Mapping[str, Parameter]:
        fields = super().declare()
        return {name: fields[name] for name in self.smooth} | self.nuisances()

    @property
    def linear_parameters(self) -> tuple[str, ...]:
        return tuple(self.declare())

    # -- from the data -----------------------------------------------------------------------------

    def prepare(self, observation) -> dict[str, torch.Tensor]:
        if self.linear in ("wing", "core") and self.offset and self.crosstalk and not self.has_no_transverse_field():
            warnings.warn(
                f"WeakField: beside both offset and crosstalk, the {self.linear} alone tells next to nothing of b_q "
                "and b_u, for their light has the shape of a constant and a part of I together; fit one of the two, or "
                "use linear='both'",
                SpecfitWarning,
                stacklevel=2,
            )
        return prepared(self, observation, self._atomic, self._rests)

    def weigh(self, x, weight, *, center, squared_splitting, own, core, wing, **inputs):
        """Samples of other lines do not count, and Q and U only where their formula holds."""
        if self.linear is None:
            return weight * own
        kept = factors_of(self.linear, x, center, squared_splitting, own, core, wing)[-1]
        return torch.cat([weight[:2] * kept, weight[2:] * own])

    # -- the physics --------------------------------------------------------------------------------

    def evaluate(
        self,
        x,
        b_los,
        b_q=None,
        b_u=None,
        *,
        intensity,
        slope,
        bend,
        center,
        splitting,
        squared_splitting,
        own,
        core,
        wing,
        **inputs,
    ):
        first = times(slope, intensity)
        shapes = {"v": (b_los, -splitting * own * first)}
        if self.linear is not None:
            *factors, _ = factors_of(self.linear, x, center, squared_splitting, own, core, wing)
            derivatives = first, times(bend, intensity)
            across = sum(f * d for f, d in zip(factors, derivatives, strict=True) if f is not None)
            shapes = {"q": (b_q, across), "u": (b_u, across)} | shapes
        light = []
        for s, (field, shape) in shapes.items():
            one = field * shape * self.sign(s.upper())
            if self.offset:
                one = one + inputs[f"offset_{s}"]
            if self.crosstalk:
                one = one + inputs[f"crosstalk_{s}"] * intensity
            light.append(one)
        return torch.stack(light) if len(light) > 1 else light[0]

    def linearize(self, x, **inputs):
        """The light and its derivatives, which are the light of each parameter alone."""
        names = list(self.declare())
        zero, one = (torch.zeros_like(inputs[names[0]]), torch.ones_like(inputs[names[0]]))
        auxiliary = {key: value for key, value in inputs.items() if key not in names}
        columns = {
            name: self.evaluate(x, **{n: one if n == name else zero for n in names}, **auxiliary) for name in names
        }
        return sum(inputs[name] * column for name, column in columns.items()), columns

    def quadratic(self, x, data, weight, **inputs):
        """Chi² of each pixel as a quadratic of its parameters, the noise of I included; see `Model.quadratic`."""
        return field_quadratic(self, x, data, weight, **inputs)

    def quadratic_in_place(self, x, data, weight, limit, dtype, **inputs):
        """The same, read off the cube in compiled code; see `Model.quadratic_in_place`."""
        return quadratic_in_place(self, x, data, weight, limit, dtype, **inputs)

    # -- what follows -------------------------------------------------------------------------------

    def derive(self, b_q=None, b_u=None, **parameters):
        if self.linear is None:
            return {}
        azimuth = torch.rad2deg(0.5 * torch.atan2(b_u, b_q)) + self.reference_angle
        return {"b_trans": (b_q.square() + b_u.square()).sqrt().sqrt(), "azimuth": torch.remainder(azimuth, 180.0)}

    def far_from_linear(self, values, sigma) -> torch.Tensor:
        """Where b_q and b_u together are below four sigma, so that no Gaussian describes B_t and azimuth."""
        return _significance(values, sigma) < _LINEAR**2

    def spread(self, values, sigma, covariance) -> dict[str, torch.Tensor]:
        """The standard deviations of B_t and azimuth there, by Rice's law; see `spread_of_transverse`."""
        b_trans, azimuth = spread_of_transverse(
            values["b_q"], values["b_u"], sigma["b_q"].square(), sigma["b_u"].square(), covariance("b_q", "b_u")
        )
        return {"b_trans": b_trans, "azimuth": azimuth}

    def derive_with_errors(self, values, covariance):
        """B_t, azimuth and their errors in compiled code; see `Model.derive_with_errors`."""
        if self.linear is None:
            return None
        return transverse_in_loops(values, covariance, self.reference_angle, _LINEAR**2)

    def flag(self, values, sigma, *, strongest, flat) -> torch.Tensor:
        """Status bits of each pixel, int32 ``(pixels,)``: the five that the notes of the class list.

        Parameters
        ----------
        values, sigma : dict of `torch.Tensor`
            Of the parameters, ``(pixels,)``.
        strongest : `torch.Tensor`
            The field (G) whose splitting is no longer small beside the width.
        flat : `torch.Tensor`
            The error of b_los (G) above which the profile has no line.
        """
        if self.linear is not None and flat.numel() == 1:
            limits = (_LINEAR**2, _DETECTED**2, _DETECTED, flat)
            kinds = ("AMBIGUOUS", "NO_LINEAR_SIGNAL", "STRONG_FIELD", "NO_POLARIZATION", "FLAT_PROFILE")
            found = compiled_flags(values, sigma, strongest, limits, [Status[kind] for kind in kinds])
            if found is not None:
                return found
        squared = values["b_los"].square()
        absent = values["b_los"].abs() < _DETECTED * sigma["b_los"]
        bits = torch.zeros_like(absent, dtype=torch.int32)
        if self.linear is not None:
            linear = _significance(values, sigma)
            seen = linear >= _LINEAR**2
            squared = squared + torch.where(seen, (values["b_q"].square() + values["b_u"].square()).sqrt(), 0.0)
            absent = absent & (linear < _DETECTED**2)
            bits = torch.where(seen, int(Status.AMBIGUOUS), int(Status.NO_LINEAR_SIGNAL)).to(torch.int32)
        strong = squared > strongest.square()
        for where, flag in (
            (strong, Status.STRONG_FIELD),
            (absent, Status.NO_POLARIZATION),
            (sigma["b_los"] > flat, Status.FLAT_PROFILE),
        ):
            bits.add_(where, alpha=int(flag))
        return bits


def _significance(values, sigma) -> torch.Tensor:
    """(b_q / σ)² + (b_u / σ)²; zero where nothing is known."""
    return sum((values[name] / sigma[name]).square().nan_to_num(0.0) for name in ("b_q", "b_u"))
