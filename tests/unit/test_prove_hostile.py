"""The fuzzer's judge notices what it is there for: planted faults."""

import os
import signal
import time

import pytest

from shmkernel.errors import DamagedError
from tests.prove.hostile import __main__ as fuzzer
from tests.prove.hostile import judge
from tests.prove.hostile.judge import Target


def by_hand(target, seeds, one, folder, seconds, seed):
    """In the place of libFuzzer, which is not there on every Python: try the seeds."""
    for data in seeds:
        one(data)


def damaged(data):
    raise DamagedError("'x' is damaged", name="x")


def foreign(data):
    return {}[data[0]]


def unbounded(data):
    return bytearray(int.from_bytes(data, "little"))


def large(data):
    return len(b"x" * (200 << 20))


def hanging(data):
    while True:
        time.sleep(1)


def dying(data):
    os.kill(os.getpid(), signal.SIGKILL)


def slow(data):
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(
    ("act", "data", "what"),
    [
        (damaged, b"x", None),
        (len, b"x", None),
        (foreign, b"xyz", "KeyError in"),
        (unbounded, (1 << 40).to_bytes(6, "little"), "MemoryError in"),
        (large, b"x", "too much memory: "),
        (slow, b"x", "too slow: 0"),
        (hanging, b"x", "a hang"),
        (dying, b"x", "death by SIGKILL"),
    ],
)
def test_a_planted_fault_is_noticed_with_its_input(act, data, what, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "SECONDS", 0.2)
    target = Target("planted", lambda: act, lambda: [data])
    patience = 2 if act is hanging else 100
    ((child, _, found),) = fuzzer.explored([target], tmp_path, time.monotonic() + 1, 1, by_hand, patience)
    assert child.room.count == 1
    assert [text[: len(what)] for text, _ in found] == ([what] if what else [])
    assert all(0 < len(again) <= (1 if act is foreign else len(data)) for _, again in found)
