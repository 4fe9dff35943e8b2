"""How many system calls and opened files an operation takes, with few segments and with many. Nothing is timed."""

from __future__ import annotations

import os
from collections import Counter

import pytest

import shmkernel as shm
from shmkernel._core import paths, records, registry
from shmkernel.sync import sync_file
from shmkernel.verbs import attachments

FEW, MANY = 10, 60
CALLS = ("open", "stat", "lstat", "fstat", "read", "pread", "listdir", "scandir", "close")


@pytest.fixture
def work(monkeypatch):
    """Count the calls of functions of `os` while a function runs."""
    calls = Counter()

    def counting(name, original):
        def call(*arguments, **options):
            calls[name] += 1
            return original(*arguments, **options)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, counting(name, getattr(os, name)))

    def of(act):
        act()
        calls.clear()
        act()
        return Counter(calls)

    return of


def kept(count, start=0):
    for number in range(start, count):
        shm.create(f"x{number}", [1.5], lifetime="keep")


def dropped(count):
    for number in range(count):
        shm.unlink(f"x{number}")


def listing():
    """List as a new process does, which knows no records yet."""
    records._known.clear()
    assert len(shm.list()) >= FEW


def test_a_listing_opens_each_segment_and_each_record_once(work):
    kept(FEW)
    few = work(listing)
    kept(MANY, FEW)
    many = work(listing)
    each = {name: (many[name] - few[name]) / (MANY - FEW) for name in CALLS}
    assert each["open"] <= 2  # the segment, its record
    assert sum(each.values()) <= 8, each
    dropped(MANY)


def test_a_sweep_reads_each_record_and_asks_once_whether_an_owner_lives(work):
    for number in range(FEW):
        shm.create(f"x{number}", [1.5])
    few = work(registry.sweep)
    for number in range(FEW, MANY):
        shm.create(f"x{number}", [1.5])
    many = work(registry.sweep)
    each = {name: (many[name] - few[name]) / (MANY - FEW) for name in CALLS}
    assert each["open"] <= 1
    assert sum(each.values()) <= 4, each


def test_names_that_are_used_once_leave_few_sync_files():
    for number in range(4 * sync_file._MANY):
        shm.publish(f"x{number}")
    assert len(os.listdir(paths.runtime("sync"))) <= 2 * sync_file._MANY


class Unscanned(dict):
    """A dict that may be asked for a key, and not for all."""

    def __iter__(self):
        raise AssertionError("it was searched")

    items = keys = values = __iter__


def test_closing_one_of_many_segments_looks_at_no_other(monkeypatch):
    held = [shm.create(f"x{number}", [1.5]) for number in range(3)]
    block = shm.SharedMemory("/block", create=True, size=8)
    for name in ("_open", "_closed"):
        monkeypatch.setattr(attachments, name, Unscanned(getattr(attachments, name)))
    block.close()
    assert not shm.close("x1")
    del held[1]
    assert shm.close("x1")
    monkeypatch.undo()
    assert {one.name for one in attachments.everything()} == {"x0", "x2"}
    block.unlink()
