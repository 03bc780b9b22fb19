"""Errors for names that nobody knows."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["unknown_name"]


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
