"""What the store reads from LMDB's file without LMDB must agree with LMDB."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
import time

import pytest

import shmkernel as shm
from shmkernel.kinds.dicts import lmdb_pages, reservation, store, writer_lock
from tests.helpers import PATIENCE, Child


def free(opened):
    """Return the free pages by LMDB's list, and by the unused pages of the file."""
    words = opened.words
    at = 0 if words[lmdb_pages.NUMBERS[0]] > words[lmdb_pages.NUMBERS[1]] else lmdb_pages.PAGE // 8
    listed = lmdb_pages.freed(
        lambda page: os.pread(opened._fd, lmdb_pages.PAGE, page * lmdb_pages.PAGE), words[at + 10]
    )
    pages = words[at + 17] + 1 - 2
    return sum(count for _, count in listed), pages - sum(words[at + n] for n in (6, 7, 8, 12, 13, 14))


@pytest.mark.parametrize("changes", [0, 1, 50, 3000])
def test_the_free_pages_are_those_that_nothing_else_uses(changes):
    chance = random.Random(changes)
    x = shm.create("x", {})
    for n in range(changes):
        if chance.random() < 0.3:
            x.pop(chance.randrange(300), None)
        else:
            x[chance.randrange(300)] = bytes(chance.choice([1, 500, 3000, 50_000]))
        if n % 100 == 0:
            assert len(set(free(x._store))) == 1
    x.clear()
    listed, left = free(x._store)
    assert listed == left


def test_the_words_of_the_first_pages_are_what_lmdb_says_of_itself():
    x = shm.create("x", dict.fromkeys(range(5000), "x" * 100))
    x["large"] = bytes(1 << 16)
    said, words = x._store.env.stat(), x._store.words
    at = 0 if words[18] > words[lmdb_pages.NUMBERS[1]] else lmdb_pages.PAGE // 8
    assert (words[at + 11] >> 48, words[at + 12], words[at + 13], words[at + 14], words[at + 15]) == (
        said["depth"], said["branch_pages"], said["leaf_pages"], said["overflow_pages"], said["entries"],
    )  # fmt: skip
    assert words[at + 17] == x._store.env.info()["last_pgno"]
    assert words[at + 18] == x._store.env.info()["last_txnid"] == max(words[n] for n in lmdb_pages.NUMBERS)
    assert len(x) == 5001


def test_pages_are_reserved_before_they_are_used_in_a_transaction_of_any_length(monkeypatch):
    used, reserved = [], []
    x = shm.create("x", dict.fromkeys(range(500), "x" * 1500))
    opened = x._store
    allocate = reservation.Reservation._allocate

    def look(self, start, end):
        reserved.append(end)
        return allocate(self, start, end)

    monkeypatch.setattr(reservation.Reservation, "_allocate", look)
    chance = random.Random(1)
    for _ in range(20):
        with x.transaction():
            for _ in range(400):
                x[chance.randrange(3000)] = bytes(chance.choice([1, 300, 1900, 2100, 9000]))
                if chance.random() < 0.4:
                    x.popitem()
        used.append(opened.env.info()["last_pgno"] * lmdb_pages.PAGE)
        assert used[-1] < opened.reservation.reserved
    assert reserved
    assert max(used) > 4 << 20


def test_one_map_size_for_everybody_and_none_of_it_taken_before_it_is_needed():
    x = shm.create("x", {})
    assert x._store.env.info()["map_size"] == lmdb_pages.MAP == os.fstat(x._store._fd).st_size
    assert os.fstat(x._store._fd).st_blocks * 512 < 2 << 20


def test_the_oldest_snapshot_is_found_in_what_lmdb_says_of_its_readers():
    x = shm.create("x", {"a": 1})
    env = x._store.env
    assert lmdb_pages.oldest_reader(env.readers()) == lmdb_pages.NONE
    reader = x._store.reading()
    x["a"] = 2
    later = x._store.reading()
    assert lmdb_pages.oldest_reader(env.readers()) == reader.id() == later.id() - 1
    reader.abort()
    later.abort()
    assert lmdb_pages.oldest_reader(env.readers()) == lmdb_pages.NONE


@contextlib.contextmanager
def closing_in_a_thread(monkeypatch, moved_on):
    """Let another thread close a store, and stand still on the way until it has moved on."""
    shm.create("x", {"a": 1}, lifetime="keep")
    closing, seal = threading.Event(), writer_lock.WriterLock.seal

    def stand_still(lock):
        if threading.current_thread() is not threading.main_thread():
            closing.set()
            assert moved_on.wait(PATIENCE)
        seal(lock)

    def let_go():
        x = shm.attach("x")
        monkeypatch.setattr(writer_lock.WriterLock, "seal", stand_still)
        del x

    gc.collect()
    thread = threading.Thread(target=let_go)
    thread.start()
    assert closing.wait(PATIENCE)
    yield
    thread.join()
    shm.unlink("x")


def test_a_store_that_another_thread_is_about_to_close_is_attached_when_it_has_been(monkeypatch):
    """The finalizer of the store stands still until the other thread has found the store closed to it."""
    tried, nap = threading.Event(), time.sleep

    def sleep(seconds):
        tried.set()
        nap(seconds)

    with closing_in_a_thread(monkeypatch, tried):
        monkeypatch.setattr(time, "sleep", sleep)
        assert shm.attach("x")["a"] == 1


def test_a_child_that_was_forked_while_a_thread_closes_a_store_attaches_it(monkeypatch):
    forked = threading.Event()
    with closing_in_a_thread(monkeypatch, forked):
        with Child(lambda connection: connection.send(shm.attach("x")["a"]), kin=True) as child:
            assert child.hear() == 1
            assert child.join() == 0
        forked.set()


def test_what_ctrl_c_kept_from_being_made_is_dropped_without_an_error():
    store._Files.__new__(store._Files).__del__()
