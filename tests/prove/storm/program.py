"""Random programs for several processes: data, so that a seed replays one and a shorter one can be made of it.

Locks are taken in one order, that of NAMES and then of levels (0: a name's lock, 1: a dict's transaction): two holders
of opposite orders would wait for each other for ever, as the docs say.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

NAMES = ("a", "b", "c", "d", "count", "tally")  # count and tally are there from the first to the last moment
CHANGING = NAMES[:4]
MODES = ("r+", "r+", "r+", "r", "c")
LIFETIMES = ("session", "session", "attached", "keep")
CONDITIONS = (
    ("plain",) * 4
    + ("hasty threads",) * 3
    + (
        "few descriptors",
        "few addresses",
        "short files",
        "closed streams",
        "umask 0777",
        "small cgroup as its files say",
    )
)
ROOMS = ("plain",) * 6 + ("full folder", "few inodes")
STRANDS = ("main", "thread", "thread", "task", "task")
BLOWS = ("SIGINT", "SIGINT", "SIGKILL", "watchdog SIGKILL", "SIGSTOP")


@dataclasses.dataclass(frozen=True)
class Step:
    """One act on a name; a hold has a body."""

    act: str
    name: str
    how: tuple[tuple[str, Any], ...] = ()
    body: tuple[Step, ...] = ()

    def lines(self, indent: str) -> list[str]:
        """Return the step as text."""
        options = "".join(f", {key}={value!r}" for key, value in self.how)
        end = ":" if self.body else ""
        return [
            f"{indent}{self.act}({self.name}{options}){end}",
            *(x for one in self.body for x in one.lines(indent + "    ")),
        ]

    def __getitem__(self, key: str) -> Any:
        return dict(self.how).get(key)


@dataclasses.dataclass(frozen=True)
class Strand:
    """What one thread or task does."""

    way: str
    steps: tuple[Step, ...]


@dataclasses.dataclass(frozen=True)
class Blow:
    """A signal that a process gets after so many lines of its log."""

    what: str
    after: int


@dataclasses.dataclass(frozen=True)
class Process:
    """One process: its condition, its strands, and the signals that it gets."""

    condition: str
    strands: tuple[Strand, ...]
    blows: tuple[Blow, ...] = ()
    end: str = "checked"


@dataclasses.dataclass(frozen=True)
class Program:
    """All processes, and the folder that they meet in."""

    seed: int
    room: str
    processes: tuple[Process, ...]

    def __str__(self) -> str:
        lines = [f"folder: {self.room}"]
        for number, process in enumerate(self.processes):
            blows = "".join(f", {blow.what} after {blow.after} lines" for blow in process.blows)
            lines.append(f"process {number} ({process.condition}{blows}, end: {process.end})")
            for strand in process.strands:
                lines.append(f"  {strand.way}")
                lines += [line for step in strand.steps for line in step.lines("    ")]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An act without a body: how often it is chosen, on which names, which locks it takes, and its options."""

    weight: float
    names: tuple[str, ...] = CHANGING
    levels: tuple[int, ...] = ()
    options: tuple[tuple[str, tuple[Any, ...]], ...] = ()


HOLDS = {"lock": 0, "shared": 0, "writing": 0, "transaction": 1, "slot": 0, "manager": 2}
WAYS_IN = ("with", "with", "stack", "generator", "calls", "acquire")
WAYS_IN_TASKS = ("async with", "async with", "async stack", "with", "stack", "acquire")
WAYS_OUT = (
    "normally", "normally", "normally", "an exception", "SIGINT", "another thread", "a forked child", "os._exit",
    "SIGKILL", "closing the generator", "dropping the generator", "cancelling the task",
)  # fmt: skip


def write(seed: int, leaves: dict[str, Leaf], kinds: tuple[str, ...]) -> Program:
    """Return the program of a seed."""
    return _Writer(seed, leaves, kinds).program()


