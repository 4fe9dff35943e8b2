"""The garbage collector is put off while many objects are made, and is on again whatever happens meanwhile."""

from __future__ import annotations

import gc
import itertools
import threading

import pytest

import shmkernel as shm
from shmkernel._core.garbage import postponed
from tests.helpers import interrupted_at, tells_of_every_bytecode
from tests.unit.test_fork import forked


def enter_and_leave():
    with postponed, postponed:
        assert not gc.isenabled()


def test_it_is_on_again_after_the_last_end():
    with postponed:
        enter_and_leave()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), postponed:
        1 / 0
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off():
    gc.disable()
    try:
        enter_and_leave()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_is_on_in_a_child_that_is_forked_meanwhile():
    inside, over = threading.Event(), threading.Event()

    def hold():
        with postponed:
            inside.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    try:
        assert forked(lambda: str(gc.isenabled())) == "True"
    finally:
        over.set()
        thread.join()
    assert gc.isenabled()


@tells_of_every_bytecode
def test_an_interrupt_before_any_bytecode_leaves_it_on():
    for step in itertools.count(1):
        if not interrupted_at(step, enter_and_leave):
            break
        assert gc.isenabled(), step
    assert step > 10


@pytest.mark.parametrize("pickled", [False, True])
def test_no_collection_while_an_object_of_many_parts_is_attached(pickled, shm_dir):
    made = [[n] for n in range(100_000)] + [len] * pickled
    made = shm.create("x", made, kind="object", allow_pickle=pickled)
    gc.collect()
    runs = []
    gc.callbacks.append(note := lambda phase, _: runs.append(phase))
    try:
        there = shm.attach("x")
    finally:
        gc.callbacks.remove(note)
    assert there == made
    assert len(runs) < 20  # and not one for each 700 lists
