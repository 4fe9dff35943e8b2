"""Start and end a Jupyter kernel of this Python, for peers, the demo and the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from subprocess import DEVNULL
from typing import TYPE_CHECKING, Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER = 120.0  # seconds for a kernel to start or to run a cell, on a busy machine


def _kill_group(group: int) -> None:
    """Kill all processes of a group but multiprocessing's resource tracker; one of them may have forked meanwhile."""
    killed: set[int] = set()
    while pids := {*_members(group)} - killed:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= pids


def _members(group: int) -> Iterator[int]:
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):  # it has ended
            if os.getpgid(pid) != group:
                continue
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if b"multiprocessing.resource_tracker" not in file.read():
                    yield pid


class Kernel:
    """A kernel: `start`, ``client.wait_for_ready``, then cells by ``client``. `end` may be called at any time."""

    def __init__(self, notebook: str, connection_file: str) -> None:
        self.notebook = notebook
        self.client: Any = None
        self.manager = KernelManager(
            transport="ipc", connection_file=connection_file,
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # use this Python, not the installed kernel python3
        )  # fmt: skip

    def start(self, *arguments: str, env: dict[str, str], output: Any = DEVNULL, **options: Any) -> None:
        """Start the kernel under the notebook's name, and do not wait."""
        self._avoid_debugger()
        self.manager.start_kernel(
            env=env | {"JPY_SESSION_NAME": self.notebook}, extra_arguments=[*arguments],
            stdin=DEVNULL, stdout=output, stderr=output, **options,
        )  # fmt: skip
        self.client = self.manager.blocking_client()
        self.client.start_channels(hb=False)

    @property
    def process(self) -> Any:
        """The kernel's `subprocess.Popen`, or None before it starts."""
        provisioner: Any = self.manager.provisioner
        return provisioner.process if provisioner else None

    def kill(self) -> None:
        """Send SIGKILL to its process group, as Jupyter does to a kernel that hangs, and wait for its end.

        But not to the process that removes what multiprocessing has left in /dev/shm: it ends when it has done so.
        """
        if process := self.process:
            try:
                _kill_group(process.pid)
            except FileNotFoundError:  # no /proc
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def end(self) -> None:
        """Kill the kernel, and remove the sockets."""
        self.kill()
        if self.client:
            self.client.stop_channels()
        self.manager.cleanup_resources()

    def _avoid_debugger(self) -> None:
        """Start the kernel through ``env``, so that a debugger of this process does not attach to it.

        pydevd rewrites the command line of every Python that is started, and the kernel would wait for its client. It
        ignores ``env``, which then executes Python.
        """
        env = shutil.which("env")
        spec = self.manager.kernel_spec
        if "pydevd" in sys.modules and env and spec and spec.argv[0] != env:
            spec.argv = [env, sys.executable, *spec.argv[1:]]
