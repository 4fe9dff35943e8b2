"""Every operation is killed at every system call, and every system call of it is made to fail.

A child runs an operation (`operations`), and this process decides what becomes of each of its system calls
(`injection`). The child is *killed* before the n-th call, in a fresh process, for n = 1, 2, ... and after the last.
Or the call *fails* with an errno that the OS may give, alone or (marked +) with all later ones; in a process that does
the operation for the first time (first) or again (again).

    point       OPERATION:first|again:CALL.NUMBER:kill|ERRNO|ERRNO+      python -m tests.prove.points POINT ...
    after kill  the folder is swept, others' segments are whole, locks are free, and the operation works elsewhere
    after fail  success, or an error of ours that fits the errno and destroys nothing; then the operation works, and
                neither descriptor, mapping, thread nor file is left over
"""

from __future__ import annotations

import collections
import contextlib
import errno
import faulthandler
import gc
import importlib
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import shmkernel as shm
from shmkernel._core import registry, sessions
from shmkernel.testing import remove
from tests.helpers import Child, left, until, until_left
from tests.prove import operations as all_operations
from tests.prove.injection import PATIENCE, HangError, Supervised, Supervisor, listener
from tests.prove.kinds import KINDS
from tests.prove.operations import THEIRS, Operation, tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.prove.injection import Call
    from tests.prove.report import Report

TITLE = "Crash points"
_LASTING = (errno.EMFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
_LEAST = 2.0  # seconds for an operation: in a short run some get none
_MOMENT = 0.2  # seconds to print a traceback
_KILL, _END = "kill", "the end"


class Point(NamedTuple):
    """What becomes of which call of an operation, for example flock.2; `text` is the argument that tries it again."""

    operation: Operation
    again: bool
    call: str
    fate: str

    @property
    def text(self) -> str:
        return f"{self.operation.name}:{'again' if self.again else 'first'}:{self.call}:{self.fate}"


def parsed(text: str) -> Point:
    """Return the point with this text."""
    name, when, call, fate = text.split(":")
    (operation,) = (one for one in all_operations.operations() if one.name == name)
    return Point(operation, when == "again", call, fate)


def run(seconds: float, seed: int, report: Report) -> None:
    """Try points of all operations, chosen at random, until the time is over."""
    if not possible():
        report.add("nothing: this machine forbids seccomp's user notifications, or is no x86-64", 0, "not tried")
        return
    choice, deadline = random.Random(seed), time.monotonic() + seconds
    tried, known, wrong = (collections.Counter[tuple[str, str]]() for _ in range(3))
    chosen = [*all_operations.operations()]
    choice.shuffle(chosen)
    with Stage() as stage:
        for number, operation in enumerate(chosen):
            if time.monotonic() > deadline:
                break
            limit = time.monotonic() + max((deadline - time.monotonic()) / (len(chosen) - number), _LEAST)
            points = survey(stage, operation)
            choice.shuffle(points)
            kills = [point for point in points if point.fate == _KILL]
            fails = [point for point in points if point.fate != _KILL]
            known.update({(operation.group, "killed"): len(kills), (operation.group, "fails"): len(fails)})
            for what, some, share in (("killed", kills, 0.5), ("fails", fails, 1.0)):
                end = time.monotonic() + (limit - time.monotonic()) * share
                for point, why in attempts(stage, some, end):
                    tried[operation.group, what] += 1
                    if why:
                        wrong[operation.group, what] += 1
                        alone = f"python -m tests.prove.points '{point.text}'"
                        report.fault(f"{point.text}: {why} (it alone: {alone})", f"points --seed {seed}")
    for (group, what), count in sorted(tried.items()):
        times = "killed at a call" if what == "killed" else "a call fails"
        faults = wrong[group, what]
        outcome = f"{faults:,} faults" if faults else "held"
        report.add(f"{group}: {times}", count, f"{outcome}; there are {known[group, what]:,} such points")


def possible() -> bool:
    """Return whether this machine lets one process supervise another's calls."""
    with Child(lambda _: listener()) as child:
        return child.join() == 0


class Stage:
    """A folder in which one process holds a segment of each kind, and another checks that all is well.

    With `rehearse`, an import that an operation may need is done before, so that it is no step of the operation.
    """

    def __init__(self, *, rehearse: bool = True) -> None:
        self._rehearse = rehearse

    def __enter__(self) -> Self:
        self.folder = tempfile.mkdtemp(prefix="shmkernel-points-", dir="/dev/shm")
        os.mkdir(f"{self.folder}.files")
        own = {"SHMKERNEL_DIR": self.folder, "XDG_DATA_HOME": f"{self.folder}.data"}
        self._before = {name: os.environ.get(name) for name in own}
        os.environ |= own
        self.holder = Child(_hold)
        assert self.holder.hear() == "ready"
        if self._rehearse:
            with Child(_rehearse) as child:
                modules = child.hear()
                child.join()
            for name in modules:
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
        self.checker = Child(_check)
        assert self.checker.hear() == "ready"
        registry.begin()  # children whose calls fail belong to this session: that spares each a watchdog
        self.settle()
        return self

    def settle(self) -> None:
        """Take what lies in the folder now as usual. The checker may have begun a new session."""
        sessions_of_all = 3  # the holder's, the checker's and this one's
        until(lambda: len(self._sessions()) == sessions_of_all, "the folder is swept")
        self.left = left(self.folder)

    def _sessions(self) -> list[str]:
        return [path for path in left(self.folder) if "/sessions/" in path]

    def __exit__(self, *_: object) -> None:
        self.holder.end()
        self.checker.end()
        sessions.end()
        for name, value in self._before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}
        with contextlib.suppress(AssertionError):
            until_left(self.folder)
        for more in ("files", "data"):
            shutil.rmtree(f"{self.folder}.{more}", ignore_errors=True)
        remove(self.folder)

    def clear(self) -> None:
        """Remove what a child of this session has left, which would be swept at the session's end."""
        for path in {*left(self.folder)} - {*self.left}:
            if "/sessions/" in path:
                os.unlink(f"{self.folder}/{path}")
        if left(self.folder) != self.left:
            self.ask("")
            self.left = left(self.folder)

    def ask(self, name: str) -> str:
        """Have the checker look at everything and do the operation itself; return what is wrong."""
        self.checker.tell(name)
        if not self.checker.connection.poll(PATIENCE):
            return "another process hangs afterwards"
        return str(self.checker.connection.recv())


