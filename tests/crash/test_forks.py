"""Forks at any moment beside busy threads: the child can use everything, and ends."""

from __future__ import annotations

import ast
import fcntl
import os
import signal
import subprocess

import pytest

import shmkernel as shm
from shmkernel._core import names_lock, paths, registry
from shmkernel.verbs import attachments
from tests.helpers import PATIENCE, Child, python, until

# A thread shares something for the first time, which imports many modules, while the process forks.
FIRST_USE = """
import os, sys, threading
import shmkernel as shm

def first():
    begun.set()
    shm.create("first", 1)

def child():
    with open(os.devnull, "w") as sys.stderr:
        shm.create(f"c{os.getpid()}", [1, "two"])
        shm.attach("first") if "first" in shm.session else None

begun = threading.Event()
thread = threading.Thread(target=first)
thread.start()
begun.wait()
pids = []
while thread.is_alive() and len(pids) < 10:
    pids.append(os.fork())
    if pids[-1] == 0:
        child()
        os._exit(0)
print([os.waitpid(pid, 0)[1] for pid in pids])
"""


# Threads do all that a notebook can do meanwhile, and each child does it too.
STORM = """
import asyncio, faulthandler, itertools, os, signal, subprocess, sys, threading, time
import multiprocessing
import numpy as np
import shmkernel as shm

faulthandler.dump_traceback_later(200, exit=True)
count = itertools.count()

def name():
    return f"n{os.getpid()}_{next(count)}"

def make():
    one = name()
    x = shm.create(one, np.arange(4), lifetime="attached")
    assert shm.attach(one) is x
    shm.create(one, [1, "two"], replace=True)
    shm.unlink(one)

def lock():
    with shm.lock("agreed"), shm.writing("agreed"):
        pass
    with shm.lock("agreed", shared=True):
        shm.publish("agreed")

def look():
    shm.list()
    shm.version("agreed")
    try:
        shm.wait("agreed", timeout=0.001)
    except shm.TimedOutError:
        pass

def handle():
    block = shm.SharedMemory(create=True, size=8)
    shm.SharedMemory(block.name).close()
    block.unlink()

ACTS = make, lock, look, handle
over = threading.Event()

def again_and_again(act):
    while not over.is_set():
        act()

def ended(pid):
    until = time.monotonic() + 100
    while time.monotonic() < until:
        if (status := os.waitpid(pid, os.WNOHANG))[0]:
            return os.waitstatus_to_exitcode(status[1])
        time.sleep(0.002)
    os.kill(pid, signal.SIGABRT)
    return "hangs"

def child():
    faulthandler.enable()
    for act in ACTS:
        act()

def forked(number):
    pid = os.fork()
    if pid:
        return ended(pid)
    try:
        child()
        os._exit(0)
    finally:
        os._exit(1)

def spawned(number):
    return subprocess.run(["true"], preexec_fn=make, timeout=100).returncode

def pooled(number):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply_async(child).get(100)
    return 0

shm.create("agreed", np.arange(4))
threads = [threading.Thread(target=again_and_again, args=(act,), daemon=True) for act in ACTS]
for thread in threads:
    thread.start()
print([forked(n) for n in range(15)] + [spawned(n) for n in range(5)] + [pooled(n) for n in range(5)])
over.set()
for thread in threads:
    thread.join(100)
print([thread.is_alive() for thread in threads])
"""


def test_the_first_use_in_a_thread_hangs_no_child_that_is_forked_meanwhile():
    done = python(FIRST_USE, flags=["-W", "ignore"])
    assert set(ast.literal_eval(done.stdout)) <= {0}, done.stderr


def test_a_child_that_has_a_descriptor_of_the_lock_of_names_does_not_hold_it():
    """So does a child that was forked just before the close, and one whose at-fork handlers did not run."""
    with registry.locked():
        fd = names_lock._thread.file.fileno()
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[fd])
    try:
        with open(paths.runtime("names.lock")) as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        child.communicate(timeout=PATIENCE)


def test_a_child_that_is_forked_while_its_parent_holds_the_lock_of_names_does_not_hold_it_when_the_parent_dies():
    def holds_forks_and_dies(connection):
        with registry.locked():
            pid = os.fork()
            if pid:
                os.kill(os.getpid(), signal.SIGKILL)
            connection.send("alone")
            connection.recv()

    with Child(holds_forks_and_dies) as parent:
        assert parent.hear() == "alone"
        with open(paths.runtime("names.lock")) as other:
            until(lambda: _locks_at_once(other), "nobody holds it")
        parent.tell()


def _locks_at_once(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_children_forked_beside_busy_threads_do_everything_and_end():
    done = python(STORM, flags=["-W", "ignore"], timeout=220)
    children, threads = map(ast.literal_eval, done.stdout.splitlines())
    assert set(children) == {0}, done.stderr
    assert set(threads) == {False}


def test_a_child_that_lets_go_of_what_it_inherited_unlinks_nothing_of_its_parents():
    inherited = [shm.create("inherited", [1, 2], lifetime="attached")]

    def let_go(connection):
        inherited.clear()
        connection.send([one.name for one in attachments.alive() if one.name == "inherited"])

    with Child(let_go, kin=True) as child:
        assert child.hear() == []
        assert child.join() == 0
    assert shm.attach("inherited") is inherited[0]
    inherited.clear()
    assert "inherited" not in shm.session


def test_a_child_is_forked_after_an_import_of_ours_that_another_thread_is_in_the_middle_of():
    """A Pool's thread that unpickles a value of ours imports its module, while another thread of the Pool forks."""
    python("""
import os, signal, sys, threading
import shmkernel

class Slow:
    def find_spec(self, name, *_):
        if name == "shmkernel.stdlib.delivery":
            begun.set()
            go.wait(100)

def begin():
    import shmkernel.stdlib.delivery

begun, go = threading.Event(), threading.Event()
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=begin)
thread.start()
begun.wait(100)
threading.Timer(0.1, go.set).start()
child = os.fork()
if child == 0:
    signal.alarm(100)
    import shmkernel.stdlib.delivery
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
""")


KEPT_BY_A_THREAD = """
import os, sys, threading, warnings
import shmkernel as shm

warnings.simplefilter("ignore")
x = shm.create("x", {"n": 0})
here, inside, done = threading.local(), threading.Event(), threading.Event()

def hold(timeout):
    with shm.lock("x", timeout=timeout) if sys.argv[1] == "lock" else x.transaction(timeout=timeout):
        yield

def first():
    here.held = hold(100)  # the child destroys it with the thread, and so closes the generator
    next(here.held)
    inside.set()
    done.wait(100)

thread = threading.Thread(target=first, daemon=True)
thread.start()
assert inside.wait(100)
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
try:
    next(hold(0))
except shm.TimedOutError:
    pass
else:
    raise AssertionError("two at once")
done.set()
thread.join()
next(hold(100))
shm.unlink("x")
"""


@pytest.mark.parametrize("what", ["lock", "transaction"])
def test_a_generator_in_a_thread_local_of_the_parent_lets_go_of_nothing_in_a_child(what):
    python(KEPT_BY_A_THREAD, what)
