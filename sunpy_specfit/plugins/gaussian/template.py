"""Fit templates of eispac as models."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import astropy.units as u
import numpy as np

from ...core.model import Model
from .gaussian import Gaussian
from .polynomial import Polynomial

__all__ = ["from_eispac_template", "options_from_eispac_template"]

_NAMES = ("amplitude", "center", "width")
_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50}


def from_eispac_template(template) -> Model:
    """A model from a fit template of eispac: its lines, background, limits, fixed values and ties.

    Every Gaussian becomes a `Gaussian` labelled by its ion and wavelength, such as ``"fe_12_192.39"``, with the
    wavelength of the template's line identification as rest wavelength; ``n_poly`` coefficients become a `Polynomial`.

    Parameters
    ----------
    template : `eispac.core.EISFitTemplate`
        What ``eispac.read_template`` returns.

    Returns
    -------
    `Model`
        Without the template's initial values, since start values are found in the data; those are in
        `options_from_eispac_template`.

    Raises
    ------
    TypeError
        If it is not a template.
    ValueError
        If a tie is not of the kind ``a * p[i] + b``, or the higher terms of the background are constrained: eispac's
        polynomial is about wavelength zero and has no like here.

    Notes
    -----
    eispac labels its data erg / (cm² s sr), although they are per Å. Amplitudes come in the unit of the
    cube that is fitted; with the unit corrected to erg / (cm² s sr Å), ``intensity`` comes in erg / (cm² s sr).
    As in mpfit, limits of a tied parameter do not count.

    Examples
    --------
    >>> import eispac  # doctest: +SKIP
    >>> import sunpy_specfit as specfit
    >>> path = eispac.data.get_fit_template_filepath("fe_12_195_119.2c.template.h5")  # doctest: +SKIP
    >>> model = specfit.from_eispac_template(eispac.read_template(path))  # doctest: +SKIP
    >>> [component.label for component in model.components]  # doctest: +SKIP
    ['fe_12_195.12', 'fe_12_195.18', None]
    """
    settings, parinfo = _read(template)
    n_lines, n_terms = int(settings["n_gauss"]), int(settings["n_poly"])
    waves = [_rest_wavelength(settings["line_ids"][i], parinfo[3 * i + 1]["value"]) for i in range(n_lines)]
    labels = _labels(settings["line_ids"], waves)
    model: Model = Gaussian(waves[0] * u.AA, label=labels[0])
    for wave, label in zip(waves[1:], labels[1:], strict=True):
        model = model + Gaussian(wave * u.AA, label=label)
    if n_terms:
        model = model + Polynomial(n_terms - 1)
    names = [f"{label}.{name}" for label in labels for name in _NAMES]
    names += [f"polynomial.c{i}" for i in range(n_terms)]
    units = [unit for _ in labels for unit in (1, u.AA, u.AA)] + [1] * n_terms
    for index, (info, name, unit) in enumerate(zip(parinfo, names, units, strict=True)):
        if index >= 3 * n_lines and n_terms > 1:
            if info["fixed"] or any(info["limited"]) or str(info["tied"]).strip():
                raise ValueError(
                    f"the template constrains coefficient {index - 3 * n_lines} of its background of {n_terms} terms, "
                    "a polynomial about wavelength zero; Polynomial is about the middle of the window, so remove the "
                    "constraint"
                )
            continue
        model = _constrain(model, info, name, unit, names, units)
    return model


def options_from_eispac_template(template) -> dict[str, Any]:
    """The template's initial values and wavelength range as options of `sunpy_specfit.fit`.

    Parameters
    ----------
    template : `eispac.core.EISFitTemplate`

    Returns
    -------
    dict
        ``init``, a mapping of parameter names to values (amplitudes as numbers in the data's unit), and ``window``.

    Examples
    --------
    >>> import sunpy_specfit as specfit
    >>> model = specfit.from_eispac_template(template)  # doctest: +SKIP
    >>> specfit.fit(cube, model, **specfit.options_from_eispac_template(template))  # doctest: +SKIP
    """
    settings, parinfo = _read(template)
    model = from_eispac_template(template)
    init = {}
    n_lines = int(settings["n_gauss"])
    for i, component in enumerate(model.components[:n_lines]):
        for name, unit, info in zip(_NAMES, (1, u.AA, u.AA), parinfo[3 * i : 3 * i + 3], strict=True):
            if not component.parameters[name].fixed and component.parameters[name].tie is None:
                init[model.resolve(f"{component.label}.{name}")] = float(info["value"]) * unit
    if int(settings["n_poly"]) == 1 and not model.components[-1].parameters["c0"].fixed:
        init["c0"] = float(parinfo[3 * n_lines]["value"])
    return {"init": init, "window": [float(settings["wmin"]), float(settings["wmax"])] * u.AA}


def _read(template) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    try:
        settings, parinfo = template.template, template.parinfo
        n_lines, n_terms = int(settings["n_gauss"]), int(settings["n_poly"])
    except (AttributeError, KeyError, TypeError):
        raise TypeError(
            f"expected a template as eispac.read_template returns it, found {type(template).__name__}"
        ) from None
    if n_lines < 1 or len(parinfo) != 3 * n_lines + n_terms:
        raise ValueError(
            f"the template has {n_lines} Gaussians and {n_terms} background terms, but {len(parinfo)} parameters; "
            "expected three per Gaussian and one per term"
        )
    return settings, parinfo


def _constrain(model: Model, info, name: str, unit, names: list[str], units: list) -> Model:
    tie = str(info["tied"]).strip()
    if tie:
        target, factor, offset = parse_tie(tie)
        if not target < len(names):
            raise ValueError(f"the tie {tie!r} of {name!r} names parameter {target}, but there are only {len(names)}")
        if units[target] != unit:
            raise ValueError(f"the tie {tie!r} of {name!r} is to {names[target]!r}, which has another unit")
        return model.tie(name, names[target], factor=factor, offset=offset * unit)
    if info["fixed"]:
        return model.fix({name: float(info["value"]) * unit})
    lower, upper = (
        float(limit) * unit if limited else None for limited, limit in zip(info["limited"], info["limits"], strict=True)
    )
    if name.endswith(".width") and lower is None:
        lower = 0 * unit  # a negative width means nothing
    return model.bound({name: (lower, upper)})


def parse_tie(expression: str) -> tuple[int, float, float]:
    """A tie in mpfit's spelling as (index, factor, offset), for ``factor * p[index] + offset``.

    Examples
    --------
    >>> from sunpy_specfit.plugins.gaussian.template import parse_tie
    >>> parse_tie("p[1]+0.06"), parse_tie("p[0] / 2")
    ((1, 1.0, 0.06), (0, 0.5, 0.0))
    """
    try:
        target, factor, offset = _affine(ast.parse(expression, mode="eval").body)
    except (SyntaxError, TypeError, ZeroDivisionError):
        target = None
    if target is None or factor == 0:
        raise ValueError(f"the tie {expression!r} is not of the kind a * p[i] + b, the only one that models know")
    return target, factor, offset


def _affine(node) -> tuple[int | None, float, float]:
    match node:
        case ast.Constant(value=int() | float() as value):
            return None, 0.0, float(value)
        case ast.Subscript(value=ast.Name(id="p"), slice=ast.Constant(value=int() as index)):
            return index, 1.0, 0.0
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            target, factor, offset = _affine(operand)
            return target, -factor, -offset
        case ast.BinOp(left=left, op=operation, right=right):
            (i, a, b), (j, c, d) = _affine(left), _affine(right)
            match operation:
                case ast.Add() | ast.Sub() if i is None or j is None:
                    sign = 1 if isinstance(operation, ast.Add) else -1
                    return (j if i is None else i), a + sign * c, b + sign * d
                case ast.Mult() if i is None or j is None:
                    return (j if i is None else i), a * d + c * b, b * d
                case ast.Div() if j is None:
                    return i, a / d, b / d
    raise TypeError("not affine")


def _rest_wavelength(line_id: str, center: float) -> float:
    try:
        wave = float(str(line_id).split()[-1])
    except (ValueError, IndexError):
        return float(center)
    # A placeholder such as "unknown I 001.000" says nothing.
    return wave if abs(wave / center - 1) < 0.01 else float(center)


def _labels(line_ids, waves: list[float]) -> list[str]:
    """``ion_wavelength`` with as many digits as tell the lines apart, else numbered."""
    for digits in (2, 3):
        labels = [f"{_ion(line_id)}_{wave:.{digits}f}" for line_id, wave in zip(line_ids, waves, strict=True)]
        if len(set(labels)) == len(labels):
            return labels
    return [
        label if labels.count(label) == 1 else f"{label}_{labels[: i + 1].count(label)}"
        for i, label in enumerate(labels)
    ]


def _ion(line_id: str) -> str:
    """``fe_12`` for "Fe XII 192.394"."""
    words = str(line_id).split()
    element = words[0].lower() if words else "unknown"
    roman = words[1].upper() if len(words) > 1 else ""
    if element == "unknown" or not roman or set(roman) - set(_ROMAN):
        return element
    digits = [_ROMAN[letter] for letter in roman]
    number = int(np.sum([-d if any(d < later for later in digits[i + 1 :]) else d for i, d in enumerate(digits)]))
    return f"{element}_{number:02d}"
