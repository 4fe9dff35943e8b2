"""The fast path of a dict stores the same bytes as the slow path."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import signal

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.kinds.dicts import fast_path, lmdb_pages

KEYS = [f"key{number}" for number in range(40)] + ["", "\u00e4" * 300, "k" * 500, 1, 2.5, True, None, b"b", ("a", 1)]
PLAIN = [0, -1, 2**40, 0.5, "", "text", "x" * 900, True, None, b"bytes", "x" * 5000]
NESTED = [[], {}, [1, 2.5, None], {"layers": [64, 64], "rate": 0.1}, {"deep": [[[{"a": {}}]]]}, list(range(500))]
MIXED = [
    (1, 2),
    {3},
    {1: 2},
    [{"a": (1,)}],
    2**70,
    ["\ud800"],
    dt.date(2026, 1, 2),
    np.arange(4).tolist(),
    np.float32(2),
]
VALUES = PLAIN + NESTED + MIXED


def content(shared):
    """Return all bytes of the tree."""
    with shared._store.env.begin() as txn:
        return list(txn.cursor())


@pytest.fixture
def ways(monkeypatch):
    """Make changes of the dict called long take the slow path; record for each change whether it took the fast one."""
    found = []
    fast = fast_path.put

    def put(store, *change):
        done = store.name != "long" and fast(store, *change)
        found.append(done)
        return done

    monkeypatch.setattr(fast_path, "put", put)
    return found


@pytest.mark.parametrize("start", [{}, {"key1": 1, "other": 2}], ids=["empty", "filled"])
def test_the_fast_path_and_the_long_way_store_the_same_bytes(start, ways):
    fast, slow = shm.create("fast", start), shm.create("long", start)
    choose = random.Random(5)
    for step in range(400):
        key, value, other = choose.choice(KEYS), choose.choice(VALUES), choose.random()
        for shared in (fast, slow):
            if other < 0.7:
                shared[key] = value
            elif other < 0.8:
                shared.pop(key, None)
            elif other < 0.9:
                shared.get(key)
            else:
                shared.update({key: value, step + 2: value})
    assert content(fast) == content(slow)
    assert fast.to_dict() == slow.to_dict()
    assert [fast.get(key) for key in KEYS] == [slow.get(key) for key in KEYS]
    assert any(ways)


@pytest.mark.parametrize("large", [True, False])
def test_what_the_fast_path_cannot_do_it_leaves_as_it_was(large, ways):
    fast, slow = shm.create("fast", {}), shm.create("long", {})
    for shared in (fast, slow):
        shared["a"] = np.zeros(1 << 20, np.uint8) if large else 0
        shared["a"] = 1
        with shared.transaction():
            shared["a"] = 2
    assert content(fast) == content(slow)
    assert any(ways) is not large


@pytest.mark.parametrize("start", [{}, {"key": 1}], ids=["empty", "filled"])
@pytest.mark.parametrize("value", [7, "x" * 1000, {"layers": [64, 64], "rate": 0.1}], ids=["number", "text", "nested"])
def test_nearly_every_set_takes_the_fast_path_however_the_dict_was_created(start, value, ways):
    fast = shm.create("fast", start)
    for number in range(3000):
        fast[f"new {number}"] = value
        fast["key"] = value
    assert ways.count(False) < len(ways) // 50
    assert len(fast) == 3001


def test_a_nested_value_is_read_anew_each_time():
    fast = shm.create("fast", {})
    fast["set"] = [1]
    fast.update(updated=[1])
    for key in ("set", "set", "updated", "updated"):
        fast[key].append(2)
        assert fast[key] == [1]


def test_a_long_value_takes_the_place_of_a_short_one():
    fast = shm.create("fast", {})
    for value in (1, "x" * 3000, [2] * 3000, 3):
        fast["a"] = value
        assert (fast["a"], fast["a"]) == (value, value)


class Interrupting:
    """An environment whose transactions are followed by Ctrl-C, right after they are stored."""

    def __init__(self, env):
        self.env = env

    def begin(self, *how):
        self.txn = self.env.begin(*how)
        return self

    def commit(self):
        self.txn.commit()
        signal.raise_signal(signal.SIGINT)

    def __getattr__(self, name):
        return getattr(self.txn, name)


@pytest.mark.parametrize("key", ["old", "new"])
def test_a_change_that_ctrl_c_follows_is_published(key):
    fast = shm.create("fast", {"old": 1})
    fast["old"] = 2  # reserves the pages of the next ones
    fast._store.lock.mark(lmdb_pages.LISTENED, b"\1")
    version, keys, env = shm.version(fast), iter(fast), fast._store.env
    next(keys)
    fast._store.env = Interrupting(env)
    with pytest.raises(KeyboardInterrupt):
        fast[key] = 3
    fast._store.env = env
    assert (fast[key], shm.version(fast) > version) == (3, True)
    with pytest.raises(RuntimeError) if key == "new" else contextlib.suppress(StopIteration):
        next(keys)
