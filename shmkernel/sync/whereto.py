"""Identify the file that a path leads to by a number that its replacement does not have.

The inode number alone would not do: ext4 gives it to the next file at once. So the number also depends on the file's
birth time (statx). Reading that takes 3 us and lstat 1 us, so it is read only when inode or ctime have changed.
"""

from __future__ import annotations

import functools
import os
import struct
from typing import TYPE_CHECKING, Any

from shmkernel._core.imports import importing

if TYPE_CHECKING:
    from collections.abc import Callable

_HERE, _NO_FOLLOW, _BIRTH = -100, 0x100, 0x800  # AT_FDCWD, AT_SYMLINK_NOFOLLOW, STATX_BTIME
_SIZE, _BORN = 256, struct.Struct("=qI")  # struct statx, and its stx_btime at byte 80
_ODD = 0x9E3779B97F4A7C15


class Target:
    """The file that a path leads to, cached."""

    __slots__ = ("_known", "_path", "_seen")

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen, self._known = (0, 0), 0

    def now(self) -> int:
        """Return the number of the file that the path leads to, 0 if there is none."""
        try:
            status = os.lstat(self._path)
        except FileNotFoundError:
            return 0
        seen = status.st_ino, status.st_ctime_ns
        if self._seen != seen:
            self._known, self._seen = number(self._path, status.st_ino), seen
        return self._known


def number(path: str, inode: int) -> int:
    """Return the number of the file with this inode under a path; without a birth time, the inode number."""
    born = _born(path)
    return (inode * _ODD ^ born) % (1 << 64) or 1 if born else inode


def _born(path: str) -> int:
    """Return the birth time of the file in nanoseconds; 0 if the file system has none."""
    statx = _statx()
    buffer = bytearray(_SIZE)
    if statx is None or statx(path, buffer) or not int.from_bytes(buffer[:4], "little") & _BIRTH:
        return 0
    seconds, nanoseconds = _BORN.unpack_from(buffer, 80)
    return int(seconds * 10**9 + nanoseconds)


@functools.cache
def _statx() -> Callable[[str, bytearray], Any] | None:
    with importing:
        import ctypes  # noqa: PLC0415  it takes 10 ms

    function = getattr(ctypes.CDLL(None), "statx", None)
    if function is None:
        return None
    buffer = ctypes.c_char * _SIZE
    return lambda path, into: function(_HERE, os.fsencode(path), _NO_FOLLOW, _BIRTH, buffer.from_buffer(into))
