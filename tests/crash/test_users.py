"""Two users of one machine: files of another user in place of ours are refused, without waiting for their locks.

The process under test has uid 1000 in a user namespace, where it is not root. Root makes the other user's files before.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import folders, paths, segment_file, sessions
from tests.helpers import Child, lacking, left, run_apart, until, until_left

CLONE_NEWUSER = 0x10000000
ME, SOMEBODY = 1000, 12345  # uids
ROOT = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true",
    reason="only root can give files away: run the tests as root, too",
)
pytestmark = ROOT


def become(uid):
    """Enter a user namespace, as this user or as an unmapped one; return why that fails, if it does."""
    libc, outside = ctypes.CDLL(None, use_errno=True), os.geteuid()
    if libc.unshare(CLONE_NEWUSER):
        return os.strerror(ctypes.get_errno())
    if uid is not None:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {outside} 1")
        assert os.geteuid() == uid
    return None


@pytest.fixture
def as_user(shm_dir):
    """Return a function that calls its argument as a user in a folder like /dev/shm; failed asserts fail the test."""
    os.chmod(shm_dir, 0o1777)  # noqa: S103  as /dev/shm is
    os.chown(shm_dir, SOMEBODY + 1, -1)

    yield lambda work, uid=ME: run_apart(lambda: become(uid), work, "no user namespaces here: {}")
    for path in shm_dir.iterdir():
        if not path.name.startswith(".shmk-"):
            path.unlink()


def theirs(path, mode=0o666):
    """Make another user's array, which all may read and lock."""
    np.save(path, np.arange(3))
    os.rename(f"{path}.npy", path)
    os.chmod(path, mode)
    os.chown(path, SOMEBODY, SOMEBODY)


