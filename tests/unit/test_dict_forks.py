"""Dicts and fork: a child inherits attachments and nothing else, at whatever moment it was forked."""

from __future__ import annotations

import pytest

from tests.helpers import python

BUSY = """
import os, subprocess, sys, threading, warnings
import shmkernel as shm

warnings.simplefilter("ignore")  # Python 3.12 warns of any fork beside threads
x = shm.create("x", {f"key {n}": n for n in range(500)})
going = True

def held():
    with x.transaction():
        x["held"] = 1
        x.to_dict()

acts = {
    "to_dict": x.to_dict,
    "keys": lambda: list(x),
    "in": lambda: "key 7" in x,
    "set": lambda: x.__setitem__("key 7", 7),
    "insert": lambda: (x.__setitem__("new", [1]), x.pop("new")),
    "transaction": held,
}
act = acts[sys.argv[1]]

def work():
    while going:
        act()

threads = [threading.Thread(target=work) for _ in range(1)]
for thread in threads:
    thread.start()
"""
CHILDREN = """
for _ in range(5):
    child = os.fork()
    if child == 0:
        going = False
        assert x["key 5"] == 5
        x["child"] = os.getpid()
        assert x.to_dict()["child"] == os.getpid()
        sys.exit(7)  # the interpreter ends, and must not close what the parent has open
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 7, status
    assert x["child"] == child
"""
PREPARED = """
for _ in range(4):
    subprocess.run([sys.executable, "-c", ""], preexec_fn=lambda: x["key 5"], check=True, timeout=100)
"""
END = """
going = False
for thread in threads:
    thread.join()
x["after"] = 1
shm.unlink("x")
"""

BETWEEN = """
import os, sys, threading, warnings
import shmkernel as shm
from shmkernel.kinds.dicts import keeper

warnings.simplefilter("ignore")
x = shm.create("x", {"n": 0})
begins, forked, inside, done = (threading.Event() for _ in range(4))

def at_the_begin(frame, event, _):
    if frame.f_code is keeper.prepare.__code__ and not begins.is_set():
        begins.set()
        forked.wait(100)

def first():
    sys.settrace(at_the_begin)
    with x.transaction():
        sys.settrace(None)
        inside.set()
        done.wait(100)

thread = threading.Thread(target=first, daemon=True)
thread.start()
assert begins.wait(100)  # it has the writer lock, and asks the keeper to begin
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
forked.set()
assert inside.wait(100)
try:
    with x.transaction(timeout=0):
        pass
except shm.TimedOutError:
    pass
else:
    raise AssertionError("two transactions at once")
done.set()
thread.join()
shm.unlink("x")
"""


LONG = [pytest.param(act, marks=pytest.mark.long) for act in ("keys", "in", "set", "insert")]


@pytest.mark.parametrize("act", ["to_dict", "transaction", *LONG])
def test_a_child_forked_beside_a_busy_thread_uses_the_dict_and_ends(act):
    python(BUSY + CHILDREN + END, act)


def test_a_subprocess_that_prepares_itself_beside_a_busy_thread_starts():
    python(BUSY + PREPARED + END, "to_dict")


def test_a_child_forked_while_another_thread_begins_a_transaction_leaves_that_thread_its_lock():
    python(BETWEEN)