def _rehearse(connection: Any) -> None:
    """Find what the operations import, so that an import is no step of theirs."""
    for operation in all_operations.operations():
        made = operation.act(operation.before())
        del made
        tidy()
    connection.send([*sys.modules])


def _make_theirs() -> list[Any]:
    return [kind.create(THEIRS.format(kind.name), 1) for kind in KINDS]


def _hold(connection: Any) -> None:
    made = _make_theirs()
    connection.send("ready")
    connection.recv()
    del made


def _check(connection: Any) -> None:
    warnings.simplefilter("ignore")  # the next holder of a lock is warned of a dead one
    registry.begin()
    known = {operation.name: operation for operation in all_operations.operations()}
    connection.send("ready")
    while True:
        name = connection.recv()
        try:
            if name:
                _look(known.get(name))
            else:
                tidy()
            why = ""
        except BaseException as error:
            why = f"afterwards in another process: {_told(error)}"
        connection.send(why)


def _look(operation: Operation | None) -> None:
    for kind in KINDS:
        name = THEIRS.format(kind.name)
        x = shm.attach(name)
        stamps = kind.stamps(x)
        assert stamps <= {1, 3}, f"{name} has {stamps}"
        assert len(stamps) == 1 or kind.kind in ("array", "list", "raw"), f"{name} has {stamps}"
        with shm.lock(name, timeout=PATIENCE / 3):
            if kind.change is not None:
                kind.change(x, 1)
        assert kind.stamps(x) == {1}
        if kind.kind == "array":
            with shm.writing(x):
                pass
        del x
    states = {info.name: info.state for info in shm.list()}
    assert states == dict.fromkeys(map(THEIRS.format, (kind.name for kind in KINDS)), ""), states
    if operation:
        made = operation.act(operation.before())
        del made
        tidy()
    registry.begin()  # if the operation has ended it: `settle` counts sessions


