"""CPython's own tests of SharedMemory and ShareableList, with ours swapped in and every start method."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, lacking, quick_first, until_left
from tests.stdlib.swapped import CASE

LEFT_OUT = {
    "test_shared_memory_tracking": "asserts gh-82300 itself: that a process which only attached a block destroys it",
    "test_shared_memory_cleaned_after_process_termination": "asserts the resource tracker's wording on stderr",
}

NEW = {"test_shared_memory_tracking"}  # Python 3.13 brought it


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        from test import _test_multiprocessing as stdlib
    except ImportError:  # some systems leave only a part of the package `test` there
        lacking("this Python came without its own tests: apt-get install libpython3-testsuite")
TESTS = [name for name in dir(getattr(stdlib, CASE)) if name.startswith("test_")]


@pytest.mark.parametrize("start_method", quick_first("fork", "spawn", "forkserver"))
@pytest.mark.parametrize("test", sorted({*TESTS} - {*LEFT_OUT}))
def test_cpythons_test_passes_on_ours(test, start_method, shm_dir):
    script = Path(__file__).with_name("swapped.py")
    ran = subprocess.run(
        [sys.executable, script, start_method, test],
        cwd=script.parents[2],
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Warning" not in ran.stderr
    until_left(shm_dir)


def test_what_is_left_out_is_there_to_be_left_out():
    assert {*LEFT_OUT} - {*TESTS} <= NEW
