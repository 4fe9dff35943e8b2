"""The storm: random programs for several processes, over all public operations.

program   what each process, thread and task does: data that a seed replays
host      a clean process, of which each program is forked
stage     the parent of a program's processes: it sends signals, reads their log, and waits for their ends
actor     one process; acts and holds are what it does, oracle is what it notes outside of the product
judge     which lines of the log break a promise
shrink    make a program that fails shorter
"""

from __future__ import annotations

import collections
import re
import time
from typing import TYPE_CHECKING

from tests.prove.storm import contents, program, shrink, verbs  # noqa: F401  these two register their acts
from tests.prove.storm.acts import LEAVES, SUBJECTS
from tests.prove.storm.host import Host
from tests.prove.storm.stage import QUIET, Outcome

if TYPE_CHECKING:
    from tests.prove.report import Report
    from tests.prove.storm.program import Program

TITLE = "The storm: random programs over all operations"
_SHRINK = 60.0  # seconds to make a program shorter
_GROUPS = {
    "act": "operations", "in": "ways in", "out": "ways out", "condition": "conditions of a process",
    "room": "conditions of the folder", "blow": "signals from outside", "strand": "strands",
    "end": "ends of processes that nobody kills",
}  # fmt: skip


def run(seconds: float, seed: int, report: Report) -> None:
    """Run programs of successive seeds until the time is over."""
    end, played = time.monotonic() + seconds, 0
    counts: collections.Counter[str] = collections.Counter()
    with Host() as host:
        while played == 0 or time.monotonic() < end:
            written = write(seed + played)
            outcome = host.play(written, QUIET)
            played += 1
            counts += outcome.counts
            counts += _conditions(written)
            if outcome.faults:
                _tell(host, written, outcome, report)
    _rows(report, played, counts)


def write(seed: int) -> Program:
    """Return the program of a seed."""
    return program.write(seed, LEAVES, (*SUBJECTS,))


def _conditions(written: Program) -> collections.Counter[str]:
    counts = collections.Counter([f"room/{written.room}"])
    counts.update(f"condition/{process.condition}" for process in written.processes)
    counts.update(f"end/{process.end}" for process in written.processes)
    counts.update(f"strand/{strand.way}" for process in written.processes for strand in process.strands)
    return counts


def _tell(host: Host, written: Program, outcome: Outcome, report: Report) -> None:
    kind = _kind(outcome.faults[0])

    def alike(other):
        return any(_kind(fault) == kind for fault in host.play(other, QUIET / 4).faults)

    short = shrink.shortest(written, alike, _SHRINK)
    text = f"{outcome.faults[0]}\nThe shortest program that failed:\n{short}"
    report.fault(text, f"storm --seed {written.seed}")


def _kind(fault: str) -> str:
    """Return what faults of one kind have in common: the first words, without names and numbers."""
    return re.sub(r"'[^']*'|\d+", "", fault.partition("\n")[0])[:60]


def _rows(report: Report, played: int, counts: collections.Counter[str]) -> None:
    outcome = f"{len(report.faults)} with faults" if report.faults else "held"
    report.add("programs of 2 to 6 processes", played, outcome)
    for group, title in _GROUPS.items():
        found = {key.partition("/")[2]: count for key, count in counts.items() if key.startswith(f"{group}/")}
        for names in _batches(sorted(found.items(), key=lambda pair: -pair[1])):
            each = ", ".join(f"{name} {count:,}" for name, count in names)
            report.add(f"{title}: {each}", sum(count for _, count in names))


def _batches(pairs: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    return [pairs[at : at + 12] for at in range(0, len(pairs), 12)]
