"""Deaths inside locks, frames and publications, and processes that are killed at random while they contend."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.sync import inotify, locks, sync_file
from tests.crash import test_steps
from tests.crash.test_steps import killed_at
from tests.helpers import PATIENCE, Child

WHILE = float(os.environ.get("SHMKERNEL_CONTEND", "5"))  # seconds


@pytest.fixture(autouse=True)
def more_steps(monkeypatch):
    """Kill a process before these calls too."""
    monkeypatch.setattr(test_steps, "CALLS", (*test_steps.CALLS, "fcntl", "utime", "stat"))


def free(name):
    """Return whether the lock is free, and who is reported to have died holding it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with shm.lock(name, timeout=PATIENCE) as lock:
            return lock.abandoned


def killed_inside(enter):
    """Have a child enter, report it, and be killed inside."""

    def work(connection):
        with enter():
            connection.send("in")
            connection.recv()

    with Child(work) as child:
        assert child.hear() == "in"
        child.end()
        return child.pid


@pytest.mark.parametrize("shared", [False, True])
def test_death_at_any_step_of_locking_leaves_the_lock_free(shared):
    def work():
        with shm.lock("x", shared=shared):
            pass

    sync_file.opened("x").words[sync_file.WATCHED] = 1  # so that leaving also wakes waiters
    for step in itertools.count(1):
        killed = killed_at(step, work)
        assert free("x") is None or not shared
        if not killed:
            break
    assert step > 4


def test_death_at_any_step_of_publishing_loses_no_earlier_version():
    shm.version("x")
    for step in itertools.count(1):
        before = shm.version("x")
        killed = killed_at(step, lambda: shm.publish("x"))
        assert before <= shm.version("x") <= before + 1
        assert shm.publish("x") == shm.version("x")
        if not killed:
            break
    assert step > 3


def test_a_waiter_is_woken_by_a_publisher_that_dies_before_it_could_wake_him():
    def die(_):
        os.utime = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        shm.publish("x")

    known = shm.version("x")
    found = []
    thread = threading.Thread(target=lambda: found.append(shm.wait("x", since=known, timeout=PATIENCE)))
    thread.start()
    with Child(die) as child:
        assert child.join() == -signal.SIGKILL
    thread.join()
    assert found == [known + 1]


def interrupted_at(line, work):
    """Raise KeyboardInterrupt at the given line that `work` runs in sync; return whether that came before its end."""
    count = itertools.count(1)

    def look(frame, event, _):
        ours = "shmkernel/sync" in frame.f_code.co_filename or "interrupts" in frame.f_code.co_filename
        if event == "line" and ours and next(count) == line:
            sys.settrace(None)
            raise KeyboardInterrupt
        return look

    try:
        sys.settrace(look)
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def locking():
    with shm.lock("x", timeout=1):
        pass


def nesting():
    with shm.lock("x", shared=True), shm.lock("x", shared=True), shm.lock("y"):
        pass


def streaming():
    shm.attach("frames").put(np.ones(3))


def publishing():
    shm.publish("x")


def copying():
    shm.snapshot("frame")


