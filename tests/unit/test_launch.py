"""The watchdog starts although other tools change how a process starts others."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import shmkernel as shm
from shmkernel._core import launch, sessions
from tests.helpers import (
    PATIENCE,
    Child,
    InterruptingTimer,
    descriptors,
    free_descriptors,
    kill_watchdogs,
    lacking,
    leaving_none_open,
    left,
    needs,
    python,
    repeat,
    until,
    until_left,
    watchdogs,
)

STEPS = 15
UNUSED = 65521  # the uid of nobody here

SHARE = """
import os, sys
import shmkernel as shm
x = shm.create("x", [1])
print(len(shm.list()), flush=True)
"""


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def children():
    """Return the pids of this process's children; earlier tests may have left some, as multiprocessing's helpers."""
    while True:
        with contextlib.suppress(OSError):  # a thread has ended meanwhile: another one has its children now
            return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def share(flags=(), before="", env=None, argv=()):
    """Share a value in a new interpreter, and return its output."""
    environment = {name: value for name, value in os.environ.items() if name not in (env or {})} | (env or {})
    return python(before + SHARE, *argv, flags=flags, env=environment).stdout.splitlines()[-1]


@pytest.mark.parametrize("there", ["", "/nowhere/python", "/bin/false", None, 5, "python", sys.executable])
def test_it_starts_whatever_the_executable_is_said_to_be(there, monkeypatch, shm_dir):
    monkeypatch.setattr(sys, "executable", there)
    monkeypatch.setattr(sys, "_base_executable", there)
    shm.create("x", 1)
    assert len(watchdogs(shm_dir)) == 1


@pytest.mark.parametrize("name", ["uwsgi", "my_python_app"])
def test_a_program_that_python_is_a_part_of_is_not_started(name, monkeypatch, shm_dir, tmp_path):
    app = program(tmp_path / name, f"echo started >> {tmp_path}/log")
    monkeypatch.setattr(sys, "executable", app)
    monkeypatch.setattr(sys, "_base_executable", app)
    if "python" in name:
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    shm.create("x", 1)
    assert len(watchdogs(shm_dir)) == 1
    assert not (tmp_path / "log").exists()


def test_a_program_that_starts_itself_does_so_once(monkeypatch, shm_dir, tmp_path):
    code = "import shmkernel as shm; shm.create('y', 1)"
    app = program(tmp_path / "python-app", f'echo started >> {tmp_path}/log; exec {sys.executable} -c "{code}"')
    monkeypatch.setattr(launch, "interpreters", lambda: iter([app]))
    with pytest.raises(shm.WatchdogError, match="started in place of the watchdog of another process"):
        shm.create("x", 1)
    assert (tmp_path / "log").read_text() == "started\n"
    assert left(shm_dir) == []


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("exit 0", "it ended without an answer"),
        ("echo usage: this is no Python; exit 2", "usage: this is no Python"),
        (f"exec {sys.executable} -c 'import nothing'", "No module named 'nothing'"),
        ("echo watching you; sleep 60", "no answer within"),
        ("sleep 60 & sleep 60", "no answer within"),
    ],
)
def test_what_does_not_watch_is_an_error_that_says_why_and_is_ended(does, why, monkeypatch, shm_dir, tmp_path):
    monkeypatch.setattr(launch, "interpreters", lambda: iter([program(tmp_path / "python", does)]))
    monkeypatch.setattr(launch, "_LIMIT", 0.2 if "sleep" in does else PATIENCE)
    before = children()
    with leaving_none_open(), pytest.raises(shm.WatchdogError, match=f"{why}.*so none was made"):
        shm.create("x", 1)
    assert left(shm_dir) == []
    assert children() <= before
    until(lambda: not processes_with(str(tmp_path)), "all that was started is gone")
    monkeypatch.undo()
    assert shm.create("x", 1) == 1


def processes_with(text):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            found += [entry] if text.encode() in line else []
    return found


def test_the_next_interpreter_is_tried(monkeypatch, shm_dir, tmp_path):
    old = program(tmp_path / "python3", "echo 'SyntaxError: too old' >&2; exit 1")
    monkeypatch.setattr(launch, "interpreters", lambda: iter([old, "/nowhere/python", "/dev/null", sys.executable]))
    shm.create("x", 1)
    assert len(watchdogs(shm_dir)) == 1


def test_functions_that_others_replace_are_not_used(monkeypatch):
    def replaced(*_, **__):
        raise AssertionError

    import select

    for name in ("fork", "posix_spawn", "posix_spawnp", "execv", "execve", "waitpid", "read", "pipe", "killpg"):
        monkeypatch.setattr(os, name, replaced)
    for name in ("Popen", "run", "_fork_exec"):
        monkeypatch.setattr(subprocess, name, replaced)
    for name in ("poll", "select"):
        monkeypatch.setattr(select, name, replaced)
    assert sessions.begin()[1]
    assert not sessions.begin()[1]


def test_it_starts_under_a_debugger():
    needs("debugpy")  # comes with ipykernel
    text = SHARE.replace("import os, sys", "import os, sys, debugpy; debugpy.listen(0)")
    assert python(text).stdout.splitlines()[-1] == "1"


def test_what_python_is_told_by_the_environment_to_do_at_its_start_it_does_not(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os; open(os.environ['MARKED'], 'a').write('x')")
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "MARKED": str(tmp_path / "marked")}
    assert share(env=env | {"PYTHONSTARTUP": "/nowhere", "PYTHONHASHSEED": "0"}) == "1"
    assert (tmp_path / "marked").read_text() == "x"


def test_it_starts_in_a_program_patched_by_gevent():
    try:
        import gevent  # noqa: F401  what is tested
    except ImportError:
        lacking("gevent is not installed: uv run --group large pytest tests/unit/test_launch.py")
    before = "from gevent import monkey; monkey.patch_all()\n"
    assert share(before=before) == "1"


@pytest.mark.parametrize(
    "before",
    [
        "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "import os; os.closerange(0, 1); os.closerange(2, 3)",
        "import numpy, os, tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)",
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))",
        "import os; os.umask(0o777)",
        "import sys; sys.argv = None",
        "import os; [os.environ.pop(name) for name in [*os.environ] if name != 'SHMKERNEL_DIR']",
    ],
)
def test_it_starts_in_a_process_that_is_out_of_the_ordinary(before):
    assert share(before=f"{before}\n", flags=["-P"]) == "1"  # Python 3.13 cannot import in a removed folder


def test_it_keeps_nothing_open_that_its_session_had(shm_dir):
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    sessions.begin()
    os.close(theirs)
    os.set_blocking(ours, False)
    assert os.read(ours, 1) == b""  # end of file: no other process has the pipe
    os.close(ours)
    (dog,) = watchdogs(shm_dir)
    streams = {"0", "1", "2"}
    until(lambda: streams <= {*os.listdir(f"/proc/{dog}/fd")}, "it has closed what led to the session")
    assert {os.readlink(f"/proc/{dog}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}


def test_it_is_in_no_group_and_folder_of_its_session(shm_dir):
    sessions.begin()
    (dog,) = watchdogs(shm_dir)
    assert os.getsid(dog) != os.getsid(0)
    assert os.getpgid(dog) != os.getpgid(0)
    assert os.readlink(f"/proc/{dog}/cwd") == "/"


def test_many_descriptors_do_not_hide_whether_it_lives(shm_dir):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        lacking("2,000 open files are more than this machine allows: ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    null = os.open("/dev/null", os.O_RDONLY)
    many = [null, *(os.dup(null) for _ in range(1100))]
    try:
        sessions.begin()
        kill_watchdogs(shm_dir)
        sessions.begin()
        assert len(watchdogs(shm_dir)) == 1
    finally:
        for fd in many:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_is_named():
    import resource

    sessions.begin()
    sessions.end()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    errors = []
    try:
        for allowed in [*itertools.islice(free_descriptors(), 40)]:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            try:
                sessions.begin()
                break
            except Exception as error:
                errors.append(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {type(error) for error in errors} == {shm.LimitError}
    assert all(error.limit == "ulimit -n" for error in errors)
    assert 2 < len(errors) < 40


def test_threads_begin_one_session(shm_dir):
    threads = [threading.Thread(target=sessions.begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(watchdogs(shm_dir)) == 1


def test_a_fork_at_any_moment_of_a_start_has_a_session_of_its_own(shm_dir):
    """The child neither waits for what another thread is doing, nor keeps anything of it."""
    script = """
