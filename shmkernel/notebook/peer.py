"""A second kernel inside a notebook: ``%load_ext shmkernel.peer``, then cells that begin with ``%%peer``.

For notebooks about two kernels. Each peer is a real ipykernel; what its cells print, show and raise appears as if they
ran in a notebook of their own.

    %%peer      send the cell to the peer's shell channel; publish here what it publishes, until it is idle, and what
                its threads have published since its last cell
    Ctrl-C      interrupt the peer; a second Ctrl-C stops waiting for it
    its death   a pidfd, polled together with the sockets, reports it at once
    our death   atexit ends the peers; after a SIGKILL they notice it within a second

The sockets are in a private folder that is removed once they are connected, so no way to die leaves files.
"""

from __future__ import annotations

import atexit
import getpass
import os
import select
import signal
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import zmq
from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class
from IPython.core.magic_arguments import argument

from shmkernel import kernels
from shmkernel._core import closing, descriptors, paths
from shmkernel.errors import ArgumentError, ShmError
from shmkernel.notebook.parsing import Parser, arguments, in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

_END = 10.0  # seconds for a peer to shut down
_LAST = 1.5  # seconds for all peers at exit: after 2.5 s Jupyter sends SIGTERM to this kernel
_SOCKETS = 64  # descriptors for the sockets of a peer: zmq aborts the process if it gets none
_LONGEST = 70  # bytes of the folder's path; the path of a socket may have 107
_LATE = ("stream", "display_data", "update_display_data", "clear_output", "comm_open", "comm_msg", "comm_close")


class PeerError(ShmError, RuntimeError):
    """A peer's cell failed, or the peer has died. ``ename`` is the name of the error in its kernel, if there was one.

    Fix the cell. If the peer has died, the next ``%%peer`` cell starts a new one.
    """


