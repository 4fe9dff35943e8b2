"""Sign pickled objects with a key of this user, so that those of the user's own processes attach without a question.

The key is 32 random bytes in the user's data folder, outside of the folder of segments: a program that can write
segments but not read the home of the user, in a container for example, cannot sign. A process of the user can read the
key, but it could run code in any of the user's kernels anyway.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import secrets
import stat

from shmkernel._core import closing

_SIZE = 32
_UNSIGNED = bytes(_SIZE)
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # they say nothing about the key, and the next call may have it


def sign(front: bytes, stream: bytes) -> bytes:
    """Return the signature of an object; zeros if there is no key, and none can be made."""
    key = _key(make=True)
    return _signature(key, front, stream) if key else _UNSIGNED


def holds(signature: bytes, front: bytes, stream: bytes) -> bool:
    """Return whether the signature was made with this user's key."""
    key = _key(make=False)
    return key is not None and hmac.compare_digest(signature, _signature(key, front, stream))


def _signature(key: bytes, front: bytes, stream: bytes) -> bytes:
    made = hmac.new(key, len(front).to_bytes(8, "little"), hashlib.sha256)
    made.update(front)
    made.update(stream)
    return made.digest()


def _path() -> str:
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"{data}/shmkernel/key"


def _key(*, make: bool) -> bytes | None:
    """Return the key, None if there is none that only this user can read."""
    path = _path()
    try:
        if make and not os.path.lexists(path):
            _make(path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with contextlib.closing(closing.opened(os.open, path, flags)) as fd:
            status = os.fstat(fd)
            own = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077 == 0
            key = os.read(fd, _SIZE + 1) if own and stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        if error.errno in _PASSING:
            raise
        return None
    return key if len(key) == _SIZE else None


def _make(path: str) -> None:
    """Make the key. Its file appears at once with all of its bytes; of several processes one makes it."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    part = f"{path}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with contextlib.closing(closing.opened(os.open, part, flags, 0o600)) as fd:
        try:
            os.write(fd, secrets.token_bytes(_SIZE))
            with contextlib.suppress(FileExistsError):
                os.link(part, path)
        finally:
            os.unlink(part)
