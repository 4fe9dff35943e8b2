"""However a kernel ends, its names go, and who has them attached still reads their values."""

from __future__ import annotations

import os

import pytest

from shmkernel._core import paths
from tests.helpers import PATIENCE, until, until_left, watchdogs

SHARE = """
import atexit, faulthandler, os, signal
import numpy as np, shmkernel as shm
x = shm.create("x", np.arange(1000))
"""


def gone():
    return not os.path.exists(paths.path_of("x"))


def assert_reader_still_has_it(reader):
    assert reader("print(int(y.sum()), shm.list()[0].state, shm.list()[0].owner_alive)") == "499500 unlinked False\n"
    reader("y[0] = 1000")
    assert reader("print(int(y.sum()))") == "500500\n"


def test_a_process_group_killed_right_after_the_first_create_leaves_nothing(kernel, shm_dir):
    kernel.dies_of(SHARE + "os.killpg(0, signal.SIGKILL)")
    until_left(shm_dir)
    until(lambda: not watchdogs(shm_dir), "the watchdog ends too")


def test_shutdown_waits_for_nothing_of_ours(kernel, reader, tmp_path):
    """A kernel that something holds up is killed by its manager before its atexit callbacks have run."""
    kernel(SHARE)
    kernel(f"made = atexit.register(open, {str(tmp_path / 'atexit')!r}, 'w')")
    reader("y = shm.attach('x')")
    kernel.manager.shutdown_wait_time = 40  # seconds; SIGTERM comes after half: 2.5 are few on a busy machine
    kernel.manager.shutdown_kernel()
    assert (tmp_path / "atexit").exists()
    until(gone, "the name goes")
    assert_reader_still_has_it(reader)


@pytest.mark.long
def test_a_restarted_kernel_may_take_its_old_name_at_once(kernel, reader):
    kernel(SHARE)
    reader("y = shm.attach('x')")
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=PATIENCE)
    kernel("import numpy as np, shmkernel as shm; x = shm.create('x', np.ones(3))")
    assert kernel("print(shm.info('x').mine, x.tolist())") == "True [1.0, 1.0, 1.0]\n"
    assert reader("print(int(y.sum()))") == "499500\n"
    assert reader("print(sorted((one.type, one.state) for one in shm.list()))") == (
        "[('float64 (3,)', ''), ('int64 (1000,)', 'replaced')]\n"
    )


@pytest.mark.long
def test_what_is_kept_survives_a_restart(kernel):
    kernel(SHARE + "made = shm.keep('x')")
    kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=PATIENCE)
    assert (
        kernel("import shmkernel as shm; print(int(shm.attach('x').sum()), shm.info('x').lifetime)") == "499500 keep\n"
    )
    kernel("shm.unlink('x')")


def test_a_reader_may_keep_what_a_dead_kernel_left_it(kernel, reader):
    kernel(SHARE)
    reader("y = shm.attach('x')")
    kernel.dies_of("os._exit(1)")
    until(gone, "the name goes")
    assert reader("print(shm.keep('x').mine, int(shm.attach('x').sum()))") == "True 499500\n"
    reader("shm.unlink('x')")


def test_interrupting_a_kernel_ends_no_watchdog(kernel, shm_dir):
    kernel(SHARE)
    kernel.interrupt()
    assert len(watchdogs(shm_dir)) == 1
    kernel.dies_of("os.kill(os.getpid(), signal.SIGKILL)")
    until_left(shm_dir)
