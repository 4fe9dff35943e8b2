"""The label of a process: the best one available, and never an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import shmkernel as shm
from shmkernel._core import identity, sessions
from shmkernel.sync import sync_file
from tests.helpers import PATIENCE

STRANGE = os.fsdecode(b"caf\xe9 \x1b[31m\n") + "x" * 200


class Odd:
    """A value that raises whenever it is used."""

    def __len__(self):
        raise RuntimeError

    __iter__ = __bool__ = __str__ = __fspath__ = __len__


@pytest.fixture(autouse=True)
def unnamed(monkeypatch):
    for name in ("JPY_SESSION_NAME", "PYTEST_CURRENT_TEST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("file", "known"),
    [("/run/kernel-1a2b.json", "1a2b"), ("/my-kernel-notes/kernel-1a2b.json", "1a2b"), ("/my-kernel-x/k.json", None)],
)
def test_a_kernel_s_id_is_read_from_the_name_of_its_file_not_from_a_folder_s(monkeypatch, file, known):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", file])
    assert identity.kernel_id() == known


@pytest.mark.parametrize(
    "argv",
    [
        None,
        [],
        (),
        [""],
        [None],
        [5],
        [b"x.py"],
        [Path("x.py")],
        "x.py",
        5,
        [Odd()],
        Odd(),
        [STRANGE],
        ["-f", "k.json"],
    ],
)
def test_no_command_line_fails_anything(monkeypatch, argv):
    monkeypatch.setattr(sys, "argv", argv)
    shm.create("x", 1)
    with shm.lock("x"):
        assert shm.list()[0].owner.isprintable()


def test_a_program_without_a_command_line_is_python(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(sys, "argv")
    assert identity.label() == f"python in {tmp_path.name}"


@pytest.mark.parametrize("name", [STRANGE, "e\u0301\u200b\u202e.ipynb", "x" * 300 + ".ipynb", "a\0b", "\ud800.ipynb"])
def test_a_label_fits_every_terminal_and_every_file(monkeypatch, name):
    monkeypatch.setattr(sys, "argv", [f"/home/{name}"])
    label = identity.label()
    assert label.isprintable()
    assert len(label) <= 80
    label.encode()
    session = sessions.Session("1f", label, 1, 1, 0.0)
    assert sessions.parse(sessions.encode(session)) == session
    assert sync_file.decode(sync_file.encode(sync_file.Who(1, 1, name, name))).pid == 1


@pytest.mark.parametrize("made", [b"caf\xe9", b"\x1b[31mred", b"a\nb"])
def test_a_folder_or_notebook_of_any_name_fails_nothing(made, tmp_path):
    folder = os.fsencode(tmp_path) + b"/" + made
    os.mkdir(folder)
    code = """
import os, sys
os.environ.pop("PYTEST_CURRENT_TEST", None)
import shmkernel as shm
x = shm.create("x", [1])
with shm.lock("x"), shm.writing(x):
    print(ascii(shm.list()[0].owner))
sys.argv = [os.fsdecode(sys.argv[1]) + ".ipynb"]
os.environ["JPY_SESSION_NAME"] = sys.argv[0]
from shmkernel._core import sessions
sessions.end()
y = shm.create("y", [1])
with shm.lock("y"):
    print(ascii(shm.info("y").owner))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, folder], cwd=folder, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    first, second = done.stdout.splitlines()
    shown = "".join(char if char.isprintable() else "?" for char in os.fsdecode(made))
    assert (first, second) == (ascii(f"-c in {shown}"), ascii(f"{shown}.ipynb"))


def test_a_removed_folder_fails_nothing(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "argv", ["work.py"])
    shm.create("x", 1)
    with shm.lock("free"):
        assert shm.list()[0].owner == "work.py in a removed folder"


def test_a_module_that_is_run_has_its_name(tmp_path):
    (tmp_path / "tool").mkdir()
    code = "from shmkernel._core import identity\nif __name__ == '__main__':\n    print(identity.label())"
    for file in ("tool/__init__.py", "tool/sub.py", "tool/__main__.py", "single.py"):
        (tmp_path / file).write_text(code)

    def said(*command):
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        env["PYTHONPATH"] = f"{Path(shm.__file__).parent.parent}:{tmp_path}"
        return subprocess.run(
            [sys.executable, *command], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    here = f" in {tmp_path.name}"
    assert said("-m", "tool") == f"tool{here}"
    assert said("-m", "tool.sub") == f"tool.sub{here}"
    assert said("-m", "single") == f"single{here}"
    assert said("single.py") == f"single.py{here}"
    assert said("tool") == f"tool{here}"


KERNEL = '''
import subprocess, sys
code = """
import sys
from shmkernel._core import identity
sys.argv = ["ipykernel_launcher.py", "-f", "/tmp/tmpx.json"]
print(ascii(identity.label()))
"""
subprocess.run([sys.executable, "-c", code], check=True)
'''


@pytest.mark.parametrize(
    ("program", "arguments", "notebook"),
    [
        ("jupyter-nbconvert", ["--to", "notebook", "--execute", "/a/one.ipynb"], "one.ipynb"),
        ("jupyter-nbconvert", ["--execute", "--output", "two.ipynb", "one.ipynb"], "one.ipynb"),
        ("jupyter-nbconvert", ["--execute", "--output=two.ipynb", "one.ipynb"], "one.ipynb"),
        ("papermill", ["-p", "alpha", "1", "one.ipynb", "two.ipynb"], "one.ipynb"),
        ("jupytext", ["--to", "ipynb", "--execute", "work.md"], "work.md"),
        ("jupytext", ["--execute", "work.py", "-o", "two.ipynb"], "work.py"),
        ("papermill", [b"caf\xe9.ipynb", "two.ipynb"], "caf?.ipynb"),
        ("jupyter-nbconvert", ["--execute", "one.ipynb", "two.ipynb"], None),
        ("jupyter-nbconvert", ["--execute", "*.ipynb"], None),
        ("mine", ["work.py"], None),
    ],
)
def test_a_kernel_without_a_server_is_its_parents_notebook(program, arguments, notebook, tmp_path):
    script = tmp_path / program
    script.write_text(KERNEL)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, check=True, timeout=PATIENCE)
    assert done.stdout.decode().strip() == repr(notebook or f"kernel in {tmp_path.name}")


def test_an_editor_may_say_anything(monkeypatch):
    main = sys.modules["__main__"]
    for odd in (5, "", STRANGE, None):
        monkeypatch.setattr(main, "__vsc_ipynb_file__", odd, raising=False)
        assert " in " in identity.label()
    monkeypatch.setattr(main, "__vsc_ipynb_file__", "/home/plot.ipynb", raising=False)
    assert identity.label() == "plot.ipynb"
