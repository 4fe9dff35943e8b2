from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import shmkernel as shm
from shmkernel._core import folders, launch, paths, sessions
from shmkernel.testing import remove
from tests.helpers import Child, kill_watchdogs, lacking, left, python, until, until_left, watchdogs


def test_a_process_has_one_session_and_one_watchdog_a_folder(shm_dir):
    assert sessions.mine() is None
    first, new = sessions.begin()
    again, anew = sessions.begin()
    assert (new, anew) == (True, False)
    assert first == again == sessions.mine()
    assert sessions.everyone() == [first]
    assert len(watchdogs(shm_dir)) == 1


def test_a_session_says_who_it_is(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "/lab/plot.ipynb")
    session, _ = sessions.begin()
    assert (session.pid, session.label, session.parent) == (os.getpid(), "plot.ipynb", None)
    assert sessions.read(session.id) == session


def test_ending_a_session_is_as_its_death(shm_dir):
    x = shm.create("x", 1)
    mine = sessions.mine()
    sessions.end()
    assert sessions.mine() is None
    assert not sessions.alive(mine.id)
    until_left(shm_dir)
    assert x == 1


def test_another_folder_is_another_world(tmp_path, monkeypatch, shm_dir):
    here, _ = sessions.begin()
    other = shm_dir / "other"
    other.mkdir()
    monkeypatch.setenv("SHMKERNEL_DIR", str(other))
    there, new = sessions.begin()
    assert new
    assert here.id != there.id
    assert sessions.everyone() == [there]
    sessions.end()
    until_left(other)
    monkeypatch.setenv("SHMKERNEL_DIR", str(shm_dir))
    assert sessions.mine() == here
    remove(other)
    assert tmp_path.exists()


def test_a_session_lives_as_long_as_its_process(shm_dir):
    with Child(lambda connection: (connection.send(sessions.begin()[0]), connection.recv())) as child:
        session = child.hear()
        assert sessions.alive(session.id)
        kill_watchdogs(shm_dir)
        child.end()
        assert not sessions.alive(session.id)
    assert not sessions.alive("nobody")
    assert shm.gc() == []
    assert left(shm_dir) == []


def test_a_childs_session_lives_while_its_parent_does():
    mine, _ = sessions.begin()
    with Child(lambda connection: connection.send(sessions.begin()[0]), kin=True) as child:
        session = child.hear()
        assert child.join() == 0
    assert session.parent == mine.id
    assert sessions.alive(session.id)
    sessions.end()
    assert not sessions.alive(session.id)


def test_fields_of_a_later_version_are_passed_over():
    someone = sessions.Session("1f", "plot.ipynb", 4711, 1, 0.0)
    assert sessions.parse(sessions.encode(someone)[:-1] + b', "colour": "red"}') == someone


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b"[]", b'"x"', b"\xff", b'{"id": "1"}', b"[" * 9999,
        b'{"id": "1", "label": 5, "pid": 1, "pid_ns": 1, "started": 0}',
        b'{"id": "1", "label": "x", "pid": "1", "pid_ns": 1, "started": 0}',
        b'{"id": "1", "label": "x", "pid": 1, "pid_ns": 1, "started": 0, "parent": {}}',
        b'{"id": "1", "label": "x", "pid": 1, "pid_ns": 1, "started": 0, "parent": "../x"}',
        b'{"id": "../x", "label": "x", "pid": 1, "pid_ns": 1, "started": 0}',
        b'{"id": "1", "label": "x", "pid": 4294967296, "pid_ns": 1, "started": 0}',
        b'{"id": "1", "label": "x", "pid": true, "pid_ns": 1, "started": 0}',
        b'{"id": "1", "label": "x", "pid": 1.5, "pid_ns": 1, "started": 0}',
        b'{"id": "1", "label": "x", "pid": 1, "pid_ns": 1, "started": NaN}',
        b'{"id": "1", "label": "x", "pid": 1, "pid_ns": 1, "started": 1e300}',
    ],
)  # fmt: skip
def test_what_is_no_session_is_none(text):
    assert sessions.parse(text) is None


@pytest.mark.parametrize("id_", ["../names.lock", "", ".", "a/b", "x\0", "x" * 99, "\n"])
def test_what_cannot_be_the_id_of_a_session_leads_nowhere(id_):
    folders.prepare()
    assert sessions.read(id_) is None
    assert not sessions.alive(id_)


def test_what_is_no_file_of_a_session_is_nobody():
    sessions.begin()
    folder = paths.runtime("sessions")
    os.mkfifo(f"{folder}/fifo")
    os.symlink("/dev/zero", f"{folder}/link")
    os.link(f"{folder}/{sessions.mine().id}", f"{folder}/other")
    assert sessions.everyone() == [sessions.mine()]
    assert [sessions.alive(entry) for entry in ("fifo", "link")] == [False, False]


