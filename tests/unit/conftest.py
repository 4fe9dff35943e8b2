"""A notebook to run cells in: a real InteractiveShell with the extension loaded."""

import atexit
import sys
from typing import NamedTuple

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from shmkernel import errors


class Ran(NamedTuple):
    """The results of a cell: its output, its Out, its error."""

    text: str
    value: object
    error: BaseException | None


class Notebook:
    def __init__(self, shell, capture):
        self.shell, self.capture = shell, capture

    def run(self, cell):
        """Run a cell, which may fail."""
        self.capture.readouterr()
        done = self.shell.run_cell(cell, store_history=True)
        printed = self.capture.readouterr()
        assert not printed.err
        return Ran(printed.out, done.result, done.error_in_exec or done.error_before_exec)

    def __call__(self, cell):
        """Run a cell that succeeds, and return its output."""
        ran = self.run(cell)
        assert ran.error is None, ran.text
        return ran.text

    def fails(self, cell):
        """Run a cell that fails with one line of shmkernel, and return the error."""
        ran = self.run(cell)
        assert ran.error is not None, ran.text
        assert ran.text == f"shmkernel: {ran.error}\n"
        return ran.error

    def __getitem__(self, name):
        return self.shell.user_ns[name]

    def __contains__(self, name):
        return name in self.shell.user_ns


@pytest.fixture
def notebook(shm_dir, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # where the shell puts its own
    monkeypatch.setattr(errors, "word", errors.in_python)  # as it is again after the test
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}, "colors": "nocolor"}))
    try:
        shell.run_line_magic("load_ext", "shmkernel")
        shell.run_cell("import numpy as np")
        yield Notebook(shell, capsys)
    finally:
        atexit.unregister(shell.atexit_operations)  # it resets the shell again, and that collects garbage
        shell.reset(new_session=False)
        InteractiveShell.clear_instance()
