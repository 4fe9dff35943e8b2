"""What the tests share: children that are ended in chosen ways, and waiting for what others do."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import gc
import importlib
import itertools
import os
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from multiprocessing import Pipe
from pathlib import Path

import pytest

import shmkernel
from shmkernel._core import folders, paths, records, registry, sessions

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
OURS = os.path.dirname(shmkernel.__file__)
PATIENCE = 120.0  # seconds until a test gives up; the events that it waits for take milliseconds


def lacking(reason):
    """Skip a test for what a plain machine lacks, and say the cure; CI has all of it, so there it is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def needs(module, group="large"):
    """Return a module of an optional library; where it is not installed, the test lacks it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return lacking(f"{module} is not installed: uv run --group {group} pytest")


def free_descriptors():
    """Yield the numbers that the next descriptors will get: with one of them as limit, so many may be opened."""
    taken = {int(number) for number in os.listdir("/proc/self/fd")}
    return (number for number in itertools.count() if number not in taken or not _is_open(number))


def _is_open(number):
    try:
        os.fstat(number)
    except OSError:  # the one that listed them
        return False
    return True


def descriptors():
    """Return the numbers that are open, but for folders that the package holds: their count is of all tests so far."""
    held = {int(folder) for folder in folders._held.values()}
    return {number for number in map(int, os.listdir("/proc/self/fd")) if number not in held and _is_open(number)}


@contextlib.contextmanager
def leaving_none_open(*, but=0):
    """Check that the statement leaves no more descriptors open, but for a few; other threads open some for a moment."""
    before = len(descriptors())
    yield
    until(lambda: len(descriptors()) <= before + but, "what was opened is closed")


def quick_first(first, *others):
    """List the parameters of a test: the first for every run, the others, ways to the same end, for CI's."""
    values = (one if isinstance(one, tuple) else (one,) for one in others)
    return [first, *(pytest.param(*one, marks=pytest.mark.long) for one in values)]


@contextlib.contextmanager
def without_collector():
    """Collect what earlier tests have left, then keep the collector off while signals strike at random moments.

    A signal that strikes in a finaliser is swallowed, and reported as the failure of the test that runs.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def repeat(act, *, done=bool):
    """Act again and again, until a signal's error ends it; or until `done`, for where Python swallows errors.

    It is a function because Python 3.13.0 does not count the jump at the end of a loop as part of a `try` statement
    that ends with the loop: an error that a signal raises there is not caught.
    """
    while not done():
        act()


class InterruptingTimer:
    """Raises KeyboardInterrupt once, so many seconds after `set`; ``with`` gives the signal's handler back.

    Where Python swallows the error, an act that is repeated ends by ``came``.
    """

    came = False

    def set(self, seconds):
        """Interrupt after so many seconds: call it where the error is caught.

        The signal is repeated: Python 3.11 forgets to look for one that comes while a thread lets go of the GIL, and
        looks when the next comes.
        """
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.came = False
        signal.setitimer(signal.ITIMER_REAL, seconds, 1)

    def strike(self, *_):
        """Handle the signal. On a busy machine the second may come in the handler of the first error."""
        if not self.came:
            self.came = True
            raise KeyboardInterrupt

    def __enter__(self):
        self.before = signal.signal(signal.SIGALRM, self.strike)
        return self

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


def tells_of_every_bytecode(test):
    """Run a test that uses `interrupted_at` in a process of its own, where Python can be interrupted so.

    It raises where Python itself looks for no signal. An error that was being handled there is handled for ever: each
    later error of the process would have it as its context.
    """

    @pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python does not tell a tracer of every bytecode")
    @functools.wraps(test)
    def apart(**arguments):
        with Child(lambda _: test(**arguments)) as child:
            assert child.join() == 0

    return apart


def interrupted_at(step, act):
    """Act, and raise KeyboardInterrupt before the step-th bytecode in the package; return whether that came."""
    count = itertools.count(1)

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and next(count) == step:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return next(count) > step  # Python drops the error in a destructor


def until(condition, what):
    """Return what `condition` returns as soon as that is true; only for what the OS sends no event for."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.002)
    return found


def left(folder):
    """List all that lies in a folder of segments, beyond what its first session makes for good."""
    for_good = {"sessions", "records", "pending", "stores", "sync", "names.lock", "protocol", "hosts"}
    found = (Path(root, name) for root, folders, files in os.walk(folder) for name in (*folders, *files))
    return sorted(  # not rglob, which fails if what it looks at is swept meanwhile
        str(path.relative_to(folder))
        for path in found
        if path.name not in for_good and path.parent.name != "sync" and not path.name.startswith(".shmk-")
    )


