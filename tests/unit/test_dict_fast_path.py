"""The fast path of a dict stores the same bytes as the slow path."""

from __future__ import annotations

import random

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.kinds.dicts import fast_path

KEYS = [f"key{number}" for number in range(40)] + ["k" * 500]
VALUES = [0, -1, 2**40, 0.5, "", "text", "x" * 900, True, None, b"bytes"]


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
                shared.update({key: value, step: value})
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
