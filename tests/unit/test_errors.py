from __future__ import annotations

import ast
import copy
import errno
import pickle
import struct
from pathlib import Path

import pytest

import shmkernel as shm
from shmkernel import cli, errors
from shmkernel.errors import Cure
from shmkernel.notebook.wording import in_magics

PARENTS = {
    "NotFoundError": (FileNotFoundError, KeyError, OSError),
    "TakenError": (FileExistsError,),
    "FullError": (OSError,),
    "LimitError": (OSError,),
    "ArgumentError": (ValueError,),
    "UnsupportedError": (TypeError,),
    "DamagedError": (ValueError,),
    "RefusedError": (PermissionError,),
    "FolderError": (OSError,),
    "RangeError": (ValueError, struct.error),
    "WatchdogError": (RuntimeError,),
}
DESCRIBED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
NUMBERS = {
    "NotFoundError": errno.ENOENT, "TakenError": errno.EEXIST, "FullError": errno.ENOSPC,
    "RefusedError": errno.EACCES, "FolderError": errno.ENOTSUP, "LimitError": errno.EMFILE,
}  # fmt: skip


def test_every_error_is_public():
    assert {*PARENTS, "ShmError"} <= {*errors.__all__} <= {*shm.__all__}


@pytest.mark.parametrize("name", PARENTS)
def test_each_is_ours_and_what_a_user_of_the_stdlib_would_catch(name):
    error = getattr(shm, name)("what happened", name="x")
    assert isinstance(error, (shm.ShmError,))
    assert all(isinstance(error, parent) for parent in PARENTS[name])
    assert getattr(error, "errno", None) == NUMBERS.get(name)


@pytest.mark.parametrize("name", PARENTS)
@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_each_survives_pickling_with_its_facts(name, clone):
    error = clone(getattr(shm, name)("what happened", name="x", needed=3, free=1))
    assert type(error) is getattr(shm, name)
    assert (str(error), error.message, error.name, error.needed, error.free) == (
        "what happened",
        error.message,
        "x",
        3,
        1,
    )
    assert getattr(error, "errno", None) == NUMBERS.get(name)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (errors.in_python, "no segment named 'xx'. Did you mean x? Live names: shm.list()"),
        (in_magics, "no segment named 'xx'. Did you mean x? Live names: %shm_list"),
        (cli.in_shell, "no segment named 'xx'. Did you mean x? Live names: shmkernel list"),
    ],
)
def test_an_error_from_another_process_is_worded_where_it_is_shown(word, text, monkeypatch):
    shm.create("x", shape=3)
    with pytest.raises(shm.NotFoundError) as caught:
        shm.attach("xx")
    pickled = pickle.dumps(caught.value)
    monkeypatch.setattr(errors, "word", word)
    error = pickle.loads(pickled)
    assert str(error) == error.message == error.args[0] == text
    assert [cure.verb for cure in error.cures] == ["list"]


def test_a_cure_that_a_place_lacks_is_left_out(monkeypatch):
    monkeypatch.setattr(errors, "word", cli.in_shell)
    cures = Cure("To write", "attach", "x", mode="r+"), Cure("Remove it", "unlink", "/a b")
    assert str(shm.DamagedError("it is broken", *cures)) == "it is broken. Remove it: shmkernel unlink '/a b'"
    assert str(shm.DamagedError("it is broken", cures[0])) == "it is broken"


def test_loading_the_magics_changes_the_words_and_unloading_changes_them_back(notebook):
    assert notebook.fails("%shm_info nope").message.endswith("Live names: %shm_list")
    notebook("%unload_ext shmkernel")
    error = notebook.run("import shmkernel as shm; shm.info('nope')").error
    assert error.message.endswith("Live names: shm.list()")


def test_no_module_below_the_faces_speaks_in_magics():
    """Docstrings may name magics, and so may modules for notebooks."""
    package = Path(shm.__file__).parent
    faces = {package / name for name in ("notebook", "workspace", "monitor", "cli", "demo.py")}
    spoken = []
    for path in package.rglob("*.py"):
        if faces & {path, *path.parents}:
            continue
        tree = ast.parse(path.read_text())
        described = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docs = {
            id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, described) and ast.get_docstring(node)
        }
        spoken += [
            f"{path.name}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and "%shm_" in str(node.value) and id(node) not in docs
        ]
    assert spoken == []
