"""What an error says to run next is a line that works when pasted: each is provoked, and what it proposes is run."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel import cli
from shmkernel.magics.commands import ShmMagics
from tests.unit.elsewhere import elsewhere

ROOT = Path(__file__).parent.parent.parent
PROPOSAL = re.compile(r"(?:: |\bunder )((?:%%?shm_|shmkernel |shm\.|rmdir |rm ).*)")  # it ends its sentence
SENTENCE = re.compile(r"\. (?=[A-Z])|, (?=which )")
FLAG = re.compile(r"--[a-z]+(?![a-z-])(?: (?:\d+(?:[.,]\d+)*[A-Z]?|\"[^\"]*\"|\[[^]]*\]))?")  # with an example

X = "%shm_create x --shape 3"
CASES = {  # cells that succeed, and one that fails
    "no such segment": ([], "%shm_attach nope"),
    "one of a similar name": ([X], "%shm_attach xx"),
    "no such variable": ([], "%shm_create zz"),
    "no expression": ([], "%shm_create zz --from"),
    "a name that cannot be": (["Δt = np.ones(3)"], "%shm_create Δt"),
    "an unknown flag": ([], "%shm_create zz --shapes 3"),
    "no shape": ([], "%shm_create zz --shape 3;4"),
    "no list": (["a = b = 1"], "%shm_create zz --list nope"),
    "no size": ([], "%shm_create zz --size much"),
    "a variable in the way of an attach": ([X, "x = 'precious'"], "%shm_attach x"),
    "and of one under another name": ([X, "y = 'precious'"], "%shm_attach x --as y"),
    "a variable in the way of a create": (["zz = np.ones(2)"], "%shm_create zz --shape 3"),
    "no variable of this name": (["shm.create('ds.v', shape=3).sum()"], "%shm_attach ds.v"),
    "not attached": ([], "%shm_close zz"),
    "attached under another name": ([X, "y = x"], "%shm_close y"),
    "no room": ([X], "%shm_create big --shape 1000000,1000000,100"),
    "cut short": ([X, "path = shm.info('x').path", "del x", "os.truncate(path, 90)"], "%shm_attach x"),
    "bytes of no kind": (["pathlib.Path(names.path_of('x')).write_bytes(b'Dear segment')"], "%shm_attach x"),
    "a directory": (["os.mkdir(names.path_of('x'))"], "%shm_attach x"),
    "a FIFO": (["os.mkfifo(names.path_of('x'))"], "%shm_attach x"),
    "a link": (["os.symlink('/nowhere', names.path_of('x'))"], "%shm_attach x"),
    "nothing to publish": ([X, "%shm_attach x --as safe --mode r"], "shm.publish(safe)"),
    "a stream that is read only": (
        ["shm.create('x', ring=4, shape=2).name", "r = shm.attach('x', mode='r')"], "r.put(np.ones(2))"
    ),
    "a stream without private changes": (["%shm_create x --ring 4 --shape 2"], "%shm_attach x --as y --mode c"),
    "a dict that is read only": (["%shm_create x --dict", "d = shm.attach('x', mode='r')"], "d['a'] = 1"),
    "a dict without private changes": (["%shm_create x --dict"], "%shm_attach x --as y --mode c"),
    "no snapshot": (["x = shm.create('x', [1, 'a'])"], "shm.snapshot('x')"),
    "a damaged sync file": (
        [X, "pathlib.Path(names.runtime('sync', f'shmk-{os.geteuid()}-x')).write_bytes(b'Dear lock')"], "%shm_publish x"
    ),
    "a lock in a line": ([X], "%shm_lock x"),
    "a folder that is missing": (["os.environ['SHMKERNEL_DIR'] += '/missing'"], "%shm_create zz --shape 3"),
}  # fmt: skip


def proposals(text):
    """Return the commands in a message."""
    found = (PROPOSAL.search(sentence.removesuffix(".")) for sentence in SENTENCE.split(text))
    return [match[1] for match in found if match]


@pytest.fixture
def shell(notebook, tmp_path, monkeypatch):
    """A notebook in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    notebook("import os, pathlib, shmkernel as shm\nfrom shmkernel import names")
    return notebook


