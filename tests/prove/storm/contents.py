"""The acts of a storm on values: changing and reading them whole, and the methods of every kind."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import time

import numpy as np

import shmkernel as shm
from tests.prove.storm.acts import BrokenError, Skip, act, changing, check_whole, stamps, subject_of
from tests.prove.storm.program import NAMES

BUSY = (shm.LockError,)  # another task of this thread holds it


@act(6, shm.NotFoundError, *BUSY, levels=(0, 1))
def change(runner, step):
    value = runner.value(step.name)
    attachment, subject = subject_of(value)
    stamp, mode = runner.stamp(), attachment.key[2]
    if subject.change is None:
        raise Skip
    if mode == "r":
        return _change_read_only(subject, value, stamp)
    if subject.kind in ("dict", "ring"):
        return subject.change(value, stamp)
    with shm.lock(value):
        with changing(runner, value):
            subject.change(value, stamp)
        if mode == "c" and (found := stamps(value)) != {stamp}:
            raise BrokenError(f"a private change is not there: {found}")
    return None


def _change_read_only(subject, value, stamp):
    try:
        subject.change(value, stamp)
    except (ValueError, TypeError, shm.RefusedError):
        return
    raise BrokenError(f"a {subject.kind} of mode r was changed")


@act(6, shm.NotFoundError, *BUSY, levels=(0, 1))
def read(runner, step):
    value = runner.value(step.name)
    with shm.lock(value, shared=True):
        found = stamps(value)
    check_whole(runner, value, found, "shared lock")


@act(3, shm.NotFoundError, shm.UnsupportedError, *BUSY, levels=(0,))
def snapshot(runner, step):
    value = runner.value(step.name)
    copied = shm.snapshot(value)
    _, subject = subject_of(value)
    if subject.kind in ("array", "list"):
        check_whole(runner, value, set(np.asarray(copied).tolist()), "snapshot")
    elif subject.kind == "dict":
        check_whole(runner, value, set(copied.values()), "snapshot")


@act(2, shm.NotFoundError, *BUSY, names=NAMES[:5], levels=(0, 1))
def copies(runner, step):
    value = runner.value(step.name)
    if runner.actor.process.condition == "few addresses" and type(value).__module__.startswith("polars"):
        raise Skip  # it ends the process where it gets no memory for the 8 MB that a pickle takes
    with shm.lock(value, shared=True):
        if not (hasattr(value, "put") or _is_relation(value)):  # a stream goes to workers only
            for made in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
                repr(made)


def _is_relation(value):
    """Return whether it is a relation of DuckDB, which has no slices, and refuses to be copied."""
    return hasattr(value, "fetchnumpy")


@act(2, shm.NotFoundError, *BUSY, levels=(0, 1))
def methods(runner, step):
    value = runner.value(step.name)
    _, subject = subject_of(value)
    with shm.lock(value, shared=True):
        METHODS[subject.kind](runner, value)


def _array_methods(runner, value):
    part = value[3:9]
    check_whole(runner, value, {*part.tolist(), int(value.sum()) // 64}, "shared lock")
    shm.version(part)
    part.copy(), value.reshape(8, 8).T.tobytes(), repr(value)


def _list_methods(runner, value):
    first = value[0]
    check_whole(runner, value, {*value, first}, "shared lock")
    value.count(first), value.index(value[-1]), len(value), repr(value), first in value, value.format


def _raw_methods(_, value):
    other = shm.SharedMemory.__new__(type(value))
    del other
    bytes(value.buf[:4]), value.name, value.size, repr(value)


def _ring_methods(runner, value):
    newest = value.newest
    if not newest:
        raise Skip  # its creator may wait for the lock, and then it has no frame to come
    frame = value.latest()
    if frame is None or frame.number < newest:
        raise BrokenError(f"latest is {frame}, after {newest} was the newest")
    last = 0
    for number, frame in zip(range(6), value.since(max(0, newest - 3)), strict=False):
        if frame.number <= last:
            raise BrokenError(f"frame {frame.number} after {last}")
        last = frame.number
        check_whole(runner, value, set(frame.tolist()), f"frame {number} of")
        if last >= newest:
            break
    value.read(newest + 100), repr(value), pickle.loads(pickle.dumps(frame))


def _dict_methods(runner, value):
    whole = value.to_dict()
    check_whole(runner, value, set(whole.values()), "to_dict of")
    value.get("1"), value.get("none"), len(value), "1" in value, repr(value), value == whole, value | {}, {} | value
    for view in (value.keys(), value.values(), value.items(), reversed(value), value):
        with contextlib.suppress(RuntimeError):
            list(view)
    pickle.loads(pickle.dumps(value))


def _table_methods(_, value):
    if not _is_relation(value):
        value["number"][3:9]
    len(value), repr(value)


def _object_methods(_, value):
    value.memory[3:9].copy(), repr(value)


METHODS = {
    "array": _array_methods, "list": _list_methods, "raw": _raw_methods, "ring": _ring_methods, "dict": _dict_methods,
    "object": _object_methods, "table": _table_methods,
}  # fmt: skip


@act(3, shm.LockError, shm.NotFoundError, names=("tally",), levels=(1,))
def tally(runner, step):
    value = runner.value("tally", mode="r+")
    runner.counting("tally", lambda: value.increment("n"))
    key = f"k{runner.number}-{os.getpid()}"
    value[key] = [1, {"two": 2}]
    if (
        value[key] != [1, {"two": 2}]
        or value.setdefault(key, 0) == 0
        or not value.compare_and_set(key, [1, {"two": 2}], 7)
    ):
        raise BrokenError("a key of my own changed")
    value.update({key: 8}, **{key: 9})
    if value.pop(key) != 9 or value.pop(key, None) is not None:
        raise BrokenError("a popped key was another")
    value[key] = 1
    del value[key]


@act(4, shm.LockError, shm.NotFoundError, names=("count",), levels=(0,))
def count(runner, step):
    value = runner.value("count", mode="r+")
    with shm.lock(value):
        runner.counting("count", lambda: _add(value))


def _add(value):
    before = int(value[0])
    time.sleep(0)
    value[0] = before + 1
