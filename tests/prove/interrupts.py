"""Ctrl-C at random moments of every operation: afterwards it works, here and in another process, and nothing is left.

A signal comes after a random part of the time that the operation takes, from a timer of the OS or from another thread.
Each Python that is found runs it, in a process of its own (`python -m tests.prove.interrupts SECONDS SEED`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import gc
import json
import logging
import os
import queue
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Any

from shmkernel.testing import remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.prove.report import Report

TITLE = "Ctrl-C at random moments"
PYTHONS = "SHMKERNEL_PROVE_PYTHONS"  # an environment variable: interpreters with the package's dependencies, by colons
_SWEEP = 10.0  # seconds for a watchdog to sweep, and for a process to end
_HANG = 30.0  # seconds that an operation may take
_ROUNDS = 5  # in a row of one operation
_FAULTS = 10  # after which a run ends
_THREADED = 0.25  # of the signals come from another thread


def run(seconds: float, seed: int, report: Report) -> None:
    """Interrupt operations on each Python, and report how often."""
    pythons = [sys.executable, *filter(None, os.environ.get(PYTHONS, "").split(os.pathsep))]
    times: Counter[str] = Counter()
    for python in pythons:
        found = _run_on(python, seconds / len(pythons), seed, report)
        report.add(f"all operations, Python {found.get('version', python)}", sum(found.get("times", {}).values()))
        for what, count in found.get("times", {}).items():
            times[what] += count
    for what, count in times.items():
        report.add(what, count)


def _run_on(python: str, seconds: float, seed: int, report: Report) -> dict[str, Any]:
    folder = tempfile.mkdtemp(prefix="shmkernel-prove-", dir="/dev/shm")
    command = [python, "-W", "ignore::DeprecationWarning", "-m", "tests.prove.interrupts", str(seconds), str(seed)]
    replay = f"--minutes {seconds / 60:.2f} --seed {seed} interrupts"
    found: dict[str, Any] = {}
    try:
        done = subprocess.run(
            command, env=os.environ | {"SHMKERNEL_DIR": folder}, timeout=seconds + (_ROUNDS + 2) * _HANG, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            report.fault(f"it ended with status {done.returncode}:\n{done.stderr[-4000:]}", replay)
        else:
            found = json.loads(done.stdout)
    except subprocess.TimeoutExpired as late:
        report.fault(f"it hangs:\n{str(late.stderr)[-4000:]}", replay)
    finally:
        remove(folder)
    for fault in found.get("faults", ()):
        report.fault(f"Python {found['version']}, {fault}", replay)
    return found


@dataclasses.dataclass
class Held:
    """What this process holds, and what lies in the folder of segments."""

    descriptors: Counter[str]
    mappings: Counter[str]
    files: Counter[str]
    threads: list[str]
    children: bool

    def __or__(self, other: Held) -> Held:
        """Return the more of each: what may be held depends on the operations before."""
        threads = max(self.threads, other.threads, key=len)
        parts = ("descriptors", "mappings", "files")
        return Held(*(getattr(self, part) | getattr(other, part) for part in parts), threads, other.children)

    def beyond(self, before: Held) -> str:
        """Return what is there more than before; the OS may have ended less than it will."""
        texts = [f"descriptors {[*more]}"] if (more := self.descriptors - before.descriptors) else []
        texts += [f"mappings {[*more]}"] if (more := self.mappings - before.mappings) else []
        texts += [f"files {[*more]}"] if (more := self.files - before.files) else []
        texts += [f"threads {self.threads}"] if len(self.threads) > len(before.threads) else []
        texts += ["a child process"] if self.children and not before.children else []
        return ", ".join(texts)


def held(folder: str) -> Held:
    """Look at this process and the folder."""
    from shmkernel.sync import sync_file
    from tests.helpers import left

    for file in [*sync_file._files.values()]:
        file.idle.clear()  # kept open for the next lock; how many depends on how many were used at once
    descriptors: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            descriptors[_plain(os.readlink(f"/proc/self/fd/{number}"))] += 1
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        mappings = Counter(_plain(line.split(maxsplit=5)[-1]) for line in file if folder in line)
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="utf-8") as file:
        children = len(file.read().split()) > 1  # the other process is one
    files = Counter(map(_plain, left(folder)))
    return Held(descriptors, mappings, files, [thread.name for thread in threading.enumerate()], children)


def _plain(path: str) -> str:
    """Return a path without what differs from one session, and one inode, to the next."""
    return re.sub(r"[0-9a-f]{32}|[#\[]?[0-9]{4,}\]?", "*", path.strip())


class Striker:
    """Interrupts this thread: by a timer of the OS, or by a signal from another thread."""

    def __init__(self, chance: random.Random, ours: str) -> None:
        self.came: list[bool] = []
        self.only_ours = False  # asyncio itself hangs if it is interrupted
        self._chance, self._ours, self._longest = chance, ours, 0.0
        self._delays: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._struck = threading.Event()
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.signal(signal.SIGINT, self._strike)
        self._me = threading.get_ident()
        threading.Thread(target=self._from_a_thread, name="striker", daemon=True).start()

    def _strike(self, _: int, frame: Any) -> None:
        if self.came:  # the timer's next
            return
        while frame.f_code.co_filename == __file__ and frame.f_back is not None:  # the handler of the timer
            frame = frame.f_back
        if self.only_ours and not frame.f_code.co_filename.startswith(self._ours):
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + self._longest * self._chance.random(), 1)
            return
        self.came.append(True)
        raise KeyboardInterrupt

    def _from_a_thread(self) -> None:
        while True:
            time.sleep(self._delays.get())
            signal.pthread_kill(self._me, signal.SIGINT)
            self._struck.set()

    def interrupt(self, act: Callable[[], object], longest: float) -> None:
        """Act again and again until a signal has come. Python drops its error in a destructor."""
        from tests.helpers import repeat

        self._longest, delay = longest, 1e-5 + longest * self._chance.random()
        threaded, end = self._chance.random() < _THREADED, time.monotonic() + _HANG
        try:
            self.came.clear()
            self._struck.clear()
            if threaded:
                self._delays.put(delay)
            # Again each second: Python 3.11 forgets to look for a signal that comes while a thread lets go of the GIL.
            signal.setitimer(signal.ITIMER_REAL, delay + threaded, 1)
            repeat(act, done=lambda: self.came or time.monotonic() > end)
        except KeyboardInterrupt:
            pass
        except BaseException:
            with contextlib.suppress(KeyboardInterrupt):  # the signal may still come
                signal.setitimer(signal.ITIMER_REAL, 0)
                repeat(lambda: time.sleep(0.001), done=lambda: self.came or not threaded)
            raise
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert self.came, "the signal has not come"
        if threaded:
            self._struck.wait(_HANG)


def _answer(connection: Any) -> None:
    """Carry out operations in another process, when told their names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import shmkernel as shm
    from tests.prove import interruptions

    interruptions.prepare()
    with shm.lock("theirs"):
        connection.send("ready")
        while name := connection.recv():
            try:
                interruptions.OPERATIONS[name]()
                connection.send("")
            except BaseException:
                connection.send(traceback.format_exc())
    interruptions.attached.clear()
    gc.collect()


