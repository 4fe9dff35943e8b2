from __future__ import annotations

import gc
import os
import shutil
import weakref

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import folders, paths, registry, sessions
from tests.helpers import Child, leaving_none_open, left

SOMEBODY = 12345  # a uid
ROOT = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true",
    reason="only root can give files away: run the tests as root, too",
)
CALLS = {
    "create": lambda: shm.create("y", 1),
    "replace": lambda: shm.create("x", 1, replace=True),
    "unlink": lambda: shm.unlink("x"),
    "keep": lambda: shm.keep("x"),
    "gc": shm.gc,
    "list": shm.list,
}


@pytest.fixture
def in_child():
    """Run a function in a process of its own; failed asserts fail the test."""

    def run(work):
        with Child(work) as child:
            assert child.join() == 0

    return run


@ROOT
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_runtime_folder_that_another_user_makes_anew_is_not_followed(call, shm_dir, tmp_path, in_child):
    """logind, or a cleaner, has removed the runtime folder during a session."""
    victim = tmp_path / "records"
    victim.mkdir()
    (victim / "dear").write_text("mine")

    def work(_):
        x = shm.create("x", np.arange(3))
        inode = str(os.stat(paths.path_of("x")).st_ino)
        (victim / inode).write_text("mine, too")
        root = paths.runtime()
        shutil.rmtree(root)
        os.mkdir(root, 0o700)
        for part in folders.PARTS:
            os.symlink(victim, f"{root}/{part}")
        os.chown(root, SOMEBODY, SOMEBODY)
        with pytest.raises(shm.RefusedError, match="not trusted"):
            call()
        assert sorted(os.listdir(victim)) == sorted(["dear", inode])
        assert x.sum() == 3
        os.unlink(paths.path_of("x"))

    in_child(work)
    shutil.rmtree(shm_dir / f".shmk-{os.geteuid()}")


def test_a_session_goes_on_when_its_runtime_folder_vanishes(shm_dir):
    shm.create("x", 1)
    shutil.rmtree(paths.runtime())
    y = shm.create("y", 2)
    assert shm.attach("y") is y
    assert len([path for path in left(shm_dir) if "records" in path]) == 1
    os.unlink(paths.path_of("x"))


def test_a_link_inside_the_runtime_folder_is_refused(shm_dir):
    folders.prepare()
    for part in folders.PARTS:
        folders._held = {}
        os.rename(paths.runtime(part), shm_dir / part)
        os.symlink(shm_dir / part, paths.runtime(part))
        with pytest.raises(shm.RefusedError, match=f"{part} is not a folder that only you"):
            shm.create("x", 1)
        os.unlink(paths.runtime(part))
        os.rename(shm_dir / part, paths.runtime(part))
    assert sessions.mine() is None
    assert shm.create("x", 1) == 1


def make_anew(root):
    """Remove the runtime folder, and make another, as a cleaner and the next process do."""
    shutil.rmtree(root)
    for part in ("", *folders.PARTS):
        os.mkdir(f"{root}/{part}", 0o700)


def test_a_file_that_is_renamed_or_linked_goes_to_the_folder_that_was_made_anew():
    root = folders.prepare()
    old, new = paths.runtime("pending", "a"), paths.runtime("records", "a")
    for act in (folders.rename, folders.link):
        make_anew(root)
        open(old, "w").close()
        act(old, new)
        assert os.path.exists(new)
    fd = folders.nameless(root)
    fd.close()
    make_anew(root)
    fd = os.open(root, os.O_TMPFILE | os.O_RDWR, 0o600)
    folders.link_nameless(fd, new)
    os.close(fd)
    assert os.path.exists(new)
    os.unlink(new)
    with pytest.raises(FileNotFoundError):
        folders.rename(old, new)


@pytest.mark.parametrize("umask", [0o177, 0o277, 0o777, 0])
def test_any_umask_at_the_first_use_leaves_what_works(umask, shm_dir, in_child):
    def work(_):
        os.umask(umask)
        shm.create("x", np.arange(3), lifetime="keep")
        shm.create("y", {"a": 1}, lifetime="keep")
        shm.publish("x")
        modes = {path: os.lstat(path).st_mode & 0o777 for path in map(str, shm_dir.rglob("*")) if "stores" not in path}
        del modes[paths.runtime("protocol")]  # a link has no mode
        assert all(mode == (0o700 if os.path.isdir(path) else 0o600) for path, mode in modes.items()), modes

    in_child(work)
    shm.unlink("x")
    shm.unlink("y")


@ROOT
@pytest.mark.parametrize("umask", [0o177, 0o277, 0o777, 0])
def test_a_user_who_is_not_root_can_enter_what_was_made_under_any_umask(umask, shm_dir, in_child):
    os.chmod(shm_dir, 0o1777)  # noqa: S103  as /dev/shm is

    def work(_):
        os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
        os.umask(umask)
        if umask == 0o777:  # a process died between making it and setting its mode
            os.mkdir(paths.runtime())
        folders.prepare()
        folders._held = {}
        folders.prepare()
        with registry.locked():
            assert sorted(folders.listdir(paths.runtime())) == sorted([*folders.PARTS, "names.lock", "protocol"])

    in_child(work)


def test_who_closes_all_descriptors_as_daemons_do_loses_nothing(in_child):
    def work(_):
        folders.prepare()
        numbers = [int(folder) for folder in folders._held.values()]
        last = max(numbers)  # whatever earlier tests have left open
        os.closerange(3, last + 1)
        others = [os.open("/", os.O_RDONLY) for _ in range(last)]
        assert {*numbers} <= {*others}
        with registry.locked():
            assert "names.lock" in folders.listdir(paths.runtime())
        assert not folders.exists(paths.path_of("x"))
        assert all(os.fstat(fd) for fd in others), "and takes nothing from those who have the numbers now"

    in_child(work)


@ROOT
def test_a_process_that_becomes_another_user_has_that_users_folder(shm_dir, in_child):
    os.chmod(shm_dir, 0o1777)  # noqa: S103  as /dev/shm is

    def work(_):
        folders.prepare()
        os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
        folders.prepare()
        assert os.stat(paths.runtime()).st_uid == SOMEBODY
        assert paths.runtime().endswith(f"/.shmk-{SOMEBODY}")
        assert paths.path_of("x").endswith(f"/shmk-{SOMEBODY}-x")

    in_child(work)


def test_any_number_of_folders_leaves_few_descriptors(tmp_path_factory, monkeypatch):
    with leaving_none_open():
        for number in range(40):
            folder = tmp_path_factory.mktemp(f"folder{number}")
            monkeypatch.setenv("SHMKERNEL_DIR", str(folder))
            folders.prepare()
    assert len(folders._held) <= folders._HELD


def test_what_is_not_found_keeps_nothing_of_the_callers_alive():
    """An error that is a local variable in its own traceback is freed by the garbage collector alone."""

    class Large:
        pass

    def look():
        large = Large()
        assert not folders.exists(paths.path_of("x"))
        return weakref.ref(large)

    gc.disable()
    try:
        assert look()() is None
    finally:
        gc.enable()
