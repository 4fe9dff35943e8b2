"""Obstacles in place of a segment, the runtime folder or the folder of segments: one clear error, no damage."""

from __future__ import annotations

import os
import socket

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths, registry, segment_file, sessions
from shmkernel.testing import remove as remove_folder
from tests.helpers import Child, left, until

SOMEBODY = 12345  # a uid
ROOT = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true",
    reason="only root can give files away: run the tests as root, too",
)


def link(path):
    shm.create("target", np.arange(3))
    os.symlink(paths.path_of("target"), path)


def dangle(path):
    os.symlink("/nowhere", path)


def listen(path):
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(os.path.dirname(path))
        one.bind(os.path.basename(path))


def anothers(path):
    with open(path, "wb") as file:
        np.save(file, np.arange(3))
    os.chown(path, SOMEBODY, SOMEBODY)


def holding(data):
    def write(path):
        with open(path, "wb") as file:
            file.write(data)

    return write


NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }"
OBSTACLES = {
    "a symbolic link": (link, shm.DamagedError, "a symbolic link"),
    "a dangling link": (dangle, shm.DamagedError, "a symbolic link"),
    "a directory": (os.mkdir, shm.DamagedError, "is a directory. Remove it, in a terminal: rmdir /"),
    "a FIFO": (os.mkfifo, shm.DamagedError, "not a regular file"),
    "a socket": (listen, shm.DamagedError, "a socket"),
    "an empty file": (holding(b""), shm.DamagedError, "first bytes are of no kind"),
    "a header cut short": (holding(NPY[:40]), shm.DamagedError, "header|first bytes"),
    "a header that claims more": (holding(NPY.ljust(127) + b"\n12345678"), shm.DamagedError, "promises 152 bytes"),
    "zeros": (holding(bytes(5000)), shm.DamagedError, "first bytes are of no kind"),
    "a text": (holding(b"Dear segment,\n"), shm.DamagedError, "first bytes are of no kind"),
    "another user's file": pytest.param((anothers, shm.RefusedError, "another user"), marks=ROOT),
}
CASES = pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES)


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.chdir(os.getcwd())  # sockets have short names only


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


@CASES
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_it_cannot_be_attached(obstacle, mode):
    make, kind, words = obstacle
    make(paths.path_of("x"))
    words = f"{words}|not a regular file" if mode != "r+" else words
    with pytest.raises(kind, match=words) as caught:
        shm.attach("x", mode)
    assert caught.value.name == "x"
    remove(paths.path_of("x"))


@CASES
def test_it_is_listed_as_what_it_is_and_harms_no_other(obstacle):
    obstacle[0](paths.path_of("x"))
    y = shm.create("y", np.arange(3))
    states = {one.name: one.state for one in shm.list()}
    assert states["x"] in ("damaged", "unreadable") or shm.info("x").type == "unknown"
    assert states["y"] == ""
    assert shm.info("x").owner == "another program"
    assert shm.gc() == []
    remove(paths.path_of("x"))
    del y


@CASES
def test_it_is_not_overwritten_unless_asked_to(obstacle):
    make, _, words = obstacle
    make(paths.path_of("x"))
    with pytest.raises((shm.TakenError, shm.RefusedError), match=r"another program|a directory"):
        shm.create("x", np.arange(3))
    if "directory" in words:
        with pytest.raises(shm.RefusedError, match="is a directory"):
            shm.create("x", np.arange(3), replace=True)
        os.rmdir(paths.path_of("x"))
    x = shm.create("x", np.arange(3), replace=True)
    assert shm.attach("x") is x
    if "target" in paths.names():
        assert shm.attach("target").tolist() == [0, 1, 2]


@CASES
def test_it_can_be_unlinked_unless_it_is_a_directory(obstacle):
    make, _, words = obstacle
    make(paths.path_of("x"))
    if "directory" in words:
        with pytest.raises(shm.RefusedError, match="cannot be unlinked"):
            shm.unlink("x")
        os.rmdir(paths.path_of("x"))
    else:
        shm.unlink("x")
    assert "x" not in paths.names()


