"""Dask by reference. Its tests run in processes of their own, since to import distributed changes a process.

Afterwards every exception can be pickled, forked children lack some threads, and another one samples all stacks.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, lacking, python

HERE = Path(__file__).parent


@pytest.mark.timeout(5 * PATIENCE)
@pytest.mark.parametrize(
    "names",
    [("dask_arrays", "dask_frames", "dask_messages"), pytest.param(("dask_cluster",), marks=pytest.mark.long)],
    ids=["in one process", "with workers"],
)
def test_dask_by_reference(names):
    if importlib.util.find_spec("distributed") is None:
        lacking("distributed is not installed: uv run --group large pytest tests/unit/test_dask.py")
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "", "-p", "no:cacheprovider"]
    command += [HERE / f"{name}.py" for name in names]
    done = subprocess.run(
        command, cwd=HERE.parent.parent, env=plain, capture_output=True, text=True, timeout=4 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_neither_the_package_nor_a_segment_imports_dask():
    script = """
import sys
import numpy as np
import shmkernel as shm

x = shm.create("x", np.zeros(4))
shm.unlink("x")
print({"dask", "distributed", "shmkernel.dask"} & {*sys.modules})
"""
    assert python(script).stdout == "set()\n"


@pytest.mark.parametrize("missing", ["dask", "distributed"])
def test_without_dask_one_line_says_what_to_install(missing):
    script = """
import sys
sys.modules[sys.argv[1]] = None
try:
    import shmkernel.dask
except ModuleNotFoundError as error:
    print(error)
"""
    line = f"No module named {missing!r}. Install it, in a terminal: pip install 'shmkernel[dask]'\n"
    if missing == "distributed" and importlib.util.find_spec("dask") is None:
        line = line.replace("distributed", "dask")
    assert python(script, missing).stdout == line
