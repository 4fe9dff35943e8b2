"""Ctrl-C at random moments in everything that holds, by real signals: nothing stays held, here or for others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import sys
import warnings

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.sync import inotify, sync_file
from tests.helpers import Child, descriptors, repeat, until, without_collector

ROUNDS = int(os.environ.get("SHMKERNEL_INTERRUPTS", "60"))
ONCE = 6  # descriptors that a first wait opens for good, which a busy machine may put off
attached = {}
NAMES = ("x", "frames", "free")


def exclusive():
    with shm.lock("x"):
        pass


def shared():
    with shm.lock("x", shared=True, timeout=5):
        pass


def nested():
    with shm.lock("x"), shm.lock("x", shared=True), shm.lock("free"), shm.lock("x"):
        pass


def many_times():
    lock = shm.lock("x")
    for _ in range(100):
        with lock:
            pass


def in_a_stack():
    with contextlib.ExitStack() as stack:
        stack.enter_context(shm.lock("x"))


def in_a_generator():
    def generate():
        with shm.lock("x"):
            yield 1

    for _ in generate():
        break


def writing():
    with shm.writing("x"):
        pass


def copying():
    x = attached["x"]
    with shm.writing(x):
        shm.snapshot(x)
    shm.snapshot(x)


def streaming():
    ring = attached["frames"]
    ring.put(np.ones(3))
    with ring.slot() as out:
        out[:] = 2
    ring.latest()


def publishing():
    shm.publish("x")
    shm.version("x")


def opening():
    """Use a new name, so that its sync file is made."""
    name = f"new{random.randrange(1 << 40)}"
    shm.publish(name)


def waiting():
    with contextlib.suppress(TimeoutError):
        shm.wait("x", timeout=0.0002)
    with contextlib.suppress(TimeoutError):
        shm.wait("free", since=-1, timeout=0.0002)


def refused():
    with contextlib.suppress(TimeoutError):
        shm.lock("theirs", timeout=0.0002).acquire()


def explicitly():
    lock = shm.lock("x")
    lock.acquire()
    lock.release()


def in_tasks():
    async def one():
        async with shm.lock("x"):
            await asyncio.sleep(0)
            with shm.lock("x"):
                pass

    async def two():
        await asyncio.gather(one(), one())

    asyncio.run(two())


OURS = os.path.dirname(shm.__file__)
OPERATIONS = [
    exclusive, shared, nested, many_times, in_a_stack, in_a_generator, writing, copying, streaming, publishing, opening,
    waiting, refused, explicitly, in_tasks,
]  # fmt: skip


def answer(connection):
    """Report repeatedly whether another process can take every lock, and put a frame."""
    warnings.simplefilter("error", RuntimeWarning)
    ring = shm.attach("frames")
    with shm.lock("theirs"):
        connection.send("ready")
        while connection.recv() == "free?":
            said = []
            for name in NAMES:
                try:
                    with shm.lock(name, timeout=20):
                        said.append(True)
                except Exception as error:
                    said.append(repr(error))
            try:
                said.append(ring.put(np.zeros(3)) == ring.newest)
            except Exception as error:
                said.append(repr(error))
            connection.send(said)


def let_go_of_explicit_ones():
    """If an explicit acquire is complete when the interrupt comes, the lock is held: its caller has to release it."""
    with contextlib.suppress(shm.LockError):
        while True:
            shm.lock("x").release()


def still_open():
    for file in [*sync_file._files.values()]:
        file.idle.clear()  # kept open for the next lock; how many depends on how many were used at once
    if inotify._resting is not None:  # likewise, for the next wait
        inotify._resting.close()
        inotify._resting = None
    return len(descriptors())


@pytest.mark.timeout(method="thread")  # the other method is the timer that is used here
@pytest.mark.parametrize("operation", OPERATIONS)
def test_after_an_interrupt_at_any_moment_nothing_is_held_and_all_goes_on(operation, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # interrupts dropped in destructors
    attached["x"] = shm.create("x", np.zeros(100))
    attached["frames"] = shm.create("frames", ring=3, shape=3)
    chance, kept = random.Random(7), []
    came = []

    def strike(_, frame):
        if operation is in_tasks and not frame.f_code.co_filename.startswith(OURS):  # asyncio hangs
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + longest * chance.random(), 1)
        elif not came:
            came.append(True)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, strike)
    many = operation is many_times
    with Child(answer) as other, warnings.catch_warnings(), without_collector():
        warnings.simplefilter("error", RuntimeWarning)
        assert other.hear() == "ready"
        longest = 2e-4
        at_first = None
        try:
            for number in range(ROUNDS // (5 if operation is in_tasks else 1)):
                came.clear()
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-5 + longest * chance.random(), 1)  # as InterruptingTimer
                    repeat(operation, done=lambda: came)  # Python drops the error in a destructor
                except KeyboardInterrupt as error:
                    kept[:] = [*kept[-5:], error]  # IPython keeps tracebacks, which keep frames
                if operation in (explicitly, in_a_stack):
                    let_go_of_explicit_ones()
                if operation is in_tasks:  # a task that waits in its block holds until it is collected
                    kept.clear()
                    asyncio.set_event_loop(None)
                    gc.collect()
                other.tell("free?")
                assert other.hear() == [True] * 4, number
                assert [sync_file.opened(name).holds for name in NAMES] == [[]] * 3
                if not many:
                    operation()
                if number == min(20, ROUNDS // 10):
                    kept.clear()
                    gc.collect()
                    at_first = still_open()
            kept.clear()
            gc.collect()
            most = at_first + (2 * sync_file._RECENT if operation is opening else ONCE)
            until(lambda: still_open() <= most, "what was opened is closed")  # others open some for a moment
            assert len(inotify._waiters) == 0
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            sys.last_traceback = None
        other.tell("end")
        assert other.join() == 0
    attached.clear()
