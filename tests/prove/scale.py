"""Scale: many segments, sessions and waiters, large arrays and dicts.

Times are processor time where one process works, since the machine may be busy. A figure beyond a goal is reported. A
fault is what grows faster than the number of segments, or with it where it should not grow, and what is left behind.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from IPython.core.completer import CompletionContext
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import shmkernel as shm
from shmkernel import render
from shmkernel._core import paths, records, registry, sessions
from shmkernel.kinds.preview import Look
from shmkernel.monitor import preview
from shmkernel.notebook import completion
from tests import helpers
from tests.prove import fresh
from tests.prove.report import Figure

TITLE = "Scale: many segments, sessions and waiters, large arrays and dicts"
_LONG = 150  # seconds from which on the full numbers are measured
_LATEST = 1200  # seconds that one measurement may take on a busy machine
_FULL = {"segments": 10_000, "guests": 200, "waiters": 1000, "keys": 10_000_000}
_SHORT = {"segments": 1000, "guests": 6, "waiters": 60, "keys": 20_000}
_REPEATS = 40
_FEW = 5  # sessions
_GROWS = 4  # times: what may not grow with the number of segments, measured on a busy machine
_STEEP = 3  # times a segment's share of a listing may grow with ten times as many segments
_GOALS = {"complete": 20}  # ms, of 10,000 segments
_TERMINAL = 150  # ms, for the same at a terminal, which shows the first of them
_SPARSE = 64 << 30
_TOUCHED = 64 << 20  # bytes that looking at a sparse file may take


def run(seconds, seed, report):
    """Measure each; the short form with small numbers, the long form with the full ones."""
    replay = f"scale --seed {seed} --minutes {seconds / 60:.2f}"
    numbers = _FULL if seconds >= _LONG else _SHORT
    for measure in (_segments, _guests, _waiters, _sparse, _keys):
        with fresh.folder() as environment:
            try:
                measure(numbers, environment, report, replay)
            except subprocess.SubprocessError as error:  # too late, or an error that the process has printed
                report.fault(f"{measure.__name__.strip('_')}: {type(error).__name__}", replay)


def _ask(function, environment, *arguments):
    return fresh.answer(function, *arguments, environment=environment, seconds=_LATEST / 2)


def _against(goal, value):
    return f"{value:,.1f} ms (goal {goal})"


def _segments(numbers, environment, report, replay):
    most = numbers["segments"]
    curves = {name: dict(points) for name, points in _ask(segments, environment, most).items()}
    few, part = 10, most // 10
    for name in ("create", "attach", "unlink"):
        ratio = curves[name][most] / curves[name][few]
        report.add(f"{name} among {most:,} segments", _REPEATS, f"{ratio:.1f} x of among ten (goal 1.5)")
        if ratio > _GROWS:
            report.fault(f"{name} takes {ratio:.1f} times as long among {most:,} segments as among ten", replay)
    for name in ("list", "sweep", "complete"):
        took = curves[name][most]
        goal = _GOALS.get(name)
        report.add(f"{name}, with {most:,} segments", 1, _against(goal, took) if goal else f"{took:,.1f} ms")
        steepness = (took / most) / (curves[name][part] / part)
        if steepness > _STEEP:
            report.fault(f"{name}: with ten times the segments each takes {steepness:.1f} times as long", replay)
    bare = curves["interpreter"][most]
    for title, name, goal in (("at a terminal", "terminal", _TERMINAL), ("to a file", "command", None)):
        took = curves[name][most] - bare
        outcome = _against(goal, took) if goal else f"{took:,.1f} ms"
        report.add(f"shmkernel list {title}, with {most:,} segments", 1, f"{outcome} beyond the interpreter's start")
    per_segment = {name: sorted(curves[name].items()) for name in ("create", "attach", "unlink")}
    report.figures.append(Figure("scale-one", "segments", "time of one, us", _microseconds(per_segment), "x"))
    of_all = {name: sorted(curves[name].items()) for name in ("list", "sweep", "complete")}
    report.figures.append(Figure("scale-all", "segments", "time for all, ms", of_all, "xy"))


def _microseconds(curves):
    return {name: [(x, y * 1000) for x, y in points] for name, points in curves.items()}


def segments(most):
    """Measure what one segment and what all segments take in ms, with ten segments, a hundred, and so on."""
    curves, made, at = {}, 0, 10
    shm.create("first", [1.5], lifetime="keep")
    while at <= most:
        for number in range(made, at - 1):
            shm.create(f"kept{number}", [1.5], lifetime="keep")
        made = at - 1
        for name, took in {**_of_one(), **_of_all()}.items():
            curves.setdefault(name, []).append((at, took))
        at *= 10
    listing = [sys.executable, "-m", "shmkernel", "list"]
    curves["terminal"] = [(most, min(_command(listing, _at_terminal) for _ in range(3)))]
    curves["command"] = [(most, min(_command(listing) for _ in range(3)))]
    curves["interpreter"] = [(most, min(_command([sys.executable, "-c", ""]) for _ in range(3)))]
    return curves


def _of_one():
    took = {"create": [], "attach": [], "unlink": []}
    for number in range(_REPEATS):
        name, marks = f"one{number}", [time.process_time()]
        x = shm.create(name, [1.5])
        marks.append(time.process_time())
        del x
        start = time.process_time()
        x = shm.attach(name)
        took["attach"].append(time.process_time() - start)
        del x
        start = time.process_time()
        shm.unlink(name)
        took["unlink"].append(time.process_time() - start)
        took["create"].append(marks[1] - marks[0])
    return {name: statistics.median(values) * 1000 for name, values in took.items()}


def _of_all():
    def listing():
        records._known.clear()  # as a new process
        render.table(shm.list())

    line = "%shm_attach "
    context = CompletionContext("", line, len(line), 0, None)
    complete = _matcher()
    assert complete(context)["completions"]
    return {"list": _least(listing), "sweep": _least(registry.sweep), "complete": _least(lambda: complete(context))}


@functools.cache
def _matcher():
    """Return what completes names in a notebook."""
    with tempfile.TemporaryDirectory() as apart:  # not the user's
        shell = InteractiveShell.instance(ipython_dir=apart, config=Config({"HistoryManager": {"enabled": False}}))
    shm.load_ipython_extension(shell)
    return completion.matcher_for(shell)


def _least(act, times=5):
    took = []
    for _ in range(times):
        start = time.process_time()
        act()
        took.append(time.process_time() - start)
    return min(took) * 1000


def _to_nowhere(command):
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=fresh.LIMIT)


def _at_terminal(command):
    try:
        seen, terminal = os.openpty()
    except OSError:  # there are no terminals on this machine
        return _to_nowhere(command)
    with subprocess.Popen(command, stdout=terminal) as process:
        os.close(terminal)
        with open(seen, "rb", buffering=0) as output, contextlib.suppress(OSError):  # EIO: the last writer has ended
            while output.read(1 << 16):
                pass
        assert process.wait(fresh.LIMIT) == 0
    return None


def _command(command, run=_to_nowhere):
    before = os.times()
    run(command)
    after = os.times()
    return (after.children_user + after.children_system - before.children_user - before.children_system) * 1000


def _guests(numbers, environment, report, replay):
    many = numbers["guests"]
    took, curves, left = _ask(guests, environment, many)
    report.add("sessions at a time, each with a segment that the next has attached", many, f"listed in {took:,.1f} ms")
    for name, points in curves.items():
        ratio = points[-1][1] / points[0][1]
        report.add(f"{name} beside {many} sessions", _REPEATS, f"{ratio:.1f} x of beside {points[0][0]} (goal 1.5)")
        if ratio > _GROWS and many > _GROWS * _FEW:
            report.fault(f"{name} takes {ratio:.1f} times as long beside {many} sessions", replay)
    report.figures.append(Figure("scale-sessions", "sessions", "time of one, us", _microseconds(curves), "x"))
    report.add("sessions killed at a time", many, "all that they owned was swept")
    if left:
        report.fault(f"{many} sessions were killed, and left {left[:5]}", replay)


def guests(many):
    """Start sessions, list what they share, kill them all.

    Return the time of a listing, of one segment beside few and many sessions, and what is left.
    """
    folder, children, curves = os.environ["SHMKERNEL_DIR"], [], {}
    shm.create("first", [1.5])
    shm.unlink("first")
    try:
        for number in range(many):
            children.append(helpers.holding(functools.partial(_share, number)))
            if number + 1 in (_FEW, many):
                for name, one in _of_one().items():
                    curves.setdefault(name, []).append((number + 1, one))
        # /proc/locks, a page at a time, can leave out a line while other programs lock
        helpers.until(lambda: sum(len(one.attached) for one in shm.list()) == 2 * many - 1, "all holders are listed")
        took = _least(shm.list)
    finally:
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
        for child in children:
            child.join()
    sessions.end()
    deadline = time.monotonic() + fresh.LIMIT
    while (left := helpers.left(folder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return took, curves, left


def _share(number):
    return shm.create(f"x{number}", [1.5]), shm.attach(f"x{number - 1}") if number else None


def _waiters(numbers, environment, report, replay):
    many = numbers["waiters"]
    woken, took = _ask(waiters, environment, many)
    report.add("waiters on one publish, in ten processes", many, f"all woken after {took:,.0f} ms")
    if woken != many:
        report.fault(f"of {many} waiters {woken} woke", replay)


def waiters(many):
    """Let threads of ten processes wait for one name, publish, and return how many woke, and after what time."""
    each = many // 10
    shm.create("news", [1.5])
    since = shm.version("news")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

    def work(connection):
        woken = []

        def wait():
            with contextlib.suppress(shm.TimedOutError):
                woken.append(shm.wait("news", since, timeout=helpers.PATIENCE))

        threads = [threading.Thread(target=wait) for _ in range(each)]
        for thread in threads:
            thread.start()
        connection.send("waiting")
        for thread in threads:
            thread.join()
        connection.send(len(woken))

    children = [helpers.Child(work) for _ in range(10)]
    for child in children:
        child.hear()
    start = time.monotonic()
    shm.publish("news")
    woken = sum(child.hear() for child in children)
    took = time.monotonic() - start
    for child in children:
        child.join()
    return woken, took * 1000


def _sparse(_, environment, report, replay):
    took, memory, blocks = _ask(sparse, environment)
    size = f"{_SPARSE >> 30} GiB"
    report.add(f"attach, list, preview a sparse array of {size}", 1, f"{took:,.1f} ms, {memory >> 20} MiB of memory")
    if memory > _TOUCHED or blocks > _TOUCHED:
        report.fault(f"a look at a sparse array of {size} took {memory} bytes, and {blocks} in the file", replay)


def sparse():
    """Look at an array that is larger than memory; return the time, the memory and the part of the file it took."""
    path = paths.path_of("sparse")
    shm.create("first", [1.5])
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (_SPARSE // 8 // 4096, 4096)}
        )
        file.truncate(file.tell() + _SPARSE)
    before = _resident()
    start = time.process_time()
    x = shm.attach("sparse")
    assert x.nbytes == _SPARSE
    assert shm.info("sparse").size > _SPARSE
    assert "sparse" in render.table(shm.list())
    preview.of(shm.info("sparse"), Look())
    took = time.process_time() - start
    x[-1, -1] = 1.5
    assert shm.attach("sparse", mode="r")[-1, -1] == 1.5
    shm.publish("sparse")
    memory, blocks = _resident() - before, os.stat(path).st_blocks * 512
    shm.unlink("sparse")
    return took * 1000, memory, blocks


def _resident():
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


def _keys(numbers, environment, report, replay):
    most = numbers["keys"]
    few = _ask(keys, environment, 1000)
    many = _ask(keys, environment, most)
    for name, took in many.items():
        report.add(f"{name}, in a dict of {most:,} keys", 1, f"{took:,.1f} us, {took / few[name]:.1f} x of 1,000 keys")
        if took > 10 * few[name] + 1000:
            report.fault(f"{name} takes {took:,.0f} us in a dict of {most:,} keys, {few[name]:,.0f} in 1,000", replay)


def keys(many):
    """Fill a dict, and return what one access to it takes in us."""
    d = shm.create("d", kind="dict", replace=True)
    for start in range(0, many, 100_000):
        d.update((f"key{number}", number) for number in range(start, min(start + 100_000, many)))
    assert len(d) == many
    took = _of_access(d, [many * part // _REPEATS for part in range(_REPEATS)])
    del d
    took["attach"] = _least(lambda: shm.attach("d"))
    shm.unlink("d")
    return {name: value * 1000 for name, value in took.items()}


def _of_access(d, numbers):
    return {
        "get": _least(lambda: [d[f"key{number}"] for number in numbers]) / _REPEATS,
        "set": _least(lambda: [d.update({f"key{number}": number + 1}) for number in numbers]) / _REPEATS,
        "len": _least(lambda: len(d)),
        "info": _least(lambda: shm.info("d")),
        "preview": _least(lambda: preview.of(shm.info("d"), Look())),
        "iterate ten": _least(lambda: [*itertools.islice(d, 10)]),
    }
