"""What this process has attached is given back, whatever Ctrl-C interrupts."""

from __future__ import annotations

import itertools
import sys

import pytest

import shmkernel as shm
from shmkernel._core import names_lock
from shmkernel.verbs import attachments
from tests.helpers import interrupted_at, left, python, tells_of_every_bytecode, without_collector


@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.long)])
@tells_of_every_bytecode
def test_an_interrupt_of_the_last_ones_letting_go_leaves_nothing(stride, shm_dir, monkeypatch):
    """Python drops the KeyboardInterrupt, and with it the rest of the callback that it strikes."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    kept = shm.create("kept", b"abc")
    held, before = [], left(shm_dir)
    with without_collector():
        open_before = len(attachments._open), len(attachments._closed)
        for step in itertools.count(1, stride):
            held.append(shm.create("x", b"abc", lifetime="attached"))
            came = interrupted_at(step, held.clear)
            assert left(shm_dir) == before, step
            assert (len(attachments._open), len(attachments._closed)) == open_before
            assert not names_lock.is_mine()
            if not came:
                break
    assert step > stride
    assert bytes(kept.buf) == b"abc"


LAST = """
from IPython.testing.globalipapp import start_ipython
shell = start_ipython()
shell.run_line_magic("load_ext", "shmkernel")
shell.run_cell("import numpy as np; rows = [[np.ones(1000)]]")
shell.run_line_magic("shm_create", "rows")
shell.run_line_magic("shm_attach", "rows --as again")
"""


def test_what_lives_to_the_end_of_a_shell_is_given_back_without_an_error(shm_dir):
    """Modules are emptied while objects of the notebook still live, and Python prints what a callback raises then."""
    assert "attachments.py" not in python(LAST).stderr
