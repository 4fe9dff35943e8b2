"""The conditions under which a process of a storm runs, and the errors that they allow."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import shmkernel as shm
from shmkernel._core import capacity, cgroups

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
    # The files that tell of a cgroup say that little is left. A real limit would be met by Python itself, and kill.
    "small cgroup as its files say": (shm.FullError,),
}
_FULL = (shm.FullError, shm.WatchdogError)
ROOMS: dict[str, tuple[type[BaseException], ...]] = {"plain": (), "full folder": _FULL, "few inodes": _FULL}


@contextlib.contextmanager
def limits(condition: str, files: str) -> Iterator[None]:
    """Run under a condition; a soft limit is raised again for the checks at the end."""
    if condition == "small cgroup as its files say":
        with _small_cgroup(Path(files, f"cgroup-{os.getpid()}")):
            yield
        return
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


@contextlib.contextmanager
def _small_cgroup(root: Path) -> Iterator[None]:
    limit, left = 128 << 20, 128 << 10
    texts = {
        "proc/self/cgroup": "0::/",
        "proc/meminfo": Path("/proc/meminfo").read_text(encoding="ascii"),
        "sys/fs/cgroup/memory.max": f"{limit}",
        "sys/fs/cgroup/memory.current": f"{limit - limit // cgroups._MARGIN - left}",
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    cgroups._ROOT, capacity._known = str(root), capacity._Known()
    try:
        yield
    finally:
        cgroups._ROOT, capacity._known = "", capacity._Known()


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
