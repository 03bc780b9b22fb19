"""Which of two azimuths 180 degrees apart: the interface of those who can tell."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import astropy.units as u
import numpy as np

from .arguments import Configurable
from .solar_frame import SolarFrame

__all__ = ["Disambiguator", "FieldMaps"]


@dataclass(frozen=True)
class FieldMaps:
    """What a disambiguator is given: maps ``(ny, nx)`` of the field and its errors, in the frame of the sky.

    Attributes
    ----------
    b_los, b_trans : `~astropy.units.Quantity`
        Positive towards the observer; and across the line of sight. NaN where nothing is known.
    azimuth : `~astropy.units.Quantity`
        Of the direction as it stands, χ in deg, counter-clockwise from solar north: the field across the line of sight
        is ± b_trans · (-sin χ towards the west, cos χ towards the north), and the sign is the question.
    b_los_error, b_trans_error, azimuth_error : `~astropy.units.Quantity`
        Standard deviations.
    undecided : `numpy.ndarray`
        Where there is something to decide, bool: a transverse field that the data tell.
    frame : `SolarFrame` or None
        Where the pixels are on the Sun; None for maps without solar coordinates.
    """

    b_los: u.Quantity
    b_trans: u.Quantity
    azimuth: u.Quantity
    b_los_error: u.Quantity
    b_trans_error: u.Quantity
    azimuth_error: u.Quantity
    undecided: np.ndarray
    frame: SolarFrame | None

    def transverse(self) -> tuple[u.Quantity, u.Quantity]:
        """The field across the line of sight, towards solar west and north, with the azimuth as it is."""
        return -self.b_trans * np.sin(self.azimuth), self.b_trans * np.cos(self.azimuth)


class Disambiguator(Configurable):
    """Tells where an azimuth is to be turned by 180 degrees.

    A plugin returns such a class as it does a model; a plain function that does what `choose` does serves as well.
    """

    @abstractmethod
    def choose(self, field: FieldMaps) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Where to turn azimuths, and where that is convincing.

        Returns
        -------
        turn : `numpy.ndarray`
            bool ``(ny, nx)``.
        convinced : `numpy.ndarray`, optional
            bool; without it all answers are. Elsewhere the azimuth stays ambiguous, and is said to be.
        """
