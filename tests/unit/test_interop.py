"""Other programs open segments without conversion, and shmkernel opens theirs."""

from __future__ import annotations

import os
import sys
from multiprocessing import resource_tracker, shared_memory

import numpy as np
import pytest

import shmkernel as shm
from shmkernel._core import paths
from tests.helpers import python


@pytest.fixture
def attach():
    """Attach with the stdlib, without its tracker, which would unlink the memory."""
    held = []

    def attach(name):
        if sys.version_info >= (3, 13):
            held.append(shared_memory.SharedMemory(name, track=False))
        else:
            held.append(shared_memory.SharedMemory(name))
            resource_tracker.unregister(held[-1]._name, "shared_memory")
        return held[-1]

    yield attach
    for one in held:
        one.close()


@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_load_maps_the_same_values(order):
    x = shm.create("x", np.asarray(np.arange(6).reshape(2, 3), order=order))
    mapped = np.load(paths.path_of("x"), mmap_mode="r+")
    assert mapped.tolist() == x.tolist()
    mapped[1, 2] = 50
    x[0, 0] = 10
    assert mapped.tolist() == x.tolist() == [[10, 1, 2], [3, 4, 50]]


def test_the_stdlib_attaches_a_segment_by_its_posix_name(posix_name, attach):
    x = shm.create(posix_name, np.arange(1000))
    other = attach(os.path.basename(paths.path_of(posix_name)))
    assert other.size >= shm.info(posix_name).size
    values = np.ndarray(1000, x.dtype, other.buf, offset=shm.info(posix_name).size - x.nbytes)
    values[3] = 33
    x[4] = 44
    assert values[:5].tolist() == x[:5].tolist() == [0, 1, 2, 33, 44]
    del values


def test_a_block_of_the_stdlib_that_holds_a_npy_file_is_attached(posix_name, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(100))
    data = (tmp_path / "x.npy").read_bytes()
    block = shared_memory.SharedMemory(posix_name, create=True, size=len(data))
    block.buf[: len(data)] = data
    x = shm.attach(f"/{posix_name}")
    assert x.tolist() == list(range(100))
    x[0] = 7
    assert block.buf[len(data) - x.nbytes] == 7
    block.close()
    block.unlink()
    assert x[0] == 7


def test_the_stdlib_attaches_what_was_made_under_a_posix_name(posix_name, attach):
    x = shm.create(f"/{posix_name}", np.arange(5))
    other = attach(posix_name)
    assert bytes(other.buf[:6]) == b"\x93NUMPY"
    assert x.sum() == 10
    shm.unlink(f"/{posix_name}")


def test_another_process_of_the_stdlib_changes_the_same_values(posix_name):
    x = shm.create(posix_name, np.arange(5))
    script = """
import sys
from multiprocessing import resource_tracker, shared_memory
try:
    block = shared_memory.SharedMemory(sys.argv[1], track=False)
except TypeError:
    block = shared_memory.SharedMemory(sys.argv[1])
    resource_tracker.unregister(block._name, "shared_memory")
block.buf[int(sys.argv[2])] = 99
block.close()
"""
    python(script, os.path.basename(paths.path_of(posix_name)), shm.info(posix_name).size - x.nbytes)
    assert x.tolist() == [99, 1, 2, 3, 4]
    assert shm.attach(posix_name) is x
