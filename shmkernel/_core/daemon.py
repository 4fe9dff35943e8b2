"""What a process does that is to live on its own: it lets go of the files and streams of the one that started it."""

from __future__ import annotations

import contextlib
import fcntl
import os

_MANY = 4096  # descriptors to close without /proc, which lists the open ones


def close_inherited() -> None:
    """Close descriptors that the starting process left inheritable: a server's socket, the end of a pipe."""
    try:
        inherited = [int(fd) for fd in os.listdir("/proc/self/fd")]
    except OSError:
        inherited = [*range(_MANY)]
    for fd in inherited:
        if fd > 2:  # noqa: PLR2004  the standard streams
            with contextlib.suppress(OSError):
                os.close(fd)


def detach() -> None:
    """Go on in a forked child, in a session of its own; the process itself ends."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")


def moved(stream: int) -> int:
    """Move a standard stream above 2, where nothing prints to it."""
    fd = fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(stream)
    return fd


def silence() -> None:
    """Lead the standard streams to /dev/null."""
    with contextlib.suppress(OSError):  # a chroot without /dev
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