def _told(error: BaseException) -> str:
    places = [f"{os.path.basename(at.filename)}:{at.lineno}" for at in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__}: {error} [{' '.join(places[-6:])}]"


class _Actor:
    """A child that does one operation again and again, supervised."""

    def __init__(self, stage: Stage, operation: Operation, fate: str = "") -> None:
        ours, theirs = socket.socketpair()
        self.operation, self.stage = operation, stage

        def work(_: object) -> None:
            ours.close()
            _act(operation, theirs)

        self.kin = fate != _KILL and not operation.cold
        self.child = Child(work, kin=self.kin)
        theirs.close()
        self.calls: dict[str, Call] = {}  # by name and number
        self.struck = False
        try:
            self.supervisor = Supervisor(self.child.pid, ours)
        except BaseException:
            self.child.end()
            ours.close()
            raise

    def round(self, target: str = "", fate: str = "") -> str:
        """Have the operation done once, with this fate of the call to be struck; return what is wrong."""
        self.calls, self.struck = {}, False
        count = collections.Counter[str]()
        lasting, code = fate.endswith("+"), getattr(errno, fate.rstrip("+"), 0)

        def decide(call: Call) -> int | None:
            count[call.name] += 1
            self.calls[at := f"{call.name}.{count[call.name]}"] = call
            if (at == target or (lasting and self.struck)) and (fate == _KILL or code in call.errors()):
                self.struck = True
                return 0 if fate == _KILL else code
            return None

        for expected, answer in ("ready", fate), ("armed", ""):
            if (heard := self._hear()) != expected:
                return f"before the operation: {heard or 'death'}"
            self.supervisor.answer(answer)
        heard = self._hear(decide)
        if fate == _KILL:
            if heard:
                self.struck = True
                self.child.end()
            return self.after_death()
        self.supervisor.answer("struck" if self.struck else "")
        if not heard:
            return "the process died"
        heard = self._hear()
        self.supervisor.answer()
        return heard or "the process died afterwards"

    def _hear(self, decide: Callable[[Call], int | None] = lambda _: None) -> str:
        try:
            return self.supervisor.hear(decide)
        except HangError:
            os.kill(self.child.pid, signal.SIGUSR1)  # its traceback goes to the standard error
            time.sleep(_MOMENT)
            raise

    def after_death(self) -> str:
        """Return what is wrong after the child's death."""
        self.child.join()
        self.supervisor.until_alone()
        if "keep" in self.operation.name or "kept" in self.operation.name:
            self.stage.ask("")
        try:
            until_left(self.stage.folder, *self.stage.left)
        except AssertionError:
            return f"not swept: {sorted({*left(self.stage.folder)} - {*self.stage.left})}"
        why = self.stage.ask(self.operation.name)
        if self.operation.cold:
            self.stage.settle()
        return why

    def end(self) -> None:
        """End the child, and wait until its watchdog has swept."""
        if self.child.status is None:
            self.child.end()
        self.supervisor.until_alone()
        self.supervisor.close()
        if self.kin:
            self.stage.clear()


def _act(operation: Operation, line: socket.socket) -> None:
    """Be the child."""
    warnings.simplefilter("ignore")
    gc.freeze()  # collecting is then a matter of what the operation makes
    faulthandler.register(signal.SIGUSR1)  # how the supervisor asks where it hangs
    if not operation.cold:
        registry.begin()
    me, usual = Supervised(line), None
    while True:
        fate = me.say("ready").strip()
        state: Any = operation.before()
        gc.collect()
        me.say("armed")
        made, why = None, ""
        try:
            made = operation.act(state)
        except BaseException as error:
            why = _wrong(error, fate.rstrip("+"))
            error.__traceback__ = None
        struck = me.say("done").strip() == "struck"
        del made, state
        if why and not struck:
            me.say(f"without a failure: {why}")
            continue
        try:
            why = why or _wrong_after(operation)
        except BaseException as error:
            why = f"afterwards: {_told(error)}"
        now = _census()
        if why:
            usual = None
        elif usual is None or not struck:
            usual = now
        elif now != usual:
            why, usual = f"left over: {_differs(usual, now)}", None
        me.say(why or "well")


