"""In a program that gevent has patched, each greenlet is an owner, like a thread."""

from __future__ import annotations

import importlib.util

import pytest

from tests.helpers import lacking, needs, python

PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent
import numpy as np
import shmkernel as shm

def together(work, count=4):
    jobs = [gevent.spawn(work) for _ in range(count)]
    gevent.joinall(jobs, timeout=100, raise_error=True)
    assert all(job.successful() for job in jobs), "it hangs"

x = shm.create("x", np.zeros(1))
"""


@pytest.fixture(autouse=True)
def gevent_is_here():
    if importlib.util.find_spec("gevent") is None:
        lacking("gevent is not installed: uv run --group large pytest tests/unit/test_gevent.py")


def test_greenlets_exclude_each_other_under_a_lock():
    for lock in ("shm.lock('x')", "shm.lock('x', timeout=100)", "shm.writing(x)"):
        script = f"""
def work():
    for _ in range(10):
        with {lock}:
            old = x[0]
            gevent.sleep(0)
            x[0] = old + 1

together(work)
print(int(x[0]))
"""
        assert python(PATCHED + script).stdout == "40\n"


def test_greenlets_have_a_dict_s_transactions_one_after_the_other():
    needs("lmdb", "dicts")  # no wheel for the newest Python
    script = """
d = shm.create("d", {"n": 0})

def work():
    for _ in range(10):
        with d.transaction():
            old = d["n"]
            gevent.sleep(0)
            d["n"] = old + 1

together(work)
print(d["n"])
"""
    assert python(PATCHED + script).stdout == "40\n"


def test_one_greenlet_waits_for_what_another_publishes():
    script = """
seen = shm.version("x")
waiting = gevent.spawn(shm.wait, "x", seen, timeout=100)
gevent.sleep(0)
shm.publish("x")
print(waiting.get(timeout=110) > seen)
"""
    assert python(PATCHED + script).stdout == "True\n"


def test_a_child_that_a_greenlet_forks_shares_too():
    script = """
import os
def work():
    pid = os.fork()
    if pid == 0:
        shm.attach("x")[0] = 7
        shm.create("y", [1])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

together(work, count=1)
print(int(x[0]), [one.name for one in shm.list()])
"""
    assert python(PATCHED + script).stdout == "7 ['x', 'y']\n"
