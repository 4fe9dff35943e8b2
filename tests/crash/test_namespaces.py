"""Processes of several pid namespaces at one dict, as in containers that share /dev/shm.

Pids and thread ids are not unique there, while LMDB identifies its users by pid, and its mutex the owner by thread id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

import shmkernel as shm
from tests.helpers import PATIENCE, until

SCRIPT = """
import os, sys, threading
import shmkernel as shm

def work():
    {work}

while (pid := os.fork()) and pid < {number}:
    os.waitpid(pid, 0)
if pid:
    os.waitpid(pid, 0)
elif os.getpid() == {number}:
    work()
os._exit(0)
"""


class Elsewhere:
    """A process with the pid `number` in a pid namespace of its own, and a job to do there."""

    def __init__(self, number, *work):
        script = SCRIPT.format(number=number, work="\n    ".join(work))
        self.outer = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def hear(self):
        line = self.outer.stdout.readline().strip()
        if not line and "unshare" in (why := self.outer.stderr.read()):
            pytest.skip(f"no pid namespaces here: {why.strip()}")
        return line

    def tell(self):
        self.outer.stdin.write("\n")
        self.outer.stdin.flush()

    def pid(self):
        """Return its pid in our namespace."""
        return self._children(*self._children(self.outer.pid))[0]

    def _children(self, pid):
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self._children(self.outer.pid):
            with contextlib.suppress(ProcessLookupError):  # its work is done, and it has just ended
                os.kill(pid, signal.SIGKILL)  # when the namespace's first process dies, the others are killed
        self.outer.communicate(timeout=PATIENCE)


def sleeps(pid):
    with open(f"/proc/{pid}/syscall") as file:
        return file.read().split()[0] in ("72", "202")  # fcntl, futex


def test_they_share_a_dict_and_lose_nothing():
    x = shm.create("x", {"n": 0})
    count = ("x = shm.attach('x')", "for _ in range(500): x.increment('n')", "print('done', x['n'] > 0, flush=True)")
    with Elsewhere(3, *count) as first, Elsewhere(4, *count) as second:
        for _ in range(500):
            x.increment("n")
        assert (first.hear(), second.hear()) == ("done True", "done True")
    assert x["n"] == 1500


def test_the_death_of_one_who_waits_lets_nobody_in():
    """The process that waits, and dies, has the thread id of the one that holds the mutex."""
    x = shm.create("x", {"a": 0})
    hold = (
        "x = shm.attach('x')",
        "def inside():",
        "    with x.transaction():",
        "        x['a'] = 1",
        "        print(threading.get_native_id(), flush=True)",
        "        sys.stdin.readline()",
        "        x['b'] = 1",
        "thread = threading.Thread(target=inside)",
        "thread.start()",
        "thread.join()",
    )
    with Elsewhere(5, *hold) as holder:
        inside = int(holder.hear())
        wait = ("x = shm.attach('x')", "print('waits', flush=True)", "x['w'] = 1")
        with Elsewhere(inside, *wait) as waiter:
            assert waiter.hear() == "waits"
            until(lambda: sleeps(waiter.pid()), "it waits for its turn")
        last = ("x = shm.attach('x')", "print('waits', flush=True)", "x['c'] = 1", "print('done', flush=True)")
        with Elsewhere(inside + 1, *last) as third:
            assert third.hear() == "waits"
            until(lambda: sleeps(third.pid()), "so does another")
            assert x == {"a": 0}
            holder.tell()
            assert third.hear() == "done"
    assert list(x.items()) == [("a", 1), ("b", 1), ("c", 1)]


def test_one_with_the_number_of_another_learns_why_it_cannot_have_the_dict():
    shm.create("x", {"a": 0})
    attach = (
        "try:",
        "    x = shm.attach('x')",
        "except PermissionError as error:",
        "    print(error, flush=True)",
        "else:",
        "    print(x['a'], flush=True)",
        "sys.stdin.readline()",
    )
    with Elsewhere(3, *attach) as first:
        assert first.hear() == "0"
        with Elsewhere(3, *attach) as second:
            assert second.hear().startswith(
                "'x' is open in another container, in a process that has the same process id, 3"
            )
    with Elsewhere(3, *attach) as third:
        assert third.hear() == "0"
