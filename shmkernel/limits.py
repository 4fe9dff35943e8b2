"""How much memory there is: the folder's own size, the machine's, the container's."""

from __future__ import annotations

import os
from typing import NamedTuple

from shmkernel import names

_CGROUP = "/sys/fs/cgroup"
_KIB = 1024
_TMPFS_MAGIC, _RAMFS_MAGIC = 0x01021994, 0x858458F6


class Room(NamedTuple):
    """Sizes in bytes: the folder's size, what is used and free in it, the container's limit."""

    total: int
    used: int
    free: int
    container: int | None


def room() -> Room:
    """Look at the folder of segments as it is now.

    ``free`` is what a new segment can have: in memory (a tmpfs) no more than the machine, or the container,
    has left. Writing beyond that calls the out-of-memory killer, which no error can prevent afterwards.

    Examples
    --------
    >>> now = room()
    >>> 0 <= now.free <= now.total
    True
    """
    disk = os.statvfs(names.folder())
    total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    used = total - disk.f_bfree * disk.f_frsize
    if disk.f_files and not disk.f_favail:  # inodes: there is no room for another file, however small
        free = 0
    limit, left = container()
    if is_tmpfs(names.folder()):
        meminfo = _meminfo()
        available = meminfo.get("MemAvailable", free) + meminfo.get("SwapFree", 0)
        free = min(free if total else available, available, *([left] if left is not None else []))
        total = total or machine()
    return Room(total, used, max(free, 0), limit)


def is_tmpfs(path: str) -> bool:
    """Say whether `path` lies in memory, as far as the list of mounts tells; without a list, statfs is asked."""
    mounts = _read("/proc/self/mountinfo")
    if not mounts:
        return _magic(path) in (_TMPFS_MAGIC, _RAMFS_MAGIC)
    dev = os.stat(path).st_dev
    wanted = f"{os.major(dev)}:{os.minor(dev)}"
    for line in mounts.splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1] in ("tmpfs", "ramfs")
    return False


def _magic(path: str) -> int:
    """Return the number of a file system's type; `os.statvfs` leaves it out."""
    import ctypes  # noqa: PLC0415  it takes 10 ms

    found = (ctypes.c_long * 64)()  # a struct statfs, which begins with it, is 15 of them
    failed = ctypes.CDLL(None).statfs(os.fsencode(path), found)
    return 0 if failed else found[0]


def container() -> tuple[int | None, int | None]:
    """Return the memory limit of the control group this process is in, and what is left of it, in bytes."""
    found = [pair for pair in map(_group, _groups()) if pair is not None]
    return min(found, default=(None, None), key=lambda pair: pair[1])


def _groups() -> list[str]:
    """List this process's control group and those around it (version 2), then the folder of version 1."""
    own = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    parts = own.strip("/").split("/")
    around = ["/".join((_CGROUP, *parts[:depth])) for depth in range(len(parts), -1, -1)]
    return [*around, f"{_CGROUP}/memory"]


def _group(path: str) -> tuple[int, int] | None:
    limit = (_read(f"{path}/memory.max") or _read(f"{path}/memory.limit_in_bytes")).strip()
    used = (_read(f"{path}/memory.current") or _read(f"{path}/memory.usage_in_bytes")).strip()
    if not (limit.isdigit() and used.isdigit()) or int(limit) > machine():
        return None  # "max", or the number beyond all memory that version 1 says for it
    stat = dict(line.split() for line in _read(f"{path}/memory.stat").splitlines())
    cache = int(stat.get("inactive_file", 0))  # given back before anybody is killed
    return int(limit), int(limit) - int(used) + cache


def machine() -> int:
    """Return how much memory the machine has, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _meminfo() -> dict[str, int]:
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * _KIB for words in lines}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def human(size: float) -> str:
    """Write a number of bytes for people.

    Examples
    --------
    >>> human(12), human(277264), human(8 << 30)
    ('12 B', '270.8 KiB', '8.0 GiB')
    """
    if size < _KIB:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= _KIB
        if size < _KIB or unit == "TiB":
            break
    return f"{size:.1f} {unit}"
