"""Fuzz all targets, each in a child that is forked after the imports: ``python -m tests.prove.hostile``.

The child runs libFuzzer, by way of atheris, which prefers inputs that reach new lines of the package. What it tries
lies in memory that this process shares, so that the input is known however the child ends. With a target's name and an
input (base64) as arguments it runs that input alone, without a fuzzer.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import mmap
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.helpers import exiting
from tests.prove.hostile import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.prove.hostile.judge import Target

    Explore = Callable[[Target, list[bytes], Callable[[bytes], None], Path, float, int], None]

PATIENCE = 60.0  # seconds for one input, on a busy machine
_ROOM = 1 << 16
_KINDS_OF_FAULTS = 20  # of a target: enough to mend


class Room:
    """Memory shared with a child: the number of inputs it has tried, and the one it is trying."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _ROOM)
        self._words = memoryview(self._memory).cast("Q")

    def note(self, data: bytes) -> None:
        """Note the next input."""
        self._words[1] = len(data)
        self._memory[16 : 16 + len(data)] = data
        self._words[0] += 1

    @property
    def count(self) -> int:
        """How many inputs were tried."""
        return self._words[0]

    @property
    def last(self) -> bytes:
        """The input that was tried last."""
        return self._memory[16 : 16 + self._words[1]]


class Running(NamedTuple):
    """A child at work on a target; its faults are lines of a file in its folder."""

    target: Target
    pid: int
    pidfd: int
    room: Room
    folder: Path
    began: float

    def faults(self, status: int) -> Iterator[tuple[str, bytes]]:
        """Yield what the child has found, and how it ended if that is one."""
        for line in (self.folder / "faults").read_text().splitlines():
            what, data = json.loads(line)
            yield what, base64.b64decode(data)
        if code := os.waitstatus_to_exitcode(status):
            last = (self.folder / "log").read_text(errors="replace").strip().splitlines()[-3:]
            yield f"{_end(code)}: {' | '.join(last)}", self.room.last


def _end(code: int) -> str:
    return f"death by {signal.Signals(-code).name}" if code < 0 else f"exit with status {code}"


def fork(target: Target, folder: Path, seconds: float, seed: int, explore: Explore) -> Running:
    """Start a child that explores a target."""
    room = Room()
    folder.mkdir()
    (folder / "faults").touch()
    pid = os.fork()
    if pid == 0:
        with exiting():
            _child(target, room, folder, seconds, seed, explore)
    return Running(target, pid, os.pidfd_open(pid), room, folder, time.monotonic())


def _child(target: Target, room: Room, folder: Path, seconds: float, seed: int, explore: Explore) -> None:
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["SHMKERNEL_DIR"] = str(folder)
    act, seeds, known = target.make(), [*target.seeds()], set()
    judge.limit_memory(target.addresses)

    def one(data: bytes) -> None:
        room.note(data)
        wrong = judge.judge(act, data, target.allowed)
        if wrong is None or wrong.what in known or len(known) >= _KINDS_OF_FAULTS:
            return
        known.add(wrong.what)
        short = judge.shortened(act, data, target.allowed, wrong.what)
        with open(folder / "faults", "a") as file:
            file.write(json.dumps([f"{wrong.what}: {wrong.text}", base64.b64encode(short).decode()]) + "\n")

    explore(target, seeds, one, folder, seconds, seed)


