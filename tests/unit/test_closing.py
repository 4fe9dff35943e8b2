"""Ctrl-C before any bytecode leaves no descriptor open: every instruction is tried, one after the other."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
import weakref

import pytest

import shmkernel as shm
from shmkernel._core import closing, descriptors, folders, segment_file, sessions
from tests.helpers import OURS, interrupted_at, tells_of_every_bytecode, without_collector


def attach(path):
    fd, _ = segment_file.attach(path, "r+", "x")
    fd.close()


def open_and_close(path):
    with contextlib.closing(folders.open_(path, os.O_RDWR)):
        pass


ACTS = {
    "open and close": open_and_close,
    "attach and close": attach,
    "the first bytes": lambda path: segment_file.peek(path, 3, "x"),
    "a nameless file": lambda path: segment_file.blank(os.path.dirname(path)).close(),
    "a folder": lambda path: folders.Folder(os.path.dirname(path), os.path.dirname(path)),
    "names in a folder": lambda path: folders.listdir(os.path.dirname(path)),
    "a description": lambda path: closing.described(os.open, path, os.O_RDWR).close(),
    "a pipe": lambda _: [end.close() for end in closing.pipe()],
    "a pidfd": lambda _: closing.opened(os.pidfd_open, os.getpid()).close(),
    "spare ones": lambda _: descriptors.check_spare(3),
    "is a session alive": lambda _: sessions.alive(sessions.mine().id),
    "a version": lambda _: shm.version("x"),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@tells_of_every_bytecode
def test_an_interrupt_before_any_bytecode_leaves_no_descriptor_open(act, shm_dir, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # Python drops the error in a destructor
    kept = shm.create("x", b"abc")
    act = functools.partial(act, f"{shm_dir}/shmk-{os.geteuid()}-x")
    act()
    act()
    with without_collector():
        before = sorted(os.listdir("/proc/self/fd"))
        for step in itertools.count(1):
            if not interrupted_at(step, act):
                break
            assert sorted(os.listdir("/proc/self/fd")) == before, step
    assert step > 10
    assert bytes(kept.buf) == b"abc"


def test_a_descriptor_is_closed_with_its_last_reference():
    fd = closing.opened(os.open, "/", os.O_PATH)
    number = int(fd)
    assert os.readlink(f"/proc/self/fd/{fd}") == "/"
    del fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_number_that_belongs_to_another_file_by_now_is_not_closed(tmp_path, monkeypatch):
    """A program that becomes a daemon closes all descriptors, and the next files get their numbers."""
    monkeypatch.setattr(closing, "_lost", [])  # what is in it closes the number at the end, and only that
    (tmp_path / "mine").touch()
    file = closing.described(os.open, str(tmp_path / "mine"), os.O_RDWR)
    theirs, number = os.open("/", os.O_PATH), file.fileno()
    os.dup2(theirs, number)
    file.end()
    del file
    assert os.path.sameopenfile(number, theirs)
    os.close(theirs)


def test_what_is_kept_with_a_value_goes_with_it_without_a_line_of_python():
    """Ctrl-C would end a callback in Python before it has let go, and Python drops the error there."""

    class Thing:
        pass

    value, kept = Thing(), Thing()
    closing.keep_with(value, kept)
    gone, lines = weakref.ref(kept), []
    del kept
    assert gone() is not None
    before = sys.gettrace()
    sys.settrace(lambda frame, *_: lines.append(frame.f_code.co_name))
    del value
    sys.settrace(before)
    assert gone() is None
    assert lines == []
    with pytest.raises(TypeError):
        closing.keep_with("a text", value := Thing())
    gone = weakref.ref(value)
    del value
    assert gone() is None


def test_only_closing_opens_what_it_does_not_own():
    """A plain number between two bytecodes could be lost: every call that opens goes through `closing`."""
    calls = ("os.open(", "os.close(", "os.pipe(", "os.dup(", "posix.open(", "os.eventfd(", "pidfd_open(", "FileIO(")
    found = {}
    for folder, _, files in os.walk(OURS):
        for path in (f"{folder}/{file}" for file in files if file.endswith(".py")):
            with open(path, encoding="utf-8") as file:
                lines = [line for line in file if any(call in line for call in calls)]
            if lines:
                found[os.path.relpath(path, OURS)] = lines
    for file in ("_core/daemon.py", "_core/watchdog.py", "hosts/channel.py", "hosts/server.py"):
        found.pop(file)  # in a process of its own, without Ctrl-C: only the one that serves a host is sent descriptors
    found.pop("cli/__init__.py")  # at its end
    assert found == {}
