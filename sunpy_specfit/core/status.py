"""The per-pixel status of a fit."""

from enum import IntFlag

__all__ = ["Status"]


class Status(IntFlag):
    """Flags that say how far the numbers of one pixel can be trusted; they combine by bits.

    A pixel that converged and has nothing to report is exactly ``Status.CONVERGED``.

    Examples
    --------
    >>> from sunpy_specfit import Status
    >>> Status(9).name
    'CONVERGED|BAD_DATA'
    """

    CONVERGED = 1
    """The solver stopped because nothing was left to gain."""
    MAX_ITERATIONS = 2
    """The solver ran out of iterations: the values are its last ones."""
    MASKED = 4
    """No usable sample: the values are NaN and masked."""
    BAD_DATA = 8
    """Some unmasked samples were NaN, infinite or had no valid sigma; they were left out."""
    AT_BOUND = 16
    """A parameter sits on its bound: its sigma is that of the unbounded problem."""
    UNCONSTRAINED = 32
    """The data do not determine some parameter: its sigma is infinite."""
    LOW_SIGNAL = 64
    """The signal is too weak for the errors of the covariance to be Gaussian."""
    UNDERDETERMINED = 128
    """Fewer usable samples than free parameters, and no prior: not fitted, values are NaN."""
    AMBIGUOUS = 256
    """More than one solution describes the data equally well."""
    NO_LINEAR_SIGNAL = 512
    """No linear polarisation above the noise: transverse field and azimuth are upper limits."""
    WIDTH_BELOW_THERMAL = 1024
    """The line is narrower than the thermal width: no non-thermal velocity exists."""
    FAILED = 2048
    """The model gave no finite value from any start: the values are NaN."""
    STRONG_FIELD = 4096
    """The field splits the line too much for the approximation that was used."""
    NO_POLARIZATION = 8192
    """No polarisation above three sigma."""
    FLAT_PROFILE = 16384
    """The intensity shows no line to measure with."""
