"""The proof with interrupts notices what an operation leaves."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest

import shmkernel as shm
from tests.helpers import Child
from tests.prove import interruptions, interrupts

OTHER = SimpleNamespace(tell=lambda _: None, connection=SimpleNamespace(poll=lambda _: True, recv=lambda: ""))
kept = []


def publish():
    shm.publish("the_array")


def leak_a_descriptor():
    kept.append(os.dup(0))


def leak_a_thread():
    kept.append(threading.Thread(target=threading.Event().wait, daemon=True))
    kept[-1].start()


def leak_a_segment():
    kept.append(shm.create(f"x{len(kept)}", b"abc"))


def keep_a_lock():
    kept.append(shm.lock("a_free_name"))
    kept[-1].acquire()


CASES = {
    publish: None,
    leak_a_descriptor: "descriptors [",
    leak_a_thread: "threads [",
    leak_a_segment: "files [",
    keep_a_lock: "held: ['the lock of a_free_name']",
}


@pytest.mark.parametrize(("act", "said"), CASES.items(), ids=[act.__name__ for act in CASES])
def test_a_planted_leak_is_noticed(act, said, shm_dir):
    def work(connection):
        interrupts._SWEEP = 0.01
        interruptions.prepare()
        interruptions.OPERATIONS.clear()
        interruptions.OPERATIONS["planted"] = act
        trial = interrupts.Trial(1, str(shm_dir), OTHER)
        trial.measure()
        trial.round("planted")
        connection.send(trial.faults)
        for one in shm.list():
            shm.unlink(one.name)

    with Child(work) as child:
        faults = child.hear()
        assert child.join() == 0
    assert len(faults) == (said is not None), faults
    assert all(said in fault for fault in faults), faults
