"""Who is there: every method by kind and name, built in or from elsewhere, found through entry points."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

from astropy.table import Table

from .hooks import PROJECT
from .loading import KINDS, Record, canonical, check_class, load, new_record
from .names import unknown_name
from .warnings import SpecfitPluginWarning

__all__ = ["Registry", "available", "get", "list_plugins", "origin", "register", "registered"]

RUNTIME = "runtime"
"""The distribution under which classes stand that were registered by hand."""


class Registry:
    """Classes by kind and name, loaded from entry points at the first look-up.

    Parameters
    ----------
    points : iterable of `importlib.metadata.EntryPoint`, optional
        Where to look; by default everything installed that declares the group ``sunpy_specfit``.

    Notes
    -----
    Two environment variables are read when the plugins are loaded. ``SUNPY_SPECFIT_PLUGINS=a,b`` selects the third
    parties to load, by distribution or by entry point (set but empty: none). ``SUNPY_SPECFIT_STRICT_PLUGINS=1`` lets a
    broken plugin's error through, for its author to see.
    """

    def __init__(self, points: Iterable[EntryPoint] | None = None):
        self._points = points
        self._lock = threading.RLock()
        self._loading = False
        self._records: list[Record] | None = None

    # -- looking up ------------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> type:
        """The class of a kind that is registered under a name.

        Parameters
        ----------
        kind : {"model", "operator", "prior", "solver", "noise", "disambiguator"}
            What it is.
        name : str
            The registered name, or ``"distribution:name"`` where several distributions claim one name.

        Returns
        -------
        type

        Raises
        ------
        KeyError
            If nothing has that name (close matches are named), or if two third parties have.

        Examples
        --------
        >>> from sunpy_specfit.core import registry
        >>> registry.get("model", "gaussian")
        <class '...Gaussian'>
        """
        _check_kind(kind)
        records = [r for r in self._load() if r.kind == kind]
        distribution, _, bare = str(name).rpartition(":")
        found = [r for r in records if r.name == bare]
        if distribution:
            found = [r for r in found if canonical(r.distribution) == canonical(distribution)]
        usable = [r for r in found if r.cls is not None]
        if not distribution and any(r.is_builtin for r in usable):
            usable = [r for r in usable if r.is_builtin]
        if len(usable) == 1:
            return usable[0].cls
        if usable:
            raise KeyError(
                f"the {kind} {name!r} is claimed by {' and by '.join(r.owner for r in usable)}: "
                f"write {' or '.join(repr(r.qualified) for r in usable)}"
            )
        if found:
            raise KeyError(f"the {kind} {name!r} of {found[0].owner} could not be loaded: {found[0].reason}")
        elsewhere = [r.kind for r in self._load() if r.name == bare and r.cls is not None]
        if elsewhere and not distribution:
            raise KeyError(f"no {kind} is called {name!r}; there is a {elsewhere[0]} of that name")
        raise unknown_name(name, self.available(kind), kind=kind)

    def available(self, kind: str) -> list[str]:
        """The names under which the classes of a kind can be had, in alphabetical order.

        Examples
        --------
        >>> from sunpy_specfit.core import registry
        >>> "gaussian" in registry.available("model")
        True
        """
        _check_kind(kind)
        records = [r for r in _with_conflicts(self._load()) if r.kind == kind and r.cls is not None]
        return sorted(r.name if r.status == "available" else r.qualified for r in records)

    def origin(self, cls: type) -> tuple[str, str]:
        """The distribution and version that a class came with.

        A class that was never registered came with its own module: that of a script is ``("__main__", "")``.
        """
        for record in self._load():
            if record.cls is cls and record.distribution != RUNTIME:
                return record.distribution, record.version
        package = cls.__module__.partition(".")[0]
        return package, str(getattr(sys.modules.get(package), "__version__", ""))

    def list_plugins(self) -> Table:
        """Every method that is installed, and every plugin that could not be used, with the reason.

        Returns
        -------
        `astropy.table.Table`
            With the columns name, kind, distribution, version, status and reason. The status is one of:

            * ``"available"``: the name can be used;
            * ``"renamed"``: a built-in method has the name, write ``"distribution:name"``;
            * ``"conflict"``: another third party claims the name too, write ``"distribution:name"``;
            * ``"failed"``: the plugin is broken;
            * ``"skipped"``: ``SUNPY_SPECFIT_PLUGINS`` does not select it.

        Examples
        --------
        >>> from sunpy_specfit.core import registry
        >>> table = registry.list_plugins()
        >>> table.colnames
        ['name', 'kind', 'distribution', 'version', 'status', 'reason']
        """
        columns = ("name", "kind", "distribution", "version", "status", "reason")
        records = sorted(
            _with_conflicts(self._load()),
            key=lambda r: (not r.is_builtin, r.distribution, [*KINDS, ""].index(r.kind), r.name),
        )
        return Table({column: [getattr(r, column) for r in records] for column in columns}, dtype=[str] * len(columns))

    # -- by hand, for notebooks and tests --------------------------------------------------------

    def register(self, cls: type) -> type:
        """Make a class known under its name in this process, as a plugin would.

        Registering a class of the same kind and name again replaces the earlier one, as when a notebook's cell is
        run twice. `registered` undoes it at the end of a block.

        Parameters
        ----------
        cls : type
            A concrete model, operator, prior, solver or noise.

        Returns
        -------
        type
            The same class, so that this can stand as a decorator.

        Raises
        ------
        TypeError, ValueError
            If the class could not be used; the sentence says what to change.

        Examples
        --------
        >>> from sunpy_specfit.core import registry
        >>> from sunpy_specfit.core.noise import Noise
        >>> class ReadNoise(Noise):
        ...     name = "read_noise"
        ...     def variance(self, light):
        ...         return light * 0 + 9.0
        >>> with registry.registered(ReadNoise):
        ...     registry.get("noise", "read_noise") is ReadNoise
        True
        """
        kind = check_class(cls)
        records = [r for r in self._load() if (r.distribution, r.kind, r.name) != (RUNTIME, kind, cls.name)]
        record = new_record(cls, RUNTIME, "", records)
        self._records = [*records, record]
        if record.reason:
            warnings.warn(f"{cls.__name__}: {record.reason}", SpecfitPluginWarning, stacklevel=2)
        return cls

    @contextmanager
    def registered(self, *classes: type) -> Iterator[None]:
        """Make classes known under their names inside a ``with`` block only; see `register`."""
        before = self._load()
        try:
            for cls in classes:
                self.register(cls)
            yield
        finally:
            self._records = before

    # -- loading ---------------------------------------------------------------------------------

    def _load(self) -> list[Record]:
        if self._records is not None:
            return self._records
        with self._lock:
            if self._records is not None:
                return self._records
            if self._loading:
                raise RuntimeError(
                    "a plugin asked for registered names while it was being loaded: do that inside a function, "
                    "not when the module is imported"
                )
            self._loading = True
            try:
                self._records, problems = load(entry_points(group=PROJECT) if self._points is None else self._points)
            finally:
                self._loading = False
        # Last, for a filter may turn a warning into an error, and the registry should then be whole.
        for problem in problems:
            warnings.warn(problem, SpecfitPluginWarning, stacklevel=3)
        return self._records


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise unknown_name(kind, KINDS, kind="kind of plugin")


def _with_conflicts(records: list[Record]) -> list[Record]:
    """The records, those marked that share their bare name with another third party."""
    marked = []
    for record in records:
        claims = [r for r in records if (r.status, r.kind, r.name) == ("available", record.kind, record.name)]
        rivals = [r.owner for r in claims if r is not record] if record in claims else []
        reason = f"also claimed by {' and by '.join(rivals)}: write '{record.qualified}'"
        marked.append(replace(record, status="conflict", reason=reason) if rivals else record)
    return marked


_registry = Registry()
get = _registry.get
available = _registry.available
origin = _registry.origin
list_plugins = _registry.list_plugins
register = _registry.register
registered = _registry.registered
