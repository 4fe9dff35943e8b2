"""A real kernel, and what it sends."""

import os
import subprocess
from contextlib import suppress

from jupyter_client.manager import KernelManager

PATIENCE = 60.0  # seconds until a test gives up


class Kernel:
    """An ipykernel of its own, that takes itself for the kernel of `notebook`."""

    def __init__(self, notebook, folder, *arguments):
        self.manager = KernelManager(transport="ipc", connection_file=f"{folder}/{notebook}.json")
        self.manager.start_kernel(
            env=os.environ | {"JPY_SESSION_NAME": f"/lab/{notebook}"},
            extra_arguments=list(arguments),
            stderr=subprocess.DEVNULL,
        )
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    def run(self, code):
        """Run a cell; return the kernel's reply, and what it published by type."""
        published = {}
        reply = self.client.execute_interactive(
            code,
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

    def end(self):
        """End it at once."""
        with suppress(ProcessLookupError):
            self.manager.shutdown_kernel(now=True)
        self.client.stop_channels()
        self.manager.cleanup_resources()
        self.manager.context.destroy()
