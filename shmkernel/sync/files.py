"""Sync files: what the processes that share a name agree on, beside its segment.

One page a name, `sync/<file name of the segment>`, made whole, and mapped by everybody who locks, publishes or waits.
It is never in the segment, whose bytes are what its format says, and it outlives the segment, so that a free name can
be locked, and versions run on when a segment is replaced.

    word   0  what this is
           1  how often it was published          changed under the byte lock VERSION
           2  how often the exclusive lock was left   changed under the exclusive lock
           3  the inode that the name led to last     changed under the byte lock VERSION
           4  somebody waits: to the gate, all    a hint, cleared by the next who passes the gate
           5  somebody has once waited for a change of the file's time, which costs who leaves a lock 0.7 us
           8  who holds the exclusive lock: pid, 0 if nobody; then pid namespace, kernel, label

Words 1 and 2 together are the version: each has one writer at a time, so none is lost. Words 2 and 8 together are a
sequence counter, since word 8 is set before the holder's first store, and word 2 raised after his last. What must not
outlive a process is no word but a byte lock (`locks`), which the OS frees.

A process that has the file open holds a shared flock on it; without one, and without a segment, a sweep removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import struct
import sys
import time
import weakref
from threading import get_ident
from typing import TYPE_CHECKING, NamedTuple

from shmkernel import folders, fork, frames, identity, interrupts, memory, names
from shmkernel.dicts import meta
from shmkernel.errors import DamagedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SIZE = 4096
MAGIC = int.from_bytes(b"shmksyn1", "little")
PUBLISHED, RELEASED, INODE, WAITING, WATCHED, HOLDER = 1, 2, 3, 4, 5, 8
_WHO = struct.Struct("=QQ40s136s")  # from word HOLDER on
WHO = _WHO.size
_SURE = 0.1  # seconds
_RECENT = 32  # files that stay open for the next call
_SAFE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_files: weakref.WeakValueDictionary[str, SyncFile] = weakref.WeakValueDictionary()
_guard = interrupts.Guard()  # held over a fork, so that the child knows of all
_descriptions: set[int] = set()
busy: set[SyncFile] = set()  # a file stays open while it is locked from here, even if nobody keeps the Lock


class Who(NamedTuple):
    """Who holds an exclusive lock, or held it when he died: a process, its notebook or program, its kernel's id."""

    pid: int
    pid_ns: int
    kernel: str | None
    label: str

    def __str__(self) -> str:
        return f"{self.label} ({f'kernel {self.kernel[:8]}, ' if self.kernel else ''}pid {self.pid})"


def encode(who: Who) -> bytes:
    """Write who holds a lock as it stands in a sync file; a long label loses its end.

    Examples
    --------
    >>> decode(encode(Who(7, 1, None, "plot.ipynb")))
    Who(pid=7, pid_ns=1, kernel=None, label='plot.ipynb')
    """
    kernel, label = ((text or "").encode(errors="replace") for text in (who.kernel, who.label))
    return _WHO.pack(who.pid, who.pid_ns, kernel[:40], label[:136])


def decode(record: bytes) -> Who | None:
    """Read who holds a lock, None for nobody; he may be writing it just now."""
    pid, space, *texts = _WHO.unpack(record)
    kernel, label = (text.rstrip(b"\0").decode(errors="replace") for text in texts)
    return Who(pid, space, kernel or None, label) if pid else None


def blank(inode: int) -> bytes:
    """Return the page of a name that has led to `inode` since before anybody asked."""
    return struct.pack("=4Q", MAGIC, 0, 0, inode).ljust(SIZE, b"\0")


def version_of(words: bytes | memoryview, inode: int) -> int:
    """Return the version that a page tells, if the name leads to `inode` (0: nowhere) now.

    Examples
    --------
    >>> version_of(blank(7), 7), version_of(blank(7), 8), version_of(blank(7), 0)
    (0, 1, 0)
    """
    found = memoryview(words).cast("B").cast("Q")
    return int(found[PUBLISHED] + found[RELEASED] + (inode not in (0, found[INODE])))


