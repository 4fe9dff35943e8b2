"""The machine that kills operations at each system call notices planted faults."""

from __future__ import annotations

import fcntl
import os
import time

import pytest

import shmkernel as shm
from shmkernel._core import paths
from tests import helpers
from tests.prove import points
from tests.prove.operations import MINE, Operation

if not points.possible():
    helpers.lacking("this machine forbids seccomp's user notifications, or is no x86-64")


@pytest.fixture
def stage(shm_dir):
    with points.Stage(rehearse=False) as stage:
        yield stage


def wrong_at(stage, act, call, fate):
    """Return what the machine finds wrong with an operation at one point."""
    point = points.Point(Operation("planted", "planted", act), fate != "kill", call, fate)
    ((_, why),) = points.attempts(stage, [point], time.monotonic() + helpers.PATIENCE)
    return why


def open_the_folder():
    return os.open(paths.folder(), os.O_RDONLY)


def test_wrong_errors_and_what_they_leave_are_noticed(stage):
    def leak(_):
        fd = open_the_folder()
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
        except OSError:
            raise shm.LimitError("no lock", limit="memory") from None
        os.close(fd)

    def slander(_):
        try:
            os.close(open_the_folder())
        except OSError:
            raise shm.DamagedError("it is damaged") from None

    assert "left over: {'fd " in wrong_at(stage, leak, "flock.1", "ENOMEM")
    assert wrong_at(stage, leak, "flock.1", "EINTR") == ""  # Python tries it again
    assert "slandered" in wrong_at(stage, slander, "openat.1", "ENOMEM")
    assert "foreign error: OSError" in wrong_at(stage, lambda _: os.close(open_the_folder()), "openat.1", "EMFILE")
    assert wrong_at(stage, lambda _: shm.create(MINE, 1), "openat.1", "EMFILE+") == ""


def test_what_a_death_leaves_is_noticed(stage, monkeypatch):
    path = f"{stage.folder}/{os.path.basename(paths.path_of(MINE))}"

    def half(_):
        with open(path, "xb") as file:
            file.write(b"x" * 100)
        os.unlink(path)

    assert wrong_at(stage, lambda _: shm.create(MINE, 1), "linkat.1", "kill") == ""
    monkeypatch.setattr(helpers, "PATIENCE", 1.0)  # it is left for good
    assert "not swept" in wrong_at(stage, half, "write.1", "kill")
    os.unlink(path)
