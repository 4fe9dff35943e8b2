"""Two kernels: one that shares, and one that reads what the other shares."""

from __future__ import annotations

import pytest

from tests.kernels.kernel import Kernel


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    kernel = Kernel("reader.ipynb", tmp_path_factory.mktemp("reader"))
    kernel("import os, numpy as np, shmkernel as shm; from shmkernel._core import sessions")
    yield kernel
    kernel.end()


@pytest.fixture
def reader(reading, shm_dir):
    """A kernel that attaches in the folder of this test, and forgets it afterwards."""
    reading(f"os.environ['SHMKERNEL_DIR'] = {str(shm_dir)!r}")
    yield reading
    reading("y = z = None; sessions.end()")


@pytest.fixture
def kernel(tmp_path, shm_dir):
    started = Kernel("writer.ipynb", tmp_path)
    yield started
    started.end()