class SyncFile:
    """An open sync file: ``words`` over its page, ``idle`` descriptions of it, and who of this process ``holds`` it.

    Byte locks belong to open file descriptions: each acquisition takes one of its own, and threads exclude each other
    as processes do. None of them is the mapping's, which forked children inherit.
    """

    __slots__ = ("__weakref__", "holds", "idle", "inode", "leads", "name", "page", "path", "sure", "words")

    def __init__(self, name: str, path: str) -> None:
        self.idle: list[int] = []  # first: __del__ looks at it even if the file is damaged
        self.name, self.path, self.leads = name, path, names.path_of(name)
        self.inode, self.page = _mapped(name, path)
        self.words = self.page.cast("Q")
        meta.listen(self.segment())
        self.sure = 0.0
        self.holds: dict[object, Hold] = {}

    def description(self) -> int:
        """Return a descriptor to lock with: an idle one, or a new one. Give it back, or `drop` it."""
        try:
            return self.idle.pop()
        except IndexError:
            pass
        with _guard:
            fd = os.open(self.path, _SAFE)
            _descriptions.add(fd)
        if os.fstat(fd).st_ino != self.inode:
            drop(fd)
            raise FileNotFoundError(self.path)
        return fd

    def hold(self) -> tuple[object, Hold | None]:
        """Return under what key this thread, or the task that it runs, holds the lock, or would; and the hold."""
        me = get_ident()
        if not self.holds:
            return me, None
        if me not in self.holds and (task := _task()) in self.holds:
            return task, self.holds.get(task)
        return me, self.holds.get(me)

    def check(self, fd: int) -> None:
        """Raise FileNotFoundError if somebody has removed the file; look only now and then, a look takes 0.8 us.

        We remove no file that is open. Others may: logind at the last logout, a hand.
        """
        if time.monotonic() > self.sure:
            if not os.fstat(fd).st_nlink:
                raise FileNotFoundError(self.path)
            self.sure = time.monotonic() + _SURE

    def holder(self) -> Who | None:
        """Return who holds the exclusive lock, or died with it."""
        return decode(bytes(self.page[HOLDER * 8 : HOLDER * 8 + WHO]))

    def segment(self) -> int:
        """Return the inode that the name leads to now, 0 for none."""
        try:
            return os.lstat(self.leads).st_ino
        except FileNotFoundError:
            return 0

    def __del__(self, *, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ending():
            for fd in self.idle:
                drop(fd)


class Hold:
    """One acquisition of the lock, by a thread or task, and the frames whose ``with`` entered it, the latest last."""

    __slots__ = ("fd", "frames", "shared")

    def __init__(self, fd: int, shared: bool, frame: FrameType | None) -> None:
        self.fd, self.shared, self.frames = fd, shared, [frame]

    def gone(self) -> bool:
        """Say whether nobody is inside any more; forget the frames that have ended."""
        while self.frames and frames.ended(self.frames[-1]):
            self.frames.pop()
        return not self.frames


def _task() -> object:
    asyncio = sys.modules.get("asyncio")  # without it there is no task
    with contextlib.suppress(RuntimeError):
        return asyncio.current_task() if asyncio else None
    return None


def drop(fd: int) -> None:
    """Close a description, and with it free what it has locked."""
    with _guard:
        if fd in _descriptions:
            _descriptions.discard(fd)
            os.close(fd)


def opened(name: str) -> SyncFile:
    """Return the sync file of a name, made where there is none."""
    path = _path(name)
    file = _recent(path, name)
    if time.monotonic() <= file.sure:
        return file
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_ino == file.inode:
            file.sure = time.monotonic() + _SURE
            return file
    return renewed(file)


def renewed(file: SyncFile) -> SyncFile:
    """Return the file that has taken the place of this one, which is gone."""
    with _guard:
        if _files.get(file.path) is file:
            del _files[file.path]
    _recent.cache_clear()
    return _recent(file.path, file.name)


def peek(name: str) -> tuple[int, Who | None]:
    """Return the version of a name, and who holds its exclusive lock, without making a sync file."""
    try:
        with open(_path(name), "rb") as file:
            page = file.read(SIZE)
        inode = os.lstat(names.path_of(name)).st_ino
    except OSError:
        return 0, None
    if len(page) != SIZE:
        return 0, None
    return version_of(page, inode), decode(page[HOLDER * 8 : HOLDER * 8 + WHO])


def tidy() -> None:
    """Remove the files of free names that nobody has open, unless a holder's death is still to be told."""
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(names.runtime("sync")):
            if not os.path.lexists(f"{names.folder()}/{entry}"):
                with contextlib.suppress(OSError):  # busy, or another sweep was faster
                    _remove_unused(names.runtime("sync", entry))


def _remove_unused(path: str) -> None:
    fd = os.open(path, _SAFE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not any(os.pread(fd, 8, HOLDER * 8)):
            os.unlink(path)
    finally:
        os.close(fd)


@functools.cache
def me() -> bytes:
    """Return what this process leaves in the files whose lock it holds."""
    return encode(Who(os.getpid(), identity.pid_namespace(), identity.kernel_id(), identity.label()))


def _path(name: str) -> str:
    return names.runtime("sync", os.path.basename(names.path_of(name)))  # "x" and "/shmk-1000-x" are one file


@functools.lru_cache(maxsize=_RECENT)
def _recent(path: str, name: str) -> SyncFile:
    with _guard:
        file = _files.get(path)
    if file is None:
        new = SyncFile(name, path)
        with _guard:
            file = _files.setdefault(path, new)
    return file


def _mapped(name: str, path: str) -> tuple[int, memoryview]:
    while True:
        try:
            fd, found = memory.attach(path, "r+", name)
        except FileNotFoundError:
            _make(name, path)
            continue
        try:
            if found.st_size == SIZE:
                page = memoryview(memory.map_(fd, SIZE, "r+"))
                if page[:8] == MAGIC.to_bytes(8, "little"):
                    return found.st_ino, page
        finally:
            os.close(fd)
        message = f"the sync file of {name!r} is damaged. Remove it when nobody holds a lock: rm {path}"
        raise DamagedError(message, name=name, path=path)


def _make(name: str, path: str) -> None:
    folders.prepare()
    try:
        inode = os.lstat(names.path_of(name)).st_ino
    except FileNotFoundError:
        inode = 0
    fd = memory.blank(os.path.dirname(path))
    try:
        memory.fill(fd, SIZE, [memoryview(blank(inode))], name, lambda _: None)
        with contextlib.suppress(FileExistsError):
            memory.link(fd, path)
    finally:
        os.close(fd)


def _after_fork() -> None:
    """Let go of the parent's descriptions: a lock of his must not outlive him here."""
    for fd in _descriptions:
        os.close(fd)
    _descriptions.clear()
    busy.clear()
    for file in list(_files.values()):
        file.idle.clear()
        file.holds.clear()
    me.cache_clear()
    _guard.in_child()


fork.on("sync files", before=_guard.before_fork, in_parent=_guard.in_parent, in_child=_after_fork)
