"""Late imports beside forks and Ctrl-C."""

from __future__ import annotations

import ast
import importlib
import signal
import sys
import threading
from pathlib import Path

import pytest

import shmkernel
from shmkernel._core.imports import importing
from tests.helpers import Child


def import_new(name, monkeypatch, tmp_path, text):
    """Import a new module with this text in the guarded way."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_text(text)
    try:
        with importing:
            importlib.import_module(name)
    finally:
        sys.modules.pop(name, None)


INTERRUPTED = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
while not signal.getsignal(signal.SIGINT).__self__._interrupted:
    pass
signal.complete = True
"""


def test_ctrl_c_waits_until_an_import_has_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(signal, "complete", False, raising=False)
    with pytest.raises(KeyboardInterrupt):
        import_new("interrupted", monkeypatch, tmp_path, INTERRUPTED)
    assert signal.complete
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handler_that_a_module_sets_stays(monkeypatch, tmp_path):
    text = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"
    try:
        import_new("setting", monkeypatch, tmp_path, text)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_one_import_inside_another_leaves_the_handler_alone():
    with importing:
        with importing:
            pass
        assert signal.getsignal(signal.SIGINT) == importing._note
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_thread_that_imports_changes_no_handler():
    found = []

    def work():
        with importing:
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


def test_a_child_forked_inside_an_import_has_the_handler_back():
    with importing, Child(lambda connection: connection.send(str(signal.getsignal(signal.SIGINT))), kin=True) as child:
        assert "default_int_handler" in child.hear()
        assert child.join() == 0


LATE = {"shmkernel", "argparse", "asyncio", "pandas", "pyarrow", "jupyter_server", "tornado", "importlib"}


def test_a_late_import_of_another_library_keeps_forks_out():
    """But for LATE: the package's own modules are known by their locks, and the others are loaded, or of one thread."""
    bare = set()

    def look(node, late, guarded, path):
        for child in ast.iter_child_nodes(node):
            holds = isinstance(child, ast.With) and any("importing" in ast.unparse(one) for one in child.items)
            if isinstance(child, (ast.Import, ast.ImportFrom)) and late and not guarded:
                names = [child.module] if isinstance(child, ast.ImportFrom) else [one.name for one in child.names]
                bare.update((path.name, name) for name in names if name.partition(".")[0] not in LATE)
                bare.update((path.name, name) for name in names if name.startswith("pyarrow."))
            look(child, late or isinstance(child, (ast.FunctionDef, ast.Lambda)), guarded or holds, path)

    for path in Path(shmkernel.__file__).parent.glob("**/*.py"):
        look(ast.parse(path.read_text()), False, False, path)
    assert bare == {("launch.py", "resource")}  # capacity has imported it
