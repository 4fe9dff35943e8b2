"""Run CPython's own tests of shared memory on our classes: ``python swapped.py START_METHOD TEST``.

The tests come from the installed interpreter. Children that multiprocessing starts anew (spawn, forkserver) import
this file as their main module, so they swap too; scripts that the tests run get the import put before them.
"""

from __future__ import annotations

import functools
import multiprocessing.managers
import os
import sys
import unittest
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import shmkernel
from shmkernel._core import sessions
from shmkernel.stdlib import shared_memory

CASE = "_TestSharedMemory"
PREAMBLE = f"import sys; sys.path[:0] = {sys.path!r}; from tests.stdlib.swapped import swap; swap()\n"


def swap():
    """Put ours in place of multiprocessing.shared_memory, before anything has imported that, and of the manager."""
    shared_memory.ShareableList = shmkernel.ShareableList
    multiprocessing.shared_memory = sys.modules["multiprocessing.shared_memory"] = shared_memory
    multiprocessing.managers.SharedMemoryManager = shmkernel.SharedMemoryManager
    shmkernel.SharedMemoryManager._process = property(watchdog)


def watchdog(_):
    """Return what stands in for the stdlib's server process, to which a test sends SIGINT: our session's watchdog."""
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            if (
                entry.isdigit()
                and f"sessions/{sessions.mine().id}\0".encode() in Path(f"/proc/{entry}/cmdline").read_bytes()
            ):
                return SimpleNamespace(pid=int(entry))
    raise AssertionError("no watchdog")


def swap_in_scripts(module):
    """Let the scripts that a test module runs by ``python -c`` swap as well."""
    run = module.script_helper.assert_python_ok
    functools.update_wrapper(swapped := lambda flag, script, *rest: run(flag, PREAMBLE + script, *rest), run)
    module.script_helper.assert_python_ok = module.test.support.script_helper.assert_python_ok = swapped


if __name__ in ("__main__", "__mp_main__"):
    swap()

if __name__ == "__main__":
    from test import _test_multiprocessing as stdlib

    start_method, test = sys.argv[1:]
    swap_in_scripts(stdlib)
    assert stdlib.shared_memory is shared_memory
    stdlib.install_tests_in_module_dict(globals(), start_method)
    case = next(value for name, value in globals().items() if name.endswith(f"Processes{CASE[1:]}"))
    program = unittest.main(argv=[sys.argv[0], f"{case.__name__}.{test}"], exit=False)
    assert program.result.testsRun == 1
    sys.exit(not program.result.wasSuccessful())
