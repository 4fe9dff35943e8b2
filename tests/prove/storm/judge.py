"""Read the log of a storm: which of its lines break a promise, and which a death or an interrupt explains."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.prove.storm import conditions

if TYPE_CHECKING:
    from tests.prove.storm.program import Program
    from tests.prove.storm.stage import Outcome

_CUT = {  # what Python says of asyncio's event loop, and of the storm's coroutine, that a Ctrl-C cut off: none is ours
    "warning": ("unclosed <socket", "follow' was never awaited"),
    "unraisable": ("BaseEventLoop.__del__",),
}


def judge(
    outcome: Outcome, program: Program, statuses: dict[int, int], pids: dict[int, int], killed: set[int], stacks: str
) -> None:
    """Add the faults and the counts of a log to an outcome."""
    lines = [_parsed(line) for line in outcome.log]
    cut = _cut(lines)
    died = bool(killed) or any(fact[1] in ("SIGKILL", "exit") for fact in lines) or _ends(lines, statuses)
    interrupted = {pid for pid, event, _ in lines if event == "interrupted"}
    for pid, event, rest in lines:
        if event == "fault":
            outcome.faults.append(rest)
        elif event == "torn":
            _torn(outcome, rest, cut)
        elif event == "not alone":
            if not any(f"pid {other}" in rest for other in interrupted) and pid not in interrupted:
                outcome.faults.append(f"two are inside at once: {rest}")
        elif _is_no_fault(event, rest, interrupted=pid in interrupted):
            pass
        elif event in ("abandoned", "warning") and not died:
            outcome.faults.append(f"{event}, and nobody died: {rest}")
        elif event == "unraisable":
            limited = program.processes[pids[pid]].condition if pid in pids else "plain"
            if not conditions.ERRORS[limited]:
                outcome.faults.append(f"an error that nobody could catch: {rest}")
        _count(outcome, event, rest)
    _statuses(outcome, lines, statuses, pids, killed, stacks)


def _is_no_fault(event: str, rest: str, *, interrupted: bool) -> bool:
    told = event == "warning" and "was closed inside a transaction" in rest
    return told or (interrupted and any(text in rest for text in _CUT.get(event, ())))


def _parsed(line: str) -> tuple[int, str, str]:
    pid, _, rest = line.partition(" ")
    for event in ("not alone",):
        if rest.startswith(event):
            return int(pid), event, rest[len(event) + 1 :]
    event, _, rest = rest.partition(" ")
    return int(pid), event, rest


def _cut(lines: list[tuple[int, str, str]]) -> set[str]:
    """Return the inodes that a change has been begun of and not finished."""
    begun: dict[tuple[int, str], int] = {}
    for pid, event, rest in lines:
        if event in ("change", "changed"):
            begun[pid, rest] = begun.get((pid, rest), 0) + (1 if event == "change" else -1)
    return {inode for (_, inode), count in begun.items() if count > 0}


def _ends(lines: list[tuple[int, str, str]], statuses: dict[int, int]) -> bool:
    deaths = [int(rest.split()[1]) for _, event, rest in lines if event == "death"]
    return any(status < 0 for status in (*statuses.values(), *deaths))


def _torn(outcome: Outcome, rest: str, cut: set[str]) -> None:
    inode, kind, _mode, text = rest.split(" ", 3)
    if kind in ("dict", "ring") or inode not in cut:
        outcome.faults.append(f"torn {kind}: {text}")


def _count(outcome: Outcome, event: str, rest: str) -> None:
    if event == "begin":
        _, what = rest.split(" ", 1)
        parts = what.split("/")
        outcome.counts[f"act/{parts[0]}"] += 1
        if len(parts) == 3:
            outcome.counts[f"in/{parts[1]}"] += 1
            outcome.counts[f"out/{parts[2]}"] += 1
    elif event == "end":
        outcome.counts[f"result/{rest.split(' ', 1)[1]}"] += 1
    elif event in ("interrupted", "abandoned"):
        outcome.counts[f"seen/{event}"] += 1


def _statuses(
    outcome: Outcome,
    lines: list[tuple[int, str, str]],
    statuses: dict[int, int],
    pids: dict[int, int],
    killed: set[int],
    stacks: str,
) -> None:
    """Check that nobody died who was not told to."""
    ordered = {pid for pid, event, _ in lines if event == "SIGKILL"}
    ends = {**statuses, **{int(rest.split()[0]): int(rest.split()[1]) for _, event, rest in lines if event == "death"}}
    for pid, status in ends.items():
        if pid in pids or any(pid == born for born, event, _ in lines if event == "born"):
            allowed = status == 0 or (status == -signal.SIGKILL and (pid in killed or pid in ordered))
            if not allowed:
                outcome.faults.append(f"process {pids.get(pid, 'child')} ended with {status}: {stacks}")
