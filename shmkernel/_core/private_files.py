"""Files in the user's data folder that only this user can read: keys. They belong to no folder of segments."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat

from shmkernel._core import closing

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def path(rest: str) -> str:
    """Return the path of a file or folder in the data folder."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"{data}/shmkernel/{rest}"


def read(path: str, most: int) -> bytes | None:
    """Return the first `most` bytes of a file; None if others may read it, or it is no regular file."""
    with contextlib.closing(closing.opened(os.open, path, _FLAGS)) as fd:
        status = os.fstat(fd)
        own = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        return os.read(fd, most) if own and stat.S_ISREG(status.st_mode) else None


def make(path: str, content: bytes) -> None:
    """Make a file. It appears at once with all of its bytes; FileExistsError if another process was first."""
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except FileExistsError:  # not of the file that is to be made
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
    part = f"{path}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with contextlib.closing(closing.opened(os.open, part, flags, 0o600)) as fd:
        try:
            os.write(fd, content)
            os.link(part, path)
        finally:
            os.unlink(part)