@CASES
def test_keeping_it_says_what_it_is_or_adopts_it(obstacle, shm_dir):
    make, kind, _ = obstacle
    make(paths.path_of("x"))
    try:
        shm.keep("x")
    except kind:
        assert len(os.listdir(paths.runtime("records"))) == ("target" in paths.names())
    else:
        assert shm.info("x").lifetime == "keep"
        shm.unlink("x")
    assert not [path for path in left(shm_dir) if "pending" in path]
    remove(paths.path_of("x"))


def test_a_missing_name_is_a_file_not_found_and_a_key_error_with_names_that_come_near():
    shm.create("elevation", 1)
    for kind in (shm.NotFoundError, FileNotFoundError, KeyError):
        with pytest.raises(kind, match="Did you mean elevation"):
            shm.attach("elevatoin")
    for call in (shm.info, shm.unlink, shm.keep, shm.close, shm.session.__delitem__):
        with pytest.raises(shm.NotFoundError):
            call("nothing")


def take_by_file(path):
    holding(b"taken")(path)


def take_by_link(path):
    os.mkdir(f"{path}-elsewhere", 0o700)
    os.symlink(f"{path}-elsewhere", path)


def take_openly(path):
    os.mkdir(path)
    os.chmod(path, 0o770)  # noqa: S103  that is the point


def take_as_somebody(path):
    os.mkdir(path, 0o700)
    os.chown(path, SOMEBODY, SOMEBODY)


CALLS = {
    "create": lambda: shm.create("x", 1),
    "attach": lambda: shm.attach("y"),
    "keep": lambda: shm.keep("y"),
    "unlink": lambda: shm.unlink("y"),
    "gc": shm.gc,
    "list": shm.list,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "take", [take_by_file, take_by_link, take_openly, pytest.param(take_as_somebody, marks=ROOT)]
)  # fmt: skip
def test_a_runtime_folder_that_others_took_is_not_trusted(take, call, shm_dir):
    with open(paths.path_of("y"), "wb") as file:
        np.save(file, np.arange(3))
    take(paths.runtime())
    with pytest.raises(shm.RefusedError, match="not a folder that only you can enter") as caught:
        call()
    assert caught.value.path == paths.runtime()
    assert sessions.mine() is None
    assert [one.level for one in shm.doctor()] == ["fail"]
    for path in sorted(shm_dir.iterdir(), reverse=True):
        remove(path) if path.is_symlink() or path.is_file() else path.rmdir()


