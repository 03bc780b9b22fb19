"""Models made of models: sums of their light, and light through instruments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from .model import Model
from .names import component_keys, unknown_name
from .operator import Operator
from .parameter import Auxiliary, Parameter

__all__ = ["Instrumented", "Sum"]


class _Composite(Model):
    """What sums and instrumented models share: their parameters are those of their components, by key."""

    def component_keys(self) -> list[dict[str, str]]:
        """For each component, parameter name -> key in `parameters`.

        Raises
        ------
        ValueError
            If two different components have one label.
        """
        labels = [c.component_label() for c in self.components]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(
                f"two components are labelled {twice[0]!r}: their parameters could not be told apart. "
                "Give them labels of their own, such as Gaussian(..., label='blue')"
            )
        return component_keys(self.components)

    def in_medium(self, medium: str) -> Model:
        return self.with_components(tuple(component.in_medium(medium) for component in self.components))

    @abstractmethod
    def with_components(self, components: tuple[Model, ...]) -> Model:
        """The same expression of other components."""

    def declare(self) -> Mapping[str, Parameter]:
        return {
            keys[name]: parameter
            for component, keys in zip(self.components, self.component_keys(), strict=True)
            for name, parameter in component.parameters.items()
        }

    @property
    def parameters(self) -> dict[str, Parameter]:
        return dict(self.declare())

    @property
    def auxiliaries(self) -> dict[str, Auxiliary]:
        return {name: a for component in self.components for name, a in component.auxiliaries.items()}

    def _override(self, changes: Mapping[str, Parameter]) -> Model:
        # Constraints live on the components, so that a sum is nothing but its terms.
        components = []
        for component, keys in zip(self.components, self.component_keys(), strict=True):
            own = {name: changes[keys[name]] for name in component.parameters if keys[name] in changes}
            components.append(component._override(own) if own else component)
        return self.with_components(tuple(components))

    @property
    def data_axis(self):
        return self.components[0].data_axis

    @property
    def stokes(self):
        return self.components[0].stokes

    def resolve(self, name: str) -> str:
        known = self.parameters
        if name in known:
            return name
        label, _, bare = name.rpartition(".")
        for component, keys in zip(self.components, self.component_keys(), strict=True):
            if label == component.component_label() and bare in keys:
                return keys[bare]
        several = [key for key in known if key.rpartition(".")[2] == name]
        if several:
            raise KeyError(f"{name!r} is ambiguous here: write {' or '.join(map(repr, several))}")
        raise unknown_name(name, known, kind="parameter", owner=repr(self))


class Sum(_Composite):
    """Models whose light is added, ``a + b``."""

    name = "sum"

    def __init__(self, *models: Model):
        for model in models:
            if model.operators:
                raise ValueError(
                    "an instrumented model cannot be added to another: add the models first, (a + b) | operator"
                )
        self.models = tuple(component for model in models for component in model.components)
        first = self.models[0]
        for model in self.models[1:]:
            if (model.data_axis, model.stokes) != (first.data_axis, first.stokes):
                raise ValueError(
                    f"{model!r} lives on {model.data_axis!r} with Stokes {model.stokes!r}, "
                    f"{first!r} on {first.data_axis!r} with Stokes {first.stokes!r}: they cannot be added"
                )
        self.component_keys()

    @property
    def components(self) -> tuple[Model, ...]:
        return self.models

    def with_components(self, components: tuple[Model, ...]) -> Model:
        return Sum(*components)

    def evaluate(self, x, **parameters):
        light = 0
        for component, keys in zip(self.components, self.component_keys(), strict=True):
            inputs = {name: parameters[keys[name]] for name in component.parameters}
            inputs |= {name: parameters[name] for name in component.auxiliaries}
            light = light + component.evaluate(x, **inputs)
        return light

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.models))


class Instrumented(_Composite):
    """A model whose light passes operators, ``model | operator``."""

    name = "instrumented"

    def __init__(self, model: Model, operator: Operator):
        self.model = model
        self.operator = operator

    @property
    def components(self) -> tuple[Model, ...]:
        return self.model.components

    def with_components(self, components: tuple[Model, ...]) -> Model:
        inner = self.model.with_components(components) if isinstance(self.model, _Composite) else components[0]
        return Instrumented(inner, self.operator)

    def evaluate(self, x, **parameters):
        raise TypeError(
            f"{self!r} is light through an instrument, which may mix pixels: evaluate its `model`, or use fit()"
        )

    @property
    def operators(self) -> tuple[Operator, ...]:
        return (*self.model.operators, self.operator)

    def __repr__(self) -> str:
        left = f"({self.model!r})" if isinstance(self.model, Sum) else repr(self.model)
        return f"{left} | {self.operator!r}"
