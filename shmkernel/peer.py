"""A second kernel inside a notebook: ``%load_ext shmkernel.peer``, then cells that begin with ``%%peer``.

For notebooks about two kernels: each name is a real ipykernel, and what its cells print, show and raise appears as if
they ran in a notebook of their own.

    %%peer      the text -> the peer's shell channel; what it publishes is published here, until it is idle
    Ctrl-C      becomes the peer's; a second one stops waiting for it
    its death   a pidfd beside the sockets tells at once
    our death   atexit ends the peers; after SIGKILL they see it themselves within a second

The sockets lie in a private folder, removed once they are connected: whatever death leaves no files.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import zmq
from IPython.core.magic import Magics, line_cell_magic, magics_class
from IPython.core.magic_arguments import argument
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from shmkernel.errors import ArgumentError, ShmError
from shmkernel.parsing import Parser, arguments, in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

_START = 60.0  # seconds for a kernel to start, on a busy machine
_END = 3.0  # seconds for it to shut down; Jupyter gives the notebook's own kernel five


class PeerError(ShmError, RuntimeError):
    """A peer's cell failed, or the peer has died. ``ename`` is the name of the error in its kernel, if it has one."""


class Peer:
    """A kernel with a name, from its start to its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._mine = os.getpid()
        self._guard = threading.Lock()  # cells in subshells: sockets belong to one thread at a time
        own = os.environ | {"JPY_SESSION_NAME": f"{name}.ipynb"}
        own.pop("PYTEST_CURRENT_TEST", None)  # ipykernel would not capture what the peer's children print
        with tempfile.TemporaryDirectory(prefix="peer-") as folder:  # a short path: a socket's may have 107 bytes
            self._manager = KernelManager(
                transport="ipc", connection_file=f"{folder}/kernel.json",
                kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # this Python's, whatever python3 means here
            )  # fmt: skip
            self._manager.start_kernel(
                env=own, extra_arguments=["--HistoryManager.enabled=False"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            provisioner: Any = self._manager.provisioner
            self._process: subprocess.Popen[bytes] = provisioner.process
            self._death = os.pidfd_open(self._process.pid)
            self._client = self._manager.blocking_client()
            self._client.start_channels(hb=False)
            try:
                self._connect()
            except RuntimeError as error:
                self.kill()
                message = f"peer {name!r} did not start: {error}. Try it in a terminal: {sys.executable} -m ipykernel"
                raise PeerError(message, name=name) from None
            except BaseException:
                self.kill()
                raise

    def run(self, code: str, publish: Callable[[dict[str, Any]], None]) -> None:
        """Run a cell, and publish what it publishes; raise what it raises."""
        with self._guard:
            failed = self._follow(self._ask(code), publish)
        if failed:
            raise _as_there(self.name, failed)

    def check(self) -> None:
        """Raise PeerError if it has died since its last cell."""
        if self._process.poll() is not None:
            raise self._dead("has died since its last cell")

    def ask_to_end(self) -> None:
        """Send it what Jupyter's menu sends, and do not wait."""
        self._client.shutdown()

    def end(self) -> None:
        """End it, and wait until it has ended: give it time for a last word, but not for ever."""
        if self._process.poll() is None:
            self.ask_to_end()
            select.select([self._death], [], [], _END)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to its process group, as Jupyter does to a kernel that hangs, and wait for its end."""
        if self._death < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._client.stop_channels()
        self._manager.cleanup_resources()
        os.close(self._death)
        self._death = -1

    @property
    def ours(self) -> bool:
        """Whether this process started it; a forked child did not."""
        return self._mine == os.getpid()

    def _connect(self) -> None:
        """Wait until the kernel answers, and every socket is connected: the files of the sockets will go."""
        client = self._client
        channels = client.shell_channel, client.iopub_channel, client.stdin_channel, client.control_channel
        monitors = [one.socket.get_monitor_socket(zmq.EVENT_CONNECTED) for one in channels]
        client.wait_for_ready(timeout=_START)
        for channel, monitor in zip(channels, monitors, strict=True):
            monitor.poll(_START * 1000)
            channel.socket.disable_monitor()
            monitor.close()

    def _ask(self, code: str) -> str:
        while self._client.shell_channel.msg_ready():  # replies to earlier cells: their outputs have said it all
            self._client.shell_channel.get_msg(timeout=0)
        asked: str = self._client.execute(code)
        return asked

    def _follow(self, asked: str, publish: Callable[[dict[str, Any]], None]) -> dict[str, Any] | None:
        """Publish until the peer is idle; return its error, if there was one."""
        failed, interrupted = None, False
        while True:
            try:
                kind, content, message = self._next(asked)
                if kind == "status" and content["execution_state"] == "idle":
                    return failed
                if kind == "error":
                    failed = content
                elif kind == "input_request":
                    self._client.input((getpass.getpass if content["password"] else input)(content["prompt"]))
                else:
                    publish(message)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                self._manager.interrupt_kernel()

    def _next(self, asked: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Return the next message that answers a cell; raise PeerError if none will come any more."""
        channels = self._client.iopub_channel, self._client.stdin_channel
        poller = zmq.Poller()
        for source in (*(channel.socket for channel in channels), self._death):
            poller.register(source, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            channel = next((one for one in channels if one.socket in ready), None)
            if channel is None:  # all that it sent before it died has been read
                raise self._dead("died while it ran this cell")
            message = channel.get_msg(timeout=0)
            if message["parent_header"].get("msg_id") == asked:
                return message["msg_type"], message["content"], message

    def _dead(self, how: str) -> PeerError:
        status = self._process.wait()
        why = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        self.kill()
        _peers.pop(self.name, None)
        message = f"peer {self.name!r} {how} ({why}), its variables with it. The next %%peer {self.name} starts anew"
        return PeerError(message, name=self.name, status=status)


_peers: dict[str, Peer] = {}


@magics_class
class PeerMagics(Magics):
    """A second kernel, or several."""

    shell: InteractiveShell

    @line_cell_magic
    @in_one_line
    @arguments()
    @argument("name", nargs="?", default="peer", metavar="NAME", help="of the peer, as of a notebook; by default peer")
    @argument("--kill", action="store_true", help="end it by SIGKILL, its process group with it")
    @argument("--restart", action="store_true", help="end it as Jupyter's menu does, and start a new one")
    @argument("--shutdown", action="store_true", help="end it as Jupyter's menu does")
    def peer(self, line: str, cell: str | None = None) -> None:
        """Run a cell in a second kernel, which starts at its first cell; what it shows appears here.

        %%peer              the cell below runs in the kernel named peer
        %%peer plot         in another one, which takes itself for the kernel of plot.ipynb
        %peer plot --kill
        %peer               say which peers there are
        """
        parser: Parser = vars(PeerMagics.peer)["parser"]
        args = parser.parse_line(line)
        if not args.name.isidentifier():
            raise ArgumentError(f"{args.name!r} is no name for a peer: use letters, digits and _", name=args.name)
        wish = [verb for verb in ("kill", "restart", "shutdown") if vars(args)[verb]]
        if cell is not None:
            if wish:
                raise ArgumentError(f"--{wish[0]} needs a line of its own: %peer {args.name} --{wish[0]}")
            _started(args.name).run(cell, self._publish)
        elif len(wish) > 1:
            raise ArgumentError(f"--{wish[0]} or --{wish[1]}, not both")
        elif wish:
            print(f"{args.name}: {_end(args.name, wish[0])}")
        else:
            print(f"peers: {', '.join(_peers) or 'none. The first cell that begins with %%peer starts one'}")

    def _publish(self, message: dict[str, Any]) -> None:
        """Show an output of the peer as one of this cell."""
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            stream = getattr(sys, content["name"])
            stream.write(content["text"])
            stream.flush()
        elif kind in ("display_data", "update_display_data", "execute_result"):
            self.shell.display_pub.publish(
                content["data"], content["metadata"], transient=content.get("transient", {}),
                update=kind == "update_display_data",
            )  # fmt: skip
        elif kind == "clear_output":
            self.shell.display_pub.clear_output(content["wait"])
        elif kind.startswith("comm_") and (kernel := getattr(self.shell, "kernel", None)):  # a progress bar, a widget
            kernel.session.send(
                kernel.iopub_socket, kind, content, parent=kernel.get_parent(), metadata=message["metadata"],
                ident=f"comm-{content['comm_id']}".encode(), buffers=message["buffers"],
            )  # fmt: skip


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add the magic: ``%load_ext shmkernel.peer``."""
    shell.register_magics(PeerMagics)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """End the peers, and remove the magic."""
    end_all()
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("peer", None)


@atexit.register
def end_all() -> None:
    """End all peers, all at once."""
    ours = [peer for peer in _peers.values() if peer.ours]
    _peers.clear()
    for peer in ours:
        peer.ask_to_end()
    for peer in ours:
        peer.end()


def _started(name: str) -> Peer:
    if name in _peers and _peers[name].ours:
        _peers[name].check()
    else:
        _peers[name] = Peer(name)
    return _peers[name]


def _end(name: str, how: str) -> str:
    peer = _peers.pop(name, None)
    if peer is None and how != "restart":
        raise ArgumentError(f"there is no peer {name!r}. There are: {', '.join(_peers) or 'none'}", name=name)
    if peer is not None and how == "kill":
        peer.kill()
    elif peer is not None:
        peer.end()
    if how == "restart":
        _peers[name] = Peer(name)
    return {"kill": "killed", "restart": "restarted", "shutdown": "shut down"}[how]


def _as_there(name: str, content: dict[str, Any]) -> PeerError:
    """Make an error that shows as the peer's own: its type's name, its text, its traceback."""
    ename, evalue = content["ename"], content["evalue"]
    error: PeerError = type(ename, (PeerError,), {})(evalue, name=name, ename=ename)
    vars(error)["_render_traceback_"] = lambda: content["traceback"]
    return error
