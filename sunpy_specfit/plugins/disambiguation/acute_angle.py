"""The azimuth that makes an acute angle with a reference field."""

from __future__ import annotations

import astropy.units as u
import numpy as np

from ...core.disambiguator import Disambiguator, FieldMaps
from .potential_field import potential_transverse

__all__ = ["AcuteAngle"]

# Closer to the limb than this cosine, and wider than this part of the solar radius, no plane stands for the surface.
_LOWEST, _WIDEST = 0.3, 0.5
# Pixels by which places may be off even steps.
_UNEVEN = 1.0


class AcuteAngle(Disambiguator):
    """Of two directions that of the smaller angle to a reference field, where that is clearly smaller.

    Parameters
    ----------
    reference : tuple of two `~astropy.units.Quantity`, optional
        The field's components towards solar west and north, maps in G. By default those of the potential field that has
        the observed ``b_los``, on the plane that touches the Sun in the middle of the map.
    margin : `~astropy.units.Quantity`
        Where the angle is that close to 90 degrees nothing is decided; nor where it is within two standard deviations
        of it, those of the azimuth and of the potential field's direction together.

    Notes
    -----
    Nobody knows what flux lies outside the map. There are two potential fields, therefore: one with nothing outside,
    the other with the map mirrored at its edges; where they do not agree nothing is decided.

    The field of an active region is not potential. The method goes wrong where it is sheared by more than 90 degrees
    against the potential one, and no margin helps there. Of the methods that Metcalf et al. (2006) compared acute
    angles are the simplest, and not the best.

    References
    ----------
    Metcalf et al. (2006), https://doi.org/10.1007/s11207-006-0170-x; Alissandrakis (1981), 1981A&A...100..197A

    Examples
    --------
    >>> import astropy.units as u
    >>> import sunpy_specfit as specfit
    >>> specfit.AcuteAngle(margin=10 * u.deg)
    AcuteAngle(margin=<Quantity 10. deg>)
    """

    name = "acute_angle"

    def __init__(self, reference: tuple[u.Quantity, u.Quantity] | None = None, *, margin: u.Quantity = 20 * u.deg):
        self.reference = reference
        self.margin = margin
        if not (hasattr(margin, "unit") and 0 * u.deg <= margin < 90 * u.deg):
            raise ValueError(f"AcuteAngle: margin is an angle from 0 to 90 degrees, found {margin!r}")

    def choose(self, field: FieldMaps) -> tuple[np.ndarray, np.ndarray]:
        """Where the angle is obtuse, and where it is clearly one or the other.

        Raises
        ------
        ValueError
            If no potential field can be had of the map.
        """
        references, error = self._references(field)
        answers = [self._compare(field, reference, error) for reference in references]
        turn, convinced = answers[0]
        for other, sure in answers[1:]:
            convinced = convinced & sure & (turn == other)
        return turn, convinced

    def _compare(self, field: FieldMaps, reference, error: float) -> tuple[np.ndarray, np.ndarray]:
        west, north = (part.to_value(u.G) for part in field.transverse())
        size = np.hypot(*reference)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = (west * reference[0] + north * reference[1]) / (np.hypot(west, north) * size)
            away = np.rad2deg(np.abs(np.arcsin(np.clip(cosine, -1, 1))))
            spread = np.hypot(field.azimuth_error.to_value(u.deg), np.rad2deg(error / size))
            convinced = (away > np.maximum(self.margin.to_value(u.deg), 2 * spread)) & (size > 0)
        return cosine < 0, convinced

    def _references(self, field: FieldMaps):
        """One or several reference fields, and the error of each component, in G."""
        if self.reference is not None:
            parts = [u.Quantity(part).to_value(u.G) for part in self.reference]
            if any(part.shape != field.b_los.shape for part in parts):
                raise ValueError(
                    f"AcuteAngle: reference has shapes {[part.shape for part in parts]}, the map {field.b_los.shape}"
                )
            return [parts], 0.0
        frame = field.frame
        if frame is None:
            raise ValueError(
                "AcuteAngle: this map has no helioprojective coordinates of two axes, without which nothing tells how "
                "its pixels lie on the Sun: give reference="
            )
        mu = frame.mu
        if not np.nanmin(mu) >= _LOWEST or np.isnan(mu).any():
            raise ValueError(
                f"AcuteAngle: a part of this map is nearer to the limb than mu = {_LOWEST} or beyond it, where the "
                "surface is no plane: give a part of the map, or reference="
            )
        widest = max(np.ptp(frame.x), np.ptp(frame.y))
        if widest > _WIDEST:
            raise ValueError(
                f"AcuteAngle: this map is {widest:.2f} solar radii wide, which no plane is: give parts of it"
            )
        if frame.unevenness > _UNEVEN:
            raise ValueError("AcuteAngle: the pixels of this map do not lie in even steps: give reference=")
        b_los = field.b_los.to_value(u.G)
        known = np.isfinite(b_los)
        given = np.where(known, b_los, 0.0), frame.steps, frame.vertical
        fields = [potential_transverse(*given, beyond=beyond) for beyond in ("nothing", "mirror")]
        sigma = field.b_los_error.to_value(u.G)
        # Each wave's component across is at the most as large as that along, times the tilt of the surface.
        sigma = np.median(sigma[known & np.isfinite(sigma)]) if known.any() else np.inf
        return fields, sigma / frame.vertical[2]
