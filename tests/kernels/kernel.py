"""A real kernel, and what it sends."""

import os
import select
import subprocess
import sys
from pathlib import Path

from jupyter_client.blocking import BlockingKernelClient

from shmkernel import kernels

PATIENCE = 120.0  # seconds until a test gives up
_SERVER = """
import sys
from tests.kernels.kernel import Kernel
kernel = Kernel(*sys.argv[1:])
print()
sys.stdin.read()
"""


def await_death(process):
    """Return when the OS has ended a process."""
    assert select.select([process], [], [], PATIENCE)[0]
    os.close(process)


class Kernel(kernels.Kernel):
    """An ipykernel of its own, that takes itself for the kernel of `notebook`."""

    def __init__(self, notebook, folder, *arguments):
        super().__init__(f"/lab/{notebook}", f"{folder}/{notebook}.json")
        self.start(*arguments, env={**os.environ})
        self.client.wait_for_ready(timeout=PATIENCE)

    def run(self, code):
        """Run a cell; return the kernel's reply, and what it published by type."""
        published = {}
        reply = self.client.execute_interactive(
            code,
            stop_on_error=False,  # else it aborts what comes right after an error
            timeout=PATIENCE,
            output_hook=lambda message: published.setdefault(message["msg_type"], []).append(message["content"]),
        )
        return reply["content"], published

    def __call__(self, code):
        """Run a cell that succeeds, and return the text that it shows."""
        reply, published = self.run(code)
        assert reply["status"] == "ok", reply
        assert "execute_result" not in published
        texts = [one["text"] for one in published.get("stream", [])]
        return "".join(texts + [one["data"]["text/plain"] for one in published.get("display_data", [])])

    def complete(self, code, at=None):
        """Return what TAB offers at the end of the code, and the text that it would replace."""
        at = len(code) if at is None else at
        self.client.complete(code, at)
        content = self.client.get_shell_msg(timeout=PATIENCE)["content"]
        return content["matches"], code[content["cursor_start"] : content["cursor_end"]]

    def inspect(self, code):
        """Return the help that the notebook shows for a name."""
        self.client.inspect(code, len(code))
        return self.client.get_shell_msg(timeout=PATIENCE)["content"]["data"]["text/plain"]

    def dies_of(self, cell):
        """Run a cell that ends the kernel, and return when the OS has ended it."""
        process = self.death()
        self.client.execute(cell)
        await_death(process)

    def death(self):
        """Return a descriptor that becomes readable when its process ends."""
        return os.pidfd_open(int(self("import os; print(os.getpid())")))

    def interrupt(self):
        """Interrupt it in a cell that would not end."""
        self.client.execute("print('busy', flush=True)\nwhile True: pass", stop_on_error=False)
        while self.client.get_iopub_msg(timeout=PATIENCE)["content"].get("text") != "busy\n":
            pass
        self.manager.interrupt_kernel()
        while self.client.get_iopub_msg(timeout=PATIENCE)["content"].get("ename") != "KeyboardInterrupt":
            pass
        assert self.client.get_shell_msg(timeout=PATIENCE)["content"]["status"] == "error"

    def end(self):
        """End it at once."""
        super().end()
        self.manager.context.destroy()


class Served(Kernel):
    """One that another process has started, as Jupyter's server does."""

    def __init__(self, notebook, folder):
        self.server = subprocess.Popen(
            [sys.executable, "-uc", _SERVER, notebook, str(folder)],
            cwd=Path(__file__).parent.parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.server.stdout.readline()
        self.client = BlockingKernelClient(connection_file=f"{folder}/{notebook}.json")
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def loses_its_server(self):
        """Kill the server, and return when the kernel has noticed and ended."""
        process = self.death()
        self.server.kill()
        await_death(process)

    def end(self):
        """Forget what has ended."""
        self.server.kill()
        self.server.communicate()
        self.client.stop_channels()
        self.client.context.destroy()
