"""The folder of segments under a mount, behind another path, or out of reach; processes in other namespaces there."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths, sessions
from shmkernel.testing import remove
from tests.helpers import PATIENCE, Child, lacking, python, run_apart, until_left

CLONE_NEWNS = 0x00020000
ROOT = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true",
    reason="only root can mount and chroot: run the tests as root, too",
)
LOOK = """
import shmkernel as shm
shm.create("other", 1)
shm.gc()
print(*sorted(one.name for one in shm.list() if one.owner_alive and one.name != "other"))
"""


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True, timeout=PATIENCE)


@pytest.fixture
def with_mounts():
    """Return a function that calls its argument where mounts are its own; failed asserts fail the test."""

    def prepare():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS):
            return os.strerror(ctypes.get_errno())
        mount("--make-rprivate", "/")
        return None

    return lambda work: run_apart(prepare, work, "no mount namespaces here: {}")


@ROOT
def test_a_mount_over_the_folder_ends_no_session_and_takes_no_segment(shm_dir, with_mounts):
    def work():
        x = shm.create("x", np.arange(3))
        session = sessions.mine().id
        mount("-t", "tmpfs", "none", str(shm_dir))
        y = shm.create("y", np.arange(4))
        assert python(LOOK).stdout.strip() == "y", "its session is known there"
        assert {one.name for one in shm.list() if one.state == ""} - {"other"} == {"y"}
        assert shm.attach("y") is y
        subprocess.run(["umount", "--lazy", str(shm_dir)], check=True, timeout=PATIENCE)
        z = shm.create("z", np.arange(5))
        assert python(LOOK).stdout.strip() == "x z"
        assert shm.attach("x") is x
        assert shm.attach("z") is z
        assert y.tolist() == [0, 1, 2, 3]
        assert session in os.listdir(paths.runtime("sessions"))
        shm.unlink("x")
        shm.unlink("z")

    with_mounts(work)
    until_left(shm_dir)


@ROOT
def test_a_folder_is_one_by_whatever_path(shm_dir, with_mounts, monkeypatch):
    for name in ("real", "bound"):
        os.mkdir(shm_dir / name)
    os.symlink(shm_dir / "real", shm_dir / "link")

    def work():
        mount("--bind", str(shm_dir / "real"), str(shm_dir / "bound"))
        os.environ["SHMKERNEL_DIR"] = str(shm_dir / "real")
        x, d = shm.create("x", np.arange(3)), shm.create("d", {"a": 1})
        for way in ("link", "bound", "real/../real/."):
            os.environ["SHMKERNEL_DIR"] = str(shm_dir / way)
            assert python(LOOK).stdout.strip() == "d x"
            assert shm.attach("x") is x
            shm.attach("d").update(a=way)
            assert d["a"] == way
            with shm.lock("x"):
                os.environ["SHMKERNEL_DIR"] = str(shm_dir / "real")
                if "real" not in way:
                    with pytest.raises(shm.TimedOutError):
                        shm.lock("x", timeout=0.01).__enter__()
                os.environ["SHMKERNEL_DIR"] = str(shm_dir / way)
            with pytest.raises(shm.TakenError):
                shm.create("x", 1)
            assert shm.create(f"y{len(way)}", 1) == 1
            if "real" not in way:  # this process has a session for each path
                sessions.end()
        os.environ["SHMKERNEL_DIR"] = str(shm_dir / "real")
        assert shm.attach("x") is x

    with_mounts(work)
    until_left(shm_dir / "real")
    for path in (shm_dir / "real", shm_dir / "bound"):
        remove(path)
    os.unlink(shm_dir / "link")


@ROOT
def test_a_process_that_leaves_for_a_chroot_keeps_what_it_has_and_is_told_what_it_lacks(tmp_path, shm_dir):
    def work(_):
        x, d = shm.create("x", np.arange(3)), shm.create("d", {"a": 1})
        for call in (
            shm.list,
            shm.gc,
            shm.doctor,
            lambda: shm.keep("x"),
            lambda: shm.publish("x"),
            lambda: shm.info("x"),
        ):
            call()  # imports what it needs
        with shm.lock("x"):
            shm.unlink(shm.create("y", 1) and "y")
        os.chroot(tmp_path)
        os.chdir("/")
        assert shm.attach("x") is x
        assert dict(d) == {"a": 1}
        for call in (
            shm.list, shm.gc, lambda: shm.create("y", 1), lambda: shm.unlink("x"), lambda: shm.keep("x"),
            lambda: shm.publish("free"), lambda: shm.lock("free").__enter__(), lambda: shm.info("x"),
            lambda: d.update(b=np.ones(1 << 18)),
        ):  # fmt: skip
            with pytest.raises(shm.FolderError):
                call()
        assert [one.level for one in shm.doctor()] == ["fail"]

    with Child(work) as child:
        assert child.join() == 0
    shm.unlink("x")
    until_left(shm_dir)


@ROOT
@pytest.mark.long
def test_clocks_of_another_time_namespace_do_not_matter(shm_dir):
    x, d = shm.create("x", np.arange(3)), shm.create("d", {"a": 1})
    script = """
import shmkernel as shm
shm.attach("x")[0] += 7
shm.attach("d").increment("a")
with shm.lock("x", timeout=5):
    shm.publish("x")
try:
    shm.wait("x", timeout=0.01)
except TimeoutError:
    print(sorted(one.name for one in shm.list() if one.owner_alive))
"""
    command = ["unshare", "--time", "--fork", "--monotonic=9999999", "--boottime=9999999", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if "unshare" in done.stderr:
        lacking(f"no time namespaces here: {done.stderr.strip()}")
    assert done.stdout.strip() == "['d', 'x']", done.stderr
    assert (x[0], d["a"]) == (7, 2)


@ROOT
def test_what_a_container_that_ended_as_a_whole_has_left_goes_when_the_next_session_begins(shm_dir):
    """When the first process of a pid namespace ends, the OS kills all others there, the watchdog among them."""
    script = "import shmkernel as shm; x = shm.create('x', 1); d = shm.create('d', {'a': 1}); print('made')"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if "unshare" in done.stderr:
        lacking(f"no pid namespaces here: {done.stderr.strip()}")
    assert done.stdout == "made\n"
    shm.create("y", 1)
    assert [one.name for one in shm.list()] == ["y"]
