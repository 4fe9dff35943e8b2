"""However a kernel ends, its names go, and who has them attached still reads their values."""

from __future__ import annotations

import os
import select

from shmkernel import names
from tests.helpers import PATIENCE, until, until_left, watchdogs

SHARE = """
import atexit, faulthandler, os, signal
import numpy as np, shmkernel as shm
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it was ignored
x = shm.create("x", np.arange(1000))
"""


def ended(kernel, cell):
    """Run a cell that ends the kernel, and return when the OS has ended it."""
    pidfd = os.pidfd_open(int(kernel("import os; print(os.getpid())")))
    kernel.client.execute(cell)
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)


def gone():
    return not os.path.exists(names.path_of("x"))


def assert_reader_still_has_it(reader):
    assert reader("print(int(y.sum()), shm.list()[0].state, shm.list()[0].owner_alive)") == "499500 unlinked False\n"
    reader("y[0] = 1000")
    assert reader("print(int(y.sum()))") == "500500\n"


def test_a_process_group_killed_right_after_the_first_create_leaves_nothing(kernel, shm_dir):
    ended(kernel, SHARE + "os.killpg(0, signal.SIGKILL)")
    until_left(shm_dir)
    until(lambda: not watchdogs(shm_dir), "the watchdog ends too")


def test_shutdown_waits_for_nothing_of_ours(kernel, reader, tmp_path):
    """A kernel that something holds up is killed by its manager before its atexit callbacks have run."""
    kernel(SHARE)
    kernel(f"made = atexit.register(open, {str(tmp_path / 'atexit')!r}, 'w')")
    reader("y = shm.attach('x')")
    kernel.manager.shutdown_kernel()
    assert (tmp_path / "atexit").exists()
    until(gone, "the name goes")
    assert_reader_still_has_it(reader)


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
    ended(kernel, "os._exit(1)")
    until(gone, "the name goes")
    assert reader("print(shm.keep('x').mine, int(shm.attach('x').sum()))") == "True 499500\n"
    reader("shm.unlink('x')")


def test_interrupting_a_kernel_ends_no_watchdog(kernel, shm_dir):
    kernel(SHARE)
    kernel.client.execute("print('busy', flush=True)\nwhile True: pass", stop_on_error=False)
    while kernel.client.get_iopub_msg(timeout=PATIENCE)["content"].get("text") != "busy\n":
        pass
    kernel.manager.interrupt_kernel()
    while kernel.client.get_iopub_msg(timeout=PATIENCE)["content"].get("ename") != "KeyboardInterrupt":
        pass
    assert kernel.client.get_shell_msg(timeout=PATIENCE)["content"]["status"] == "error"
    assert len(watchdogs(shm_dir)) == 1
    ended(kernel, "os.kill(os.getpid(), signal.SIGKILL)")
    until_left(shm_dir)
