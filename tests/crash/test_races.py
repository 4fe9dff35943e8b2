"""Races: operations of several processes at the same time, repeated for about a second each."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import threading
import time
from functools import partial

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths, records, registry, segment_file, sessions
from shmkernel.verbs import attachments
from tests.helpers import Child, kill_watchdogs, leaving_none_open, left, until_left

WHILE = 0.7  # seconds
FEW = 20


def on_and_on(act, ended=None, *, lucky=None):
    """Repeat `act` for a while, and then until a result is `lucky`; or until `ended`. Return its results.

    It is done a few times at least: on a busy machine the while may pass without any.
    """
    end = time.monotonic() + WHILE
    found = []

    def goes_on():
        if len(found) < FEW:
            return True
        return not ended() if ended else time.monotonic() < end or (lucky and not any(map(lucky, found)))

    while goes_on():
        found.append(act())
    return found


def together(*acts, before=registry.begin):
    """Run each in a process of its own, started at the same moment; return what they send."""

    def run(act, connection):
        before()
        connection.send("ready")
        connection.recv()
        connection.send(act())
        connection.recv()  # its segments stay until all are done

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(partial(run, act))) for act in acts]
        for child in children:
            assert child.hear() == "ready"
        for child in children:
            child.tell()
        heard = [child.hear() for child in children]
        for child in children:
            child.tell()
        assert [child.join() for child in children] == [0] * len(acts)
    return heard


def test_of_two_that_create_the_same_name_exactly_one_wins():
    rounds = 300
    at = memoryview(mmap.mmap(-1, 16)).cast("q")  # the present round of each

    def create(me):
        won = []
        for number in range(1, rounds + 1):
            at[me] = number
            while at[1 - me] < number:
                os.sched_yield()
            with contextlib.suppress(shm.TakenError):
                shm.create(f"x{number}", np.full(100, me))
                won.append(number)
        return won

    first, second = together(partial(create, 0), partial(create, 1))
    assert sorted(first + second) == list(range(1, rounds + 1))


def test_of_two_that_replace_the_same_name_each_value_is_whole():
    def replace(me):
        return on_and_on(lambda: len(shm.create("x", np.full(1000, me), replace=True)))

    def read():
        return {tuple(set(value)) for value in on_and_on(attach, lucky=bool) if value}

    def attach():
        try:
            return shm.attach("x", mode="r").tolist()
        except shm.NotFoundError:
            return None

    _, _, seen = together(partial(replace, 1), partial(replace, 2), read)
    assert seen <= {(1,), (2,)}


def test_a_sweep_takes_no_replacement_for_what_it_replaced(shm_dir):
    """One process dies repeatedly with its watchdog, another takes its name, a third sweeps."""
    over = mmap.mmap(-1, 1)

    def die():
        def work(connection):
            with contextlib.suppress(shm.TakenError):
                shm.create("x", np.zeros(3))
            connection.send("made")
            connection.recv()

        def once():
            with Child(work) as child:
                child.hear()
                child.end()

        try:
            for _ in range(5):
                once()
        finally:
            over[0] = 1

    def replace():
        def once():
            x = shm.create("x", np.ones(3), replace=True)
            inode = os.stat(paths.path_of("x")).st_ino
            return bool(x.all()) and (
                registry.inode_at("x") == inode or records.read(registry.inode_at("x")) is not None
            )

        return on_and_on(once, lambda: over[0])

    _, replaced, _ = together(die, replace, lambda: on_and_on(shm.gc, lambda: over[0]))
    assert all(replaced)
    until_left(shm_dir)


def test_what_a_living_session_made_is_never_swept():
    def make():
        def once():
            x = shm.create("x", np.ones(3), replace=True)
            there = registry.inode_at("x") is not None
            shm.unlink("x")
            return there and x.sum() == 3

        return on_and_on(once)

    made, swept, _ = together(make, lambda: on_and_on(shm.gc), lambda: on_and_on(shm.gc))
    assert all(made)
    assert not any(swept)


def test_nobody_attaches_a_ghost():
    """An attached file was linked and locked at that moment: its inode was the name's, before or after."""
    over = mmap.mmap(-1, 2)

    def make():
        def once():
            shm.create("x", np.ones(3), replace=True)
            shm.unlink("x")

        return len(on_and_on(once, lambda: over[0] and over[1]))

    def attach(me):
        def once():
            try:
                fd, found = segment_file.attach(paths.path_of("x"), "r+", "x")
            except shm.NotFoundError:
                return None
            fd.close()
            return found.st_nlink

        try:
            return {links for links in on_and_on(once, lucky=bool) if links is not None}
        finally:
            over[me] = 1

    _, first, second = together(make, partial(attach, 0), partial(attach, 1))
    assert first == second == {1}


