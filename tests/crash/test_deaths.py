"""However a process ends, its segments are removed; while it lives, they stay."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths, registry, sessions
from tests import workers
from tests.helpers import (
    PATIENCE,
    Child,
    holding,
    kill_watchdogs,
    left,
    python,
    quick_first,
    until,
    until_left,
    watchdogs,
)  # fmt: skip

VALUES = np.arange(1000)


def create(**options):
    return shm.create("x", VALUES, **options)


def exists(name="x"):
    return os.path.exists(paths.path_of(name))


def hang_up():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it was ignored
    os.kill(os.getpid(), signal.SIGHUP)


WAYS = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGHUP": hang_up,
    "abort": os.abort,
    "a segmentation fault": faulthandler._sigsegv,
    "os._exit": lambda: os._exit(0),
    "its end": lambda: None,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_process_owned_goes_with_it(way, shm_dir):
    def run(connection):
        x = create()
        connection.send(exists())
        WAYS[way]()
        del x

    with Child(run) as child:
        assert child.hear()
        child.join()
    until_left(shm_dir)
    until(lambda: not watchdogs(shm_dir), "the watchdog ends with what it watched over")


def test_a_script_without_jupyter_shares_until_its_end(shm_dir):
    done = python("import shmkernel as shm; x = shm.create('x', [1, 2], dtype=int); print(shm.info('x').owner)")
    assert done.stdout == f"-c in {Path.cwd().name}\n"
    until_left(shm_dir)


@pytest.mark.parametrize("lifetime", ["session", "attached", "keep"])
def test_nothing_is_printed_at_exit(lifetime):
    script = """
import builtins, sys, threading, numpy as np, shmkernel as shm
x = shm.create("x", np.arange(10), lifetime=sys.argv[1])
builtins.kept = view = x[::2]
builtins.settings = shm.create("d", {"a": 1}, lifetime=sys.argv[1])
class Cycle: pass
cycle = Cycle(); cycle.me = cycle; cycle.x = shm.create("y", shape=3, lifetime=sys.argv[1])
local = threading.local(); local.x = shm.attach("x", mode="r")
sys.modules["last"] = [shm.attach("y", mode="c")]
"""
    done = python(script, lifetime, flags=("-X", "dev", "-W", "error"))
    assert (done.stdout, done.stderr) == ("", "")
    if lifetime == "keep":
        for name in ("x", "y", "d"):
            shm.unlink(name)


def test_the_watchdog_holds_nothing_of_the_process_that_started_it(shm_dir):
    with holding(create) as child:
        (dog,) = watchdogs(shm_dir)
        (own,) = os.listdir(paths.runtime("sessions"))
        held = {os.stat(f"/proc/{dog}/fd/{fd}").st_ino for fd in os.listdir(f"/proc/{dog}/fd") if int(fd) > 2}
        assert len(held) == 2  # its session's file, and the watchdog's pipe
        assert os.stat(paths.runtime("sessions", own)).st_ino in held
        assert all(os.readlink(f"/proc/{dog}/fd/{fd}") == "/dev/null" for fd in range(3))
        assert os.getsid(dog) not in (os.getsid(child.pid), os.getsid(0))
        assert os.readlink(f"/proc/{dog}/cwd") == "/"
    until_left(shm_dir)


def test_a_process_with_closed_streams_shares_too(shm_dir, tmp_path):
    script = f"""
import contextlib, os, shmkernel as shm
x = shm.create("x", shape=3, fill=7)
with contextlib.suppress(OSError):  # what stands there can be neither read nor written
    os.write(1, b"lost")