import os, threading
from shmkernel._core import sessions

def again_and_again():
    while not stop.is_set():
        sessions.begin()
        sessions.end()

stop = threading.Event()
thread = threading.Thread(target=again_and_again)
thread.start()
for _ in range(15):
    child = os.fork()
    if child == 0:
        os._exit(not sessions.alive(sessions.begin()[0].id))
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
"""
    python(script, flags=["-W", "ignore"])
    until(lambda: not watchdogs(shm_dir), "the watchdogs have ended")


def test_a_package_in_a_zip_file_starts_it(tmp_path, shm_dir):
    import zipfile

    package = Path(shm.__file__).parent
    archive = tmp_path / "app.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*.py"):
            file.write(path, path.relative_to(package.parent))
    code = """
import shmkernel
from shmkernel._core import sessions
print(sessions.__file__, sessions.begin()[1], shmkernel.__version__)
"""
    done = python(code, flags=["-S"], env=os.environ | {"PYTHONPATH": str(archive)}, cwd="/")
    assert done.stdout == f"{archive}/shmkernel/_core/sessions.py True 0+unknown\n"
    until_left(shm_dir)


def test_ctrl_c_at_any_moment_of_a_start_leaves_nothing_behind(shm_dir):
    """After an interrupt at any moment no process and no descriptor is left, and the next session begins."""

    def work(connection):
        times = []
        for _ in range(5):  # the first imports, and a busy machine may hold up any of them
            start = time.monotonic()
            sessions.begin()
            times.append(time.monotonic() - start)
            sessions.end()
        before = len(descriptors())
        interrupted = 0
        with InterruptingTimer() as timer:
            for step in range(STEPS):
                ended = False
                try:
                    timer.set(min(times) * (step + 1) / STEPS)
                    sessions.begin()
                    ended = True
                    repeat(lambda: time.sleep(0.001), done=lambda: timer.came)
                except KeyboardInterrupt:
                    interrupted += not ended
                session, _ = sessions.begin()
                assert sessions.alive(session.id)
                sessions.end()
        with contextlib.suppress(ChildProcessError):
            assert os.waitpid(-1, os.WNOHANG) == "nobody"
        connection.send((interrupted, len(descriptors()) - before))

    with Child(work) as child:
        interrupted, opened = child.hear()
        assert child.join() == 0
    assert interrupted
    assert opened == 0
    until(lambda: not watchdogs(shm_dir), "the watchdogs have ended")
    until_left(shm_dir)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who has no other process")
def test_the_limit_of_processes_is_named(shm_dir):
    import resource

    shm_dir.chmod(0o1777)

    def work(connection):
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        os.setresuid(UNUSED, UNUSED, 0)
        if not [*launch.interpreters()]:
            connection.send("no interpreter")
            return
        with pytest.raises(shm.WatchdogError, match=r"you may start no more processes \(ulimit -u, now 0\)"):
            sessions.begin()
        connection.send("refused")

    with Child(work) as child:
        found = child.hear()
        assert child.join() == 0
    until_left(shm_dir)
    if found == "no interpreter":
        lacking("another user reaches no Python here: apt-get install python3")
    assert found == "refused"
