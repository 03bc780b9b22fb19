"""From entry points to classes, whatever may be wrong with a plugin.

pluggy's own loader stops at the first broken plugin. This one registers plugins one by one and turns whatever goes
wrong with one of them into a sentence, so that a user's fit never depends on somebody else's installation.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pluggy

from .disambiguator import Disambiguator
from .hooks import PROJECT, PluginHooks
from .model import Model
from .names import unknown_name
from .noise import Noise
from .operator import Operator
from .prior import Prior
from .solver import Solver

__all__ = ["KINDS", "Record", "canonical", "check_class", "load", "new_record"]

KINDS = {
    "model": Model,
    "operator": Operator,
    "prior": Prior,
    "solver": Solver,
    "noise": Noise,
    "disambiguator": Disambiguator,
}
"""What a class is good for, read from its base."""

RESERVED = {"auto", "sum", "instrumented"}
"""Names that mean something else: ``solver="auto"``, and the expressions ``a + b`` and ``a | b`` in saved results."""


@dataclass(frozen=True)
class Record:
    """One registered class, or one plugin that could not be used."""

    name: str
    kind: str
    distribution: str
    version: str
    status: str
    reason: str = ""
    cls: type | None = None

    @property
    def qualified(self) -> str:
        """The name that is never ambiguous."""
        return f"{self.distribution}:{self.name}"

    @property
    def owner(self) -> str:
        """Distribution and version, for sentences."""
        return f"{self.distribution} {self.version}".rstrip()

    @property
    def is_builtin(self) -> bool:
        """Whether it came with this package."""
        return canonical(self.distribution) == canonical(PROJECT)


def canonical(distribution: str) -> str:
    """The one spelling of a distribution's name, as in PEP 503."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def check_class(cls: type) -> str:
    """The kind of a class that a plugin returns.

    Raises
    ------
    TypeError, ValueError
        If it could not be used; the sentence says what to change.

    Examples
    --------
    >>> from sunpy_specfit.core.loading import check_class
    >>> from sunpy_specfit.core.noise import Noise
    >>> class ReadNoise(Noise):
    ...     name = "read_noise"
    ...     def variance(self, light):
    ...         return light * 0 + 9.0
    >>> check_class(ReadNoise)
    'noise'
    """
    if not isinstance(cls, type):
        raise TypeError(f"{cls!r} is not a class: return the class itself, neither an instance nor a function")
    kinds = [kind for kind, base in KINDS.items() if issubclass(cls, base)]
    if len(kinds) != 1:
        bases = ", ".join(base.__name__ for base in KINDS.values())
        raise TypeError(f"{cls.__name__} should derive from one of {bases}; it derives from {len(kinds)} of them")
    abstract = [n for n in dir(cls) if getattr(inspect.getattr_static(cls, n), "__isabstractmethod__", False)]
    if abstract:
        raise TypeError(f"{cls.__name__} is abstract: write its {' and its '.join(map(repr, abstract))}")
    name = cls.name
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"{cls.__name__} has the name {name!r}: give it a class attribute `name` of lower-case letters, digits and "
            "underscores, such as 'lorentzian'"
        )
    if name in RESERVED:
        raise ValueError(f"{cls.__name__} has the name {name!r}, which means something else here: choose another")
    return kinds[0]


def new_record(cls: type, distribution: str, version: str, known: Iterable[Record]) -> Record:
    """The record of a class that may be used; where a built-in method has its name, under its qualified name only."""
    kind = check_class(cls)
    for other in known:
        if other.cls is None or (other.kind, other.name) != (kind, cls.name):
            continue
        if canonical(other.distribution) == canonical(distribution):
            raise ValueError(f"{cls.__name__} has the name of another {kind} of its distribution, {cls.name!r}")
        if other.is_builtin:
            reason = f"the {kind} {cls.name!r} is built in, so this one is called '{distribution}:{cls.name}'"
            return Record(cls.name, kind, distribution, version, "renamed", reason, cls)
    return Record(cls.name, kind, distribution, version, "available", cls=cls)