open({str(tmp_path / "answer")!r}, "w").write(repr(x.tolist()))
"""
    subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", script], check=True, timeout=PATIENCE)
    assert (tmp_path / "answer").read_text() == "[7.0, 7.0, 7.0]"
    until_left(shm_dir)


def test_a_killed_watchdog_is_replaced_at_the_next_create(shm_dir):
    def run(connection):
        create()
        connection.send("made")
        connection.recv()
        shm.create("y", VALUES)
        connection.send("made")
        connection.recv()

    with Child(run) as child:
        child.hear()
        kill_watchdogs(shm_dir)
        child.tell()
        child.hear()
        assert len(watchdogs(shm_dir)) == 1
        child.end()
    until_left(shm_dir)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_watchdog_that_is_told_to_end_along_with_its_session_still_sweeps(end, shm_dir):
    with holding(create) as child:
        (dog,) = watchdogs(shm_dir)
        os.kill(dog, end)
        child.end()
    until_left(shm_dir)
    until(lambda: not watchdogs(shm_dir), "the watchdog ends")


def killed_with_its_watchdog(folder, **options):
    with holding(lambda: create(**options)) as child:
        kill_watchdogs(folder)
        child.end()
    assert exists()


def test_where_the_watchdog_died_too_gc_sweeps(shm_dir):
    killed_with_its_watchdog(shm_dir)
    size = os.path.getsize(paths.path_of("x"))
    assert shm.gc(dry_run=True) == [("x", size)]
    assert exists()
    assert shm.gc() == [("x", size)]
    assert left(shm_dir) == []


@pytest.mark.parametrize("lifetime", ["session", "attached"])
def test_where_the_watchdog_died_too_the_next_session_sweeps(lifetime, shm_dir):
    killed_with_its_watchdog(shm_dir, lifetime=lifetime)
    y = shm.create("y", VALUES)
    assert not exists()
    assert [one.name for one in shm.list()] == ["y"]
    del y


def test_a_name_of_the_dead_is_free_before_anybody_has_swept(shm_dir):
    killed_with_its_watchdog(shm_dir)
    sessions.begin()
    x = create()
    assert np.array_equal(x, VALUES)
    assert shm.info("x").mine


def test_what_is_kept_outlives_owner_and_watchdog(shm_dir):
    with holding(lambda: create(lifetime="keep")) as child:
        child.end()
    until(lambda: not watchdogs(shm_dir), "the watchdog ends")
    assert np.array_equal(shm.attach("x"), VALUES)
    assert not shm.info("x").owner_alive
    shm.unlink("x")


def test_a_subprocess_that_inherits_every_descriptor_keeps_nothing_alive(shm_dir):
    reading, writing = os.pipe()

    def run(connection):
        create()
        process = subprocess.Popen(["cat"], stdin=reading, stdout=subprocess.DEVNULL, close_fds=False)
        connection.send(process.pid)
        connection.recv()

    with Child(run) as child:
        cat = os.pidfd_open(child.hear())
        child.end()
        until_left(shm_dir)
        signal.pidfd_send_signal(cat, 0)  # it lives
    for fd in (reading, writing, cat):
        os.close(fd)


@pytest.mark.parametrize("start", ["multiprocessing", "os.fork"])
def test_a_forked_child_that_outlives_its_parent_keeps_the_memory_and_no_name(start, shm_dir):
    here, there = multiprocessing.Pipe()

    def stay(x):
        there.send(os.getpid())
        there.recv()
        there.send(int(x.sum()))
        there.recv()

    def run(connection):
        x = create()
        if start == "multiprocessing":
            multiprocessing.get_context("fork").Process(target=stay, args=(x,)).start()
        elif os.fork() == 0:
            stay(x)
            os._exit(0)
        connection.recv()

    with Child(run) as parent:
        pid = here.recv()
        parent.end()
        until_left(shm_dir)
        here.send("the values")
        assert here.recv() == VALUES.sum()
        os.kill(pid, signal.SIGKILL)


def test_a_forked_childs_end_ends_nothing_of_the_parent():
    made = [create(lifetime="attached")]
    with Child(lambda connection: connection.send(int(made[0].sum())), kin=True) as child:
        assert child.hear() == VALUES.sum()
        assert child.join() == 0
    assert exists()
    assert sessions.alive(sessions.mine().id)
    made.clear()
    assert not exists()


def test_what_a_forked_child_creates_is_its_parents(shm_dir):
    registry.begin()
    with Child(lambda _: create(), kin=True) as child:
        assert child.join() == 0
    shm.gc()
    assert np.array_equal(shm.attach("x"), VALUES)
    assert len(watchdogs(shm_dir)) == 1
    sessions.end()
    until_left(shm_dir)


def test_a_forked_child_that_outlives_its_parent_and_creates_then_is_watched_over(shm_dir):
    here, there = multiprocessing.Pipe()

    def run(connection):
        create()
        if os.fork() == 0:
            there.send(os.getpid())
            there.recv()
            shm.create("y", VALUES)
            there.send("made")
            there.recv()
            os._exit(0)
        connection.recv()

    with Child(run) as parent:
        pid = here.recv()
        parent.end()
        until_left(shm_dir)
        until(lambda: not watchdogs(shm_dir), "the parent's watchdog ends")
        here.send("create")
        assert here.recv() == "made"
        assert exists("y")
        os.kill(pid, signal.SIGKILL)
    until_left(shm_dir)


def test_children_forked_by_another_thread_at_any_moment_hold_no_lock(shm_dir):
    reading, writing = os.pipe()

    def run(connection):
        enough = threading.Event()

        def fork_on():
            while not enough.is_set():
                if os.fork() == 0:
                    close_pipes(but=reading)
                    os.read(reading, 1)  # lives until the test closes the pipe
                    os._exit(0)

        def close_pipes(but):  # subprocess waits for a pipe's end of file, even if other processes hold it
            for fd in map(int, os.listdir("/proc/self/fd")):
                with contextlib.suppress(OSError):
                    if fd != but and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                        os.close(fd)

        thread = threading.Thread(target=fork_on)
        thread.start()
        made = [shm.create(f"x{n}", VALUES) for n in range(3)]
        enough.set()
        thread.join()
        connection.send(len(made))
        connection.recv()

    with Child(run) as parent:
        assert parent.hear() == 3
        parent.end()
        until_left(shm_dir)
    os.close(reading)
    os.close(writing)


METHODS = pytest.mark.parametrize("method", quick_first("fork", "spawn", "forkserver"))


@METHODS
@pytest.mark.parametrize("begun", [True, False], ids=["with a session", "without a session"])
def test_what_a_pools_worker_creates_belongs_to_the_parent(method, begun, shm_dir):
    def run(connection):
        mine = registry.begin().id if begun else None
        with multiprocessing.get_context(method).Pool(1, maxtasksperchild=1) as pool:
            owners = {pool.apply(workers.create, (name,)) for name in ("x", "y")}
        shm.gc()
        connection.send((mine, owners, (shm.attach("x") + shm.attach("y")).tolist()))
        connection.recv()

    with Child(run) as parent:
        mine, owners, values = parent.hear()
        assert values == list(range(0, 20, 2))
        assert len(owners) == 1
        assert not begun or owners == {mine}
        parent.end()
    until_left(shm_dir)


@METHODS
def test_what_a_killed_child_created_stays_until_its_parent_ends(method, shm_dir):
    def run(connection):
        child = multiprocessing.get_context(method).Process(target=workers.create_and_die, args=("x",))
        child.start()
        child.join()
        shm.gc()
        connection.send(exists())
        connection.recv()

    with Child(run) as parent:
        assert parent.hear()
        parent.end()
    until_left(shm_dir)


def test_the_last_one_to_let_go_unlinks():
    x = create(lifetime="attached")
    y = shm.attach("x", mode="r")
    view = x[10:20]
    del x, y
    assert exists()
    del view
    assert not exists()


def test_another_process_that_lets_go_last_unlinks(shm_dir):
    def run(connection):
        x = shm.attach("x")
        connection.send(int(x.sum()))
        connection.recv()
        del x
        connection.send(exists())

    with holding(lambda: create(lifetime="attached")) as maker, Child(run) as other:
        assert other.hear() == VALUES.sum()
        maker.end()
        until(lambda: len(watchdogs(shm_dir)) == 1, "the maker's watchdog ends")
        assert exists()
        other.tell()
        assert not other.hear()


def test_the_last_one_killed_leaves_it_to_its_watchdog(shm_dir):
    with holding(lambda: create(lifetime="attached")) as maker:
        with holding(lambda: shm.attach("x")) as other:
            maker.end()
            until(lambda: len(watchdogs(shm_dir)) == 1, "the maker's watchdog ends")
            assert exists()
            other.end()
        until_left(shm_dir)


def test_the_last_one_may_have_got_it_through_a_cycle():
    x = create(lifetime="attached")
    cycle = [x]
    cycle.append(cycle)
    del x, cycle
    gc.collect()
    assert not exists()


def test_a_session_survives_that_somebody_empties_its_folder():
    """The runtime folder is removed, as systemd-logind does at a user's last logout."""
    x = create()
    shutil.rmtree(paths.runtime())
    os.unlink(paths.path_of("x"))
    y = shm.create("y", VALUES)
    with Child(lambda connection: connection.send(shm.gc())) as other:
        assert other.hear() == []
    assert exists("y")
    assert shm.info("y").owner_alive
    assert x.sum() == y.sum()
