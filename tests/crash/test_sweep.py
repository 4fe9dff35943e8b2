"""Sweeps remove what dead processes left, however much it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import shmkernel as shm
from shmkernel._core import paths, registry
from tests.helpers import Child, holding, until, until_left, watchdogs

MANY = 200


CREATE = f"""
import resource, sys
import shmkernel as shm

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))  # the watchdog inherits it
for number in range({MANY}):
    shm.create(f"x{{number}}", number)
print("created", flush=True)
sys.stdin.read()
"""


def test_a_watchdog_that_may_open_few_files_unlinks_any_number_of_segments(shm_dir):
    """In a process that was not forked: what earlier tests have left open may be more than that."""
    command = [sys.executable, "-c", CREATE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"created\n"
        assert len(shm.session) == MANY
        owner.kill()
        until_left(shm_dir)


def test_a_process_that_dies_leaves_no_sync_file_of_a_free_name(shm_dir):
    """The OS closes its files one by one, the session's file among the first."""

    def work(connection):
        shm.create("x", 1)
        for number in range(100):
            shm.version(f"free{number}")
        connection.send("made")
        connection.recv()

    with Child(work) as child:
        assert child.hear() == "made"
        assert list(shm_dir.glob(".shmk-*/sync/*"))
        child.end()
    until(lambda: not list(shm_dir.glob(".shmk-*/sync/*")), "the watchdog sweeps")
    until_left(shm_dir)


def test_a_watchdog_does_not_make_a_runtime_folder_anew_that_was_removed(shm_dir):
    """Who removes the folder of segments as a whole would find that it is not empty."""
    with holding(lambda: shm.create("x", 1)) as child:
        shutil.rmtree(f"{shm_dir}/.shmk-{os.geteuid()}")
        os.unlink(paths.path_of("x"))
        child.end()
    until(lambda: not watchdogs(shm_dir), "the watchdog ends")
    assert os.listdir(shm_dir) == []


def test_what_is_not_of_our_form_stops_no_sweep_and_stays():
    registry.begin()
    odd = [paths.runtime("stores", "odd"), paths.runtime("pending", "odd", "inner", "most"), paths.runtime("sync", "d")]
    for path in odd:
        os.makedirs(path)
    assert shm.gc() == []
    assert all(map(os.path.exists, odd))
    shutil.rmtree(paths.runtime("pending", "odd"))
    shutil.rmtree(paths.runtime("stores", "odd"))
