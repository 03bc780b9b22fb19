"""Tables of what was measured against what was asked for, and the measuring itself."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

__all__ = ["Table", "header", "peak_memory", "race"]

_VERSIONS = ("sunpy_specfit", "torch", "numpy", "scipy", "astropy", "dask", "eispac")


def header() -> str:
    """When, and with which versions."""
    today = datetime.now(UTC).date().isoformat()
    versions = ", ".join(f"{name} {version(name)}" for name in _VERSIONS)
    threads = torch.get_num_threads()
    return f"{today}; Python {platform.python_version()}, {versions}; {threads} thread{'s' if threads > 1 else ''}"


def race(
    runners: Mapping[str, Callable[[], Any]], *, rounds: int = 3, warm: bool = False
) -> tuple[dict[str, Any], dict[str, float]]:
    """Run each in turn, several times over; what the first round returned, and the median processor seconds of each.

    Processor seconds (user and system, of all threads) are time per core by definition, and the least disturbed by
    whatever else the machine does. Taking turns spreads over all runners what disturbance is left.

    ``warm`` runs each once before, uncounted: a virtual machine gets memory that it has not used yet from its host, at
    seconds a gigabyte.
    """
    if warm:
        for run in runners.values():
            run()
    results: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            begin = time.process_time()
            found = run()
            seconds[name].append(time.process_time() - begin)
            results.setdefault(name, found)
    return results, {name: median(values) for name, values in seconds.items()}


def peak_memory(*, reset: bool = False) -> int:
    """The largest resident size so far in bytes; with ``reset`` the present one, from which the next peak counts.

    Linux can forget the peak. Elsewhere it is that of the process's life, and ``reset`` has no effect.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


class Table:
    """Rows of a quantity, its value, the goal, and a verdict; speed counts only where every quality row passes.

    Examples
    --------
    >>> table = Table("a race")
    >>> table.quality("right answers", 0.995, at_least=0.99, form="{:.1%}")
    >>> table.speed("times as fast", 12.0, at_least=15)
    >>> print(table)
    a race
    --------------------------------------
    right answers  99.5%  >= 99.0%  pass
    times as fast   12.0   >= 15.0  missed
    """

    def __init__(self, title: str):
        self.title = title
        self._rows: list[tuple[str, str, str, str, bool | None]] = []

    def quality(self, what: str, value: float, **goal) -> None:
        """How good the answers are."""
        self._add("quality", what, value, **goal)

    def speed(self, what: str, value: float, **goal) -> None:
        """How little time or memory they took."""
        self._add("speed", what, value, **goal)

    def note(self, what: str, value: float, form: str = "{:.1f}") -> None:
        """Something to know, without a goal."""
        self._rows.append(("note", what, form.format(value), "", None))

    def _add(self, kind, what, value, *, at_least=None, at_most=None, near=None, form="{:.1f}"):
        if near is not None:
            target, tolerance = near
            passed, goal = abs(value - target) <= tolerance, f"{form.format(target)} +- {form.format(tolerance)}"
        elif at_least is not None:
            passed, goal = value >= at_least, f">= {form.format(at_least)}"
        else:
            passed, goal = value <= at_most, f"<= {form.format(at_most)}"
        self._rows.append((kind, what, form.format(value), goal, bool(passed)))

    @property
    def good(self) -> bool:
        """Whether every quality row passes."""
        return all(passed for kind, *_, passed in self._rows if kind == "quality")

    @property
    def fast(self) -> bool:
        """Whether every speed row passes, and counts."""
        return self.good and all(passed for kind, *_, passed in self._rows if kind == "speed")

    def _verdict(self, kind: str, passed: bool | None) -> str:
        if kind == "note":
            return ""
        if kind == "quality":
            return "pass" if passed else "FAIL"
        if not self.good:
            return "does not count"
        return "pass" if passed else "missed"

    def __str__(self) -> str:
        rows = [(what, value, goal, self._verdict(kind, passed)) for kind, what, value, goal, passed in self._rows]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
        lines = [
            f"{what:<{widths[0]}}  {value:>{widths[1]}}  {goal:>{widths[2]}}  {verdict}".rstrip()
            for what, value, goal, verdict in rows
        ]
        return "\n".join([self.title, "-" * max(map(len, [self.title, *lines])), *lines])
