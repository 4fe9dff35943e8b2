"""Something else in place of each file that this package keeps: no verb hangs, or raises an error of another kind."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import folders, paths, sessions
from tests.helpers import PATIENCE, Child, needs, until

SOMEBODY = 12345  # a uid
DEVICES = os.makedev(1, 3), os.makedev(1, 5), os.makedev(7, 99)  # /dev/null, /dev/zero, a loop device


def listen(path):
    with contextlib.chdir(os.path.dirname(path)), socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.basename(path))  # sockets have short names only


def full(path):
    os.mkdir(path)
    open(f"{path}/in", "w").close()


def somebodys(path):
    with open(path, "wb") as file:
        file.write(b"theirs" * 1000)
    os.chown(path, SOMEBODY, SOMEBODY)


OBSTACLES = {
    "a FIFO": os.mkfifo,
    "a link": lambda path: os.symlink("/etc/hostname", path),
    "a link to nowhere": lambda path: os.symlink("/nowhere", path),
    "a link to itself": lambda path: os.symlink(path, path),
    "a folder": os.mkdir,
    "a full folder": full,
    "a socket": listen,
    "an empty file": lambda path: open(path, "wb").close(),
}
FOR_ROOT = {
    "/dev/null": lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, DEVICES[0]),
    "/dev/zero": lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, DEVICES[1]),
    "a loop device": lambda path: os.mknod(path, 0o600 | stat.S_IFBLK, DEVICES[2]),
    "somebody's file": somebodys,
}
if os.geteuid() == 0:
    OBSTACLES |= FOR_ROOT


def array_of(store):
    return next(f"{store}/{entry}" for entry in os.listdir(store) if entry.endswith(".npy"))


PLACES = {
    "names.lock": lambda *_: paths.runtime("names.lock"),
    "the protocol": lambda *_: paths.runtime("protocol"),
    "a session": lambda *_: paths.runtime("sessions", "abc"),
    "a record": lambda x, _: paths.runtime("records", str(x)),
    "a dict's record": lambda _, d: paths.runtime("records", str(d)),
    "a record of nothing": lambda *_: paths.runtime("records", "99"),
    "a sync file": lambda *_: paths.runtime("sync", os.path.basename(paths.path_of("x"))),
    "a sync file of a free name": lambda *_: paths.runtime("sync", os.path.basename(paths.path_of("free"))),
    "a pending file": lambda *_: paths.runtime("pending", "7"),
    "a pending record": lambda x, _: paths.runtime("pending", f"{x}.record"),
    "a pending store": lambda _, d: paths.runtime("pending", f"{d}.store"),
    "a store": lambda _, d: paths.store_folder(d),
    "a store of nothing": lambda *_: paths.store_folder(77),
    "a store's data": lambda _, d: f"{paths.store_folder(d)}/data.mdb",
    "a store's lock": lambda _, d: f"{paths.store_folder(d)}/lock.mdb",
    "an array's file": lambda _, d: array_of(paths.store_folder(d)),
    "a mark": lambda _, d: f"{paths.store_folder(d)}/0.open",
    "a file of nobody": lambda *_: paths.runtime("stray"),
    "the sync files": lambda *_: paths.runtime("sync"),
    "the sessions": lambda *_: paths.runtime("sessions"),
    "a segment": lambda *_: paths.path_of("x"),
    "a dict": lambda *_: paths.path_of("d"),
}


def lock():
    with shm.lock("x", timeout=0.1):
        pass


def write():
    with shm.writing(shm.attach("x")):
        pass


CALLS = {
    "attach": lambda: shm.attach("x"),
    "get": lambda: dict(shm.attach("d")),
    "set": lambda: shm.attach("d").update(a=3),
    "set an array": lambda: shm.attach("d").update(b=np.ones(1 << 17)),
    "info": lambda: shm.info("x"),
    "info of the dict": lambda: shm.info("d"),
    "list": shm.list,
    "version": lambda: shm.version("x"),
    "publish": lambda: shm.publish("x"),
    "lock": lock,
    "write": write,
    "wait": lambda: shm.wait("x", since=10**6, timeout=0.01),
    "snapshot": lambda: shm.snapshot("x"),
    "create": lambda: shm.create("n", 1),
    "create a dict": lambda: shm.create("nd", {"a": 1}),
    "replace": lambda: shm.create("x", 2, replace=True),
    "keep": lambda: shm.keep("x"),
    "keep the dict": lambda: shm.keep("d"),
    "doctor": shm.doctor,
    "gc, dry": lambda: shm.gc(dry_run=True),
    "gc": shm.gc,
    "unlink the dict": lambda: shm.unlink("d"),
    "unlink": lambda: shm.unlink("x"),
    "create again": lambda: shm.create("z", 1),
}


def call_all(connection):
    """Make all calls, and send the name of each before it, and each error that is not of this package after it."""
    sessions._inherited.clear()
    folders._held = {}
    for name, call in CALLS.items():
        connection.send((name, ""))
        try:
            call()
        except shm.ShmError:
            pass
        except Exception as error:
            connection.send((name, repr(error)))
    sessions.end()
    connection.send(("", ""))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=pytest.mark.long if name != "a FIFO" else ())
        for name, make in OBSTACLES.items()
    ],
)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_it_is_one_clear_error_at_most(place, make):
    needs("lmdb", "dicts")  # no wheel for the newest Python
    shm.create("x", np.arange(3), lifetime="keep")
    shm.create("d", {"a": 1, "b": np.ones(1 << 17)}, lifetime="keep")
    shm.publish("x")
    path = place(*(os.stat(paths.path_of(name)).st_ino for name in "xd"))
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
    make(path)
    with Child(call_all, kin=True) as child:
        errors, at = [], "the start"
        while at:
            assert child.connection.poll(PATIENCE), f"{at} hangs"
            at, error = child.hear()
            errors += [f"{at}: {error}"] if error else []
        assert child.join() == 0
    until(lambda: shutil.rmtree(paths.runtime(), ignore_errors=True) or not os.path.exists(paths.runtime()), "it goes")
    for path in (paths.path_of(name) for name in ("x", "d", "n", "nd", "z")):
        shutil.rmtree(path) if os.path.isdir(path) else os.path.lexists(path) and os.unlink(path)
    assert not errors


def test_a_store_folder_that_is_a_link_to_another_folder_is_not_followed(shm_dir):
    d = shm.create("d", {"a": 1})
    home = paths.store_folder(os.stat(paths.path_of("d")).st_ino)
    del d
    elsewhere = shm_dir / "elsewhere"
    os.rename(home, elsewhere)
    os.symlink(elsewhere, home)
    with Child(lambda connection: connection.send(_error_of_attach())) as child:
        assert child.hear() == "DamagedError"
    shm.unlink("d")
    assert sorted(os.listdir(elsewhere)) == ["data.mdb", "lock.mdb"]
    shutil.rmtree(elsewhere)


def _error_of_attach():
    try:
        return str(shm.attach("d"))
    except Exception as error:
        return type(error).__name__
