"""What the light should look like: the interface of every model."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import astropy.units as u
import torch

from .arguments import Configurable
from .chart import Chart
from .constraints import constraint_calls, with_bounds
from .names import component_keys, unknown_name
from .operator import Operator
from .parameter import Auxiliary, Parameter, Tie, as_quantity
from .status import Status

__all__ = ["Model"]


class Model(Configurable):
    """One pixel's physics as a stateless function of tensors.

    A subclass declares its parameters as class attributes, astropy.modeling style, and writes `evaluate`.
    The engine batches it over pixels, differentiates it, finds start values and applies bounds and units.
    Models are immutable: `fix`, `free`, `bound`, `tie` and `share` return new ones. ``a + b`` adds the
    light of two models, ``a | operator`` sends it through an instrument.

    Attributes
    ----------
    name : str
        The registered name.
    label : str
        What distinguishes this component in a sum; by default the registered name.
    data_axis : {"spectral", "channel", None}
        The axis of the data that one pixel's samples lie along.
    stokes : str
        The Stokes parameters it speaks of, such as ``"I"`` or ``"IQUV"``. With more than one,
        `evaluate` returns ``(stokes, n)``.
    linear_parameters : tuple of str
        Parameters that enter linearly, which start-value searches and closed forms use.
    derived : mapping of str to unit
        Names and units of what `derive` returns; the units as in `Parameter`.
    smooth : tuple of str or None
        The quantities that ``Smooth()`` acts on when none is named; None for all fitted ones.
    undefined : mapping of str to `~sunpy_specfit.Status`
        Derived quantities that some parameters have none of (NaN), and the flag that says so.
    losses : tuple of str or None
        The values of ``loss`` that it can be fitted with; None for all.

    Examples
    --------
    >>> from sunpy_specfit import Model, Parameter
    >>> class Lorentzian(Model):
    ...     name = "lorentzian"
    ...     amplitude = Parameter("data", lower=0)
    ...     center = Parameter("spectral", location=True)
    ...     width = Parameter("spectral", lower=0)
    ...
    ...     def evaluate(self, x, amplitude, center, width):
    ...         return amplitude / (1 + ((x - center) / width) ** 2)
    >>> list(Lorentzian().parameters)
    ['amplitude', 'center', 'width']
    """

    data_axis: ClassVar[str | None] = "spectral"
    stokes: ClassVar[str] = "I"
    linear_parameters: tuple[str, ...] = ()
    derived: Mapping[str, Any] = MappingProxyType({})
    smooth: tuple[str, ...] | None = None
    undefined: Mapping[str, Status] = MappingProxyType({})
    losses: tuple[str, ...] | None = None
    label: str | None = None

    _class_parameters: ClassVar[Mapping[str, Parameter]] = MappingProxyType({})
    _class_auxiliaries: ClassVar[Mapping[str, Auxiliary]] = MappingProxyType({})
    _overrides: Mapping[str, Parameter] = MappingProxyType({})

    linearize = None
    """Optional analytic Jacobian, ``linearize(x, **parameters) -> (light, {name: derivative})``.

    In the batched form: x is ``(n, 1)`` or ``(n, pixels)``, parameters ``(pixels,)`` or ``(k, pixels)``,
    light ``(n, pixels)``, a derivative anything that broadcasts to it (with a leading k for vectors).
    The conformance kit holds it against automatic differentiation of `evaluate`.
    """

    start_values = None
    """Optional start values, ``start_values(x, data, weight, **auxiliary) -> {name: tensor}``.

    Batched as `linearize`; data and weight (1/sigma², 0 where unusable) are ``([stokes,] n, pixels)``.
    Names left out are found by the engine. A tensor ``(starts, pixels)`` gives several starts.
    """

    restart_values = None
    """Optional further starts for pixels whose chi-squared is poor, as
    ``restart_values(x, data, weight, values, attempt, draws, **auxiliary) -> {name: tensor (pixels,)}``.

    Batched as `linearize`. Values are those found so far, by name; attempts are counted from 0; draws are numbers from
    0 to 1, one for each parameter, the same for all pixels and others each time. Names left out stay as they were.
    """

    start_grid = None
    """Optional candidates for the engine's search, ``start_grid(x) -> {name: 1-D array}``.

    For non-linear parameters, in their physical units; x is the 1-D spectral axis (float64 numpy array).
    """

    quadratic = None
    """Optional closed form, for a model whose parameters all enter linearly.

    ``quadratic(x, data, weight, **auxiliary) -> (constant, matrix, vector, valid)``, batched as `linearize`: chi² of
    each pixel is constant - 2 vectorᵀ θ + θᵀ matrix θ, with θ the model's own parameters in declared order; constant
    ``(pixels,)``, matrix packed ``(k (k + 1) / 2, pixels)``, see `sunpy_specfit.numerics.packed`, vector
    ``(k, pixels)``; valid ``(pixels,)``, int64: how many samples it used. The spectra are then looked at once. It may
    know more of the noise than the weights say, as where an input of the model is itself measured. Weights may be
    expanded: one number in memory for all samples. `weigh` is left to it.
    """

    quadratic_in_place = None
    """Optional: the same, read off the cube itself, ``quadratic_in_place(x, data, weight, limit, dtype, **auxiliary)
    -> read``, with ``read(begin, end) -> (constant, matrix, vector, valid, peak, regular)`` of the pixels from one to
    before another.

    Data, and auxiliary inputs with a number a pixel, come as they lie in memory, see `InPlace`; the other inputs and x,
    ``(n, 1)``, in the internal frame and float64. All samples have one weight; what is beyond the limit is no
    measurement. dtype is what to return. To the quadratic come where all samples are measurements, bool ``(pixels,)``:
    the others are read again, one by one; and before it the size of the largest sample of those, a float. None where it
    cannot be done.
    """

    normal_equations = None
    """Optional: what a fit needs of all samples without their Jacobian,
    ``normal_equations(x, data, weight, **parameters, **auxiliary) -> (chi2, matrix, vector) or None``.

    Batched as `linearize`, for a model all of whose parameters are free: Σ weight residual², JᵀWJ packed, and
    JᵀW residual. None leaves it to `linearize`.
    """

    weigh = None
    """Optional: what samples count, ``weigh(x, weight, **auxiliary) -> weight``, batched, for a model that describes
    a part of its window only. It may set weights to zero, and nothing else."""

    flag = None
    """Optional: what a model has to say of its own answer,
    ``flag(values, sigma, **auxiliary) -> int32 (pixels,)``: bits of `~sunpy_specfit.Status`. Values and standard
    deviations of its parameters come by name, in physical units, as do the auxiliary inputs. Where it has an argument
    ``covariance`` it is given a function of two names that returns theirs, ``(pixels,)``."""

    far_from_linear = None
    """Optional: where derived quantities are no linear function of the parameters within their errors,
    ``far_from_linear(values, sigma) -> bool (pixels,)``. Their errors are then taken from draws."""

    spread = None
    """Optional: those errors where they are known without draws,
    ``spread(values, sigma, covariance) -> {name: (pixels,)}``, for pixels that are far from linear; NaN leaves a pixel
    to draws. The covariance is a function of two names, as that of `flag`."""

    derive_with_errors = None
    """Optional: all that `derive`, `far_from_linear` and `spread` lead to, in one look at each pixel,
    ``derive_with_errors(values, covariance) -> ({name: (value, sigma)}, settled)``.

    For parameters that are free numbers themselves: their values, float64 arrays ``(pixels,)``, and a function of two
    names that returns their covariance. Of what is not settled, bool ``(pixels,)``, the others are asked. None where it
    cannot be done."""

    chart: Chart | None = None
    """Optional: other numbers for some of the parameters, in which light and priors bend less, such as the components
    of a vector given by its length and angles. Solvers of coupled maps take their steps in them."""

    gather = None
    """Optional: one cube from what users have, ``gather(data, *, uncertainty, mask) -> (data, uncertainty, mask)``,
    for models whose data come in another form, such as a mapping of channels to images."""

    periods: Mapping[str, float] = MappingProxyType({})
    """The period of each derived quantity that is an angle, in its unit."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        parameters = dict(cls._class_parameters)
        auxiliaries = dict(cls._class_auxiliaries)
        for key, value in vars(cls).items():
            if isinstance(value, Parameter):
                parameters[key] = value
            elif isinstance(value, Auxiliary):
                auxiliaries[key] = value
            elif key in parameters and key in cls.__mro__[1]._class_parameters and value is None:
                del parameters[key]
        cls._class_parameters = MappingProxyType(parameters)
        cls._class_auxiliaries = MappingProxyType(auxiliaries)

    # -- what a subclass writes ------------------------------------------------------------------

    @abstractmethod
    def evaluate(self, x: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        """The light of one pixel.

        Parameters
        ----------
        x : `torch.Tensor`
            The data axis, ``(n,)``.
        **parameters : `torch.Tensor`
            Scalars, or ``(k,)`` for vectors, by name; auxiliary inputs follow as keywords.

        Returns
        -------
        `torch.Tensor`
            ``(n,)``, or ``(stokes, n)``.
        """

    def prepare(self, observation) -> dict[str, torch.Tensor]:
        """Auxiliary inputs taken from the observation once, in float64 and physical units.

        The last axis of each tensor is the pixel axis: of the length of the map, or 1 if shared. They are handed
        to `evaluate` (without that axis) and to `derive` as keywords, and never differentiated.
        """
        return {}

    def derive(self, **parameters: torch.Tensor) -> dict[str, torch.Tensor]:
        """Further quantities, elementwise over pixels, from parameters in physical units.

        It is given all parameters, and of the auxiliary inputs those that it names as arguments.
        """
        return {}

    def own_priors(self) -> tuple:
        """Priors without which the model has no answer, used where the user gives none of their kind."""
        return ()

    def vector_axis(self, name: str) -> tuple[str, u.Quantity | None]:
        """The world axis of a vector's map, fitted or derived: its name, and the places along it (None: 0, 1, ...)."""
        return name, None

    def declare(self) -> Mapping[str, Parameter]:
        """The parameters of this instance; override it where they depend on constructor arguments."""
        return self._class_parameters

    def wraps(self, name: str) -> bool:
        """Whether a fitted or derived quantity is an angle that comes in again at the other end."""
        parameter = self.parameters.get(name)
        return name in self.periods or parameter is not None and parameter.beyond == "wrap"

    def in_medium(self, medium: str) -> Model:
        """The same model for data whose wavelengths are in some medium, where it knows its lines in both.

        Parameters
        ----------
        medium : {"air", "vacuum", "unknown"}
            As far as the data's header tells.
        """
        return self

    def remarks(self) -> dict[str, str]:
        """What a result's meta should say of its quantities, such as the frame that angles are in."""
        return {}

    # -- what everybody reads --------------------------------------------------------------------

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Every parameter by name, with the bounds, ties and fixed values of this instance."""
        return {name: self._overrides.get(name, parameter) for name, parameter in self.declare().items()}

    @property
    def auxiliaries(self) -> dict[str, Auxiliary]:
        """Declared auxiliary inputs by name."""
        return dict(self._class_auxiliaries)

    @property
    def components(self) -> tuple[Model, ...]:
        """The models that are added; of a single model, itself."""
        return (self,)

    @property
    def operators(self) -> tuple[Operator, ...]:
        """The operators that the light passes, from left to right."""
        return ()

    def component_label(self) -> str:
        """The label in force: the one given, or the registered name."""
        return self.label or self.name or type(self).__name__.lower()

    def resolve(self, name: str) -> str:
        """The key under which a parameter is listed, from any accepted spelling of it.

        Raises
        ------
        KeyError
            If there is no such parameter; close matches are named.
        """
        known = self.parameters
        if name in known:
            return name
        label, _, bare = name.rpartition(".")
        if bare in known and label == self.component_label():
            return bare
        raise unknown_name(name, known, kind="parameter", owner=repr(self))

    def _full_name(self, key: str) -> str:
        for component, keys in zip(self.components, component_keys(self.components), strict=True):
            for name in component.parameters:
                if keys[name] == key:
                    return f"{component.component_label()}.{name}"
        raise KeyError(key)

    # -- constraints -----------------------------------------------------------------------------

    def _override(self, changes: Mapping[str, Parameter]) -> Model:
        new = copy.copy(self)
        new._overrides = MappingProxyType({**self._overrides, **changes})
        return new

    def _changed(self, values: Mapping[str, Any], change) -> Model:
        known = self.parameters
        return self._override(
            {(key := self.resolve(name)): change(known[key], value) for name, value in values.items()}
        )

    def fix(self, values: Mapping[str, Any] | str | None = None, /, *names: str, **keywords: Any) -> Model:
        """Hold parameters at given values, or at their start values.

        Parameters
        ----------
        values : mapping or str
            Name to value (`~astropy.units.Quantity`, number, or an array or `~ndcube.NDCube` over the map, such as
            one of an earlier result), or a bare name, which holds the parameter at its ``init``.
        *names : str
            Further bare names.
        **keywords
            The same as ``values``, for names that are identifiers.

        Examples
        --------
        >>> import astropy.units as u
        >>> import sunpy_specfit as specfit
        >>> line = specfit.Gaussian(195.119 * u.AA).fix(width=30 * u.mAA)
        >>> line
        Gaussian(<Quantity 195.119 Angstrom>).fix(width=<Quantity 30. mAngstrom>)
        """
        if isinstance(values, str):
            names, values = (values, *names), None
        changes = {**dict.fromkeys(names), **(values or {}), **keywords}
        return self._changed(
            changes,
            lambda p, value: p.replace(
                fixed=True, tie=None, default=p.default if value is None else as_quantity(value)
            ),
        )

    def free(self, *names: str) -> Model:
        """Let parameters vary again: neither fixed, tied nor shared."""
        return self._changed(dict.fromkeys(names), lambda p, _: p.replace(fixed=False, tie=None, shared=False))

    def bound(self, values: Mapping[str, Any] | None = None, /, **keywords: Any) -> Model:
        """Keep parameters between limits.

        Parameters
        ----------
        values : mapping
            Name to ``(lower, upper)``: a Quantity of two, or a pair in which None means no limit.

        Raises
        ------
        ValueError
            If lower is not below upper, one is a plain number and the other has a unit, or one is an array.
        """
        return self._changed({**(values or {}), **keywords}, with_bounds)

    def tie(self, name: str, target: str, *, factor: float = 1.0, offset: Any = 0.0) -> Model:
        """Tie a parameter to another, affinely: ``name = factor * target + offset``.

        The target may belong to another model of a joint fit; it is looked up when the fit starts.
        """
        key = self.resolve(name)
        if "." not in target or target.rpartition(".")[0] in [c.component_label() for c in self.components]:
            target = self._full_name(self.resolve(target))
        if target == self._full_name(key):
            raise ValueError(f"parameter {name!r} cannot be tied to itself")
        return self._changed({key: Tie(target, float(factor), offset)}, lambda p, tie: p.replace(tie=tie, fixed=False))

    def share(self, *names: str) -> Model:
        """Use one value of each named parameter for all pixels."""
        return self._changed(dict.fromkeys(names), lambda p, _: p.replace(shared=True, tie=None, fixed=False))

    def __repr__(self) -> str:
        return super().__repr__() + constraint_calls(self.parameters, self.declare())

    # -- lego ------------------------------------------------------------------------------------

    def __add__(self, other: Model) -> Model:
        from .composite import Sum  # made of models itself

        return Sum(self, other) if isinstance(other, Model) else NotImplemented

    def __or__(self, operator: Operator) -> Model:
        from .composite import Instrumented

        return Instrumented(self, operator) if isinstance(operator, Operator) else NotImplemented