@pytest.mark.parametrize("work", [locking, nesting, streaming, publishing, copying])
def test_ctrl_c_at_any_line_leaves_everything_free(work):
    def run(connection):
        ring, _ = shm.create("frames", ring=2, shape=3), shm.create("frame", shape=3)
        line = 0
        while interrupted_at(line := line + 1, work):
            free = [len(sync_file.opened(name).holds) == 0 and can(name) for name in ("x", "y", "frames")]
            connection.send((line, free, ring.put(np.zeros(3)) == ring.newest))
        connection.send(None)

    def can(name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            lock = locks.Lock(name)
            got = lock.acquire(timeout=1)
            lock.release()
            return got

    with Child(run) as child:
        heard = list(iter(child.hear, None))
        assert child.join() == 0
    assert len(heard) > 10
    assert [one for one in heard if one[1:] != ([True] * 3, True)] == []


def test_ctrl_c_ends_the_wait_for_a_lock_and_for_a_version():
    def run(connection):
        for wait in (
            lambda: shm.lock("x").acquire(),
            lambda: shm.lock("x", timeout=PATIENCE).__enter__(),
            lambda: shm.wait("y"),
            lambda: shm.wait("y", timeout=PATIENCE),
            lambda: next(iter(shm.attach("frames"))),
        ):
            try:
                connection.send("waits")
                wait()
            except KeyboardInterrupt:
                connection.send("interrupted")
        connection.send((len(sync_file.opened("x").holds), len(inotify._waiters)))

    shm.create("frames", ring=2, shape=3)
    with shm.lock("x"), Child(run) as child:
        for _ in range(5):
            assert child.hear() == "waits"
            asleep(child.pid)
            os.kill(child.pid, signal.SIGINT)
            assert child.hear() == "interrupted"
        assert child.hear() == (0, 0)
        assert child.join() == 0
    assert free("x") is None


def asleep(pid):
    """Wait until the process sleeps in a call that only a signal, a lock or an event ends."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/syscall") as file:
            if file.read().split()[0] in ("72", "232", "281"):  # fcntl, epoll_wait, epoll_pwait
                return
        time.sleep(0.001)
    raise AssertionError("it does not sleep")


def test_death_inside_writing_is_told_until_somebody_writes_again():
    x = shm.create("x", np.zeros(100))
    pid = killed_inside(lambda: shm.writing("x"))
    with pytest.raises(shm.AbandonedError, match="died while it wrote") as caught:
        shm.snapshot(x)
    assert caught.value.holder.pid == pid
    with pytest.warns(RuntimeWarning, match="died while it held 'x'"), shm.writing(x):
        x[:] = 1
    assert shm.snapshot(x).sum() == 100


def test_death_with_a_shared_lock_holds_up_no_writer():
    killed_inside(lambda: shm.lock("x", shared=True))
    assert free("x") is None


def test_death_in_the_middle_of_a_frame_leaves_no_trace_but_its_slot():
    ring = shm.create("frames", ring=3, shape=4, dtype=int)
    for number in range(1, 6):
        ring.put(np.full(4, number))
    killed_inside(lambda: shm.attach("frames").slot())
    assert ring.newest == 5
    assert ring.put(np.full(4, 6)) == 6
    assert [int(ring.read(number).max()) for number in (4, 5, 6)] == [4, 5, 6]


def contend(seed, start):
    """Lock, publish, write and stream until killed; count completed steps in a row of its own."""
    chance = random.Random(seed)
    pair, done, ring = shm.attach("pair"), shm.attach("done"), shm.attach("frames")
    mine = done[start]
    while True:
        what = chance.randrange(6)
        if what == 0:
            shm.publish("news")
            mine[0] += 1
        elif what == 1:
            with shm.lock("pair", timeout=chance.choice([None, PATIENCE])) as lock:
                if lock.abandoned:
                    pair[1] = pair[0]
                assert pair[0] == pair[1]
                pair[0] += 1
                pair[1] += 1
            mine[1] += 1
        elif what == 2:
            with shm.lock("pair", shared=True, timeout=PATIENCE) as lock:
                assert lock.abandoned or pair[0] == pair[1]
        elif what == 3:
            ring.put(np.full(1000, ring.newest))
            mine[2] += 1
        elif what == 4:
            frame = ring.latest()
            assert frame is None or frame.min() == frame.max()
            mine[3] += 1
        else:
            try:
                copy = shm.snapshot(pair)
                assert copy[0] == copy[1]
            except shm.AbandonedError:
                pass
            mine[4] += 1


@pytest.mark.long
def test_processes_that_contend_and_are_killed_at_random_lose_nothing():
    workers, chance = 8, random.Random(1)
    pair, ring = shm.create("pair", np.zeros(2, int)), shm.create("frames", ring=8, shape=1000, dtype=int)
    done = shm.create("done", np.zeros((1000, 5), int))
    shm.version("news"), shm.version("pair")

    def work(start):
        def run(_):
            warnings.simplefilter("ignore", RuntimeWarning)
            contend(start, start)

        return Child(run)

    children = [work(start) for start in range(workers)]
    started = workers
    end = time.monotonic() + WHILE
    reader, seen = ring.since(0), 0
    try:
        while time.monotonic() < end or started < workers + 5:
            frame = next(reader)
            assert frame.min() == frame.max()
            seen += 1
            if seen % 50 == 0 and started < len(done):
                at = chance.randrange(workers)
                assert children[at].end() == -signal.SIGKILL
                children[at] = work(started)
                started += 1
    finally:
        status = {child.end() for child in children}
    assert status == {-signal.SIGKILL}, "a worker found something wrong"
    kills = started
    published, locked, put, looked, copied = done.sum(axis=0).tolist()
    abandoned = free("pair")
    assert published <= shm.version("news") <= published + kills
    assert locked <= shm.version("pair") <= locked + kills + 1
    assert locked <= pair[0] <= locked + kills
    assert pair[0] == pair[1] or abandoned
    assert put <= ring.newest <= put + kills
    assert min(published, locked, put, looked, copied, started - workers) > 0
