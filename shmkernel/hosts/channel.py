"""Messages between a process and the one that serves its host: JSON over a Unix socket in the runtime folder.

A message is its length in 4 bytes, then the text; a descriptor may come with it. Only this user can enter the folder,
and both ends check whose process the other is.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import weakref
from typing import Any, Self

from shmkernel import errors
from shmkernel._core import folders, fork, paths
from shmkernel.errors import Cure, HostError, RefusedError, ShmError

_LENGTH = struct.Struct("=I")
_LONGEST = 64 << 20  # bytes of a message
_TEXT = 2000  # characters of an error
_CREDENTIALS = struct.Struct("=3i")  # struct ucred: pid, uid, gid
_FACTS = (str, int, float, bool, type(None))
_open: weakref.WeakSet[Channel] = weakref.WeakSet()


class Channel:
    """One end of a connection; ``with channel:`` closes it."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        _open.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def send(self, message: dict[str, Any], fd: int | None = None) -> None:
        """Send a message, and a descriptor with it."""
        text = json.dumps(message).encode()
        head = _LENGTH.pack(len(text))
        if fd is None:
            self._socket.sendall(head + text)
        else:
            socket.send_fds(self._socket, [head], [fd])
            self._socket.sendall(text)

    def receive(self) -> tuple[dict[str, Any], int | None]:
        """Return the next message, and the descriptor that came with it; the caller closes that.

        Raises
        ------
        EOFError
            If the other end has closed the connection, or its process has ended.
        ShmError
            The error in the message.
        """
        head, fds, _, _ = socket.recv_fds(self._socket, _LENGTH.size, 1, socket.MSG_CMSG_CLOEXEC)
        fd = fds[0] if fds else None
        try:
            head += self._exactly(_LENGTH.size - len(head))
            (size,) = _LENGTH.unpack(head)
            if size > _LONGEST:
                raise EOFError  # noqa: TRY301  the handler serves all errors
            message: dict[str, Any] = json.loads(self._exactly(size))
            if "error" in message:
                raise decoded(message["error"])  # noqa: TRY301  likewise
        except BaseException:
            if fd is not None:
                os.close(fd)
            raise
        return message, fd

    def check_user(self) -> None:
        """Raise RefusedError if the other end is a process of another user."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid != os.geteuid():
            raise RefusedError(f"a process of another user (uid {uid}) has connected", owner=uid)

    def limit(self, seconds: float) -> None:
        """Let `send` and `receive` raise a TimeoutError after so many seconds."""
        self._socket.settimeout(seconds)

    def gone(self) -> bool:
        """Return whether the other end has closed the connection; it sends nothing meanwhile."""
        return self.answers(0)

    def answers(self, seconds: float) -> bool:
        """Return whether the other end sends something, or closes the connection, within so many seconds."""
        return bool(select.select([self._socket], [], [], seconds)[0])

    def takes(self, seconds: float) -> bool:
        """Return whether there is room for a short message, at the latest after so many seconds."""
        return bool(select.select([], [self._socket], [], seconds)[1])

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._socket.recv(min(size, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def connected() -> Channel | None:
    """Connect to the process that serves this host; None if there is none."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(made)
    try:
        with _folder() as folder:
            made.connect(f"{folder}/socket")
        channel.check_user()
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        made.close()
        return None
    except BaseException:
        made.close()
        raise
    return channel


def listening() -> socket.socket:
    """Make the socket to which others connect."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _folder() as folder:
            with contextlib.suppress(FileNotFoundError):  # of one that was killed
                os.unlink(f"{folder}/socket")
            made.bind(f"{folder}/socket")
        made.listen()
    except BaseException:
        made.close()
        raise
    return made


@contextlib.contextmanager
def _folder() -> Any:
    """Yield a short path of the folder: that of a socket has 107 bytes at most."""
    fd = folders.open_(paths.runtime("hosts"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{int(fd)}" if folders.has_proc() else paths.runtime("hosts")
    finally:
        fd.close()


def encoded(error: Exception) -> dict[str, Any]:
    """Return an error as a message; what is none of ours becomes a `HostError` with its text."""
    if not isinstance(error, ShmError):
        return {
            "class": "HostError",
            "what": f"{type(error).__name__}: {error}",
            "name": None,
            "facts": {},
            "cures": [],
        }
    facts = {key: value for key, value in error.facts.items() if isinstance(value, _FACTS)}
    cures = [[cure.lead, cure.verb, [*map(str, cure.arguments)], cure.options] for cure in error.cures]
    return {"class": type(error).__name__, "what": error.what, "name": error.name, "facts": facts, "cures": cures}


def decoded(message: Any) -> ShmError:
    """Return the error in a message; it may come from another host, so only errors of ours are made."""
    try:
        name = message["class"] if message["class"] in errors.__all__ else "HostError"
        cures = [Cure(lead, verb, *arguments, **options) for lead, verb, arguments, options in message["cures"]]
        facts = {str(key): value for key, value in message["facts"].items() if isinstance(value, _FACTS)}
        made: ShmError = getattr(errors, name)(_plain(message["what"]), *cures, name=message["name"], **facts)
    except (TypeError, KeyError, ValueError, AttributeError):
        return HostError("the other host has sent an error that cannot be read")
    return made


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:_TEXT])


def _in_child() -> None:
    """Close the parent's connections: the other end would not see that the parent has ended."""
    for channel in [*_open]:
        channel.close()


fork.on("channels", in_child=_in_child)
