"""A fork runs the handlers in a stated order; one that fails stops no other."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from shmkernel._core import fork
from tests.helpers import PATIENCE, python


@pytest.fixture
def told(monkeypatch):
    """Register handlers for two stages; return the log of their calls."""
    monkeypatch.setattr(fork, "_handlers", {})
    calls = []
    for stage in (fork.STAGES[-1], fork.STAGES[0]):
        names = (f"{when} {stage}" for when in ("before", "in_parent", "in_child"))
        before, in_parent, in_child = (lambda name=name: calls.append(name) for name in names)
        fork.on(stage, before=before, in_parent=in_parent, in_child=in_child)
    return calls


def forked(act):
    """Return what `act` returns in a forked child: a text."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, act().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        found = answer.read()
    assert os.waitpid(pid, 0)[1] == 0
    return found


def test_stages_run_in_their_order_before_and_backwards_after(told):
    first, last = fork.STAGES[0], fork.STAGES[-1]
    in_child = forked(lambda: ", ".join(told))
    assert in_child == f"before {first}, before {last}, in_child {last}, in_child {first}"
    assert told == [f"before {first}", f"before {last}", f"in_parent {last}", f"in_parent {first}"]


def test_a_child_knows_that_it_is_one():
    assert forked(lambda: str(fork.generation)) == str(fork.generation + 1)


def test_a_handler_that_fails_keeps_no_other_from_running(told, capsys):
    fork.on(fork.STAGES[1], before=lambda: 1 / 0)
    forked(lambda: "")
    assert len(told) == 4
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_ctrl_c_in_a_handler_arrives_after_the_fork(told):
    fork.on(fork.STAGES[1], before=lambda: signal.raise_signal(signal.SIGINT))

    def fork_and_wait():
        forked(lambda: "")
        threading.Event().wait(PATIENCE)

    with pytest.raises(KeyboardInterrupt):
        fork_and_wait()
    assert len(told) == 4


INTERRUPTED = """
import functools, os, signal, sys, threading

signal.signal(signal.SIGALRM, signal.default_int_handler)
before = functools.partial(signal.setitimer, signal.ITIMER_REAL, 1e-6)
os.register_at_fork(before=before)  # the last before the fork, since it is registered first

from shmkernel._core import fork, interrupts

guard = interrupts.Guard()
fork.on(fork.STAGES[0], before=guard.before_fork, in_parent=guard.in_parent, in_child=guard.in_child)
sys.unraisablehook = lambda _: None

def enter():
    with guard:
        free.set()

arrived = 0
for _ in range(5):  # Python may raise it in `before` of this script, and swallow it
    free = threading.Event()
    try:
        if os.fork() == 0:
            os._exit(0)
        for _ in range(100):  # in short pieces: Python may hear a signal only after a wait
            threading.Event().wait(0.01)
    except KeyboardInterrupt:
        arrived += 1
    threading.Thread(target=enter, daemon=True).start()
    assert free.wait(100)
assert arrived
"""


def test_ctrl_c_during_the_fork_itself_arrives_after_it_and_leaves_no_guard_taken():
    python(INTERRUPTED)


CROSSED = """
import os, threading
from shmkernel._core import closing, sessions
from shmkernel._core.imports import importing
from shmkernel.kinds.dicts import store
from shmkernel.sync import inotify, sync_file
from shmkernel.verbs import attachments

guards = (store._guard, sessions._guard, attachments.guard, inotify._guard, sync_file.guard, closing.no_fork, importing)
ended = threading.Event()

def cross():
    while not ended.is_set():
        for outer in guards:
            for inner in guards:
                with outer, inner:
                    turns.release()

turns = threading.Semaphore(0)
thread = threading.Thread(target=cross)
thread.start()
for _ in range(50):
    turns.acquire()
    if (pid := os.fork()) == 0:
        for guard in guards:
            with guard:
                pass
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
ended.set()
thread.join()
"""


def test_a_fork_waits_for_a_thread_that_enters_any_guard_inside_any_other():
    python(CROSSED)