CALLS = {
    "attach": lambda: shm.attach("x"),
    "attach to read": lambda: shm.attach("x", "r"),
    "keep": lambda: shm.keep("x"),
    "unlink": lambda: shm.unlink("x"),
    "create": lambda: shm.create("x", 1),
    "replace": lambda: shm.create("x", 1, replace=True),
    "load": lambda: shm.load("x", __file__, kind="raw", replace=True),
    "save": lambda: shm.save("x", "/tmp/never.npy"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("mode", [0o666, 0o600])
def test_another_users_file_is_refused_with_a_cure_that_can_work(call, mode, shm_dir, as_user):
    path = f"{shm_dir}/shmk-{ME}-x"
    theirs(path, mode)
    lock = os.open(path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # for ever

    def work():
        with pytest.raises((shm.RefusedError, shm.TakenError), match="another user") as caught:
            call()
        assert "Use another name" in caught.value.message
        assert not any(word in caught.value.message for word in ("replace", "%shm_unlink", "rm ", "chmod"))
        assert shm.create("y", 1) == 1
        assert [one.name for one in shm.list()] == ["x", "y"]
        assert shm.gc() == []

    as_user(work)
    os.close(lock)
    assert os.stat(path).st_uid == SOMEBODY


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/etc/passwd", path)])
def test_another_users_link_folder_or_pipe_is_told_to_be_theirs(make, shm_dir, as_user):
    path = f"{shm_dir}/shmk-{ME}-x"
    make(path)
    os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)

    def work():
        for mode in ("r", "r+"):
            with pytest.raises(shm.RefusedError, match=r"another user.*Use another name"):
                shm.attach("x", mode)

    as_user(work)
    if os.path.isdir(path):
        os.rmdir(path)


def test_a_file_of_ours_that_we_may_not_open_says_how_to(shm_dir):
    path = f"{shm_dir}/shmk-{SOMEBODY}-x"
    os.chmod(shm_dir, 0o1777)  # noqa: S103  as /dev/shm is
    theirs(path, mode=0)

    def work(_):
        os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
        with pytest.raises(shm.RefusedError, match=f"chmod 600 {path}"):
            segment_file.attach(path, "r+", "x")

    with Child(work) as child:
        assert child.join() == 0
    os.unlink(path)


def test_a_premade_runtime_folder_is_refused_at_once_by_every_verb(shm_dir, as_user):
    root = f"{shm_dir}/.shmk-{ME}"
    os.mkdir(root, 0o755)
    for part in folders.PARTS:
        os.mkdir(f"{root}/{part}", 0o755)
    Path(f"{root}/sync/shmk-{ME}-x").write_bytes(b"shmksyn1".ljust(4096, b"\0"))
    Path(f"{root}/names.lock").touch()
    locks = [os.open(path, os.O_RDONLY) for path in (f"{root}/names.lock", f"{root}/sync/shmk-{ME}-x")]
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_EX)  # for ever
    theirs(f"{shm_dir}/shmk-{ME}-x")
    for path in (root, *(f"{root}/{part}" for part in folders.PARTS), f"{root}/names.lock"):
        os.chmod(path, 0o777)  # noqa: S103  a trap: its maker lets everyone in
        os.chown(path, SOMEBODY, SOMEBODY)
    calls = {
        **CALLS,
        "version": lambda: shm.version("x"),
        "publish": lambda: shm.publish("x"),
        "wait": lambda: shm.wait("x", timeout=0.2),
        "lock": lambda: shm.lock("x", timeout=1).__enter__(),
        "list": shm.list,
        "gc": shm.gc,
        "create a dict": lambda: shm.create("d", {}),
    }

    def work():
        for call in calls.values():
            with pytest.raises(shm.RefusedError, match=r"not a folder that only you can enter|another user"):
                call()
        assert [one.level for one in shm.doctor()] == ["fail"]

    as_user(work)
    for lock in locks:
        os.close(lock)


@pytest.mark.parametrize("uid", [None, 65534])
def test_a_process_without_a_user_of_its_own_trusts_nobody(uid, shm_dir, as_user):
    """In a user namespace without a map, or that maps it to the overflow uid, strangers' files look like its own."""
    os.mkdir(f"{shm_dir}/.shmk-65534", 0o700)
    os.chown(f"{shm_dir}/.shmk-65534", SOMEBODY, SOMEBODY)

    def work():
        assert os.geteuid() == os.stat(paths.runtime()).st_uid
        for call in (lambda: shm.create("x", 1), shm.list, lambda: shm.lock("x").__enter__()):
            with pytest.raises(shm.RefusedError, match="no user of its own"):
                call()

    as_user(work, uid=uid)


def test_hard_links_attach_no_other_segment_and_leak_none(shm_dir):
    shm.create("a", np.arange(3))
    shm.create("d", {"k": 1})
    (shm_dir / "secret").write_bytes(b"dear diary")
    for old, new in ((paths.path_of("a"), "b"), (paths.path_of("d"), "e"), (shm_dir / "secret", "c")):
        os.link(old, paths.path_of(new))
    for name in "bce":
        for call in (shm.attach, lambda name: shm.attach(name, kind="raw"), lambda name: shm.save(name, "/tmp/never")):
            with pytest.raises(shm.RefusedError, match="so it is not trusted"):
                call(name)
    assert shm.attach("a").tolist() == [0, 1, 2]
    assert shm.attach("d") == {"k": 1}
    shm.unlink("b")
    shm.create("e", 5, replace=True)
    shm.unlink("c")
    assert shm.info("a").owner == shm.info("d").owner == shm.info("e").owner
    assert shm.attach("d") == {"k": 1}
    assert (shm_dir / "secret").read_bytes() == b"dear diary"
    (shm_dir / "secret").unlink()
    os.link(paths.path_of("a"), paths.path_of("b"))
    shm.unlink("a")
    assert paths.names() == ["d", "e"]
    shm.unlink("d")
    shm.unlink("e")
    assert [path for path in left(shm_dir) if "sessions" not in path] == []


def become_who_may_link(uid):
    """Become another user, who may make hard links as each may with sysctl fs.protected_hardlinks=0."""
    libc, (keep_caps, version, owner) = ctypes.CDLL(None, use_errno=True), (8, 0x20080522, 1 << 3)  # CAP_FOWNER
    libc.prctl(keep_caps, 1, 0, 0, 0)
    os.setresuid(uid, uid, uid)
    return libc.capset(struct.pack("=Ii", version, 0), struct.pack("=6I", owner, owner, 0, 0, 0, 0)) == 0


def test_hard_links_that_another_user_makes_attach_nothing_and_go_with_the_owner(shm_dir):
    os.chmod(shm_dir, 0o1777)  # noqa: S103  as /dev/shm is
    links = {"b": "a", "e": "d", "x": "x2"}

    def own(connection):
        made = shm.create("a", np.arange(3)), shm.create("d", {"k": 1}), shm.create("x2", b"abc", lifetime="attached")
        connection.send(len(made))
        connection.recv()

    def link(connection):
        pairs = [(paths.path_of(old), paths.path_of(new)) for new, old in links.items()]  # of the owner's uid
        connection.send(become_who_may_link(SOMEBODY))
        for pair in pairs:
            os.link(*pair)

    with Child(own) as owner:
        owner.hear()
        with Child(link) as stranger:
            if not stranger.hear():
                lacking("no process may be given the right to link what others own (CAP_FOWNER)")
            assert stranger.join() == 0
        for new, old in links.items():
            for call in (shm.attach, lambda name: shm.save(name, "/tmp/never")):
                with pytest.raises(shm.RefusedError, match=f"second name [(]hard link[)] of '{old}', so it is not tr"):
                    call(new)
        assert shm.attach("a").tolist() == [0, 1, 2]
        assert shm.attach("d") == {"k": 1}
        assert shm.create("b", 5, replace=True) == 5
        owner.end()
    until(lambda: paths.names() == ["b"], "what the owner had is swept, with the names that the stranger gave it")
    shm.unlink("b")
    sessions.end()
    until_left(shm_dir)


def test_a_session_of_root_that_drops_its_privileges_goes_on_as_that_user(shm_dir):
    os.chmod(shm_dir, 0o1777)  # noqa: S103  as /dev/shm is

    def work(_):
        shm.create("x", 1)
        before = sessions.mine()
        os.seteuid(SOMEBODY)
        assert sessions.mine() is None
        assert paths.path_of("x").endswith(f"shmk-{SOMEBODY}-x")
        folders.prepare()
        os.seteuid(0)
        assert sessions.mine() is before
        assert shm.gc() == []
        assert shm.attach("x") == 1
        sessions.end()

    with Child(work) as child:
        assert child.join() == 0


def test_the_doctor_warns_of_a_folder_that_belongs_to_somebody_else(shm_dir):
    os.chmod(shm_dir, 0o1777)  # noqa: S103  as /dev/shm is
    os.chown(shm_dir, SOMEBODY, SOMEBODY)

    def work(_):
        os.setresuid(ME, ME, ME)
        (warning,) = (one for one in shm.doctor() if one.level != "ok" and "belongs" in one.text)
        assert warning.text == f"{shm_dir} belongs to another user (uid {SOMEBODY}), who may delete your segments there"
        sessions.end()

    with Child(work) as child:
        assert child.join() == 0


def test_a_child_that_becomes_another_user_is_refused_its_parents_dict_and_told_why():
    d = shm.create("d", {"a": 1})

    def work(_):
        os.seteuid(SOMEBODY)
        for act in (lambda: d["a"], lambda: d.update(a=2), lambda: d.transaction().__enter__()):
            with pytest.raises(
                shm.RefusedError, match=f"'d' belongs to uid 0, and this process has become uid {SOMEBODY}"
            ):
                act()

    with Child(work, kin=True) as child:
        assert child.join() == 0
    assert d["a"] == 1


def test_what_this_user_may_not_read_is_not_called_damaged(as_user):
    def work():
        kept = shm.create("x", np.arange(3))
        os.chmod(paths.path_of("x"), 0)
        (found,) = shm.list()
        assert found.state == shm.info("x").state == "unreadable"
        assert f"chmod 600 {paths.path_of('x')}" in found.type
        os.chmod(paths.path_of("x"), 0o600)
        assert shm.info("x").state == ""
        del kept
        sessions.end()

    as_user(work)
