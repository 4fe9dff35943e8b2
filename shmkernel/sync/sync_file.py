"""Sync files: one page of words for each name, by which processes lock, publish and wait.

The file `sync/<file name of the segment>` is complete before it has its name. Every process that locks, publishes or
waits maps it. It is a file of its own, since a segment holds the bytes of its format alone, and it outlives the
segment, so that free names can be locked, and versions continue when a segment is replaced.

    word   0  MAGIC: this is a sync file
           1  PUBLISHED: times the name was published       changed under the byte lock VERSION
           2  RELEASED: times the exclusive lock was left   changed under the exclusive lock
           3  INODE: what the name led to last (`whereto`)  changed under the byte lock VERSION
           4  WAITING: 1 sends all who lock to the gate     a hint, cleared by the next that passes the gate
           5  WATCHED: 1 if a process has ever waited by inotify: leaving a lock then calls utime, 0.7 us
           8  HOLDER of the exclusive lock: pid, 0 if none; then pid namespace, kernel, label

The sum of words 1 and 2 is the version. Each has one writer at a time, so no increment is lost. Words 2 and 8 are a
sequence counter (`seqlock`): the holder sets word 8 before its first store, and raises word 2 after its last. Whatever
must not outlive a process is a byte lock (`locks`), which the OS frees, and not a word.

A process that has the file open holds a shared flock on it. A sweep removes a file without a flock and a segment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import shlex
import stat
import struct
import time
import weakref
from typing import TYPE_CHECKING, NamedTuple

from shmkernel._core import capacity, closing, folders, fork, identity, interrupts, paths, segment_file
from shmkernel.errors import DamagedError, ShmError
from shmkernel.sync import whereto

if TYPE_CHECKING:
    from shmkernel._core.closing import Description
    from shmkernel.sync.holds import Hold

SIZE = 4096
MAGIC = int.from_bytes(b"shmksyn1", "little")
PUBLISHED, RELEASED, INODE, WAITING, WATCHED, HOLDER = 1, 2, 3, 4, 5, 8
_WHO = struct.Struct("=QQ40s136s")  # the words from HOLDER on
WHO = _WHO.size
_RECHECK = 0.1  # seconds
_RECENT = 32  # files kept open for the next call
_MANY = 64  # files that a process makes before it looks for unused ones
_NO_FILE = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR)
_SAFE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_files: weakref.WeakValueDictionary[str, SyncFile] = weakref.WeakValueDictionary()
guard = interrupts.Guard()  # held over a fork
busy: set[Hold] = set()  # keeps a file open while this process holds its lock, even without a reference to the Lock


class Who(NamedTuple):
    """The process that holds an exclusive lock, or died holding it; ``label`` is its notebook or program."""

    pid: int
    pid_ns: int
    kernel: str | None
    label: str

    def __str__(self) -> str:
        return f"{self.label} ({f'kernel {self.kernel[:8]}, ' if self.kernel else ''}pid {self.pid})"


def encode(who: Who) -> bytes:
    """Return the bytes that name a holder in a sync file; a long label is cut.

    Examples
    --------
    >>> decode(encode(Who(7, 1, None, "plot.ipynb")))
    Who(pid=7, pid_ns=1, kernel=None, label='plot.ipynb')
    """
    kernel, label = ((text or "").encode(errors="replace") for text in (who.kernel, who.label))
    return _WHO.pack(who.pid, who.pid_ns, kernel[:40], label[:136])


def decode(record: bytes) -> Who | None:
    """Return the holder in these bytes, None for none; they may be half written."""
    pid, space, *texts = _WHO.unpack(record)
    kernel, label = (text.rstrip(b"\0").decode(errors="replace") for text in texts)
    return Who(pid, space, kernel or None, label) if pid else None


def blank(inode: int) -> bytes:
    """Return the page of a new sync file, whose name leads to `inode`."""
    return struct.pack("=4Q", MAGIC, 0, 0, inode).ljust(SIZE, b"\0")


def increase(words: memoryview, at: int) -> None:
    """Add one to a counter; after the greatest number of 64 bits comes 0, since any bytes may lie in the file."""
    words[at] = (words[at] + 1) % (1 << 64)


def version_of(words: bytes | memoryview, inode: int) -> int:
    """Return the version in a page, if the name leads to `inode` now (0: nowhere).

    Examples
    --------
    >>> version_of(blank(7), 7), version_of(blank(7), 8), version_of(blank(7), 0)
    (0, 1, 0)
    """
    counters = memoryview(words).cast("B").cast("Q")
    return int(counters[PUBLISHED] + counters[RELEASED] + (inode not in (0, counters[INODE])))


class SyncFile:
    """An open sync file: the ``words`` of its page, ``idle`` descriptors to lock with, and this process's ``holds``.

    Byte locks belong to open file descriptions. Each acquisition uses a description of its own, so that threads exclude
    each other as processes do. The mapping has another, since forked children inherit it.
    """

    __slots__ = (
        "__weakref__", "checked_until", "holds", "idle", "inherited", "inode", "listened", "name", "page", "path",
        "queued", "segment_path", "target", "words",
    )  # fmt: skip

    def __init__(self, name: str, path: str) -> None:
        self.idle: list[Description] = []
        self.name, self.path, self.segment_path = name, path, paths.path_of(name)
        self.target = whereto.Target(self.segment_path)
        self.inode, self.page = _mapped(name, path)
        self.words = self.page.cast("Q")
        self.listened = 0  # the segment whose writers were last asked to publish (`versions.listen`)
        self.checked_until = 0.0
        self.holds: list[Hold] = []
        self.queued: list[Hold] = []  # of waiting tasks
        self.inherited = 0  # explicit enterings in the parent before the fork: leaving them here does nothing

    def description(self) -> Description:
        """Return a descriptor to lock with, idle or new. Without references it is closed, which unlocks."""
        try:
            while (idle := self.idle.pop()).closed:  # the parent's, from before a fork
                pass
        except IndexError:
            pass
        else:
            return idle
        try:
            new = closing.described(os.open, self.path, _SAFE)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise FileNotFoundError(self.path) from None
            raise
        try:
            if os.fstat(new.fileno()).st_ino != self.inode:
                raise FileNotFoundError(self.path)  # noqa: TRY301  the handler serves all errors
        except BaseException:
            new.close()
            raise
        return new

    def check(self, fd: int) -> None:
        """Raise FileNotFoundError if the file was removed. Check every 0.1 s at most: it takes 0.8 us.

        This package removes no file that is open. Others may: logind at the last logout, or rm.
        """
        if time.monotonic() > self.checked_until:
            if not os.fstat(fd).st_nlink:
                raise FileNotFoundError(self.path)
            self.checked_until = time.monotonic() + _RECHECK

    def holder(self) -> Who | None:
        """Return the process that holds the exclusive lock, or died holding it."""
        return decode(bytes(self.page[HOLDER * 8 : HOLDER * 8 + WHO]))

    def segment(self) -> int:
        """Return a number for the segment that the name leads to, 0 for none; its replacement has another number."""
        return self.target.now()


def opened(name: str) -> SyncFile:
    """Return the sync file of a name, made if there is none."""
    path = _path(name)
    file = _recent(path, name)
    if time.monotonic() <= file.checked_until:
        return file
    with contextlib.suppress(OSError):  # it is gone, or something else in its place
        if os.lstat(path).st_ino == file.inode:
            file.checked_until = time.monotonic() + _RECHECK
            return file
    return renewed(file)


def renewed(file: SyncFile) -> SyncFile:
    """Return the sync file in place of one that was removed."""
    with guard:
        if _files.get(file.path) is file:
            del _files[file.path]
    _recent.cache_clear()
    return _recent(file.path, file.name)


def peek(name: str) -> tuple[int, Who | None]:
    """Return the version of a name and the holder of its exclusive lock, without making a sync file."""
    try:
        page = folders.read(_path(name), SIZE)
        segment_path = paths.path_of(name)
        inode = whereto.number(segment_path, os.lstat(segment_path).st_ino)
    except OSError:
        return 0, None
    if len(page) != SIZE:
        return 0, None
    return version_of(page, inode), decode(page[HOLDER * 8 : HOLDER * 8 + WHO])


def remove_unused(*, all_: bool = False, dry_run: bool = False) -> list[str]:
    """Remove the sync files of free names that no process has open, and return the names.

    A file that names a dead holder, of which the next one must be warned, is removed only with `all_`.
    """
    removed = []
    with contextlib.suppress(FileNotFoundError):
        for entry in folders.listdir(paths.runtime("sync")):
            path = f"{paths.folder()}/{entry}"
            if not os.path.lexists(path):
                with contextlib.suppress(OSError):  # it is locked, or another sweep has removed it
                    if _remove_if_unused(paths.runtime("sync", entry), all_=all_, dry_run=dry_run):
                        removed.append(paths.called(path))
    return removed


def _remove_if_unused(path: str, *, all_: bool, dry_run: bool) -> bool:
    fd = folders.open_(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unused = all_ or not any(os.pread(fd, 8, HOLDER * 8))
        if unused and not dry_run:
            folders.unlink(path)
        return unused
    finally:
        fd.close()


class _Made:
    """Count the files that this process makes, to remove those of names that were used once: a page each.

    Sweeps do the same, but none takes place while one process works alone. Each look takes as long as there are files,
    and comes after as many new ones.
    """

    def __init__(self) -> None:
        self.left = _MANY

    def remove_some(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.left = _MANY  # other threads pass meanwhile
            with contextlib.suppress(OSError):  # too many open files: another time
                remove_unused()
                self.left = max(_MANY, len(folders.listdir(paths.runtime("sync"))))


_made = _Made()


@functools.cache
def me() -> bytes:
    """Return the bytes that name this process as a holder."""
    return encode(Who(os.getpid(), identity.pid_namespace(), identity.kernel_id(), identity.label()))


def _path(name: str) -> str:
    return paths.runtime("sync", os.path.basename(paths.path_of(name)))  # "x" and "/shmk-1000-x" are one file


@functools.lru_cache(maxsize=_RECENT)
def _recent(path: str, name: str) -> SyncFile:
    with guard:
        file = _files.get(path)
    if file is None:
        new = SyncFile(name, path)
        with guard:
            file = _files.setdefault(path, new)
    return file


def _mapped(name: str, path: str) -> tuple[int, memoryview]:
    while True:
        try:
            fd, status = segment_file.attach(path, "r+", name)
        except FileNotFoundError:
            _make(name, path)
            continue
        try:
            if status.st_size == SIZE:
                page = memoryview(segment_file.map_(fd, SIZE, "r+", name))
                if page[:8] == MAGIC.to_bytes(8, "little"):
                    return status.st_ino, page
        finally:
            fd.close()
        cure = f"Remove it when nobody holds a lock, in a terminal: rm {shlex.quote(path)}"
        message = f"the sync file of {name!r} is damaged. {cure}"
        raise DamagedError(message, name=name, path=path)


def _make(name: str, path: str) -> None:
    try:
        _link_blank(name, path)
        _made.remove_some()
    except OSError as error:
        if isinstance(error, ShmError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise capacity.full(name, SIZE, code=error.errno) from None


def _link_blank(name: str, path: str) -> None:
    folders.prepare()
    inode = whereto.Target(paths.path_of(name)).now()
    fd = segment_file.blank(os.path.dirname(path))
    try:
        segment_file.fill(fd, SIZE, [memoryview(blank(inode))], name, lambda _: None)
        with contextlib.suppress(FileExistsError):
            segment_file.link(fd, path)
    finally:
        fd.close()


def _in_child() -> None:
    """Forget the parent's holds. Its descriptors are closed already (`closing`)."""
    for hold in busy:
        if hold.owner.is_thread():
            hold.file.inherited += sum(inside.explicit for inside in hold.places)
    busy.clear()
    for file in list(_files.values()):
        file.idle.clear()
        file.holds.clear()
        file.queued.clear()
    me.cache_clear()
    guard.in_child()


fork.on("sync files", before=guard.before_fork, in_parent=guard.in_parent, in_child=_in_child)