def fuzz(
    target: Target, seeds: list[bytes], one: Callable[[bytes], None], folder: Path, seconds: float, seed: int
) -> None:
    """Give libFuzzer the seeds, and let it try what it likes. It ends the process."""
    import atheris  # not there on every Python

    (folder / "corpus").mkdir()
    for number, data in enumerate(seeds):
        (folder / "corpus" / str(number)).write_bytes(data[: target.longest])
    own = target.mutate

    def mutate(data: bytes, most: int, chance: int) -> bytes:
        if own is not None and chance % 2:
            return own(data, random.Random(chance))[:most]
        return bytes(atheris.Mutate(data, most))

    options = ["-rss_limit_mb=0", "-timeout=9999", "-handle_segv=0", "-handle_bus=0", "-handle_abrt=0", "-handle_fpe=0"]
    options += [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed % 2**32 or 1}", f"-max_len={target.longest}"]
    arguments = ["hostile", *options, f"-artifact_prefix={folder}/", str(folder / "corpus")]
    atheris.Setup(arguments, one, **({} if own is None else {"custom_mutator": mutate}))
    atheris.Fuzz()


def explored(
    targets: Iterable[Target],
    folder: Path,
    until: float,
    seed: int,
    explore: Explore = fuzz,
    patience: float = PATIENCE,
) -> Iterator[tuple[Running, float, list[tuple[str, bytes]]]]:
    """Explore all targets, as many at a time as there are processors; yield each when it has ended."""
    waiting, running = [*targets], []
    workers = min(len(os.sched_getaffinity(0)), 4)
    seconds = max((until - time.monotonic()) * workers / len(waiting), 0.5)
    seen: dict[int, tuple[int, float]] = {}  # by pid: how many inputs had been tried, and when that was
    while waiting or running:
        while waiting and len(running) < workers:
            target = waiting.pop(0)
            running.append(fork(target, folder / str(len(waiting)), seconds, seed, explore))
        ready, _, _ = select.select([child.pidfd for child in running], [], [], 0.5)
        now = time.monotonic()
        for child in [*running]:
            count, since = seen.get(child.pid, (-1, now))
            seen[child.pid] = (count, since) if count == child.room.count else (child.room.count, now)
            hung = now - seen[child.pid][1] > patience
            if hung:
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            if hung or child.pidfd in ready:
                running.remove(child)
                yield child, now - child.began, _ended(child, hung)


def _ended(child: Running, hung: bool) -> list[tuple[str, bytes]]:
    _, status = os.waitpid(child.pid, 0)
    os.close(child.pidfd)
    found = [*child.faults(0 if hung else status)]
    if hung:
        found.append(("a hang", child.room.last))
    return found


def replay(name: str, data: bytes) -> int:
    """Run one input, and show what comes of it."""
    from tests.prove.hostile.targets import TARGETS  # after the instrumentation, where there is one

    (target,) = [target for target in TARGETS if target.name == name]
    folder = tempfile.mkdtemp(prefix="shmkernel-hostile-", dir="/dev/shm")
    os.environ["SHMKERNEL_DIR"] = folder
    try:
        act = target.make()
        judge.limit_memory(target.addresses)
        wrong = judge.judge(act, data, target.allowed)
        print(wrong or "harmless")
        if wrong is not None:
            act(data)  # for its traceback
        return wrong is not None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Fuzz, and print a line of JSON for each target when it has ended: name, count, seconds, faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove.hostile", description=__doc__.partition("\n")[0])
    parser.add_argument("target", nargs="?", help="the target of an input to replay")
    parser.add_argument("input", nargs="?", type=base64.b64decode, help="the input, in base64")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="an empty folder in memory")
    parser.add_argument("--only", help="targets whose name contains this")
    asked = parser.parse_args()
    if asked.input is not None:
        return replay(asked.target, asked.input)
    until = time.monotonic() + asked.seconds
    import atheris  # not there on every Python

    with contextlib.redirect_stdout(sys.stderr), atheris.instrument_imports(include=["shmkernel", "lmdb.verify"]):
        from tests.prove.hostile.targets import TARGETS  # instrumented
    chosen = [target for target in TARGETS if (asked.only or "") in target.name]
    for child, seconds, found in explored(chosen, asked.folder, until, asked.seed):
        faults = [(what, base64.b64encode(data).decode()) for what, data in found]
        print(json.dumps([child.target.name, child.room.count, seconds, faults]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
