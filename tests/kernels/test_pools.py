"""Pools and executors that are started in a notebook."""

from __future__ import annotations

import pytest

from tests.helpers import quick_first
from tests.kernels.kernel import Kernel

START = """
import multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import shmkernel as shm
x = shm.create("x", np.arange(3.0))

def double(array):
    array *= 2
    return os.getpid() != parent

parent = os.getpid()
context = multiprocessing.get_context("{way}")
"""
POOL = "with context.Pool(1) as pool: print(pool.map(double, [x]), x.tolist())"
EXECUTOR = "with ProcessPoolExecutor(1, context) as pool: print([pool.submit(double, x).result()], x.tolist())"


@pytest.fixture
def kernel(tmp_path, shm_dir):
    started = Kernel("pools.ipynb", tmp_path)
    yield started
    started.dies_of("exit")  # so that multiprocessing removes its semaphores from /dev/shm
    started.end()


@pytest.mark.parametrize("cell", quick_first(POOL, EXECUTOR), ids=["Pool", "ProcessPoolExecutor"])
def test_a_forked_worker_calls_a_function_of_the_notebook_on_the_shared_array(kernel, cell):
    kernel(START.format(way="fork"))
    assert kernel(cell) == "[True] [0.0, 2.0, 4.0]\n"


@pytest.mark.parametrize("cell", quick_first(POOL, EXECUTOR), ids=["Pool", "ProcessPoolExecutor"])
@pytest.mark.parametrize("way", quick_first("forkserver", "spawn"))
def test_a_function_of_the_notebook_that_a_worker_cannot_have_is_an_error_with_a_cure(kernel, way, cell):
    kernel(START.format(way=way))
    reply, _ = kernel.run(cell)
    assert reply["ename"] == "UnsupportedError"
    assert "%%writefile helpers.py, then from helpers import double" in reply["evalue"]


@pytest.mark.parametrize("way", quick_first("forkserver", "spawn"))
def test_a_function_of_a_module_works_with_every_start_method(kernel, way):
    kernel(START.format(way=way))
    kernel(
        "import operator\nwith context.Pool(1) as pool: print(pool.apply(operator.iadd, (x, 1)).tolist(), x.tolist())"
    )
    assert kernel("print(x.tolist())") == "[1.0, 2.0, 3.0]\n"
