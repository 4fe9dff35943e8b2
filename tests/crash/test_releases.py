"""Two releases of the package at once in one folder: they share segments, or one of them says why it cannot."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from shmkernel._core import protocol
from tests.helpers import PATIENCE, kill_watchdogs, lacking, needs, until, until_left, watchdogs

HERE = Path(__file__).parents[2]
BEFORE = "5e5c3aa6d7ae5222713030d3daff15a9ce7b29b9"  # the last commit without a protocol number
AGENT = """
import sys
import numpy as np
import shmkernel as shm
from shmkernel._core import sessions
assert shm.__file__.startswith(sys.argv[1]), shm.__file__
for line in sys.stdin:
    try:
        try:
            answer = repr(eval(line))
        except SyntaxError:
            exec(line)
            answer = "done"
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print(answer.replace("\\n", " "), flush=True)
"""


class Agent:
    """A process with a release of the package, from the folder `tree`, which runs lines of Python."""

    def __init__(self, tree):
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", AGENT, tree], env=os.environ | {"PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, line):
        """Run a line, and return what it prints: the repr of the result, or the error."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.kill()
            self.process.stdout.close()


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Return the folders of this release, of the one before the first number, and of one with another number."""
    before, after = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("after")
    shutil.copytree(HERE / "shmkernel", after / "shmkernel", ignore=shutil.ignore_patterns("__pycache__"))
    module = after / "shmkernel/_core/protocol.py"
    text = module.read_text().replace(f"NUMBER = {protocol.NUMBER}\n", "NUMBER = 77\n")
    module.write_text(text.replace(f'"{protocol.SINCE}"', '"shmkernel>=9.0"'))
    return {"now": HERE, "before": before, "after": after}


@pytest.fixture
def before(trees):
    """Return the folder of the release before the first number, taken from the history."""
    if shutil.which("git") is None or not (HERE / ".git").exists():
        lacking("no history here to take the release before from: clone the repository, and install git")
    if not (trees["before"] / "shmkernel").exists():
        git = ["git", "-c", "safe.directory=*", "-C", HERE]
        done = subprocess.run([*git, "archive", BEFORE, "shmkernel"], capture_output=True, check=False)
        if done.returncode:
            why = done.stderr.decode().strip()
            lacking(f"the history has no {BEFORE[:7]}: git fetch --unshallow ({why})")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(trees["before"], filter="data")
    return trees["before"]


@pytest.fixture(params=["the older makes", "the newer makes"])
def maker_and_user(request, before):
    """Start a process of each release."""
    needs("lmdb", "dicts")  # no wheel for the newest Python
    maker, user = (before, HERE) if request.param == "the older makes" else (HERE, before)
    with Agent(maker) as first, Agent(user) as second:
        yield first, second


MAKE = {
    "array": "x = shm.create('x', np.arange(3))",
    "list": "x = shm.create('x', ['one', 2, None])",
    "raw": "x = shm.create('x', b'abc')",
    "dict": "x = shm.create('x', {'a': 1, 'big': np.zeros(1 << 18)})",
    "empty dict": "x = shm.create('x', {})",
    "ring": "x = shm.create('x', ring=4, shape=2, dtype=int); x.put([1, 2])",
}
USE = {
    "array": [("u.tolist()", "[0, 1, 2]"), ("u[0] = 7", "done")],
    "list": [("list(u)", "['one', 2, None]"), ("u[1] = 7", "done")],
    "raw": [("bytes(u.buf)", "b'abc'"), ("u.buf[0] = 7", "done")],
    "dict": [
        ("u['a'], float(u['big'].sum())", "(1, 0.0)"),
        ("u['b'] = np.ones(1 << 18)", "done"),
        ("u.update(a=2, c=[3])", "None"),
        ("[u.increment('n') for _ in range(9)][-1]", "9"),
    ],
    "empty dict": [("dict(u)", "{}"), ("u.update({f'k{i}': i for i in range(99)})", "None")],
    "ring": [("u.latest().tolist()", "[1, 2]"), ("u.put([3, 4])", "2")],
}
SEE = {
    "array": ("x.tolist()", "[7, 1, 2]"),
    "list": ("list(x)", "['one', 7, None]"),
    "raw": ("bytes(x.buf)", r"b'\x07bc'"),
    "dict": ("list(x), x['a'], float(x['b'].sum()), x['n']", "(['a', 'big', 'b', 'c', 'n'], 2, 262144.0, 9)"),
    "empty dict": ("len(x), x['k98']", "(99, 98)"),
    "ring": ("x.latest().tolist()", "[3, 4]"),
}


@pytest.mark.long
def test_what_one_makes_the_other_attaches_changes_lists_and_unlinks(maker_and_user):
    maker, user = maker_and_user
    for kind, line in MAKE.items():
        assert maker(line) == "done"
        assert user("u = shm.attach('x', 'r+')") == "done"
        for use, answer in USE[kind]:
            assert user(use) == answer
        assert maker(SEE[kind][0]) == SEE[kind][1]
        for each in (maker, user):
            until(  # the OS's list of locks may miss one while other programs come and go
                lambda each=each: each("[(one.name, len(one.attached)) for one in shm.list()]") == "[('x', 2)]",
                "both are listed as attached",
            )
        assert user("shm.info('x').kind") == maker("shm.info('x').kind") != ""
        assert user("shm.create('x', 1)").startswith("TakenError")
        assert user("shm.keep('x')").startswith("Info")
        assert maker("shm.info('x').lifetime") == "'keep'"
        assert user("shm.unlink('x')") == "None"
        assert maker("[(one.name, one.state) for one in shm.list()]") == "[('x', 'unlinked')]"
        if kind != "dict":  # its large arrays go with the name
            assert maker(SEE[kind][0]) == SEE[kind][1], "attached memory stays"
        assert user(line) == "done"
        assert maker("shm.create('x', 1)").startswith("TakenError")
        assert maker("float(shm.create('x', 1, replace=True))") == "1.0"
        assert user("del u, x; shm.unlink('x')") == "done"


@pytest.mark.long
def test_they_exclude_each_other_and_wake_each_other(maker_and_user):
    maker, user = maker_and_user
    assert maker("x = shm.create('x', np.zeros(3)); lock = shm.lock('x'); lock.acquire()") == "done"
    assert user("shm.lock('x', timeout=0.05).__enter__()").startswith("TimedOutError")
    assert maker("lock.release()") == "None"
    assert user("with shm.lock('x', timeout=9): u = shm.attach('x', 'r+'); u[0] += 1") == "done"
    assert int(maker("shm.version('x')")) == int(user("shm.version('x')"))
    version = int(user("shm.version('x')"))
    assert maker("shm.publish('x')") == str(version + 1)
    assert user(f"shm.wait('x', since={version}, timeout=9)") == str(version + 1)
    assert maker("with shm.writing(x): x[1:] = 5") == "done"
    assert user("shm.snapshot('x').tolist()") == "[1.0, 5.0, 5.0]"


def make_all(agent, prefix=""):
    for kind, line in MAKE.items():
        assert agent(line.replace("'x'", f"'{prefix}{kind.replace(' ', '_')}'")) == "done"


@pytest.mark.long
def test_each_sweeps_what_the_other_left(maker_and_user, shm_dir):
    maker, user = maker_and_user
    for each, name in ((maker, "mine"), (user, "yours")):
        make_all(each, f"{name}_")
    count = len(MAKE)
    assert user("len(shm.list())") == str(2 * count)
    maker.kill()  # its own watchdog sweeps, and leaves what is the other's
    until(lambda: user("len(shm.list())") == str(count), "the watchdog sweeps")
    assert user("sorted({one.name.partition('_')[0] for one in shm.list()})") == "['yours']"


@pytest.mark.long
def test_each_sweeps_when_the_others_watchdog_died(maker_and_user, shm_dir):
    maker, user = maker_and_user
    make_all(maker)
    kill_watchdogs(shm_dir)
    maker.kill()
    assert user("len(shm.list())") == str(len(MAKE))
    assert user("len(shm.gc())") == str(len(MAKE))
    until_left(shm_dir)
    assert not watchdogs(shm_dir)


def test_a_release_with_another_number_waits_until_the_folder_is_free(trees, shm_dir):
    with Agent(trees["after"]) as newer:
        with Agent(HERE) as older:
            assert older("x = shm.create('x', 1)") == "done"
            assert newer("shm.create('y', 2)").startswith(
                f"FolderError: {shm_dir}/.shmk-{os.geteuid()} is in use by {protocol.SINCE} (protocol 1)"
            )
            assert newer("[one.level for one in shm.doctor()]") == "['fail']"
            assert newer("shm.gc()").startswith("FolderError")
            assert older("bool(shm.attach('x') == 1), [one.name for one in shm.list()]") == "(True, ['x'])"
        until_left(shm_dir)
        until(lambda: newer("y = shm.create('y', 2)") == "done", "the last watchdog sweeps")
        with Agent(HERE) as older:
            assert "is in use by shmkernel>=9.0 (protocol 77)" in older("shm.list()")
            assert "is in use by shmkernel>=9.0 (protocol 77)" in older("shm.create('y', 2)")
        assert newer("[one.name for one in shm.list()]") == "['y']"
    until_left(shm_dir)
