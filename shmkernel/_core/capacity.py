"""How much memory is free, and which limit sets it: the folder, the machine, the container or the process.

`room` reads all of these limits, which takes 0.5 ms. `lacks` is called before every reservation, however small. It
caches the free space for 0.1 s, and subtracts what this process has reserved since.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
import resource
import time
from typing import Any, NamedTuple

from shmkernel._core import cgroups, paths
from shmkernel._core.imports import importing
from shmkernel.errors import Cure, FullError, LimitError

_KIB = 1024
_TMPFS_MAGIC, _RAMFS_MAGIC = 0x01021994, 0x858458F6
_FRESH = 0.1  # seconds
_PART = 4  # a quarter of the free space may be reserved before it is read again: other processes reserve too
_NEAR = 64  # mappings: an mmap that fails with fewer left than this is taken to have reached the limit
_ULIMITS = {  # by the name in `resource`: the letter in ulimit, and the errno
    "AS": ("-v", errno.ENOMEM), "DATA": ("-d", errno.ENOMEM), "FSIZE": ("-f", errno.EFBIG),
    "MEMLOCK": ("-l", errno.EAGAIN),
}  # fmt: skip


class Room(NamedTuple):
    """Sizes in bytes: the folder's size, used and free space, and the container's memory limit.

    ``bound`` names what limits ``free``: folder, inodes, machine or container. ``file`` is the path of the file that
    sets the container's limit.
    """

    total: int
    used: int
    free: int
    container: int | None
    bound: str = "folder"
    file: str = ""


class _Known:
    """The cached free space of one folder, less what this process has reserved since."""

    def __init__(self) -> None:
        self.folder, self.free, self.until = "", 0, 0.0


_known = _Known()


def room() -> Room:
    """Return the present sizes of the folder of segments.

    ``free`` is the largest size that a new segment can have. In a tmpfs it is also bounded by the memory that the
    machine or the container has left: writing beyond that starts the out-of-memory killer.

    Examples
    --------
    >>> now = room()
    >>> 0 <= now.free <= now.total
    True
    """
    folder = paths.folder()
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        raise paths.no_folder(error, folder) from None
    total, free, bound, file = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize, "folder", ""
    used = total - disk.f_bfree * disk.f_frsize
    meminfo = _meminfo()
    group = cgroups.tightest(meminfo.get("SwapFree", 0), machine())
    if is_tmpfs(folder):
        available = meminfo.get("MemAvailable", machine()) + meminfo.get("SwapFree", 0)
        if available < free or not total:
            free, bound = available, "machine"
        if group and group.left < free:
            free, bound, file = group.left, "container", group.file
        total = total or machine()
    if disk.f_files and not disk.f_favail:  # no inode is left for another file
        free, bound = 0, "inodes"
    return Room(total, used, max(free, 0), group.limit if group else None, bound, file)


def memory() -> int:
    """Return the bytes of memory that the machine or the container has left."""
    meminfo = _meminfo()
    available = meminfo.get("MemAvailable", machine()) + meminfo.get("SwapFree", 0)
    group = cgroups.tightest(meminfo.get("SwapFree", 0), machine())
    return max(0, min(available, group.left) if group else available)


def check_memory(what: str, size: int, cure: str = "Close other programs", **facts: Any) -> None:
    """Raise LimitError if `what`, the beginning of its message, takes more memory than is left: `size` bytes."""
    left = memory()
    if size > left:
        message = f"{what} {human(size)} of memory, where {human(left)} are left. {cure}"
        raise LimitError(message, errno=errno.ENOMEM, limit="memory", needed=size, allowed=left, **facts)


def lacks(size: int) -> Room | None:
    """Reserve `size` bytes in the cached free space and return None; if they do not fit, return the present Room."""
    known, now, folder = _known, time.monotonic(), paths.folder()
    if size <= known.free and now < known.until and folder == known.folder:
        known.free -= size
        return None
    present = room()
    if size > present.free:
        known.until = 0.0
        return present
    known.folder, known.free, known.until = folder, present.free // _PART - size, now + _FRESH
    return None


def full(name: str, needed: int, *, code: int = errno.ENOSPC) -> FullError:
    """Make the FullError: it names the limit that was reached and the cure."""
    now, folder = room(), paths.folder()
    bound, free, disk = now.bound, human(now.free), "choose a folder on disk with SHMKERNEL_DIR"
    if code == errno.EDQUOT:
        bound = "quota"
        why = (
            f"your quota in {folder} is used up (in a terminal, quota shows it). "
            "Ask for more, or choose another folder with SHMKERNEL_DIR"
        )
    elif bound == "inodes":
        count = os.statvfs(folder).f_files
        why = (
            f"{folder} has no room for another file, however small: its {count} inodes are taken. "
            f"Give it more: sudo mount -o remount,nr_inodes={count * 4} {folder}"
        )
    elif bound == "container":
        why = (
            f"the memory limit of this container leaves {free} of {human(now.container or 0)} ({now.file}). "
            f"Give it more (docker run --memory={_gib(needed + (now.container or 0))}g), or {disk}"
        )
    elif bound == "machine":
        why = f"this machine has {free} of memory left, of {human(machine())} in all. For more, {disk}"
    elif needed <= now.free:
        why = f"{folder} says that it is full, though it has {free} free: a quota, perhaps. If so, {disk}"
    else:
        why = f"{folder} has {free} free of {human(now.total)}. {_more(needed, now)}"
    return FullError(f"{name!r} needs {human(needed)}, and {why}", name=name, needed=needed, free=now.free, limit=bound)


def _more(needed: int, now: Room) -> str:
    """Return the cure for a folder that is too small."""
    folder, size = paths.folder(), _gib(needed + now.used)
    if needed > machine():
        return f"That is more than the {human(machine())} of this machine: choose a folder on disk with SHMKERNEL_DIR"
    more = f"Give it more: sudo mount -o remount,size={size}g {folder}; a container docker run --shm-size={size}g"
    return f"{more if size << 30 <= machine() else ''}. Or choose another folder with SHMKERNEL_DIR".lstrip(". ")


def _gib(size: int) -> int:
    return -(-size // (1 << 30))


def check_file_size(name: str, size: int) -> None:
    """Raise LimitError if `size` exceeds ``ulimit -f``: writing such a file would raise SIGXFSZ, which kills."""
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if soft != resource.RLIM_INFINITY and size > soft:
        raise _limited(name, f"a file of {human(size)}", "FSIZE")


def no_mapping(name: str, size: int, error: OSError) -> OSError:
    """Convert an error of mmap to a LimitError that names the limit; return any other error unchanged."""
    if error.errno == errno.EAGAIN:
        return _limited(name, f"{human(size)} of locked memory", "MEMLOCK")
    if error.errno != errno.ENOMEM:
        return error
    for limit in ("AS", "DATA"):
        if resource.getrlimit(getattr(resource, f"RLIMIT_{limit}"))[0] != resource.RLIM_INFINITY:
            return _limited(name, f"{human(size)} of addresses", limit)
    most = cgroups.read("/proc/sys/vm/max_map_count").strip()
    if most.isdigit() and cgroups.read("/proc/self/maps").count("\n") + _NEAR > int(most):
        cure = f"More: sudo sysctl vm.max_map_count={int(most) * 4}"
        message = f"{name!r} needs a mapping, and this process has the {most} that it may have. {cure}"
        return LimitError(message, name=name, errno=errno.ENOMEM, limit="vm.max_map_count", allowed=int(most))
    message = (
        f"{name!r} needs {human(size)} of addresses, and this process has no more of them. "
        "Delete variables and close segments that it does not need"
    )
    return LimitError(message, Cure("What there is", "list"), name=name, errno=errno.ENOMEM, limit="addresses")


def _limited(name: str, what: str, limit: str) -> LimitError:
    """Make the LimitError for a limit of ``ulimit``; a process may raise its soft limit up to the hard one."""
    letter, code = _ULIMITS[limit]
    soft, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{limit}"))
    cure = f"Root alone can raise it (ulimit -H {letter})"
    if soft != hard:
        most = "more" if hard == resource.RLIM_INFINITY else human(hard)
        cure = f"It may have {most}: import resource; resource.setrlimit(resource.RLIMIT_{limit}, ({hard}, {hard}))"
    message = f"{name!r} needs {what}, and this process may have {human(soft)} (ulimit {letter}). {cure}"
    return LimitError(message, name=name, errno=code, limit=f"ulimit {letter}", allowed=soft)


def is_tmpfs(path: str) -> bool:
    """Return whether `path` is on a tmpfs or ramfs: from the list of mounts, or without one from statfs."""
    return _is_tmpfs(path, os.stat(path).st_dev)


@functools.lru_cache(maxsize=64)
def _is_tmpfs(path: str, dev: int) -> bool:
    mounts = cgroups.read("/proc/self/mountinfo")
    if not mounts:
        return _magic(path) in (_TMPFS_MAGIC, _RAMFS_MAGIC)
    wanted = f"{os.major(dev)}:{os.minor(dev)}"
    for line in mounts.splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1] in ("tmpfs", "ramfs")
    return False


def _magic(path: str) -> int:
    """Return the magic number of the file system, which `os.statvfs` does not give."""
    with importing:
        import ctypes  # noqa: PLC0415  it takes 10 ms

    statfs = (ctypes.c_long * 64)()  # a struct statfs takes 15 longs; the first is the magic number
    failed = ctypes.CDLL(None).statfs(os.fsencode(path), statfs)
    return 0 if failed else statfs[0]


def machine() -> int:
    """Return the size of the machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE


def _meminfo() -> dict[str, int]:
    lines = (line.split() for line in cgroups.read("/proc/meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * _KIB for words in lines}


def human(size: float) -> str:
    """Format a number of bytes for people.

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