@pytest.mark.parametrize("case", CASES)
def test_what_an_error_proposes_works_when_pasted(case, shell, shm_dir, monkeypatch):
    before, cell = CASES[case]
    assert [ran.text for ran in map(shell.run, before) if ran.error] == []
    error = shell.run(cell).error
    assert isinstance(error, shm.ShmError), error
    lines = proposals(error.message)
    if cell.startswith("%"):
        magic = cell.partition(" ")[0]
        known = getattr(ShmMagics, magic.lstrip("%")).parser.flags()
        flags = [flag for flag in FLAG.findall(error.message) if flag not in cell]
        assert {flag.partition(" ")[0] for flag in flags} <= {*known}
        lines += [f"{magic} zz {flag}" for flag in flags if " " in flag]
    assert lines, error.message
    for line in lines:
        if line.startswith("r"):
            subprocess.run(line, shell=True, check=True)  # noqa: S602  as a person does
        else:
            shell(line + "\npass" * line.startswith("%%"))
    monkeypatch.setenv("SHMKERNEL_DIR", str(shm_dir))
    shell("%reset -f")
    for one in shm.list():
        shm.unlink(one.name)


@pytest.mark.parametrize(
    "line", ["info nope", "info xx", "unlink nope", "keep nope", "save nope nope.npy", "save x x.npy", "load x y.npy"]
)
def test_what_an_error_in_a_terminal_proposes_works_there(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with elsewhere(lambda: shm.create("x", shape=3)):
        shm.save("x", "y.npy")
        if line.startswith("save x"):
            os.truncate(shm.info("x").path, 90)
        assert cli.main(line.split()) == 1
        message = capsys.readouterr().err.strip()
        assert "%" not in message
        lines = proposals(message) + [f"shmkernel {line} {flag}" for flag in FLAG.findall(message)]
        assert lines, message
        for one in lines:
            assert cli.main(one.split()[1:]) == 0, one
        for one in shm.list():
            shm.unlink(one.name)


class Part(np.ndarray):
    """One that is no plain array."""


class Table:
    """What a DataFrame has."""

    def to_numpy(self):
        return np.eye(2)


@pytest.mark.parametrize(
    ("value", "options", "expression"),
    [
        (np.array(["a", "bc"], dtype=object), {}, "x.astype(str)"),
        (np.array([1, 2.5], dtype=object), {}, "x.astype(float)"),
        (np.ma.masked_array([1, 2], [False, True]), {}, "x.filled()"),
        (np.zeros(2).view(Part), {}, "numpy.asarray(x)"),
        (Table(), {}, "x.to_numpy()"),
        ([[1, 2], [3, 4]], {}, "numpy.asarray(x)"),
        ("a text", {}, "[x]"),
        ("a text", {}, "x.encode()"),
        ("a text", {"kind": "raw"}, "x.encode()"),
        ([1, 2], {"kind": "raw"}, "bytes(x)"),
        ({1, 2}, {}, "list(x)"),
    ],
    ids=range(11),
)
def test_what_an_error_makes_of_a_value_can_be_shared(value, options, expression):
    with pytest.raises(shm.UnsupportedError) as caught:
        shm.create("x", value, **options)
    assert re.search(rf"[ ,]{re.escape(expression)}(?=$|[ ,.])", caught.value.message), caught.value.message
    shared = shm.create("x", eval(expression, {"x": value, "numpy": np}), **options)  # noqa: S307  as a person does
    shm.unlink("x")
    del shared


def test_what_the_checkup_proposes_cures(shm_dir):
    shm_dir.chmod(0o777)
    (wrong,) = (one for one in shm.doctor() if one.cure)
    subprocess.run(wrong.cure, shell=True, check=True)  # noqa: S602
    assert not [one for one in shm.doctor() if one.cure]


def test_what_pip_is_to_install_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    source = "".join(path.read_text() for path in ROOT.glob("shmkernel/**/*.py"))
    named = re.findall(r'pip install "shmkernel\[(\w+)\]"', source)
    assert named
    assert {*named} <= {*extras}