def test_who_attaches_what_the_last_one_lets_go_of_has_the_name_or_nothing():
    """With lifetime attached, an attachment that succeeds keeps the name."""

    def make():
        def once():
            with contextlib.suppress(shm.TakenError):
                return bool(shm.create("x", np.ones(3), lifetime="attached").all())

        return on_and_on(once)

    def attach():
        def once():
            try:
                x = shm.attach("x")
            except shm.NotFoundError:
                return True
            try:
                return os.stat(paths.path_of("x")).st_ino == attachments.everything()[0].key[1] and x.size == 3
            except FileNotFoundError:
                return False

        return on_and_on(once)

    made, first, second, _ = together(make, attach, attach, lambda: on_and_on(shm.gc))
    assert any(made)
    assert all(first + second)


def test_probers_take_no_living_session_for_dead():
    mine = registry.begin()
    probed = together(*[lambda: on_and_on(lambda: sessions.alive(mine.id))] * 3)
    assert all(all(one) for one in probed)


def test_probers_take_no_dead_session_for_alive_forever(shm_dir):
    with Child(lambda connection: (connection.send(registry.begin().id), connection.recv())) as child:
        dead = child.hear()
        kill_watchdogs(shm_dir)
        child.end()
    probed = together(*[lambda: on_and_on(lambda: sessions.alive(dead))] * 3, before=lambda: None)
    assert not any(any(one) for one in probed)
    assert shm.gc() == []
    assert left(shm_dir) == []


def test_sessions_that_begin_and_end_together_leave_nothing(shm_dir):
    def begin_and_end():
        def once():
            shm.create(f"x{os.getpid()}", np.ones(3))
            sessions.end()

        return len(on_and_on(once))

    assert all(together(*[begin_and_end] * 3))
    until_left(shm_dir)


def test_threads_share_one_session_and_one_array():
    x = shm.create("x", np.arange(100))
    found = []

    def work(number):
        def once():
            mine = shm.create(f"x{number}", np.full(10, number))
            same = shm.attach("x") is x and shm.attach(f"x{number}") is mine
            del mine
            shm.unlink(f"x{number}")
            return same and len(shm.list()) >= 1

        found.extend(on_and_on(once))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found)
    assert [one.name for one in shm.list()] == ["x"]


def test_threads_that_attach_at_once_get_the_same_object():
    for _ in range(50):
        x = shm.create("x", np.arange(100), replace=True)
        shm.close("x")
        gate, got = threading.Barrier(4), []

        def attach(gate=gate, got=got):
            gate.wait()
            got.append(shm.attach("x"))

        threads = [threading.Thread(target=attach) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(one) for one in got}) == 1
        assert got[0] is not x


def test_garbage_collection_at_any_moment_waits_for_nothing(shm_dir):
    """The garbage collector frees arrays of lifetime attached while names change; their finalizer changes names too."""

    def make():
        cycle = [shm.create("late", np.ones(3), lifetime="attached", replace=True)]
        cycle.append(cycle)

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(30):
            make()
            x = shm.create("x", np.full(3, number), replace=True)
            assert shm.info("x").lifetime == "session"
            shm.unlink("x")
            assert x.sum() == 3 * number
            shm.gc()
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert [path for path in left(shm_dir) if "sessions" not in path] == []


@pytest.mark.long
def test_ten_thousand_rounds_grow_nothing(shm_dir):
    def rounds(count):
        for number in range(count):
            name = f"x{number % 7}"
            x = shm.create(name, number)
            assert shm.attach(name, mode="r") == number
            shm.close(name)
            shm.unlink(name)
            del x

    def size():
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * 4096
        with open("/proc/self/maps", errors="replace") as file:
            mappings = sum("shmk" in line or str(shm_dir) in line for line in file)
        return mappings, left(shm_dir), resident

    rounds(500)
    *before, memory_before = size()
    with leaving_none_open():
        rounds(9500)
    *after, memory_after = size()
    assert after == before
    assert memory_after - memory_before < 4 << 20
