"""Which file a path leads to: a number that the next file under the path does not have.

An inode's number is given again: by ext4 at once, so that a replacement would look like what it replaced. With the time
at which the file was born it is told apart. To ask for that takes 3 us, and a look at the path 1 us, so it is asked
only when something about the file has changed.
"""

from __future__ import annotations

import functools
import os
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_HERE, _NO_FOLLOW, _BIRTH = -100, 0x100, 0x800  # AT_FDCWD, AT_SYMLINK_NOFOLLOW, STATX_BTIME
_SIZE, _BORN = 256, struct.Struct("=qI")  # of struct statx, and what it has at byte 80
_ODD = 0x9E3779B97F4A7C15


class Target:
    """What a path leads to, as it was seen last."""

    __slots__ = ("_known", "_path", "_seen")

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen, self._known = (0, 0), 0

    def now(self) -> int:
        """Return the number of the file that the path leads to, 0 if there is none."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return 0
        seen = found.st_ino, found.st_ctime_ns
        if self._seen != seen:
            self._known, self._seen = number(self._path, found.st_ino), seen
        return self._known


def number(path: str, inode: int) -> int:
    """Return the number of the file with this inode under a path: the inode's own, where no birth is known."""
    born = _born(path)
    return (inode * _ODD ^ born) % (1 << 64) or 1 if born else inode


def _born(path: str) -> int:
    """Return when the file was born, in nanoseconds; 0 if the file system does not say."""
    statx = _statx()
    found = bytearray(_SIZE)
    if statx is None or statx(path, found) or not int.from_bytes(found[:4], "little") & _BIRTH:
        return 0
    seconds, nanoseconds = _BORN.unpack_from(found, 80)
    return int(seconds * 10**9 + nanoseconds)


@functools.cache
def _statx() -> Callable[[str, bytearray], Any] | None:
    import ctypes  # noqa: PLC0415  it takes 10 ms

    function = getattr(ctypes.CDLL(None), "statx", None)
    if function is None:
        return None
    buffer = ctypes.c_char * _SIZE
    return lambda path, found: function(_HERE, os.fsencode(path), _NO_FOLLOW, _BIRTH, buffer.from_buffer(found))
