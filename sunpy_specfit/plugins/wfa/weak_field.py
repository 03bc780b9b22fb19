"""Magnetic fields by the weak-field approximation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import astropy.units as u
import numpy as np
import torch

from ...core.parameter import Auxiliary, Parameter
from ...core.polarized import PolarizedModel
from ...core.status import Status
from ...data import AtomicLine, line
from ...data.lines import all_lines
from ...data.zeeman import LORENTZ_SPLITTING
from ...numerics.derivative import METHODS, derivative_matrix
from .even_noise import EvenModes
from .faint import spread_of_transverse
from .formulas import factors_of, times
from .profile import LineWindow, assign_samples
from .quadratic import field_quadratic

__all__ = ["WeakField"]

# Where the splitting exceeds this part of the Doppler width, a Gaussian profile's slope is ten per cent off.
_STRONG = 0.45
# Lines nearer to each other than this part of their wavelength are one line (20 km/s).
_APART = 6.7e-5
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
        of the mean profile, with half a sample to either side of it that counts in neither.
    medium : {"air", "vacuum"}, optional
        Of the data's wavelengths, for lines known in both. By default as the header says: air for an axis AWAV; vacuum
        for IRIS and below 2000 Å; else air, with a warning.
    offset : bool
        Whether Q, U and V each have a constant offset, ``offset_q`` and so on.
    crosstalk : bool
        Whether a part of I is in Q, U and V each, ``crosstalk_q`` and so on.
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
    to +U). Below four sigma of b_q and b_u their errors are taken from draws, and the status says NO_LINEAR_SIGNAL: the
    values are then upper limits, for the root of a sum of squares is never small.

    λ0 is the centre of gravity of each pixel's profile, not the rest wavelength.

    Errors in variables: the noise of I enters the right-hand side with the field. For V the fit weighs by its whole
    covariance, σ_V² + (C g B_los)² D Σ_I Dᵀ, with one round of re-weighting; for Q and U, whose errors are correlated
    by it, the errors count it and the weights do not. Without it pulls reach 1.4 to 5 at a kilogauss in Fe I 6302.5.

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
        given = [lines] if isinstance(lines, (str, AtomicLine)) or not isinstance(lines, Iterable) else list(lines)
        if not given:
            raise ValueError("WeakField needs a line, found none; for example WeakField('Fe I 6302.5')")
        self._atomic = [line(one) if isinstance(one, str) else one for one in given]
        for one in self._atomic:
            if not isinstance(one, AtomicLine):
                raise TypeError(f"WeakField: a line is a name, such as 'Fe I 6302.5', or an AtomicLine; found {one!r}")
            if [other.name for other in self._atomic].count(one.name) > 1:
                raise ValueError(f"WeakField: {one.name} is given twice")
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
        return ("b_los",) if self.linear is None else ("b_los", "b_q", "b_u")

    @property
    def derived(self) -> Mapping[str, u.UnitBase]:
        return {} if self.linear is None else {"b_trans": u.G, "azimuth": u.deg}

    def declare(self) -> Mapping[str, Parameter]:
        fields = super().declare()
        return {name: fields[name] for name in self.smooth} | self.nuisances()

    @property
    def linear_parameters(self) -> tuple[str, ...]:
        return tuple(self.declare())

    # -- from the data -----------------------------------------------------------------------------

    def prepare(self, observation) -> dict[str, torch.Tensor]:
        """I, its variance, the matrices of its derivatives, and the centre and splitting of the line at each sample."""
        intensity, variance = observation.with_stokes("I").samples()
        known = self._known(observation, intensity)
        x = np.asarray(observation.x, float)
        mean = x if x.ndim == 1 else x.mean(1)
        if len(np.unique(mean)) < len(mean):
            raise ValueError(
                f"{len(mean) - len(np.unique(mean))} wavelengths occur more than once: the derivative of I needs each "
                "once; average those samples, or cut them out of the cube"
            )
        unit = observation.spectral_unit
        rests = np.array([rest.to_value(unit) for rest in self._rests])
        owner = assign_samples(mean, rests, [one.name for one in self._atomic], self._foreign(mean, rests, unit))
        used = (
            observation.used if observation.used is not None and observation.used.ndim == 1 else np.ones_like(mean) > 0
        )
        shift = torch.as_tensor(x - mean[:, None] if x.ndim > 1 else np.zeros((1, 1)))
        centers, edges, strengths = [], [], []
        for number, one in enumerate(self._atomic):
            own = (owner == number) & known
            self._check_window(one, own & used, own)
            # Where a window holds one side of the line only, the line's centre is not in it.
            own = own & used if mean[own & used].min() <= rests[number] <= mean[own & used].max() else own
            window = LineWindow(mean[own], rests[number], intensity[torch.as_tensor(np.flatnonzero(own))])
            centers.append(window.center + shift.mean(0))
            # In whole quarters of a sample, so that one pixel more or less in the mean hardly ever moves an edge.
            quarter = 0.25 * window.spacing
            width, margin = quarter * round(window.doppler_width / quarter), 2 * quarter
            if self.core_width is not None:
                width, margin = self.core_width.to_value(unit), 0.0
            lorentz = LORENTZ_SPLITTING * self._rests[number].to_value(u.AA) ** 2 * u.AA.to(unit)
            edges.append((max(width - margin, margin), width + margin))
            strengths.append((lorentz * one.g_eff, lorentz**2 * self._transverse_factor(one), window.doppler_width))
        index, own = torch.as_tensor(np.maximum(owner, 0)), torch.as_tensor((owner >= 0) & known).double()[:, None]
        splitting, squared, doppler = (torch.tensor(v, dtype=torch.float64) for v in zip(*strengths, strict=True))
        core, wing = torch.tensor(edges, dtype=torch.float64).T
        first, second = (self._matrix(x, known, order) for order in (1, 2))
        lengthwise = -splitting[index][:, None] * first.mean(-1)
        modes = EvenModes(lengthwise, own[:, 0] > 0)
        center = torch.stack(centers)
        return {
            "intensity": intensity if known.all() else torch.where(torch.as_tensor(known)[:, None], intensity, 0.0),
            "variance": self._variance(variance, known),
            "slope": first,
            "bend": second,
            # One line: one centre a pixel; several: that of the line that a sample belongs to.
            "center": center if len(self._atomic) == 1 else center[index],
            "splitting": splitting[index][:, None],
            "squared_splitting": squared[index][:, None],
            "own": own,
            "core": core[index][:, None],
            "wing": wing[index][:, None],
            "modes": modes.vectors[..., None],
            "mode_slope": modes.slope[..., None],
            "mode_noise": modes.values[:, None],
            "strongest": (_STRONG * doppler / splitting.abs().clamp_min(1e-300)).amin()[None],
            "flat": self._flat(first, splitting[index], intensity, variance, observation),
        }

    def _foreign(self, x: np.ndarray, rests: np.ndarray, unit: u.UnitBase) -> np.ndarray:
        """Known lines among the wavelengths that are not fitted: samples nearest to them tell of other factors."""
        medium = self.medium or "air"
        places = [one.wavelength("vacuum" if one.air is None else medium).to_value(unit) for one in all_lines()]
        # Nearer than that, an entry is one of the lines that are fitted, by another source.
        return np.array([p for p in places if x.min() <= p <= x.max() and np.abs(p - rests).min() > _APART * p])

    def _transverse_factor(self, one: AtomicLine) -> float:
        # Without b_q and b_u, or with both held fixed, a line needs no second-order factor.
        if self.linear is None or all(self.parameters[name].fixed for name in ("b_q", "b_u")):
            return 0.0
        return one.G

    @staticmethod
    def _check_window(one: AtomicLine, used: np.ndarray, known: np.ndarray) -> None:
        if used.sum() < 3:
            raise ValueError(
                f"the window or mask leaves {used.sum()} of the {known.sum()} samples of {one.name}; expected three or "
                "more: take in more of the line, or leave the line out of the model"
            )

    @staticmethod
    def _known(observation, intensity: torch.Tensor) -> np.ndarray:
        """At which wavelengths I is known, in most pixels, or outside the window in all: the derivative's grid."""
        if bool(torch.isfinite(intensity.sum())):
            return np.ones(len(intensity), bool)
        missing = torch.isnan(intensity).double().mean(1).numpy()
        used = observation.used
        outside = ~used if used is not None and used.ndim == 1 else np.zeros(len(missing), bool)
        known = missing <= np.where(outside, 0.0, 0.5)
        return known if known.sum() >= 3 else np.ones_like(known)

    @staticmethod
    def _variance(variance: torch.Tensor, known: np.ndarray) -> torch.Tensor:
        if variance.ndim <= 1:
            return variance.reshape(1, 1)
        return variance if known.all() else torch.where(torch.as_tensor(known)[:, None], variance, 0.0)

    def _matrix(self, x: np.ndarray, known: np.ndarray, order: int) -> torch.Tensor:
        """A derivative matrix, ``(n, n, 1)``, or one for each pixel where grids differ by more than a shift.

        It is zero where nothing is known of I.
        """
        if not known.all():
            part = self._matrix(x[known], known[known], order)
            whole = part.new_zeros((len(x), len(x), part.shape[-1]))
            place = torch.as_tensor(np.flatnonzero(known))
            whole[place[:, None], place] = part
            return whole
        grids = [x] if x.ndim == 1 else list(x.T)
        steps = np.diff(grids[0])
        if len(grids) == 1 or all(np.allclose(np.diff(g), steps, rtol=1e-6) for g in grids[1:]):
            grids = grids[:1]
        return torch.as_tensor(
            np.stack([derivative_matrix(g - g.mean(), order=order, method=self.derivative) for g in grids], -1)
        )

    @staticmethod
    def _flat(matrix, splitting, intensity, variance, observation) -> torch.Tensor:
        """The sigma of B_los where the derivative is twice what noise alone makes: above it a profile is flat."""
        few = observation.with_stokes("V").block(np.arange(min(observation.grid.size, 256)))
        weight = few.weight[few.weight > 0]
        noise = float(weight.median()) ** -0.5 if weight.numel() else 1.0
        own = float(variance.flatten()[:: max(1, variance.numel() // 4096)].median())
        power = (splitting[:, None].square() * matrix[..., 0].square()).sum()
        return (noise / (2 * own * power).sqrt())[None] if own > 0 else torch.full((1,), torch.inf).double()

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
        return field_quadratic(self, x, data, weight, **inputs)

    # -- what follows -------------------------------------------------------------------------------

    def derive(self, b_q=None, b_u=None, **parameters):
        if self.linear is None:
            return {}
        azimuth = torch.rad2deg(0.5 * torch.atan2(b_u, b_q)) + self.reference_angle
        return {"b_trans": (b_q.square() + b_u.square()).sqrt().sqrt(), "azimuth": torch.remainder(azimuth, 180.0)}

    def far_from_linear(self, values, sigma) -> torch.Tensor:
        return _significance(values, sigma) < _LINEAR**2

    def spread(self, values, sigma, covariance) -> dict[str, torch.Tensor]:
        b_trans, azimuth = spread_of_transverse(
            values["b_q"], values["b_u"], sigma["b_q"].square(), sigma["b_u"].square(), covariance("b_q", "b_u")
        )
        return {"b_trans": b_trans, "azimuth": azimuth}

    def flag(self, values, sigma, *, strongest, flat) -> torch.Tensor:
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
