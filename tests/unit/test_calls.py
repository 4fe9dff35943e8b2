"""How many functions of the package a magic calls: the hot paths stay short. Calls are counted, since time varies."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import capacity, sessions, trust
from tests.helpers import Child, without_collector

PACKAGE = os.fspath(Path(shm.__file__).parent)
INLINED = "<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"  # of these, newer Pythons call fewer


@pytest.fixture(autouse=True)
def _steady(monkeypatch):
    """Look at the folder each time, and at its room never: else that depends on how long ago the last look was."""
    monkeypatch.setattr(trust, "_RECHECK", 0)
    monkeypatch.setattr(sessions, "_RECHECK", 0)
    monkeypatch.setattr(capacity, "_FRESH", 1e9)
    monkeypatch.setattr(capacity, "_known", capacity._Known())


def counted(notebook, line):
    """Return which functions a line of a cell calls."""
    called = []

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name not in INLINED:
            called.append((code.co_filename[len(PACKAGE) + 1 :], code.co_qualname))

    name, _, rest = line.removeprefix("%").partition(" ")
    code = compile(f"get_ipython().run_line_magic({name!r}, {rest!r})", "<cell>", "exec")
    with without_collector():
        sys.setprofile(note)
        try:
            exec(code, notebook.shell.user_ns)
        finally:
            sys.setprofile(None)
    return called


def test_a_create_from_an_expression_calls_few_functions(notebook):
    notebook("arr = np.arange(1000.)")
    notebook("%shm_create first --from arr")
    called = counted(notebook, "%shm_create x --from arr")
    assert notebook["x"].tolist() == notebook["arr"].tolist()
    assert len(called) <= 180, called


def test_an_attach_of_what_another_process_shares_calls_few_functions(notebook):
    def share(connection):
        shared = [shm.create(name, np.arange(1000.0)) for name in ("first", "x")]
        connection.send(len(shared))
        connection.recv()

    with Child(share) as child:
        assert child.hear() == 2
        notebook("%shm_attach first")
        called = counted(notebook, "%shm_attach x")
        assert notebook["x"][-1] == 999
        child.tell()
        assert child.join() == 0
    assert len(called) <= 90, called


@pytest.mark.parametrize("count", [10, 1000])
def test_how_many_calls_it_takes_does_not_depend_on_how_many_variables_there_are(notebook, count):
    notebook(f"arr = np.arange(1000.)\nfor n in range({count}): globals()[f'v{{n}}'] = n")
    notebook("%shm_create first --from arr")
    assert len(counted(notebook, "%shm_create x --from arr")) <= 180