class Peer(kernels.Kernel):
    """A kernel with a name, from its start to its end."""

    def __init__(self, name: str) -> None:
        if not sys.executable:
            message = f"peer {name!r} needs the path of a Python, and sys.executable has none. Set it"
            raise PeerError(message, name=name)
        descriptors.check_spare(_SOCKETS)
        self.name = name
        self._death: closing.Descriptor | None = None
        self._mine = os.getpid()
        self._guard = threading.Lock()  # subshells run cells in threads; only one may use the sockets
        env = {**os.environ}
        env.pop("PYTEST_CURRENT_TEST", None)  # with it, ipykernel does not capture output of child processes
        with _folder_for_sockets(name) as folder:
            super().__init__(f"{name}.ipynb", f"{folder}/kernel.json")
            try:
                self.start("--HistoryManager.enabled=False", env=env)
            except OSError as error:
                what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
                message = f"peer {name!r} did not start: {what}. If this kernel's folder was removed: os.chdir(...)"
                raise PeerError(message, name=name) from None
            self._death = closing.opened(os.pidfd_open, self.process.pid)
            try:
                self._connect()
            except RuntimeError as error:
                self.end()
                message = f"peer {name!r} did not start: {error}. Try it in a terminal: {sys.executable} -m ipykernel"
                raise PeerError(message.replace("..", "."), name=name) from None
            except BaseException:
                self.end()
                raise

    def run(self, code: str, publish: Callable[[dict[str, Any]], None], *, allow_stdin: bool) -> None:
        """Run a cell in the peer. Publish its output here, and raise its error."""
        with self._guard:
            failed, reply = self._follow(self._ask(code, allow_stdin=allow_stdin), publish)
        if any(payload.get("source") == "ask_exit" and not payload.get("keepkernel") for payload in _payloads(reply)):
            _peers.pop(self.name, None)
            _end_within(_END, [self])
            print(f"{self.name}: ended. The next %%peer {self.name} starts a new one")
        if failed:
            raise _as_there(self.name, failed)
        if reply.get("status") != "ok":  # a UsageError, which a kernel only prints
            raise UsageError(f"the cell of peer {self.name!r} failed")

    def check(self) -> None:
        """Raise PeerError if the peer has died since its last cell."""
        if self.process.poll() is not None:
            raise self._dead("has died since its last cell")

    def ask_to_end(self) -> None:
        """Request a shutdown, as Jupyter's menu does, and do not wait."""
        if self.process.poll() is None:
            self.client.shutdown()

    def await_end(self, deadline: float) -> None:
        """Wait for the end until the deadline, then kill the peer."""
        assert self._death is not None
        select.select([self._death], [], [], max(deadline - time.monotonic(), 0))
        self.end()

    def end(self) -> None:
        """Kill the peer, and close its sockets and pidfd."""
        if self._death is None:
            return
        super().end()
        self._death.close()
        self._death = None

    @property
    def ours(self) -> bool:
        """Whether this process started the peer; false in a forked child."""
        return self._mine == os.getpid()

    def _connect(self) -> None:
        """Wait until the kernel answers and every socket is connected: then the sockets' files are removed."""
        client = self.client
        channels = client.shell_channel, client.iopub_channel, client.stdin_channel, client.control_channel
        monitors = [channel.socket.get_monitor_socket(zmq.EVENT_CONNECTED) for channel in channels]
        client.wait_for_ready(timeout=kernels.ANSWER)
        for channel, monitor in zip(channels, monitors, strict=True):
            monitor.poll(kernels.ANSWER * 1000)
            channel.socket.disable_monitor()
            monitor.close()

    def _ask(self, code: str, *, allow_stdin: bool) -> str:
        while self.client.shell_channel.msg_ready():  # replies to earlier cells that nobody waited for
            self.client.shell_channel.get_msg(timeout=0)
        asked: str = self.client.execute(code, allow_stdin=allow_stdin)
        return asked

    def _follow(
        self, asked: str, publish: Callable[[dict[str, Any]], None]
    ) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Publish until the peer is idle; return its error, if there is one, and its reply."""
        failed, idle, interrupted = None, False, False
        reply: dict[str, Any] = {}
        while not (idle and reply):
            try:
                kind, content, message = self._next(asked)
                if kind == "status":
                    idle = content.get("execution_state") == "idle"
                elif kind == "error":
                    failed = content
                elif kind == "input_request":
                    ask = getpass.getpass if content.get("password") else input
                    self.client.input(ask(str(content.get("prompt", ""))))
                else:
                    reply = content if kind == "execute_reply" else reply
                    publish(message)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                self.manager.interrupt_kernel()
        return failed, reply

    def _next(self, asked: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Return the next message about a cell; raise PeerError if the peer has died."""
        channels = self.client.iopub_channel, self.client.stdin_channel, self.client.shell_channel
        poller = zmq.Poller()
        for source in (*(channel.socket for channel in channels), self._death):
            poller.register(source, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            channel = next((channel for channel in channels if channel.socket in ready), None)
            if channel is None:  # the peer died, and all its messages have been read
                raise self._dead("died while it ran this cell")
            message = channel.get_msg(timeout=0)
            kind: str = message["msg_type"]
            if message["parent_header"].get("msg_id") == asked or kind in _LATE:
                return kind, message["content"], message

    def _dead(self, how: str) -> PeerError:
        status = self.process.wait()
        why = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        self.end()
        _peers.pop(self.name, None)
        message = f"peer {self.name!r} {how} ({why}), its variables with it. The next %%peer {self.name} starts anew"
        return PeerError(message, name=self.name, status=status)


def _folder_for_sockets(name: str) -> tempfile.TemporaryDirectory[str]:
    """Make a private folder with a short path, in the first place where that works."""
    tried: list[str] = []
    for find in (tempfile.gettempdir, lambda: "/tmp", lambda: "/var/tmp", paths.folder):  # noqa: S108  private in it
        try:
            parent = find()
            if len(os.fsencode(parent)) <= _LONGEST:
                return tempfile.TemporaryDirectory(prefix="peer-", dir=parent)
        except OSError as error:
            tried.append(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    message = f"peer {name!r} needs a folder for its sockets, and none can be made ({'; '.join(tried)}). Set TMPDIR"
    raise PeerError(message, name=name)


_peers: dict[str, Peer] = {}


@magics_class
class PeerMagics(Magics):
    """The magic for peers."""

    shell: InteractiveShell

    @line_cell_magic
    @in_one_line
    @arguments()
    @argument("name", nargs="?", default="peer", metavar="NAME", help="name of the peer, by default peer")
    @argument("--kill", action="store_true", help="kill its process group (SIGKILL)")
    @argument("--restart", action="store_true", help="shut it down as Jupyter's menu does, and start a new one")
    @argument("--shutdown", action="store_true", help="shut it down as Jupyter's menu does")
    def peer(self, line: str, cell: str | None = None) -> None:
        """Run a cell in a second kernel, and show its output here. The kernel starts with its first cell.

        %%peer              run the cell below in the kernel named peer
        %%peer plot         run it in another one, which has the name of plot.ipynb
        %peer plot --kill
        %peer               list the peers
        """
        parser: Parser = vars(PeerMagics.peer)["parser"]
        args = parser.parse_line(line)
        if not args.name.isidentifier():
            raise ArgumentError(f"{args.name!r} is no name for a peer: use letters, digits and _", name=args.name)
        asked = [verb for verb in ("kill", "restart", "shutdown") if vars(args)[verb]]
        if cell is not None:
            if asked:
                raise ArgumentError(f"--{asked[0]} needs a line of its own: %peer {args.name} --{asked[0]}")
            parent = self._kernel.get_parent() if self._kernel else {}
            allow_stdin = parent.get("content", {}).get("allow_stdin", True)
            _started(args.name).run(cell, lambda message: self._publish(args.name, message), allow_stdin=allow_stdin)
        elif len(asked) > 1:
            raise ArgumentError(f"--{asked[0]} or --{asked[1]}, not both")
        elif asked:
            print(f"{args.name}: {_end(args.name, asked[0])}")
        else:
            print(f"peers: {', '.join(_peers) or 'none. The first cell that begins with %%peer starts one'}")

    @property
    def _kernel(self) -> Any:
        return getattr(self.shell, "kernel", None)

    def _publish(self, name: str, message: dict[str, Any]) -> None:
        """Show output of the peer as output of this cell; ignore what is no message of Jupyter's protocol."""
        kind, content = message["msg_type"], message["content"]
        match kind, content:
            case "stream", {"name": "stdout" | "stderr" as where, "text": str(text)}:
                stream = getattr(sys, where)
                stream.write(text)
                stream.flush()
            case "display_data" | "update_display_data" | "execute_result", {
                "data": dict(data),
                "metadata": dict(more),
            }:
                transient, update = content.get("transient"), kind == "update_display_data"
                known = transient if isinstance(transient, dict) else {}
                self.shell.display_pub.publish(data, more, transient=known, update=update)
            case "clear_output", {"wait": bool(wait)}:
                self.shell.display_pub.clear_output(wait)
            case "execute_reply", _:
                for payload in _payloads(content):  # the help of `x?`, the text of `%load`
                    if payload.get("source") == "set_next_input":
                        payload["text"] = f"%%peer {name}\n{payload.get('text', '')}"
                    if payload.get("source") not in (None, "ask_exit") and (payloads := self.shell.payload_manager):
                        payloads.write_payload(payload)
            case "comm_open" | "comm_msg" | "comm_close", {"comm_id": str(comm)} if kernel := self._kernel:
                kernel.session.send(  # a progress bar, a widget
                    kernel.iopub_socket, kind, content, parent=kernel.get_parent(), metadata=message["metadata"],
                    ident=f"comm-{comm}".encode(errors="replace"), buffers=message["buffers"],
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
    """End all peers at the same time."""
    ours = [peer for peer in _peers.values() if peer.ours]
    _peers.clear()
    _end_within(_LAST, ours)


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
        peer.end()
    elif peer is not None:
        _end_within(_END, [peer])
    if how == "restart":
        _peers[name] = Peer(name)
    return {"kill": "killed", "restart": "restarted", "shutdown": "shut down"}[how]


def _end_within(seconds: float, peers: list[Peer]) -> None:
    deadline = time.monotonic() + seconds
    for peer in peers:
        peer.ask_to_end()
    for peer in peers:
        peer.await_end(deadline)


def _payloads(reply: dict[str, Any]) -> list[dict[str, Any]]:
    found = reply.get("payload", ())
    return [payload for payload in found if isinstance(payload, dict)] if isinstance(found, list) else []


def _as_there(name: str, content: dict[str, Any]) -> PeerError:
    """Return an error that is shown like the peer's: with its class name, text and traceback."""
    ename, evalue = (str(content.get(part, "")) for part in ("ename", "evalue"))
    kind = ename if ename and ename.isprintable() else PeerError.__name__  # not every text can name a class
    error: PeerError = type(kind, (PeerError,), {})(evalue, name=name, ename=ename)
    lines = content.get("traceback")
    shown = [*map(str, lines)] if isinstance(lines, list) else [f"{kind}: {evalue}"]
    vars(error)["_render_traceback_"] = lambda: shown
    return error
