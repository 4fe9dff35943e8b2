"""Make a program that fails shorter, for as long as it still fails."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.prove.storm.program import Process, Program, Step, Strand

TRIES = 4  # a program that fails once may need several runs to fail again


def shortest(program: Program, fails: Callable[[Program], bool], seconds: float) -> Program:
    """Return a program that fails, and no part of which can be left out, as far as `seconds` allow to find out."""
    end = time.monotonic() + seconds
    shorter = True
    while shorter and time.monotonic() < end:
        shorter = False
        for candidate in _shorter(program):
            if time.monotonic() > end:
                break
            if any(fails(candidate) for _ in range(TRIES)):
                program, shorter = candidate, True
                break
    return program


def _shorter(program: Program) -> Iterator[Program]:
    """Yield programs without one part of this one, the largest parts first."""
    processes = program.processes
    for at in range(len(processes)):
        if len(processes) > 1:
            yield dataclasses.replace(program, processes=processes[:at] + processes[at + 1 :])
    if program.room != "plain":
        yield dataclasses.replace(program, room="plain")
    for at, process in enumerate(processes):
        for other in _shorter_process(process):
            yield dataclasses.replace(program, processes=(*processes[:at], other, *processes[at + 1 :]))


def _shorter_process(process: Process) -> Iterator[Process]:
    strands = process.strands
    for at in range(1, len(strands)):
        yield dataclasses.replace(process, strands=strands[:at] + strands[at + 1 :])
    if process.condition != "plain":
        yield dataclasses.replace(process, condition="plain")
    if process.end != "checked":
        yield dataclasses.replace(process, end="checked")
    for at in range(len(process.blows)):
        yield dataclasses.replace(process, blows=process.blows[:at] + process.blows[at + 1 :])
    for at, strand in enumerate(strands):
        for other in _shorter_strand(strand):
            yield dataclasses.replace(process, strands=(*strands[:at], other, *strands[at + 1 :]))


def _shorter_strand(strand: Strand) -> Iterator[Strand]:
    steps = strand.steps
    if len(steps) > 2:
        for half in (steps[: len(steps) // 2], steps[len(steps) // 2 :]):
            yield dataclasses.replace(strand, steps=half)
    for other in _shorter_steps(steps):
        yield dataclasses.replace(strand, steps=other)


def _shorter_steps(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    for at, step in enumerate(steps):
        yield (*steps[:at], *steps[at + 1 :])
        for body in _shorter_steps(step.body):
            yield (*steps[:at], dataclasses.replace(step, body=body), *steps[at + 1 :])