def test_a_program_that_closes_all_descriptors_shares_lists_and_ends_without_a_word():
    """What it opens next gets the numbers that its folders, locks and mappings had."""
    script = """
import os, shmkernel as shm
x = shm.create("x", shape=3)
shm.unlink("x")
os.closerange(3, 256)
y = shm.create("y", shape=3)
print(*((row.name, row.type, row.state) for row in shm.list()))
"""
    done = python(script, flags=["-X", "dev", "-W", "error"])
    assert (done.stdout, done.stderr) == ("('y', 'float64 (3,)', '') ('x', 'float64 (3,)', 'unlinked')\n", "")


@pytest.mark.parametrize("closed", ["lock", "watchdog"])
def test_a_program_that_closes_all_descriptors_begins_a_new_session_and_loses_no_file(closed, shm_dir, tmp_path):
    """Close all descriptors, as a daemon does: the next files get their numbers."""
    first, _ = sessions.begin()
    own = sessions._mine[paths.folder(), os.geteuid()]
    number = getattr(own, closed).fileno()
    (tmp_path / "data").write_text("data")
    theirs = os.open(tmp_path / "data", os.O_RDWR)
    os.dup2(theirs, number)  # closed, and the next that was opened
    os.close(theirs)
    if closed == "lock":
        until(lambda: not sessions.covers(paths.path_of("x")), "it notices")
    again, new = sessions.begin()
    assert (new, again == first) == ((True, False) if closed == "lock" else (False, True))
    assert sessions.alive(again.id)
    sessions.end()
    assert os.read(number, 9) == b"data"
    os.close(number)
    until(lambda: not watchdogs(shm_dir), "they have ended")


def open_to_all(program):
    path = Path(program).resolve()
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))


def test_a_session_whose_file_was_replaced_goes_on_with_a_file_of_its_own():
    x = shm.create("x", shape=3)
    session = sessions.mine()
    path = paths.runtime("sessions", session.id)
    os.unlink(path)
    Path(path).write_bytes(b"left by a start that failed")
    shm.create("y", shape=3)
    assert sessions.mine() == session
    assert sessions.alive(session.id)
    assert [one.name for one in shm.list() if one.owner_alive] == ["x", "y"]
    del x


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_another_session(shm_dir):
    """After privileges are dropped, new segments do not belong to the old session."""
    shm_dir.chmod(0o1777)
    if not any(map(open_to_all, launch.interpreters())):
        lacking("no Python here that other users may start: apt-get install python3")

    def work(connection):
        shm.create("x", 1)
        first = sessions.mine()
        os.seteuid(65533)
        assert sessions.mine() is None
        x = shm.create("y", 2)
        connection.send((first, sessions.mine()))
        assert connection.recv() == "sweep"
        assert shm.gc() == []
        connection.send((int(x), int(shm.attach("y")), sessions.alive(sessions.mine().id)))
        connection.recv()

    with Child(work) as child:
        first, second = child.hear()
        assert (first.id != second.id, len(watchdogs(shm_dir))) == (True, 2)
        child.tell("sweep")
        assert child.hear() == (2, 2, True)
        child.end()
    until_left(shm_dir)


def test_the_watchdog_is_nobodys_child(shm_dir):
    sessions.begin()
    (dog,) = watchdogs(shm_dir)
    with open(f"/proc/{dog}/stat") as file:
        assert int(file.read().rpartition(")")[2].split()[1]) != os.getpid()
    with pytest.raises(ChildProcessError):
        os.waitpid(dog, os.WNOHANG)


def test_the_watchdog_comes_without_numpy_and_ipython(tmp_path):
    script = """
import sys
sys.argv = ["watchdog.py"]
from shmkernel._core import watchdog
heavy = {"numpy", "IPython", "ipykernel", "subprocess", "multiprocessing", "logging", "traitlets", "tqdm"}
print(sorted(heavy & {*sys.modules}))
"""
    code = [sys.executable, "-S", "-c", script]
    folder = os.path.dirname(os.path.dirname(os.path.abspath(shm.__file__)))
    environment = os.environ | {"PYTHONPATH": folder, "SHMKERNEL_DIR": str(tmp_path)}
    done = subprocess.run(code, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"
    assert os.listdir(tmp_path) == []


def test_names_are_not_needed_for_a_session(shm_dir):
    sessions.begin()
    assert paths.names() == []
    assert [path.partition("/")[0] for path in os.listdir(shm_dir)] == [os.path.basename(paths.runtime())]
