"""Magnetic fields by the weak-field approximation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import astropy.units as u
import numpy as np
import torch

from ...core.model import Model
from ...core.parameter import Auxiliary, Parameter
from ...core.status import Status
from ...data import AtomicLine, line
from ...numerics.derivative import derivative_matrix
from . import normal_equations
from .profile import LineWindow, assign_samples

__all__ = ["WeakField"]

# Splitting of a unit Landé factor in Å for a wavelength in Å and a field in G, over the wavelength squared.
_LORENTZ = 4.6686e-13
# Where the splitting exceeds this part of the Doppler width, a Gaussian profile's slope is ten per cent off.
_STRONG = 0.45
# Signals below so many sigma: the transverse field's errors are no longer Gaussian; there is none at all.
_LINEAR, _DETECTED = 4.0, 3.0


class WeakField(Model):
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
        sample belongs to the line nearest to it.
    linear : {"wing", "core", "both"}
        Which samples tell b_q and b_u. The wing's formula has the wrong sign at the line's centre, and the core's away
        from it, so each is used in its own part only.
    core_width : `~astropy.units.Quantity`, optional
        How far the core reaches to either side of the centre; by default the Doppler width of the mean profile.
    medium : {"air", "vacuum"}, optional
        Of the data's wavelengths, for lines given by name; by default air, and vacuum below 2000 Å.
    offset : bool
        Whether Q, U and V each have a constant offset, ``offset_q`` and so on.
    crosstalk : bool
        Whether a part of I is in Q, U and V each, ``crosstalk_q`` and so on.
    derivative : {"spline", "three_point"}
        How dI/dλ is taken: by a cubic spline or by the parabola through three neighbours, which costs 5 to 7 G in
        common lines.
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

    Errors in variables: the noise of I enters the right-hand side with the field. For V, whose noise is even along the
    line, the fit weighs each mode of the derivative by its own noise, σ_V² + (C g B_los)² σ_I² D Dᵀ with one round of
    re-weighting; elsewhere the errors count it and the weights do not. Without it pulls reach 1.4 to 5 at a kilogauss in
    Fe I 6302.5.

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
    stokes = "QUV"
    smooth = ("b_los", "b_q", "b_u")
    derived: Mapping[str, u.UnitBase] = {"b_trans": u.G, "azimuth": u.deg}
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
    core = Auxiliary("spectral")

    def __init__(
        self,
        lines: str | AtomicLine | Sequence[str | AtomicLine],
        *,
        linear: str = "wing",
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
        # "linear" is also what a model calls its linear parameters.
        self.core_width = core_width
        self.medium = medium
        self.offset = bool(offset)
        self.crosstalk = bool(crosstalk)
        self.derivative = derivative
        self.stokes_sign = stokes_sign
        self.stokes_reference = stokes_reference
        self.label = label
        self._linear_part = linear
        self._check(linear)
        given = [lines] if isinstance(lines, (str, AtomicLine)) else list(lines)
        if not given:
            raise ValueError("WeakField needs a line, found none; for example WeakField('Fe I 6302.5')")
        self._lines = [line(one) if isinstance(one, str) else one for one in given]
        for one in self._lines:
            if not isinstance(one, AtomicLine):
                raise TypeError(f"WeakField: a line is a name or an AtomicLine, found {one!r}")
            if one.blend:
                raise ValueError(
                    f"WeakField: {one.name} is a blend of several lines with Landé factors of their own, to which the "
                    "weak-field approximation does not apply as one line"
                )
        self._rests = [one.wavelength(medium or ("vacuum" if one.air is None else "air")) for one in self._lines]

    def _check(self, linear: str) -> None:
        if linear not in ("wing", "core", "both"):
            raise ValueError(f"WeakField: linear is 'wing', 'core' or 'both', found {linear!r}")
        if self.derivative not in ("spline", "three_point"):
            raise ValueError(f"WeakField: derivative is 'spline' or 'three_point', found {self.derivative!r}")
        if self.core_width is not None and not (
            isinstance(self.core_width, u.Quantity) and self.core_width.isscalar and self.core_width > 0 * u.AA
        ):
            raise ValueError(f"WeakField: core_width is a positive wavelength such as 0.1 * u.AA, found {self.core_width!r}")
        for name, sign in (self.stokes_sign or {}).items():
            if name not in ("Q", "U", "V") or sign not in (1, -1):
                raise ValueError(f"WeakField: stokes_sign maps 'Q', 'U' or 'V' to 1 or -1, found {name!r}: {sign!r}")
        if self.stokes_reference is not None and not u.Quantity(self.stokes_reference).unit.is_equivalent(u.deg):
            raise u.UnitConversionError(f"WeakField: stokes_reference is an angle, found {self.stokes_reference!r}")

    def arguments(self) -> dict:
        return super().arguments()

    @property
    def rest_wavelength(self) -> u.Quantity:
        """Of the first line; windows in km/s count from it."""
        return self._rests[0]

    def declare(self) -> Mapping[str, Parameter]:
        declared = dict(super().declare())
        if self.offset:
            declared |= {f"offset_{s}": Parameter("data", default=0.0, description="offset") for s in "quv"}
        if self.crosstalk:
            declared |= {f"crosstalk_{s}": Parameter(None, default=0.0, description="part of I") for s in "quv"}
        return declared
