"""Another program removes the runtime folder while an operation runs: it works, or an error of ours says so."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths
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
