"""The conditions under which a process of a storm runs, and the errors that they allow."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
from typing import TYPE_CHECKING

import shmkernel as shm

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIMITED = (shm.LimitError, shm.FullError, shm.WatchdogError, MemoryError)
ERRORS: dict[str, tuple[type[BaseException], ...]] = {
    "plain": (),
    "hasty threads": (),
    "few descriptors": (shm.LimitError, shm.WatchdogError),
    "few addresses": (*_LIMITED, RuntimeError),  # RuntimeError: no thread can be started
    "short files": (shm.LimitError, shm.FullError, shm.WatchdogError),
    "closed streams": (),
    "umask 0777": (),
}
_FULL = (shm.FullError, shm.WatchdogError)
ROOMS: dict[str, tuple[type[BaseException], ...]] = {"plain": (), "full folder": _FULL, "few inodes": _FULL}


@contextlib.contextmanager
def limits(condition: str) -> Iterator[None]:
    """Run under a condition; a soft limit is raised again for the checks at the end."""
    if condition == "closed streams":
        os.closerange(0, 3)
    elif condition == "umask 0777":
        os.umask(0o777)
    elif condition == "hasty threads":
        sys.setswitchinterval(1e-5)
    limit = _LIMITS.get(condition)
    if limit is None:
        yield
        return
    kind, value = limit[0], limit[1]()
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def is_limit(error: BaseException) -> bool:
    """Return whether an error of the storm itself comes from a limit."""
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENOMEM, errno.ENOSPC, errno.EFBIG)
    )


def _descriptors() -> int:
    return max(map(int, os.listdir("/proc/self/fd"))) + 18


def _addresses() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize() + (96 << 20)


_LIMITS = {
    "few descriptors": (resource.RLIMIT_NOFILE, _descriptors),
    "few addresses": (resource.RLIMIT_AS, _addresses),
    "short files": (resource.RLIMIT_FSIZE, lambda: 64 << 10),
}