class _Writer:
    def __init__(self, seed: int, leaves: dict[str, Leaf], kinds: tuple[str, ...]) -> None:
        self._rng, self._seed, self._leaves, self._kinds = random.Random(seed), seed, leaves, kinds
        self._deaths = (
            1 if self._rng.random() < 0.5 else 0
        )  # in half of the programs nobody dies: the checks are stricter

    def program(self) -> Program:
        rng = self._rng
        room = rng.choice(ROOMS)
        return Program(self._seed, room, tuple(self._process() for _ in range(rng.choice((2, 2, 3, 3, 4, 5, 6)))))

    def _process(self) -> Process:
        rng = self._rng
        ways = ["main", *rng.choices(STRANDS[1:], k=rng.choice((0, 0, 1, 2, 3)))]
        strands = tuple(Strand(way, self._steps((), way, 0, rng.choice((8, 16, 40)))) for way in ways)
        blows = [Blow(rng.choice(BLOWS), rng.randint(1, 120)) for _ in range(rng.choice((0, 0, 1, 2)))]
        survived = tuple(blow for blow in blows if self._deaths or blow.what != "SIGKILL")
        return Process(rng.choice(CONDITIONS), strands, survived, rng.choice(("checked", "checked", "exit")))

    def _steps(self, held: tuple[tuple[int, int], ...], way: str, depth: int, count: int) -> tuple[Step, ...]:
        steps = (self._step(held, way, depth) for _ in range(count))
        return tuple(step for step in steps if step is not None)

    def _step(self, held: tuple[tuple[int, int], ...], way: str, depth: int) -> Step | None:
        rng = self._rng
        if depth < 3 and rng.random() < 0.35:
            return self._hold(held, way, depth)
        if depth < 2 and rng.random() < 0.06:
            return Step("fork", "", (), self._steps((), "child", depth + 1, rng.randint(1, 4)))
        act = rng.choices([*self._leaves], [leaf.weight for leaf in self._leaves.values()])[0]
        leaf = self._leaves[act]
        name = rng.choice(leaf.names)
        if not all(_in_order(held, (NAMES.index(name), level)) for level in leaf.levels):
            return None
        options = ((key, rng.choice(self._kinds if values == ("kinds",) else values)) for key, values in leaf.options)
        return Step(act, name, tuple(options))

    def _hold(self, held: tuple[tuple[int, int], ...], way: str, depth: int) -> Step | None:
        rng = self._rng
        act = rng.choice([*HOLDS])
        name = rng.choice({"transaction": ("c", "c", "a", "b", "tally"), "slot": ("d", "d", "a")}.get(act, NAMES))
        key = NAMES.index(name), HOLDS[act]
        if HOLDS[act] < 2 and not _in_order(held, key):
            return None
        way_in = rng.choice(
            WAYS_IN_TASKS if way == "task" and act in ("lock", "shared", "transaction", "slot") else WAYS_IN
        )
        outs = [out for out in WAYS_OUT if self._fits(out, way_in, way)]
        how = (("way_in", way_in), ("way_out", rng.choice(outs)), ("timeout", rng.choice((None, None, None, 0.02))))
        within = held if HOLDS[act] == 2 else (*held, key)
        return Step(act, name, how, self._steps(within, way, depth + 1, rng.randint(1, 3)))

    def _fits(self, out: str, way_in: str, way: str) -> bool:
        if out in ("closing the generator", "dropping the generator"):
            return way_in == "generator"
        if out == "cancelling the task":
            return way_in.startswith("async")
        if out in ("SIGKILL", "os._exit"):  # of a child they are cheap; each process can die but once
            return bool(self._deaths) and (way == "child" or self._rng.random() < 0.2)
        return out != "SIGINT" or way == "main"


def _in_order(held: tuple[tuple[int, int], ...], key: tuple[int, int]) -> bool:
    return not held or key in held or key >= max(held)