def load(points: Iterable[EntryPoint]) -> tuple[list[Record], list[str]]:
    """Load every entry point, each in isolation.

    Returns
    -------
    records : list of `Record`
        What was found, built-in methods first, failures included.
    problems : list of str
        One sentence for each plugin with something to complain about.
    """
    strict = os.environ.get("SUNPY_SPECFIT_STRICT_PLUGINS", "").strip().lower() not in ("", "0", "false", "no")
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(PluginHooks)
    # Built-in methods come first, so that their names are taken; the rest in an order that does not depend on the disk.
    sources = sorted(
        ((*_owner(point), point) for point in points),
        key=lambda source: (canonical(source[0]) != canonical(PROJECT), canonical(source[0]), source[2].name),
    )
    records: list[Record] = []
    problems: list[str] = []
    if not sources or canonical(sources[0][0]) != canonical(PROJECT):
        problems.append(
            f"{PROJECT} is imported but not installed, so that none of its own methods are known: "
            "run `pip install -e .` in its source folder"
        )
    selected = _selection(sources, problems)
    for distribution, version, point in sources:
        if not (
            selected is None
            or canonical(distribution) in {canonical(PROJECT), *selected}
            or canonical(point.name) in selected
        ):
            reason = "SUNPY_SPECFIT_PLUGINS does not select it"
            records.append(Record(point.name, "", distribution, version, "skipped", reason))
            continue
        who = f"plugin {point.name!r} of {distribution} {version}".rstrip()
        try:
            complaints = _load_one(manager, point, distribution, version, records, strict=strict)
        # A module may also leave by SystemExit, which would end the user's session.
        except (Exception, SystemExit) as error:
            if strict:
                error.add_note(f"raised by {who}; SUNPY_SPECFIT_STRICT_PLUGINS is set")
                raise
            complaints = [f"{type(error).__name__}: {error}"]
            records.append(Record(point.name, "", distribution, version, "failed", complaints[0]))
        if complaints:
            problems.append(f"{who}: {'; '.join(complaints)}")
    return records, problems


def _owner(point: EntryPoint) -> tuple[str, str]:
    try:
        return point.dist.name or "unknown", point.dist.version or ""
    except Exception:  # noqa: BLE001 - metadata may be damaged in more ways than one can list
        return "unknown", ""


def _selection(sources, problems: list[str]) -> set[str] | None:
    text = os.environ.get("SUNPY_SPECFIT_PLUGINS")
    if text is None:
        return None
    selected = [word.strip() for word in text.split(",") if word.strip()]
    known = {name for distribution, _, point in sources for name in (distribution, point.name)}
    for word in selected:
        if canonical(word) not in map(canonical, known):
            problems.append(f"SUNPY_SPECFIT_PLUGINS: {unknown_name(word, sorted(known), kind='plugin').args[0]}")
    return set(map(canonical, selected))


def _load_one(manager, point: EntryPoint, distribution: str, version: str, records: list[Record], *, strict: bool):
    """Add one plugin's classes to the records; returns complaints about those that cannot be used as they are."""
    complaints = []
    for cls in _ask(manager, point, f"{distribution}:{point.name}"):
        owner = next((r for r in records if r.cls is cls), None)
        try:
            if owner is not None:
                raise ValueError(f"{cls.__name__} belongs to {owner.owner} already: return only classes of one's own")
            record = new_record(cls, distribution, version, records)
        except (TypeError, ValueError) as error:
            if strict:
                raise
            kind = next((k for k, base in KINDS.items() if isinstance(cls, type) and issubclass(cls, base)), "")
            name = getattr(cls, "name" if kind else "__name__", "")
            name = name if isinstance(name, str) and name else point.name
            record = Record(name, kind, distribution, version, "failed", str(error))
        records.append(record)
        if record.reason:
            complaints.append(record.reason)
    return complaints


def _ask(manager: pluggy.PluginManager, point: EntryPoint, name: str) -> list:
    """Register one plugin and call its hook; a plugin that fails leaves no trace in the manager."""
    plugin = point.load()
    try:
        manager.register(plugin, name=name)
        manager.check_pending()
        own = [call for call in manager.hook.specfit_plugins.get_hookimpls() if call.plugin is plugin]
        if not own or own[0].wrapper or own[0].hookwrapper:
            raise TypeError(
                "it does not implement the hook; write a function `specfit_plugins()` that returns its classes, "
                "decorated with `sunpy_specfit.hookimpl` and without arguments"
            )
        answer = own[0].function()
        if isinstance(answer, (type, str)) or not isinstance(answer, Iterable):
            raise TypeError(f"its hook `specfit_plugins` returned {answer!r} where a list of classes is expected")
        return list(answer)
    except BaseException:
        if manager.get_plugin(name) is not None:
            manager.unregister(name=name)
        raise