def _wrong_after(operation: Operation) -> str:
    shm.gc()  # the next use removes what could not be removed
    tidy()
    made = operation.act(operation.before())
    del made
    tidy()
    gc.collect()
    return ""


def _wrong(error: BaseException, fate: str) -> str:
    """Return what is wrong with an error, "" if it is as promised."""
    told = _told(error)
    if not isinstance(error, shm.ShmError):
        return f"a foreign error: {told}"
    if isinstance(error, (shm.DamagedError, shm.NotFoundError, shm.TakenError)):
        return f"a healthy segment is slandered: {told}"
    if any(cure.verb == "unlink" for cure in error.cures):
        return f"the cure destroys a healthy segment: {told}"
    if fate == "EMFILE" and not isinstance(error, shm.LimitError):
        return f"the limit is not named: {told}"
    if fate in ("ENOSPC", "EDQUOT") and not isinstance(error, (shm.FullError, shm.LimitError)):
        return f"the limit is not named: {told}"
    return ""


def _census() -> dict[str, int]:
    """Count descriptors, mappings of segments, threads, and files of this process."""
    count = collections.Counter(left(os.environ["SHMKERNEL_DIR"]))
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them
            count[f"fd {_plain(os.readlink(f'/proc/self/fd/{fd}'))}"] += 1
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            if os.environ["SHMKERNEL_DIR"] in line:
                count[f"mapping {_plain(line.split(maxsplit=5)[5])}"] += 1
    count["threads"] = max(0, len(os.listdir("/proc/self/task")) - 2)  # beyond the main one and a dict's keeper
    return {_plain(what): number for what, number in count.items()}


def _plain(text: str) -> str:
    return re.sub(r"[0-9a-f]{32}|[0-9]+", "N", text.strip())


def _differs(usual: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    both = {*usual, *now}
    return {what: now.get(what, 0) - usual.get(what, 0) for what in both if now.get(what, 0) != usual.get(what, 0)}


def survey(stage: Stage, operation: Operation) -> list[Point]:
    """Return all points of an operation."""
    points = []
    actor = _Actor(stage, operation)
    try:
        for again in (False, True):
            why = actor.round()
            assert why == "well", f"{operation.name}: {why}"
            for at, call in actor.calls.items():
                points += [Point(operation, again, at, errno.errorcode[code]) for code in call.errors()]
                lasting = [code for code in call.errors() if code in _LASTING]
                points += [Point(operation, again, at, f"{errno.errorcode[code]}+") for code in lasting]
            if not again:
                points += [Point(operation, again, at, _KILL) for at in (*actor.calls, _END)]
    finally:
        actor.end()
    return points


def attempts(stage: Stage, points: list[Point], end: float) -> Iterator[tuple[Point, str]]:
    """Try points until the time is over; yield each with what is wrong."""
    actor = None
    try:
        for point in points:
            if time.monotonic() > end:
                return
            try:
                if not point.again:
                    why = _alone(stage, point)
                else:
                    if actor is None:
                        actor = _Actor(stage, point.operation, point.fate)
                        actor.round()
                        actor.round()
                    why = actor.round(point.call, point.fate)
                    if why != "well":
                        actor.end()
                        actor = None
            except (HangError, TimeoutError):
                why = "it hangs"
                if actor:
                    actor.end()
                    actor = None
            yield point, "" if why in ("", "well") else why
    finally:
        if actor:
            actor.end()


def _alone(stage: Stage, point: Point) -> str:
    """Try a point in a fresh process."""
    actor = _Actor(stage, point.operation, point.fate)
    try:
        return actor.round(point.call, point.fate)
    finally:
        actor.end()


def main() -> int:
    """Try the points of the command line."""
    status = 0
    with Stage() as stage:
        for text in sys.argv[1:]:
            for point, why in attempts(stage, [parsed(text)], time.monotonic() + PATIENCE):
                print(f"{point.text}: {why or 'held'}")
                status |= bool(why)
    return status


if __name__ == "__main__":
    sys.exit(main())
