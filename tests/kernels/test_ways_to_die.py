"""Each line of docs/concepts/every-way-to-die.md is done to a real kernel, and its words are what is left."""

from __future__ import annotations

import os
import select
import shutil
import signal
from pathlib import Path

import pytest

import shmkernel as shm
from shmkernel._core import paths, registry
from tests.helpers import PATIENCE, kill_watchdogs, until, watchdogs
from tests.kernels.kernel import Kernel, Served

PAGE = Path(__file__).parent.parent.parent / "docs/concepts/every-way-to-die.md"
SHARE = """
import faulthandler, os, signal, subprocess, sys
import numpy as np, shmkernel as shm
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it was ignored
made = [shm.create(name, np.arange(1000), lifetime=lifetime) for name, lifetime in
        (("mine", "session"), ("last", "attached"), ("held", "attached"), ("kept", "keep"))]
"""
NAMES = ("mine", "last", "held", "kept")
WORDS = {  # there afterwards, and when another session has begun
    (True, True): "stays", (False, False): "gone", (True, False): "gone when the next session begins",
}  # fmt: skip
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def dies(cell):
    return lambda kernel: kernel.dies_of(cell)


def restarted(kernel):
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=PATIENCE)


def killed_beside(start):
    """Kill the kernel beside a process that it has started, and return that."""

    def end(kernel):
        beside = os.pidfd_open(int(kernel(start)))
        kernel.dies_of(KILL)
        return beside

    return end


def emptied(_):
    shutil.rmtree(paths.runtime())
    for path in Path(paths.folder()).glob("shmk-*"):
        path.unlink()


def without_watchdog(kernel):
    kill_watchdogs(paths.folder())
    kernel("more = shm.create('more', shape=3)")
    assert len(watchdogs(paths.folder())) == 1


def with_its_watchdog(kernel):
    kill_watchdogs(paths.folder())
    kernel.dies_of(KILL)


WAYS = {
    "is shut down": lambda kernel: kernel.manager.shutdown_kernel(),
    "is restarted": restarted,
    "runs `exit`": dies("exit"),
    "loses its server": lambda kernel: kernel.loses_its_server(),
    "gets SIGTERM": dies("os.kill(os.getpid(), signal.SIGTERM)"),
    "gets SIGHUP": dies("os.kill(os.getpid(), signal.SIGHUP)"),
    "gets SIGKILL, as from the out-of-memory killer": dies(KILL),
    "gets SIGKILL with its process group": dies("os.killpg(0, signal.SIGKILL)"),
    "calls `os._exit`": dies("os._exit(1)"),
    "crashes in C code (segmentation fault)": dies("faulthandler._sigsegv()"),
    "calls `abort`": dies("os.abort()"),
    "is killed, and a process that it forked lives on": killed_beside(
        "import warnings\nwarnings.simplefilter('ignore')  # a kernel has threads\n"
        "if not (pid := os.fork()):\n    signal.pause()\nprint(pid)"
    ),
    "is killed, and a subprocess that inherited its files lives on": killed_beside(
        "print(subprocess.Popen(['sleep', 'infinity'], close_fds=False, start_new_session=True).pid)"
    ),
    "is killed together with its watchdog": with_its_watchdog,
    "loses its watchdog alone": without_watchdog,
    "is interrupted": lambda kernel: kernel.interrupt(),
    "lives on, and somebody empties `/dev/shm`": emptied,
}
QUICK = (
    "is restarted", "gets SIGKILL with its process group", "crashes in C code (segmentation fault)",
    "is killed together with its watchdog", "loses its watchdog alone",
)  # fmt: skip


def rows():
    """Read the table: what happens to the kernel, and what is left of its four segments."""
    lines = (line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line] for line in lines][2:]


def marked():
    """Give every run a few of the ways, and CI all."""
    return [row if row[0] in QUICK else pytest.param(row, marks=pytest.mark.long) for row in rows()]


@pytest.fixture
def kernel(row, tmp_path, shm_dir):
    started = (Served if row[0] == "loses its server" else Kernel)("writer.ipynb", tmp_path)
    yield started
    started.end()


def is_there(name):
    return os.path.exists(paths.path_of(name))


def test_the_page_has_each_way_and_no_other():
    assert [row[0] for row in rows()] == [*WAYS]


@pytest.mark.parametrize("row", marked(), ids=lambda row: row[0])
def test_what_is_left_is_what_the_page_says(row, kernel, reader, shm_dir):
    way, *words = row
    kernel(SHARE)
    dogs, process = {*watchdogs(shm_dir)}, kernel.death()
    reader("y, z = shm.attach('mine'), shm.attach('held')")
    beside = WAYS[way](kernel)
    if select.select([process], [], [], 0)[0]:  # it has ended
        until(lambda: not dogs & {*watchdogs(shm_dir)}, "the watchdog ends with what it watched over")
    os.close(process)
    now = [is_there(name) for name in NAMES]
    registry.begin()
    assert [WORDS[both] for both in zip(now, map(is_there, NAMES), strict=True)] == words
    assert reader("y[0] = z[0] = 1000; print(y.sum(), z.sum(), shm.keep('mine').lifetime)") == "500500 500500 keep\n"
    assert is_there("mine")
    if beside:
        signal.pidfd_send_signal(beside, signal.SIGKILL)  # it lives
        os.close(beside)
    for name in filter(is_there, NAMES):
        shm.unlink(name)
