"""Two atmospheres side by side in one pixel."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.model import Model
from .milne_eddington import MilneEddington

__all__ = ["two_atmospheres"]

_SHARED = ("doppler_width", "line_strength", "damping", "source_constant", "source_gradient")


def two_atmospheres(
    lines, *, shared: Sequence[str] = _SHARED, labels: tuple[str, str] = ("first", "second"), **options
) -> Model:
    r"""Two Milne-Eddington atmospheres that share a pixel, each with a field and a velocity of its own.

    Their light is added, I = f I₁ + (1 - f) I₂, with f the ``filling_factor`` of the first. One atmosphere's V is
    antisymmetric about the line's centre; lobes of different size, three lobes or one, and V that is shifted against I
    need two.

    Parameters
    ----------
    lines
        As of `MilneEddington`.
    shared : sequence of str
        Parameters that both have in common. By default all but the field, the velocity and the filling factor, so that
        the light has five numbers more than that of one atmosphere. With the source function free in both the filling
        factor has nothing to be told from, for only its products with the source function are seen: it is refused.
    labels : tuple of str
        What the two are called in results: ``first.velocity``, ``second.velocity`` and so on.
    **options
        Further ones of `MilneEddington`, for both.

    Returns
    -------
    Model
        A sum; ``tie``, ``fix`` and the like work on it as on any.

    Raises
    ------
    ValueError
        If a shared name is no parameter, if the source function is not shared, or if an option does not go with two.

    Notes
    -----
    Nothing says which of the two is the first: maps of ``first.velocity`` may jump where the roles change. Priors such
    as `sunpy_specfit.Hinge`, or bounds, can settle it.

    Examples
    --------
    >>> import sunpy_specfit as specfit
    >>> model = specfit.two_atmospheres(["Fe I 6301.5", "Fe I 6302.5"])
    >>> [name for name, one in model.parameters.items() if name.startswith("second") and one.tie is None]
    ['second.field_strength', 'second.inclination', 'second.azimuth', 'second.velocity']
    """
    for name in ("offset", "crosstalk"):
        if options.get(name):
            raise ValueError(f"two_atmospheres: {name} belongs to the pixel, not to each of two atmospheres in it")
    first, second = (
        MilneEddington(lines, part=part, label=label, **options)
        for part, label in zip(("first", "second"), labels, strict=True)
    )
    known = [name for name in first.parameters if name != "filling_factor"]
    shared = (shared,) if isinstance(shared, str) else tuple(shared)
    shared = [*shared, *(["macroturbulence"] if options.get("macroturbulence") and shared == _SHARED else [])]
    wrong = [name for name in shared if name not in known]
    if wrong:
        raise ValueError(f"two_atmospheres: {', '.join(wrong)} cannot be shared; there are {', '.join(known)}")
    if not {"source_constant", "source_gradient"} <= set(shared):
        raise ValueError(
            "two_atmospheres: source_constant and source_gradient have to be shared, else nothing tells the filling "
            "factor: only its products with them are seen"
        )
    model = (first + second).tie(f"{labels[1]}.filling_factor", f"{labels[0]}.filling_factor", factor=-1.0, offset=1.0)
    for name in shared:
        model = model.tie(f"{labels[1]}.{name}", f"{labels[0]}.{name}")
    return model