def _unfinished() -> Iterator[str]:
    """Yield what is still held, though nothing is inside."""
    from shmkernel._core import interrupts, names_lock
    from shmkernel.kinds.dicts import store
    from shmkernel.sync import inotify, sync_file

    for name, module in [*sys.modules.items()]:
        if name.startswith("shmkernel."):
            for what, guard in vars(module).items():
                if isinstance(guard, interrupts.Guard) and guard.is_mine():
                    yield f"{name}.{what}"
    if names_lock.is_mine():
        yield "names.lock"
    for file in [*sync_file._files.values()]:
        if file.holds:
            yield f"the lock of {file.name}"
    for opened in [*store._stores.values()]:
        if opened.block is not None and not opened.block.over:
            yield f"the transaction of {opened.name}"
    if inotify._waiters:
        yield "a waiter"


class Trial:
    """Interrupts operations of this process, and looks for what is left."""

    def __init__(self, seed: int, folder: str, other: Any) -> None:
        import shmkernel as shm
        from tests.prove import interruptions

        self.operations, self.shm, self._folder, self._other = interruptions, shm, folder, other
        self._chance = random.Random(seed)
        self.times: dict[str, int] = dict.fromkeys(interruptions.OPERATIONS, 0)
        self.faults: list[str] = []
        self._longest: dict[str, float] = {}
        self._striker = Striker(self._chance, os.path.dirname(shm.__file__))
        self._before: Held | None = None
        self._dropped: list[str] = []
        sys.unraisablehook = self._drop
        logging.getLogger("asyncio").disabled = True  # it reports the KeyboardInterrupt of tasks

    def _drop(self, dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):  # that is dropped in every destructor
            self._dropped.append("".join(traceback.format_exception(dropped.exc_value)))

    def grouped(self) -> Counter[str]:
        """Return how often each verb was interrupted, of whatever kind."""
        times: Counter[str] = Counter()
        for name, count in self.times.items():
            times[self.operations.VERBS.get(name, name)] += count
        return times

    def measure(self) -> None:
        """Carry out each operation, so that all is imported and known, and note how long it takes."""
        for again in (False, True):
            for name, act in self.operations.OPERATIONS.items():
                start = time.perf_counter()
                act()
                self._longest[name] = 1.2 * (time.perf_counter() - start)
                if again:
                    gc.collect()
                    now = held(self._folder)
                    self._before = self._before | now if self._before else now

    def round(self, name: str) -> None:
        """Interrupt one operation a few times."""
        act = self.operations.OPERATIONS[name]
        self._striker.only_ours = "task" in name
        version = self.shm.version("the_array")
        for _ in range(_ROUNDS):
            try:
                self._striker.interrupt(act, self._longest[name])
                self._check(name, act)
                now = self.shm.version("the_array")
                assert now >= version, f"the version fell from {version} to {now}"
                version = now
            except BaseException:
                self.faults.append(f"{name}: {traceback.format_exc()}")
                self._dropped.clear()
                return
            self.times[name] += 1

    def _check(self, name: str, act: Callable[[], object]) -> None:
        if "task" in name:  # a task that waits in its block holds until it is collected
            gc.collect()
        self.operations.clean()
        assert not (unfinished := [*_unfinished()]), f"held: {unfinished}"
        assert not self._dropped, self._dropped
        act()
        self._other.tell(name)
        assert self._other.connection.poll(_HANG), "the other process hangs"
        assert not (said := self._other.connection.recv()), f"in the other process: {said}"
        assert self._before
        if more := held(self._folder).beyond(self._before):
            gc.collect()
            deadline = time.monotonic() + _SWEEP
            while (more := held(self._folder).beyond(self._before)) and time.monotonic() < deadline:
                time.sleep(0.01)
        if more:
            self._before = self._before | held(self._folder)  # else every later round fails too
        assert not more, f"left: {more}"


def _main(seconds: float, seed: int) -> int:
    from tests.helpers import Child

    folder, end = os.environ["SHMKERNEL_DIR"], time.monotonic() + seconds
    with Child(_answer) as other:
        assert other.hear() == "ready"
        trial = Trial(seed, folder, other)
        trial.operations.prepare()
        trial.measure()
        end = max(end, time.monotonic() + seconds / 2)  # to import all took its time
        gc.disable()  # a signal that strikes in a finaliser that the collector calls is dropped
        names, chance = [*trial.operations.OPERATIONS], random.Random(seed)
        while time.monotonic() < end and len(trial.faults) < _FAULTS:
            chance.shuffle(names)
            for name in names:
                if time.monotonic() > end:
                    break
                faulthandler.dump_traceback_later(_ROUNDS * _HANG, exit=True)
                trial.round(name)
            gc.collect()
        other.tell("")
        other.join()
    version = ".".join(map(str, sys.version_info[:3]))
    sys.stdout.write(json.dumps({"version": version, "times": trial.grouped(), "faults": trial.faults}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the rest of what is interrupted is not of interest


if __name__ == "__main__":
    sys.exit(_main(float(sys.argv[1]), int(sys.argv[2])))
