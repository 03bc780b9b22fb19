"""What a plugin implements: the hook specification, in pluggy's terms."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

__all__ = ["PROJECT", "PluginHooks", "hookimpl", "hookspec"]

PROJECT = "sunpy_specfit"
"""The name of the pluggy project, and of the entry-point group in which plugins are declared."""

hookspec = pluggy.HookspecMarker(PROJECT)
"""Marks a hook specification; of use to this package only."""

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's implementation of a hook."""


class PluginHooks:
    """The hooks that a plugin may implement.

    A plugin is a module (or any object) named by an entry point of the group ``sunpy_specfit`` in its distribution's
    pyproject.toml::

        [project.entry-points.sunpy_specfit]
        lorentzian = "specfit_lorentzian"
    """

    @hookspec
    def specfit_plugins(self) -> Iterable[type]:
        """Return the classes that the plugin adds.

        What a class is good for is read from its base: `~sunpy_specfit.Model`, `~sunpy_specfit.Operator`,
        `~sunpy_specfit.Prior`, `~sunpy_specfit.Solver` or `~sunpy_specfit.Noise`. Its attribute ``name``, in lower
        case, is what users write.

        Returns
        -------
        iterable of type
            Concrete classes, not instances.

        Examples
        --------
        >>> from sunpy_specfit.core.hooks import hookimpl
        >>> from sunpy_specfit.core.model import Model
        >>> from sunpy_specfit.core.parameter import Parameter
        >>> class Lorentzian(Model):
        ...     name = "lorentzian"
        ...     amplitude = Parameter("data", lower=0)
        ...     center = Parameter("spectral", location=True)
        ...     width = Parameter("spectral", lower=0)
        ...
        ...     def evaluate(self, x, amplitude, center, width):
        ...         return amplitude / (1 + ((x - center) / width) ** 2)
        >>> @hookimpl
        ... def specfit_plugins():
        ...     return [Lorentzian]
        """