def until_left(folder, *expected):
    """Wait until nothing but `expected` lies in the folder: a watchdog sweeps."""
    deadline = time.monotonic() + PATIENCE
    while (now := left(folder)) != sorted(expected) and time.monotonic() < deadline:
        time.sleep(0.002)
    assert now == sorted(expected)


def watchdogs(folder):
    """Return the pids of the processes that watch over sessions in this folder."""
    theirs, found = os.fsencode(f"{folder}/.shmk-"), []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and theirs in (line := Path(f"/proc/{entry}/cmdline").read_bytes()):
                found += [int(entry)] if b"watchdog.py" in line else []
    return found


def kill_watchdogs(folder):
    """End the watchdogs of a folder, and return when they are gone."""
    for dog in watchdogs(folder):
        process = os.pidfd_open(dog)
        signal.pidfd_send_signal(process, signal.SIGKILL)
        ended = select.poll()  # its command line is lost before its files are closed
        ended.register(process)
        assert ended.poll(PATIENCE * 1000)
        os.close(process)


def mount(folder, options):
    """Enter a mount namespace, and mount a small tmpfs on the folder; return why that fails, if it does."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid = os.geteuid()
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if uid else 0)):
        return f"unshare: {os.strerror(ctypes.get_errno())}"
    if uid:
        for path, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {os.getegid()} 1")):
            with open(f"/proc/self/{path}", "w") as file:
                file.write(line)
    for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", options, "small", folder]):
        done = subprocess.run(["mount", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            return f"mount: {done.stderr}"
    return None


def lies_in(name, array):
    """Return whether an array lies in a mapping of a segment."""
    at, inode = array.__array_interface__["data"][0], b"%d" % os.stat(paths.path_of(name)).st_ino
    lines = map(bytes.split, Path("/proc/self/maps").read_bytes().splitlines())  # any bytes may be in a path
    spans = (line[0].split(b"-") for line in lines if line[4] == inode)
    return any(int(first, 16) <= at < int(last, 16) for first, last in spans)


def make_snapshot(name):
    """Let the record of a segment say that it is a snapshot of hostA:x, version 3."""
    with registry.locked():
        records.change(records.read(registry.inode_at(name))._replace(origin=records.Origin("hostA", "x", 7, 3)))


def python(script, *arguments, flags=(), **options):
    """Run a script in a fresh interpreter, and return the finished process with its output."""
    options = {"timeout": PATIENCE, "capture_output": True, "text": True} | options
    done = subprocess.run([sys.executable, *flags, "-c", script, *map(str, arguments)], check=False, **options)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n")  # pytest shows it, and of the error the command alone
    done.check_returncode()
    return done


@contextlib.contextmanager
def exiting():
    """End this process, a forked child, with the statement: with status 1 after an error, which is printed."""
    status = 1
    try:
        yield
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run_apart(prepare, work, reason):
    """Run `work` in a child that `prepare` has made ready; skip the test for the reason, if that is prevented.

    `prepare` returns what prevents it. Failed asserts in the child fail the test.
    """

    def in_child(connection):
        prevented = prepare()
        connection.send(prevented)
        if not prevented:
            work()
            sessions.end()

    with Child(in_child) as child:
        if prevented := child.hear():
            lacking(reason.format(prevented))
        assert child.join() == 0


class Child:
    """A forked process that runs `work(connection)`; unless `kin`, it knows nothing of a session of ours."""

    def __init__(self, work, *, kin=False):
        self.connection, theirs = Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's threads do not matter here
            self.pid = os.fork()
        if self.pid == 0:
            self._run(work, theirs, kin)
        theirs.close()
        self.pidfd = os.pidfd_open(self.pid)
        self.status = None

    def _run(self, work, connection, kin):
        faulthandler.disable()
        with exiting():
            self.connection.close()
            if not kin:
                sessions._inherited.clear()
            work(connection)

    def hear(self):
        """Return what the child sends next."""
        assert self.connection.poll(PATIENCE), "the child is silent"
        return self.connection.recv()

    def tell(self, what=None):
        """Send the child a word."""
        self.connection.send(what)

    def end(self, how=signal.SIGKILL):
        """Send the child a signal, and return how it ended."""
        signal.pidfd_send_signal(self.pidfd, how)
        return self.join()

    def join(self):
        """Wait for the child's end; return its exit status, or minus the signal that ended it."""
        if self.status is None:
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
            os.close(self.pidfd)
            self.connection.close()
        return self.status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.status is None:
            self.end()


def holding(make):
    """Start a child that makes something and holds it until it is told to end."""

    def work(connection):
        made = make()
        connection.send("made")
        connection.recv()
        del made

    child = Child(work)
    assert child.hear() == "made"
    return child
