"""Machines without /proc, or with one that has only processes (``ProcSubset=pid`` in a systemd service)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers import PATIENCE, lacking, until, until_left, watchdogs

MOUNTS = {"none": "mount -t tmpfs none /proc", "processes alone": "mount -t proc -o subset=pid none /proc"}

SCRIPT = """
import importlib.util, os, tempfile
import numpy as np
import shmkernel as shm
from shmkernel import cli
from shmkernel._core import sessions

x = shm.create("x", np.zeros(3))
shm.create("big", np.zeros(20 << 20, "u1"))
assert shm.attach("x") is x
with shm.lock("x", timeout=1), shm.writing(x):
    x[:] = 1
shm.publish("x")
assert [one.name for one in shm.list()] == ["big", "x"]
if importlib.util.find_spec("lmdb"):
    d = shm.create("d", {"a": 1})
    d["b"] = np.arange(3)
    assert d["a"] == 1 and shm.attach("d")["b"].sum() == 3
    with d.transaction():
        d["c"] = 5
    shm.attach("d").update(e=6)
    assert list(d) == ["a", "b", "c", "e"]
ring = shm.create("r", ring=4, shape=(3,))
ring.put(np.ones(3))
shm.create("words", ["one", "two"])
with tempfile.TemporaryDirectory() as folder:
    shm.save("x", f"{folder}/x.npy")
    shm.load("y", f"{folder}/x.npy")
child = os.fork()
if child == 0:
    shm.create("z", np.ones(2))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
shm.unlink("y")
shm.keep("z", "session")
levels = {one.level for one in shm.doctor()}
assert levels == {"ok", "note", "warn"}, shm.doctor()
assert cli.main(["list"]) == cli.main(["gc"]) == 0
print("label:", sessions.mine().label)
print("mounted:", os.path.exists("/proc/self"), os.path.exists("/proc/locks"))
"""


PLAIN = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")  # root without capabilities is like any user


def without_proc(mount, script, *arguments, prefix=()):
    inside = (*prefix, sys.executable, "-c", script, *map(str, arguments))
    command = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", *inside]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if any(tool in done.stderr for tool in ("unshare:", "mount:", "setpriv:")):
        lacking(f"a private /proc needs root, unshare and setpriv: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("mount", MOUNTS.values(), ids=MOUNTS.keys())
@pytest.mark.parametrize("prefix", [(), PLAIN], ids=["root", "without rights"])
def test_everything_works_and_leaves_nothing(mount, prefix, shm_dir):
    said = without_proc(mount, SCRIPT, prefix=prefix)
    assert f"mounted: {'subset' in mount} False" in said
    until_left(shm_dir)
    until(lambda: not watchdogs(shm_dir), "the watchdogs have ended")


def test_the_doctor_says_what_is_missing():
    script = "import shmkernel as shm; print(*[one for one in shm.doctor() if one.level == 'warn'])"
    said = without_proc(MOUNTS["none"], script)
    assert said.count("Finding") == 1
    assert "there is no /proc/locks to say which processes have a segment attached" in said
    assert "mount -t proc proc /proc" in said


def test_where_the_system_names_no_file_without_proc_an_error_says_what_to_mount(shm_dir):
    """Linux before 6.10 allows it to root alone; later versions refuse a process whose credentials have changed."""
    script = """
import ctypes, sys
from shmkernel._core import segment_file
fd = segment_file.blank(sys.argv[1])
PR_SET_KEEPCAPS = 8
assert ctypes.CDLL(None).prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0  # new credentials, as after setuid
try:
    segment_file.link(fd, sys.argv[1] + "/shmk-0-x")
except OSError as error:
    print(type(error).__name__, error)
"""
    said = without_proc(MOUNTS["none"], script, shm_dir, prefix=PLAIN)
    assert said.startswith("FolderError there is no /proc here")
    assert said.endswith("Mount it: mount -t proc proc /proc\n")
