"""A process is killed at every step of each operation on a segment.

A profile function counts the system calls of an operation, and kills the process right before the n-th, for n = 1, 2,
... until the operation completes.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from functools import partial

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import names_lock, paths, registry
from shmkernel.kinds import array
from tests.helpers import Child, holding, left, quick_first, until, until_left

MODULES = ("posix", "fcntl", "_posixsubprocess", "io", "_io", "builtins", None)  # None: methods, such as close
CALLS = (
    "open", "close", "link", "rename", "unlink", "remove", "write", "pwrite", "posix_fallocate", "ftruncate", "flock",
    "mkdir", "chmod", "fork_exec", "read", "lstat", "fstat", "listdir", "next",
)  # fmt: skip
OLD, NEW = np.arange(3000), np.arange(5000) * 3


def at_step(step, act, calls=CALLS):
    """Call `act` right before the step-th of these system calls from now on; ``next`` opens a file (`closing`).

    Return a function that returns whether that call came. It may come in a finalizer, where Python drops the exception
    of `act`.
    """
    count, reached = itertools.count(1), threading.Event()

    def look(frame, event, function):
        if event != "c_call" or getattr(function, "__module__", None) not in MODULES:
            return
        if function.__name__ in calls and "importlib" not in frame.f_code.co_filename and next(count) == step:
            sys.setprofile(None)
            reached.set()
            act()

    sys.setprofile(look)
    return reached.is_set


def killed_at(step, work, before=lambda: None):
    """Return whether a process that runs `before`, then `work`, is killed at this step of `work`."""

    def run(_):
        known = before()
        at_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
        made = work()
        sys.setprofile(None)
        del made, known

    with Child(run) as child:
        status = child.join()
    assert status in (0, -signal.SIGKILL)
    return status != 0


def value_at(name):
    """Return the value under the name as other programs read it, without a session."""
    try:
        return np.load(paths.path_of(name))
    except FileNotFoundError:
        return None


def is_one_of(value, *allowed):
    return any(value is one if one is None else np.array_equal(value, one) for one in allowed)


def create_in_pieces():
    array._PIECE = 4096
    return shm.create("x", NEW)


MAKE = {
    "the first segment of a session": (lambda: None, lambda: shm.create("x", NEW)),
    "the next segment of a session": (lambda: shm.create("y", OLD), lambda: shm.create("x", NEW)),
    "a blank segment": (lambda: shm.create("y", OLD), lambda: shm.create("x", shape=5000, dtype=int)),
    "a segment in many pieces": (lambda: shm.create("y", OLD), create_in_pieces),
    "a segment of lifetime attached": (
        lambda: shm.create("y", OLD),
        lambda: shm.create("x", NEW, lifetime="attached"),
    ),
    "a replacement of its own": (lambda: shm.create("x", OLD), lambda: shm.create("x", NEW, replace=True)),
}


@pytest.mark.parametrize("what", quick_first(*MAKE))
def test_death_at_any_step_of_creating_leaves_no_half_and_then_nothing(what, shm_dir):
    before, work = MAKE[what]
    for step in itertools.count(1):
        killed = killed_at(step, work, before)
        assert is_one_of(value_at("x"), None, OLD, NEW, np.zeros(5000, int))
        until_left(shm_dir)
        if not killed:
            break
    assert step > 10


@pytest.mark.long
def test_death_at_any_step_of_replacing_leaves_the_others_value_or_nothing(shm_dir):
    for step in itertools.count(1):
        with holding(lambda: shm.create("x", OLD)) as other:
            mine = left(shm_dir)
            killed = killed_at(step, lambda: shm.create("x", NEW, replace=True), before=registry.begin)
            assert is_one_of(value_at("x"), None, OLD, NEW)
            if is_one_of(value_at("x"), OLD):
                until_left(shm_dir, *mine)
            other.end()
        until_left(shm_dir)
        if not killed:
            break
    assert step > 10


@pytest.mark.parametrize("mode", quick_first("r", "r+"))
def test_death_at_any_step_of_attaching_changes_nothing(mode, shm_dir):
    with holding(lambda: shm.create("x", OLD)):
        mine = left(shm_dir)
        for step in itertools.count(1):
            killed = killed_at(step, lambda: shm.attach("x", mode), before=registry.begin)
            assert is_one_of(value_at("x"), OLD)
            until_left(shm_dir, *mine)
            if not killed:
                break
    assert step > 5
    until_left(shm_dir)


@pytest.mark.long
def test_death_at_any_step_of_attaching_as_the_last_one_unlinks(shm_dir):
    """The maker is killed at that step too, and its watchdog finds that another process has the segment attached."""

    def die_after_the_maker():
        signal.pidfd_send_signal(maker.pidfd, signal.SIGKILL)
        if not names_lock.is_mine():  # for its watchdog needs names.lock
            until(lambda: not os.path.exists(f"{shm_dir}/{session}"), "the maker's watchdog sweeps")
        os.kill(os.getpid(), signal.SIGKILL)

    def run(_, step):
        at_step(step, die_after_the_maker)
        shm.attach("x")
        sys.setprofile(None)

    for step in itertools.count(1):
        with holding(lambda: shm.create("x", OLD, lifetime="attached")) as maker:
            session = next(path for path in left(shm_dir) if "sessions" in path)
            with Child(partial(run, step=step)) as child:
                status = child.join()
        until_left(shm_dir)
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert step > 10


def test_death_at_any_step_of_letting_go_of_the_last_attachment_unlinks(shm_dir):
    def let_go():
        shm.close("x")
        held.clear()

    held = []
    for step in itertools.count(1):
        killed = killed_at(step, let_go, before=lambda: held.append(shm.create("x", OLD, lifetime="attached")))
        until_left(shm_dir)
        if not killed:
            break
    assert step > 5


@pytest.mark.long
@pytest.mark.parametrize(("old", "new"), [("session", "keep"), ("keep", "session"), ("session", "attached")])
def test_death_at_any_step_of_keep_leaves_the_old_lifetime_or_the_new(old, new, shm_dir):
    for step in itertools.count(1):
        with holding(lambda: shm.create("x", OLD, lifetime=old)) as other:
            killed = killed_at(step, lambda: shm.keep("x", new), before=registry.begin)
            assert is_one_of(value_at("x"), OLD)
            lifetime = shm.info("x").lifetime
            assert lifetime in (old, new)
            other.end()
        if lifetime == "keep":
            shm.unlink("x")
        until_left(shm_dir)
        if not killed:
            break
    assert step > 5


def test_death_at_any_step_of_unlink_leaves_a_whole_segment_or_none(shm_dir):
    for step in itertools.count(1):
        with holding(lambda: shm.create("x", OLD)) as other:
            killed = killed_at(step, lambda: shm.unlink("x"), before=registry.begin)
            assert is_one_of(value_at("x"), None, OLD)
            other.end()
        until_left(shm_dir)
        if not killed:
            break
    assert step > 5


@pytest.mark.parametrize("replace", quick_first(False, True), ids=["create", "replace"])
def test_ctrl_c_at_any_step_leaves_the_old_value_or_the_new_and_no_lock(replace, shm_dir):
    def run(connection, step):
        registry.begin()
        if replace:
            shm.create("x", OLD)
        try:
            reached = at_step(step, lambda: signal.raise_signal(signal.SIGINT))
            x = shm.create("x", NEW, replace=replace)
            sys.setprofile(None)
        except KeyboardInterrupt:
            assert is_one_of(value_at("x"), OLD if replace else None, NEW)
            assert shm.gc() == []  # the record of the replaced segment may be left
            assert len(left(shm_dir)) == 1 + 2 * len(paths.names())  # the session, and a record for each segment
            assert shm.create("x", OLD, replace=True) is shm.attach("x")
            connection.send(step)
        else:
            assert np.array_equal(x, NEW)
            connection.send(step if reached() else None)

    def interrupted(step):
        with Child(partial(run, step=step)) as child:
            heard = child.hear()
            assert child.join() == 0
        until_left(shm_dir)
        return heard

    steps = list(iter(map(interrupted, itertools.count(1)).__next__, None))
    assert len(steps) > 10


@pytest.mark.long
def test_ctrl_c_at_any_step_of_a_sessions_start_leaves_no_lock(shm_dir):
    def run(connection, step):
        try:
            reached = at_step(step, lambda: signal.raise_signal(signal.SIGINT))
            registry.begin()
            sys.setprofile(None)
        except KeyboardInterrupt:
            assert np.array_equal(shm.create("x", NEW), NEW)
            connection.send(step)
        else:
            connection.send(step if reached() else None)

    def interrupted(step):
        with Child(partial(run, step=step)) as child:
            heard = child.hear()
            assert child.join() == 0
        until_left(shm_dir)
        return heard

    steps = list(iter(map(interrupted, itertools.count(1)).__next__, None))
    assert len(steps) > 10
