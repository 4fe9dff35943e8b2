"""Another program removes the runtime folder or a segment while an operation runs: it works, or raises our error."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths, segment_file
from tests.crash.test_steps import CALLS as STEPS
from tests.crash.test_steps import at_step
from tests.helpers import Child, quick_first, until, until_left

VALUE = np.arange(3)


def lock():
    with shm.lock("x", timeout=5):
        pass


CALLS = {
    "attach": lambda: shm.attach("x"),
    "list": shm.list,
    "create": lambda: shm.create("y", VALUE),
    "make a dict": lambda: shm.create("d", {"a": 1}),
    "info": lambda: shm.info("x"),
    "keep": lambda: shm.keep("x"),
    "publish": lambda: shm.publish("x"),
    "lock": lock,
    "gc": shm.gc,
    "unlink": lambda: shm.unlink("x"),
}


OF_A_NAME = {name: CALLS[name] for name in ("attach", "list", "info", "keep", "gc", "unlink")} | {
    "keep as long as attached": lambda: shm.keep("x", "attached"),
    "replace": lambda: shm.create("x", VALUE, replace=True),
    "create again": lambda: shm.create("x", VALUE),
    "save": lambda: shm.save("x", "x.saved"),
    "doctor": shm.doctor,
}


def is_made():
    """Make x. Right after the folder was removed, an error can say so once more."""
    with contextlib.suppress(shm.FolderError):
        return shm.create("x", VALUE, replace=True) is not None
    return False


def remove_runtime():
    shutil.rmtree(paths.runtime(), ignore_errors=True)


def at_each_step(call):
    """Return how many steps a call has; the folder is removed before every third: each time a new session starts."""
    for step in itertools.count(1, 3):
        until(is_made, "the folder is used again")
        reached = at_step(step, remove_runtime)
        with contextlib.suppress(shm.ShmError):
            call()
        sys.setprofile(None)
        for name in paths.names():
            with contextlib.suppress(FileNotFoundError):  # the watchdog of an earlier session may remove it
                os.unlink(paths.path_of(name))
        if not reached():
            return step
    return None


@pytest.mark.parametrize("what", quick_first(*CALLS))
def test_a_runtime_folder_that_vanishes_at_any_time_gives_an_error_of_ours(what, shm_dir):
    with Child(lambda connection: connection.send(at_each_step(CALLS[what]))) as child:
        assert child.hear() > 1
        assert child.join() == 0
    until_left(shm_dir)
    until(is_made, "another process uses the folder")


def test_a_segment_belongs_to_its_session_though_the_runtime_folder_vanishes_while_it_is_filled(monkeypatch):
    """What takes long is the filling: a session whose file has gone would count as dead, and a sweep remove it."""

    def fill(*arguments, real=segment_file.fill, **more):
        real(*arguments, **more)
        remove_runtime()

    monkeypatch.setattr(segment_file, "fill", fill)
    x = shm.create("x", VALUE)
    with Child(lambda connection: connection.send((shm.gc(), shm.info("x").owner_alive))) as other:
        assert other.hear() == ([], True)
    assert shm.attach("x") is x


@pytest.mark.parametrize("kind", [VALUE, {"a": 1}, [1, "two"]], ids=["array", "dict", "list"])
@pytest.mark.parametrize("what", OF_A_NAME)
def test_a_segment_that_vanishes_at_any_time_gives_an_error_of_ours(what, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(shm.ShmError):
        OF_A_NAME[what]()  # imports
    for step in itertools.count(1):
        shm.create("x", kind, replace=True)
        shm.gc()
        reached = at_step(step, lambda: Path(paths.path_of("x")).unlink(missing_ok=True), (*STEPS, "stat"))
        try:
            with contextlib.suppress(shm.ShmError):
                OF_A_NAME[what]()
        finally:
            sys.setprofile(None)
        if not reached():
            break
    assert step > 1
    with contextlib.suppress(shm.NotFoundError):
        shm.unlink("x")
