"""Dicts whose writers are killed, whose memory is full, or whose readers hang."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import signal
import sys

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths
from tests.crash.test_full import fill_up
from tests.crash.test_steps import killed_at
from tests.crash.test_sync import asleep
from tests.helpers import Child, kill_watchdogs, left, until, until_left

KILLED = int(os.environ.get("SHMKERNEL_KILLS", "20"))  # 200 before a release
PARTS = 12
STEPS = ("begin", "put", "delete", "get", "commit", "cursor")
LARGE = np.arange(200_000.0)


def write(x, chance, stamp):
    """Store one stamp in values of all sizes, in one transaction."""
    with x.transaction():
        for part in chance.sample(range(PARTS), PARTS):
            x.pop(("extra", part), None)
            if chance.random() < 0.5:
                x["extra", part] = stamp
            x[f"part {part}"] = [stamp, "x" * chance.choice([0, 100, 3000, 9000])]
        x["extras"] = sorted(part for part in range(PARTS) if ("extra", part) in x)
        x["stamp"] = stamp


def check(x, *, quiet=False):
    """Assert that a full scan sees one whole transaction, and return its stamp. `quiet`: no process writes."""
    seen = x.to_dict()
    stamp = seen["stamp"]
    assert {seen[f"part {part}"][0] for part in range(PARTS)} == {stamp}
    assert {part: seen["extra", part] for part in seen["extras"]} == dict.fromkeys(seen["extras"], stamp)
    assert len(seen) == PARTS + 2 + len(seen["extras"])
    assert not quiet or len(x) == len(list(x)) == len(list(reversed(x))) == len(seen)
    return stamp


def writer(seed):
    """Write until killed."""

    def work(connection):
        chance = random.Random(seed)
        x = shm.attach("x")
        for n in itertools.count():
            write(x, chance, f"{seed} {n}")
            if n == 0:
                connection.send("writes")

    return work


@pytest.mark.long
def test_writers_killed_at_any_moment_leave_whole_transactions_and_hold_nobody_up():
    x = shm.create("x", {})
    write(x, random.Random(0), "0")
    for kill in range(KILLED):
        with Child(writer(kill)) as first, Child(writer(-kill - 1)) as second:
            assert (first.hear(), second.hear()) == ("writes", "writes")
            first.end(signal.SIGKILL)
            stamp = check(x)
            until(lambda before=stamp: check(x) != before, "the other writer goes on")
            second.end(signal.SIGKILL)
        write(x, random.Random(kill), "mine")
        assert check(x, quiet=True) == "mine"
    with Child(lambda connection: connection.send(check(shm.attach("x", "r"), quiet=True))) as child:
        assert child.hear() == "mine"


def test_a_writer_killed_between_any_two_steps_of_a_transaction_changes_nothing():
    x = shm.create("x", {})
    write(x, random.Random(0), "0")

    def work(step):
        def run(_):
            y, count = shm.attach("x", "r+"), itertools.count(1)

            def look(_frame, event, function):
                if event == "c_call" and function.__name__ in STEPS and next(count) == step:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.setprofile(look)
            write(y, random.Random(1), "never")

        return run

    for step in range(1, 80, 3):
        with Child(work(step)) as child:
            assert child.join() == -signal.SIGKILL
        assert check(x, quiet=True) == "0"
        x["stamp"] = "0"


def test_a_killed_reader_does_not_let_it_grow():
    x = shm.create("x", {"a": 0})

    def read(connection):
        txn = shm.attach("x", "r")._store.reading()
        connection.send(txn.id())
        connection.recv()

    with Child(read) as child:
        child.hear()
        child.end()
    for n in range(200):
        x["a"] = bytes([n]) * (1 << 20)
    assert shm.info("x").size < 24 << 20


def test_more_readers_than_it_has_room_for_wait_for_the_writers_instead():
    x = shm.create("x", {"a": 1})
    readers = [x._store.reading() for _ in range(510)]
    assert x["a"] == 1
    x["a"] = 2
    assert x["a"] == 2
    assert x.get("a") == 2

    def attach(connection):
        try:
            shm.attach("x").update(a=3)
        except shm.LimitError as error:
            connection.send((error.limit, str(error)))

    with Child(attach) as child:
        assert child.hear() == (
            "readers",
            "'x' is read by 510 others at this moment, and a dict allows no more. Try again",
        )
    assert x["a"] == 2, "a child drops no reader of its parent's"
    assert readers[0].get(b"a") is not None
    for reader in readers:
        reader.abort()


@pytest.mark.long
def test_a_creation_killed_at_any_step_leaves_nothing(shm_dir):
    steps = 0
    for step in itertools.count(1, 2):
        if not killed_at(step, lambda: shm.create("x", {"a": 1, "b": LARGE})):
            break
        steps += 1
        until_left(shm_dir)
    assert steps > 10
    until_left(shm_dir)


def replaced():
    shm.attach("x")["a"] = LARGE + 1


def replaced_in_a_transaction():
    x = shm.attach("x")
    with x.transaction():
        x["a"] = LARGE
        x["b"] = LARGE
        x["a"] = LARGE + 1
        del x["b"]


@pytest.mark.long
@pytest.mark.parametrize("work", [replaced, replaced_in_a_transaction])
def test_an_array_that_is_stored_and_killed_at_any_step_is_there_or_not_and_leaves_no_file(shm_dir, work):
    x = shm.create("x", {"a": LARGE})
    (home,) = shm_dir.glob(".shmk-*/stores/*")
    for step in itertools.count(1):
        killed = killed_at(step, work)
        assert x["a"].sum() in (LARGE.sum(), (LARGE + 1).sum())
        with Child(lambda connection: connection.send(shm.attach("x", "r")["a"].sum())) as child:
            assert child.hear() == x["a"].sum()
        assert sorted(path.suffix for path in home.iterdir()) == [".mdb", ".mdb", ".npy"], "the next to attach tidies"
        if not killed:
            break
        x["a"] = LARGE
    assert step > 20
    assert x["a"].sum() == (LARGE + 1).sum()


def test_who_attaches_does_not_wait_for_a_transaction_that_stores_an_array():
    def attach(connection):
        connection.send(shm.attach("x", "r").to_dict())

    x = shm.create("x", {"a": 1})
    with x.transaction():
        x["b"] = LARGE
        with Child(attach) as child:
            assert child.hear() == {"a": 1}
    assert x["b"].sum() == LARGE.sum()


@pytest.mark.parametrize("by", ["transaction", "update"])
def test_ctrl_c_ends_the_wait_for_another_s_turn(by):
    def wait(connection):
        y = shm.attach("x", "r+")
        for act in (lambda: y.update(a=2), lambda: y.__setitem__("a", 2), lambda: y.transaction().__enter__()):
            try:
                connection.send("waits")
                act()
            except KeyboardInterrupt:
                connection.send("interrupted")
        y["b"] = connection.recv()

    def many():
        yield from ((n, n) for n in range(2000))

    x = shm.create("x", {"a": 1})
    with Child(wait) as child:
        with x.transaction():
            if by == "update":
                x.update(many())
            for _ in range(3):
                assert child.hear() == "waits"
                asleep(child.pid)
                os.kill(child.pid, signal.SIGINT)
                assert child.hear() == "interrupted"
        child.tell(3)
        assert child.join() == 0
    assert (x["a"], x["b"]) == (1, 3)


def interrupted(at, work):
    """Raise KeyboardInterrupt in `work` at the given moment where Python checks for signals; return the error, if any.

    The moments are the starts of Python functions and the ends of C functions. The error keeps its frames' variables,
    as the error of a cell does.
    """
    count = itertools.count(1)

    def look(frame, event, _):
        if event in ("call", "c_return") and "shmkernel/kinds/dicts" in frame.f_code.co_filename and next(count) == at:
            sys.setprofile(None)
            raise KeyboardInterrupt

    try:
        sys.setprofile(look)
        work()
    except KeyboardInterrupt as error:
        return error
    finally:
        sys.setprofile(None)
    return None


def change():
    x = shm.attach("x")
    x["n"] += 1
    x["list"] = [1, 2]
    with x.transaction():
        x["a"] = LARGE
        x.update(b=1, c=2)
    x.pop("a")
    x.increment("n")


def test_ctrl_c_at_any_moment_leaves_a_whole_dict_that_all_can_write(shm_dir):
    def follow(connection):
        y = shm.attach("x", "r+")
        while (at := connection.recv()) is not None:
            y["seen"] = at
            connection.send(at)

    x, at = shm.create("x", {"n": 0}), 0
    (home,) = shm_dir.glob(".shmk-*/stores/*")
    with Child(follow) as other:
        while _error := interrupted(at := at + 1, change):  # kept until the next
            assert ("b" in x) == ("c" in x)
            other.tell(at)
            assert other.hear() == x["seen"] == at, f"Ctrl-C at moment {at} holds others up"
            x["seen"] = [at]  # the next writer removes leftover array files
            assert len(list(home.iterdir())) == 2 + ("a" in x)
            x.clear()
            x["n"] = 0
        other.tell()
    assert at > 100
    assert x.to_dict() == {"n": 2, "list": [1, 2], "b": 1, "c": 2}


def until_full(x, values):
    """Store until memory is full; return the count of stores, and the error."""
    stored = 0
    with pytest.raises(shm.FullError) as caught:
        for value in values:
            x[f"key {stored}"] = value
            stored += 1
    return stored, caught.value


@pytest.mark.parametrize("size", [10, 1500, 5000, 70_000])
def test_in_a_full_folder_nothing_is_lost_and_reads_and_deletes_go_on(small, size):
    def read(connection):
        x = shm.attach("x", "r")
        connection.send("attached")
        connection.recv()
        connection.send(len(x.to_dict()))

    def work():
        x = shm.create("x", {})
        other = Child(read)
        other.hear()
        count, error = until_full(x, (os.urandom(size) for _ in itertools.count()))
        assert count > 20
        assert error.errno == errno.ENOSPC
        assert "Delete keys" in str(error)
        assert "free" in str(error)
        assert error.needed > 0
        with contextlib.suppress(OSError):
            fill_up()
        assert list(x) == [f"key {n}" for n in range(count)]
        assert {len(value) for value in x.values()} == {size}
        with pytest.raises(shm.FullError), x.transaction():
            for n in range(count):
                x[f"more {n}"] = bytes(size)
                x[f"even more {n}"] = bytes(size)
        assert len(x) == count
        other.tell()
        assert other.hear() == count
        for n in range(0, count, 2):
            del x[f"key {n}"]
        assert len(x.to_dict()) == count // 2
        x["again"] = bytes(size)
        x.clear()
        assert x.to_dict() == {}
        assert until_full(x, itertools.repeat(bytes(size)))[0] > count / 2
        assert other.join() == 0
        shm.unlink("x")

    small(work, "size=6m")


def test_three_writers_fill_it_and_none_of_them_is_killed_by_it(small):
    def fill(seed):
        def work(connection):
            chance = random.Random(seed)
            x, full = shm.attach("x", "r+"), 0
            while full < 30:
                try:
                    if full == 0 or chance.random() < 0.5:
                        with x.transaction():
                            for part in range(chance.randrange(20)):
                                x[seed, chance.randrange(2000)] = bytes(chance.choice([1, 100, 2000, 9000])), part
                    else:
                        with contextlib.suppress(KeyError):
                            x.popitem()
                except shm.FullError:
                    full += 1
            connection.send(len(x.to_dict()))

        return work

    def work():
        x = shm.create("x", {})
        children = [Child(fill(seed)) for seed in range(3)]
        assert [child.hear() > 0 for child in children] == [True] * 3
        assert [child.join() for child in children] == [0, 0, 0]
        assert len(x.to_dict()) == len(x)
        shm.unlink("x")

    small(work, "size=8m")


def test_too_large_to_be_created_it_leaves_nothing(small):
    def work():
        for value in ({n: os.urandom(1000) for n in range(5000)}, {"a": np.zeros(1 << 20)}):
            with pytest.raises(shm.FullError, match="free"):
                shm.create("x", value)
            assert [path for path in left(paths.folder()) if "sessions" not in path] == []
        assert os.listdir(paths.runtime("stores")) == []

    small(work, "size=4m")


def test_a_large_array_that_does_not_fit_changes_nothing(small):
    def work():
        x = shm.create("x", {"a": 1})
        with pytest.raises(shm.FullError, match="free"):
            x["a"] = np.zeros(1 << 20)
        assert x == {"a": 1}
        shm.unlink("x")

    small(work, "size=4m")


def test_both_owner_and_watchdog_killed_the_next_session_sweeps_it(shm_dir):
    with Child(lambda connection: (shm.create("x", {"a": LARGE}), connection.send("made"), connection.recv())) as child:
        child.hear()
        kill_watchdogs(shm_dir)
        child.end()
    assert [path.name for path in shm_dir.glob("shmk-*")] == [os.path.basename(paths.path_of("x"))]
    assert shm.gc()[0][0] == "x"
    until_left(shm_dir)
