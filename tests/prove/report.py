"""What a part of the proof reports, and the page that is made of it."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_HEAD = """# What has been tried

`uv run --group prove python -m tests.prove` tries combinations that nobody has written down, and writes this page:
each section by the last long run of its part.
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One thing that was tried: what, how often, and what came of it."""

    what: str
    times: int
    outcome: str = "held"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A promise that did not hold: what happened, and how to see it again."""

    what: str
    replay: str  # arguments of `python -m tests.prove`


@dataclasses.dataclass(frozen=True)
class Figure:
    """Curves for the page: by name, lists of (x, y)."""

    name: str  # of its file
    x: str
    y: str
    curves: dict[str, list[tuple[float, float]]]
    log: str = ""  # the axes, x or xy, that are logarithmic


@dataclasses.dataclass
class Report:
    """What one part has tried, and the faults that it found."""

    title: str
    minutes: float = 0
    rows: list[Row] = dataclasses.field(default_factory=list)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    figures: list[Figure] = dataclasses.field(default_factory=list)

    def add(self, what: str, times: int, outcome: str = "held") -> None:
        """Add a line to the table."""
        self.rows.append(Row(what, times, outcome))

    def fault(self, what: str, replay: str) -> None:
        """Add a fault: the run fails, and prints it."""
        self.faults.append(Fault(what, replay))
        print(f"FAULT {self.title}: {what}\n      again: python -m tests.prove {replay}", file=sys.stderr, flush=True)


def page(old: str, reports: Iterable[Report], pictures: Mapping[str, Sequence[str]]) -> str:
    """Return the documentation page in Markdown: the old one, with new sections of the parts that have run.

    `pictures` has lines that follow the table of a title.
    """
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    sections = dict(part.split("\n", 1) for part in ("\n" + old).split("\n## ")[1:])
    for report in reports:
        lines = ["", f"{report.minutes:.0f} minutes on {machine}.", ""]
        lines += ["| what | times | what came of it |", "|---|---:|---|"]
        lines += [f"| {row.what} | {row.times:,} | {row.outcome} |" for row in report.rows]
        lines += pictures.get(report.title, ())
        lines += [f"\nNot mended: {fault.what.splitlines()[0]} (`{fault.replay}`)" for fault in report.faults]
        sections[report.title] = "\n".join(lines) + "\n"
    return _HEAD + "".join(f"\n## {title}\n{text}" for title, text in sections.items())
