"""The progress bar of long copies: its errors fail no copy."""

from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import progress
from tests.helpers import python


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Full(Terminal):
    def write(self, _):
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", -1.0)


def closed():
    stream = Terminal()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, 5, closed(), Full()], ids=["None", "a number", "closed", "full"])
def test_no_stream_fails_a_copy(stream, monkeypatch, tmp_path):
    """In a daemon the stream is closed or None; a terminal may be gone."""
    monkeypatch.setattr(sys, "stderr", stream)
    x = shm.create("x", np.arange(9))
    shm.save("x", tmp_path / "x.npy")
    assert (shm.load("y", tmp_path / "x.npy") == x).all()


def test_without_the_package_of_the_bar_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    shm.create("x", np.arange(9))


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    shm.create("x", np.arange(os.cpu_count() or 1))
    assert "x:" in terminal.getvalue()


def test_a_bar_starts_no_process_and_no_thread_and_leaves_no_semaphore():
    """tqdm makes a lock of multiprocessing, which is a file in /dev/shm, and a thread that watches its bars."""
    script = """if True:
        import io, os, sys, threading
        import numpy as np
        import shmkernel as shm
        from shmkernel._core import progress

        class Terminal(io.StringIO):
            def isatty(self):
                return True

        shm.create("before", 1)  # it starts the watchdog

        def children():
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                return file.read().split()

        before, sys.stderr, progress._PATIENCE = children(), Terminal(), -1.0
        shm.create("x", np.arange(9))
        assert "x:" in sys.stderr.getvalue()
        assert children() == before
        assert threading.active_count() == 1
        assert "multiprocessing.synchronize" not in sys.modules
    """
    python(script)
