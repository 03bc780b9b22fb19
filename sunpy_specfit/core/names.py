"""Names of quantities: the keys that components have together, and errors for those that nobody knows."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

__all__ = ["component_keys", "unknown_name"]


def unknown_name(name: str, known: Iterable[str], *, kind: str, owner: str = "") -> KeyError:
    """A KeyError that names the close matches, or all there are."""
    known = list(known)
    close = get_close_matches(str(name), known, n=3, cutoff=0.5)
    where = f" of {owner}" if owner else ""
    hint = (
        f"did you mean {' or '.join(map(repr, close))}?"
        if close
        else f"there are {', '.join(map(repr, known)) or 'none'}"
    )
    return KeyError(f"no {kind}{where} is called {name!r}; {hint}")


def component_keys(components: Sequence[Any]) -> list[dict[str, str]]:
    """For each component, name -> key: the bare name where it is unambiguous, else ``label.name``."""
    names = [name for c in components for name in (*c.declare(), *c.derived)]
    return [
        {n: n if names.count(n) == 1 else f"{c.component_label()}.{n}" for n in (*c.declare(), *c.derived)}
        for c in components
    ]