FOLDERS = {
    "missing": lambda tmp_path: str(tmp_path / "missing"),
    "a file": lambda _: __file__,
    "not to be written to": lambda _: "/proc",
    "of another kind": lambda _: "/sys",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_cannot_hold_segments_is_refused(folder, call, tmp_path, monkeypatch):
    monkeypatch.setenv("SHMKERNEL_DIR", folder(tmp_path))
    with pytest.raises(shm.FolderError, match="SHMKERNEL_DIR") as caught:
        call()
    assert caught.value.path.startswith(paths.folder())
    assert sessions.mine() is None
    assert [one.level for one in shm.doctor()] == ["fail"]


ODD = {
    "relative": os.path.relpath,
    "with slashes at its end": lambda inside: f"{inside}///",
    "by a detour": lambda inside: f"{inside}/../{os.path.basename(inside)}",
    "of odd characters": lambda inside: odd(inside, "sp ace\n'\"x%s{}"),
    "not of UTF-8": lambda inside: odd(inside, os.fsdecode(b"n\xff\xfe")),
    "by a symbolic link": lambda inside: linked(inside),  # noqa: PLW0108  it comes below
}


def odd(inside, name):
    os.mkdir(f"{inside}/{name}")
    return f"{inside}/{name}"


def linked(inside):
    os.symlink(odd(inside, "it"), f"{inside}/link")
    return f"{inside}/link"


@pytest.mark.parametrize("folder", ODD.values(), ids=ODD)
def test_a_folder_of_any_name_works(folder, monkeypatch, tmp_path, shm_dir):
    inside = str(shm_dir / "in")
    os.mkdir(inside)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHMKERNEL_DIR", folder(inside))
    x = shm.create("x", np.arange(3), replace=True)
    assert shm.attach("x") is x
    with shm.lock("x"):
        assert shm.publish("x") == 1
    with shm.writing(x):
        x[:] = 7
    ring = shm.create("frames", ring=3, shape=3)
    ring.put(np.ones(3))
    assert shm.create("d", {"a": 1}) == {"a": 1}
    shm.keep("x")
    assert {one.name for one in shm.list()} == {"x", "frames", "d"}
    assert not [one for one in shm.doctor() if one.level == "fail"]
    for name in ("x", "frames", "d"):
        shm.unlink(name)
    sessions.end()
    until(lambda: not os.listdir(paths.runtime("sessions")), "the watchdog sweeps")
    remove_folder(inside)


def test_each_folder_is_a_world_of_its_own_in_one_process(monkeypatch, shm_dir):
    for part in ("one", "two"):
        os.mkdir(shm_dir / part)
    for part in ("one", "two", "one", "two"):
        monkeypatch.setenv("SHMKERNEL_DIR", str(shm_dir / part))
        x = shm.attach("x") if "x" in paths.names() else shm.create("x", part.encode())
        assert bytes(x.buf) == part.encode()
        assert [one.name for one in shm.list()] == ["x"]
    for part in ("one", "two"):
        monkeypatch.setenv("SHMKERNEL_DIR", str(shm_dir / part))
        shm.unlink("x")
        sessions.end()
        until(lambda: not os.listdir(paths.runtime("sessions")), "the watchdog sweeps")
        remove_folder(shm_dir / part)


def test_a_folder_without_nameless_files_is_refused(monkeypatch, shm_dir):
    def without(path, flags, *rest, real=os.open, **more):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", without)
    with pytest.raises(shm.FolderError, match=r"Operation not supported.*O_TMPFILE.*SHMKERNEL_DIR"):
        shm.create("x", 1)
    monkeypatch.undo()
    assert left(shm_dir) == []


@ROOT
def test_a_read_only_folder_is_refused(shm_dir):
    def work(_):
        os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
        for call in CALLS.values():
            with pytest.raises(shm.FolderError, match="Permission denied"):
                call()

    os.chown(shm_dir, SOMEBODY, SOMEBODY)
    os.chmod(shm_dir, 0o500)
    with Child(work) as child:
        assert child.join() == 0


def test_a_name_that_another_program_takes_at_the_last_moment_is_taken(monkeypatch, shm_dir):
    def slow(fd, path, real=segment_file.link):
        if path == paths.path_of("x"):
            holding(b"theirs")(path)
        real(fd, path)

    monkeypatch.setattr(segment_file, "link", slow)
    with pytest.raises(shm.TakenError, match="another program"):
        shm.create("x", 1)
    monkeypatch.undo()
    assert (shm_dir / os.path.basename(paths.path_of("x"))).read_bytes() == b"theirs"
    assert os.listdir(paths.runtime("records")) == []
    shm.unlink("x")


def test_a_file_that_another_program_removes_is_swept_from_the_records(shm_dir):
    shm.create("x", 1)
    os.unlink(paths.path_of("x"))
    assert shm.list() == []
    assert shm.gc() == []
    assert [path for path in left(shm_dir) if "records" in path] == []
    assert shm.create("x", 2) == 2


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b"\xff", b'{"inode": 1}', b"1" * 10_000, b"[" * 100_000])
def test_records_and_sessions_that_make_no_sense_are_passed_over(text):
    registry.begin()
    for path in ("records/1", "records/odd", "sessions/odd", "pending/odd"):
        holding(text)(paths.runtime(path))
    x = shm.create("x", 1)
    assert [one.name for one in shm.list()] == ["x"]
    assert shm.gc() == []
    assert shm.attach("x") == x
    assert os.listdir(paths.runtime("pending")) == []
    assert len(os.listdir(paths.runtime("records"))) == 1
