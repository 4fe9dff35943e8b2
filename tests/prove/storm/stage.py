"""Run one program of a storm: start its processes, strike them, read their log, and judge what is left."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import faulthandler
import fcntl
import os
import select
import shutil
import signal
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from shmkernel.testing import remove
from tests.prove.storm import actor, around, conditions, judge, oracle

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.prove.storm.program import Blow, Program

QUIET = 120.0  # seconds without a line: something hangs
_SUBREAPER, _DETACH = 36, 2  # PR_SET_CHILD_SUBREAPER, MNT_DETACH


@dataclasses.dataclass
class Outcome:
    """What a program has done, and what was wrong."""

    faults: list[str] = dataclasses.field(default_factory=list)
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    log: list[str] = dataclasses.field(default_factory=list)


class Stage:
    """The parent of a program's processes, in a process of its own."""

    def __init__(self, program: Program, quiet: float) -> None:
        self._program, self._quiet = program, quiet
        self._outcome = Outcome()
        self._folder = tempfile.mkdtemp(prefix="shmkernel-storm-", dir="/dev/shm")
        self._files = tempfile.mkdtemp(prefix="shmkernel-storm-")
        self._stacks = Path(self._files, "stacks").open("w+b")  # noqa: SIM115  for as long as the stage lives
        self._pids: dict[int, int] = {}  # of the processes, and their numbers
        self._statuses: dict[int, int] = {}
        self._killed: set[int] = set()
        self._blows: dict[int, list[Blow]] = {}

    def run(self) -> Outcome:
        """Run all, and clean up."""
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        os.environ |= {"SHMKERNEL_DIR": self._folder, "XDG_DATA_HOME": f"{self._files}/data"}
        try:
            self._prepare()
            self._storm()
            self._finish()
        except Exception:
            self._fault(f"the stage failed: {traceback.format_exc()}")
        finally:
            self._end_all()
            ctypes.CDLL(None).umount2(os.fsencode(self._folder), _DETACH)  # if it is a room of its own
            remove(self._folder)
            shutil.rmtree(self._files, ignore_errors=True)
        return self._outcome

    def _prepare(self) -> None:
        if self._program.room != "plain" and (prevented := around.mount_room(self._folder, self._program.room)):
            self._outcome.counts[f"room/{self._program.room}: {prevented}"] += 1
        self._words = oracle.Words()
        self._aside(lambda: around.open_(self._files))

    def _storm(self) -> None:
        read, write = os.pipe()
        write = _high(write)
        gate, opener = os.pipe()
        for number, process in enumerate(self._program.processes):
            pid = self._fork(
                lambda number=number, process=process: self._act(number, process, write, (gate, opener, read))
            )
            self._pids[pid] = number
            self._blows[pid] = sorted(process.blows, key=lambda blow: blow.after)
        os.close(write)
        os.close(gate)
        os.close(opener)
        self._follow(read)
        os.close(read)

    def _act(self, number, process, write: int, close: tuple[int, int, int]) -> None:
        gate, opener, read = close
        os.close(read)
        os.close(opener)
        os.read(gate, 1)  # until all have been forked
        os.close(gate)
        faulthandler.enable(self._stacks)
        faulthandler.register(signal.SIGUSR1, self._stacks, all_threads=True)
        errors = conditions.ERRORS[process.condition] + conditions.ROOMS[self._program.room]
        actor.Actor(number, process, oracle.Log(write), self._words, self._files, errors).run()

    def _fork(self, work: Callable[[], None]) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            return pid
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            work()
            status = 0
        except BaseException:
            with contextlib.suppress(OSError):
                self._stacks.write(traceback.format_exc().encode())
                self._stacks.flush()
        finally:
            os._exit(status)

    def _aside(self, work: Callable[[], None]) -> None:
        """Run in a child that comes to its end before this returns."""
        pid = self._fork(work)
        if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            self._fault(f"a process before or after the storm ended with {status}: {self._stack()}")

    def _follow(self, read: int) -> None:
        """Read the log until all of its writers have ended."""
        rest, last = b"", time.monotonic()
        seen: collections.Counter[int] = collections.Counter()
        frozen: dict[int, float] = {}
        while True:
            if select.select([read], [], [], 0.05)[0]:
                data = os.read(read, 1 << 16)
                if not data:
                    return
                last = time.monotonic()
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    text = line.decode(errors="replace")
                    self._outcome.log.append(text)
                    pid = int(text.split(" ", 1)[0])
                    seen[pid] += 1
                    if pid in self._pids:
                        self._strike(pid, seen[pid], frozen)
            for pid in [pid for pid, until in frozen.items() if time.monotonic() > until]:
                del frozen[pid]
                os.kill(pid, signal.SIGCONT)
            if time.monotonic() - last > self._quiet:
                self._hangs()
                return

    def _strike(self, pid: int, lines: int, frozen: dict[int, float]) -> None:
        """Send the signals that are due."""
        while self._blows[pid] and self._blows[pid][0].after <= lines:
            blow = self._blows[pid].pop(0)
            self._outcome.counts[f"blow/{blow.what}"] += 1
            if blow.what == "watchdog SIGKILL":
                for dog in _watchdogs(self._folder, pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(dog, signal.SIGKILL)
                continue
            if blow.what == "SIGSTOP":
                frozen[pid] = time.monotonic() + 0.1
            if blow.what == "SIGKILL":
                self._killed.add(pid)
            with contextlib.suppress(ProcessLookupError):  # not yet waited for: the pid is nobody else's
                os.kill(pid, getattr(signal, blow.what))

    def _hangs(self) -> None:
        for pid in self._alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
                time.sleep(0.3)
        last = {line.split(" ", 1)[0]: line for line in self._outcome.log}
        lines = "\n".join(last[str(pid)] for pid in self._alive() if str(pid) in last)
        self._fault(
            f"nothing has happened for {self._quiet:g} s. The last lines:\n{lines}\nThe stacks:\n{self._stack()}"
        )

    def _alive(self) -> list[int]:
        """Return the processes of this storm that run, watchdogs left out."""
        born = {int(line.split()[0]) for line in self._outcome.log if line.split()[1] == "born"}
        return [pid for pid in sorted({*born, *self._pids}) if os.path.exists(f"/proc/{pid}/fd")]

    def _finish(self) -> None:
        """Wait for the ends, and see what is left."""
        if not self._outcome.faults:
            self._reap()
            self._aside(lambda: around.sweep(self._outcome.log))
            self._reap()
        judge.judge(self._outcome, self._program, self._statuses, self._pids, self._killed, self._stack())
        if not self._outcome.faults:
            around.check_folder(self._folder, self._fault)

    def _reap(self) -> None:
        """Wait until there is no child any more: processes, orphans of killed ones, watchdogs."""
        end = time.monotonic() + self._quiet
        while time.monotonic() < end:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid:
                self._statuses[pid] = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.002)
        self._fault(f"processes are left: {_children()}")

    def _end_all(self) -> None:
        for _ in range(20):
            for pid, _line in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.05)

    def _stack(self) -> str:
        self._stacks.flush()
        return Path(self._stacks.name).read_text(errors="replace")[-60000:]

    def _fault(self, what: str) -> None:
        self._outcome.faults.append(what)


def _high(fd: int) -> int:
    """Move a descriptor beyond those that the product gets."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(fd)
    return high


def _watchdogs(folder: str, pid: int) -> list[int]:
    theirs = os.fsencode(f"{folder}/.shmk-")
    return [dog for dog, line in _children(pid) if b"watchdog.py" in line and theirs in line]


def _children(of: int | None = None) -> list[tuple[int, bytes]]:
    """Return the children of a process, and their command lines."""
    of, found = of or os.getpid(), []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == of and fields[0] != "Z":
                found.append((int(entry), Path(f"/proc/{entry}/cmdline").read_bytes()))
    return found
