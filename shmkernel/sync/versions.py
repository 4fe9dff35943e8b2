"""Versions: count what was published under a name, and wait for the next version.

    publish   byte lock -> word += 1 -> unlock -> utime, which wakes waiters
    wait      watch the sync file and the segment -> read the version -> sleep if it is the same -> read it again

A replaced segment counts as published. The first reader that finds another inode under the name raises the version. So
replacements by other programs, or by a process that died right after, count too.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING, Any, SupportsIndex

from shmkernel._core import limits, oflock, paths, segment_file
from shmkernel.errors import ArgumentError, Cure, TimedOutError
from shmkernel.sync import inotify, locks, sync_file
from shmkernel.sync.sync_file import INODE, PUBLISHED, RELEASED, WATCHED

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from shmkernel._core.closing import Description

_LOCK = oflock.request(fcntl.F_WRLCK, locks.VERSION)
on_wait: list[Callable[[str], None]] = []  # called when this process first asks for the version of a name's segment


@limits.explains
def publish(name: str) -> int:
    """Raise the version of a name, wake its waiters, and return it.

    Examples
    --------
    >>> before = version("results")
    >>> publish("results") - before
    1
    """
    file = sync_file.opened(name)
    if not file.listened:
        _listen(file, file.segment())
    return _alone(file, _publish)


@limits.explains
def version(name: str) -> int:
    """Return the version: how often the name was published, its exclusive lock left, or its segment replaced."""
    return _settled(sync_file.opened(name))


@limits.explains
def wait(name: str, since: int | None = None, timeout: float | None = None) -> int:
    """Sleep until the version differs from `since`, by default the present version, and return it.

    Raises
    ------
    NotFoundError
        If the segment is unlinked meanwhile.
    TimedOutError
        A TimeoutError, after `timeout` seconds.
    """
    watch, end = _Watch(name, since), _end(timeout)
    newer = watch.newer()
    while newer is None:
        waiter = watch.waiter()
        try:
            while (newer := watch.newer()) is None and watch.valid():
                waiter.wait(_left(end, name, timeout))
        except BaseException:
            waiter.close()
            raise
        waiter.rest()
    return newer


async def following(name: str, since: int) -> int:
    """Wait likewise, while other tasks run."""
    watch = _Watch(name, since)
    newer = watch.newer()
    while newer is None:
        waiter = watch.waiter()
        try:
            while (newer := watch.newer()) is None and watch.valid():
                await waiter.wait_async()
        except BaseException:
            waiter.close()
            raise
        waiter.rest()
    return newer


def changes(name: str, since: int | None = None) -> AsyncGenerator[int]:
    """Return an async iterator over later versions; it skips versions while its consumer is busy."""
    return _changes(name, version(name) if since is None else since)


async def _changes(name: str, since: int) -> AsyncGenerator[int]:
    while True:
        since = await following(name, since)
        yield since


class _Watch:
    """The condition of a waiter: another version; NotFoundError if the segment was unlinked."""

    def __init__(self, name: str, since: Any) -> None:
        if since is not None and not isinstance(since, SupportsIndex):
            cure = Cure("The present one", "version", name)
            raise ArgumentError(f"since={since!r}: a version is a whole number", cure, name=name, since=since)
        self._name, self._file = name, sync_file.opened(name)
        self._since = _settled(self._file) if since is None else since
        self._linked = bool(self._file.words[INODE] if since is not None else self._file.segment())

    def waiter(self) -> inotify.Waiter:
        file = self._file = sync_file.opened(self._name)
        file.words[WATCHED] = 1
        inode = file.segment()
        beside = file.segment_path if inode else paths.folder()
        return inotify.waiter((file.path, file.inode, inode), file.path, beside)

    def valid(self) -> bool:
        """Return whether the sync file is still under its path: other programs may remove it."""
        try:
            return os.lstat(self._file.path).st_ino == self._file.inode
        except OSError:
            return False

    def newer(self) -> int | None:
        inode = self._file.segment()
        if self._linked and not inode:
            raise segment_file.missing(self._name)
        version = _settled(self._file, inode)
        return version if version != self._since else None


def _settled(file: sync_file.SyncFile, inode: int | None = None) -> int:
    """Return the version, raised first if the segment was replaced since the last reading."""
    if inode is None:
        inode = file.segment()
    _listen(file, inode)
    return _read(file) if inode in (0, file.words[INODE]) else _alone(sync_file.opened(file.name), _replace)


def _listen(file: sync_file.SyncFile, inode: int) -> None:
    """Call `on_wait` for a new segment: its writers publish from now on. The version is read after that."""
    if inode not in (0, file.listened) and on_wait:
        for call in on_wait:
            call(file.name)
        file.listened = inode


def _publish(file: sync_file.SyncFile) -> None:
    sync_file.increase(file.words, PUBLISHED)


def _replace(file: sync_file.SyncFile) -> None:
    now = file.segment()
    if now not in (0, file.words[INODE]):
        sync_file.increase(
            file.words, PUBLISHED
        )  # before INODE: a death in between may count it twice, never not at all
        file.words[INODE] = now


def _read(file: sync_file.SyncFile) -> int:
    return int(file.words[PUBLISHED] + file.words[RELEASED])


def _alone(file: sync_file.SyncFile, change: Callable[[sync_file.SyncFile], None]) -> int:
    """Change words under the byte lock VERSION, wake the waiters, and return the version."""
    held: list[Description] = []  # emptied on errors: a traceback keeps local variables, and would keep the lock
    while True:
        try:
            held.append(file.description())
            fd = held[0].fileno()
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _LOCK)
            file.check(fd)
            change(file)
            version = _read(file)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, oflock.UNLOCK_ALL)
            os.utime(fd)
            file.idle.append(held.pop())
        except FileNotFoundError:
            held.clear()
            file = sync_file.renewed(file)
        except BaseException:
            held.clear()  # which unlocks
            raise
        else:
            return version


def _end(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _left(end: float | None, name: str, timeout: float | None) -> float | None:
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0:
        message = f"nothing was published under {name!r} within {timeout:g} s"
        raise TimedOutError(message, name=name, timeout=timeout)
    return left
