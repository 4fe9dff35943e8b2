"""The writer lock of a store: a byte lock of its file, for changes that may take long.

A wait for LMDB's mutex ignores Ctrl-C, so it must be short. A change that may take long takes this lock first, and sets
the word LOCK_FIRST in the file (lmdb_pages.py). Short changes read that word, and take this lock too if it is set. The
lock belongs to an open file description: so it excludes threads as well as processes, and the OS frees it when its
process dies.

Two transactions on two dicts, entered in opposite order, would wait for each other for ever. So a thread inside a
transaction waits for the writer lock of another dict for `PATIENCE` seconds at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import secrets
import time
from typing import TYPE_CHECKING, Protocol

from shmkernel._core import closing, interrupts, limits, oflock, owners
from shmkernel.errors import FolderError, TimedOutError
from shmkernel.kinds.dicts import lmdb_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkernel._core.closing import Description

_SECOND = 10**9  # ns
_ERA = 1 << 62  # ns: the latest modification time
PATIENCE = 10.0  # seconds that a transaction waits for another dict
AT_ONCE: contextlib.nullcontext[None] = contextlib.nullcontext()
_TAKE, _FREE = oflock.request(fcntl.F_WRLCK), oflock.request(fcntl.F_UNLCK)
_FIRST, _LONGEST = 0.0005, 0.01  # seconds between two attempts of a wait with a limit
_FLAGS = os.O_RDWR | os.O_CLOEXEC


class Holder(Protocol):
    """The owner of a lock. Its ``description`` is set before the lock is taken, so that it can always be released."""

    description: Description | None


class WriterLock:
    """The writer lock of a store. ``inside`` returns the names of dicts in which the caller has a transaction."""

    __slots__ = ("_fd", "_inside", "_name", "_page", "_path")

    def __init__(self, fd: int, path: str, name: str, inside: Callable[[], list[str]]) -> None:
        self._fd, self._path, self._name, self._inside = fd, path, name, inside
        self._page = mmap.mmap(fd, 2 * lmdb_pages.PAGE)

    def take(self, into: Holder, *, long: bool = False, wait: bool = True, timeout: float | None = None) -> None:
        """Take the lock; without `wait`, raise BlockingIOError if it is not free."""
        into.description = file = self._description()
        try:
            if not oflock.take(file, _TAKE):
                if not wait:
                    raise BlockingIOError  # noqa: TRY301  the description is closed below
                self._wait(file, timeout)
            file.held = True
            self._page[lmdb_pages.LOCK_FIRST * 8] = long
        except BaseException as error:
            self.end(file)
            if isinstance(error, OSError):
                raise limits.explained(error, self._name) from None
            raise

    async def take_async(self, into: Holder, timeout: float | None) -> None:  # noqa: ASYNC109  as `take`
        """Take the lock for a long change, without blocking the event loop."""
        into.description = file = self._description()
        try:
            if not oflock.take(file, _TAKE):
                for delay in self._delays(timeout, self._inside()):
                    await asyncio.sleep(delay)
                    if oflock.take(file, _TAKE):
                        break
            file.held = True
            self._page[lmdb_pages.LOCK_FIRST * 8] = 1
        except BaseException:
            self.end(file)
            raise

    def end(self, file: Description) -> None:
        """Release the lock. Closing would not do: a child between fork and exec has a copy of the descriptor."""
        if file.closed:
            return
        if file.held:
            file.held = False
            self._page[lmdb_pages.LOCK_FIRST * 8] = 0
            with contextlib.suppress(OSError):
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FREE)
        file.close()

    def mark(self, word: int, value: bytes, at: int = 0) -> None:
        """Write to one of this package's words in the file (lmdb_pages.py)."""
        start = word * 8 + at
        self._page[start : start + len(value)] = value

    def sealed(self) -> bool:
        """Return whether no process has written to the file since it was sealed (verify.py)."""
        seal = int.from_bytes(self._page[lmdb_pages.SEAL * 8 : lmdb_pages.SEAL * 8 + 8], "little")
        return seal != 0 and os.fstat(self._fd).st_mtime_ns == seal

    def seal(self) -> None:
        """Seal the file: set its modification time to the seal (verify.py). If that fails, the next open checks it."""
        seal = int.from_bytes(self._page[lmdb_pages.SEAL * 8 : lmdb_pages.SEAL * 8 + 8], "little")
        if not 0 < seal < _ERA:
            seal = time.time_ns() // _SECOND * _SECOND + secrets.randbelow(_SECOND - 1) + 1
            self.mark(lmdb_pages.SEAL, seal.to_bytes(8, "little"))
        with contextlib.suppress(OSError):
            os.utime(self._fd, ns=(seal, seal))

    def _wait(self, file: Description, timeout: float | None) -> None:
        inside = self._inside()
        if timeout is None and not inside and not owners.greenlets():
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW, _TAKE)
            return
        for delay in self._delays(timeout, inside):
            time.sleep(delay)
            if oflock.take(file, _TAKE):
                return

    def _delays(self, timeout: float | None, inside: list[str]) -> Iterator[float]:
        limit = timeout if timeout is not None else PATIENCE if inside else None
        end, delay = None if limit is None else time.monotonic() + limit, _FIRST
        while end is None or time.monotonic() < end:
            yield delay if end is None else max(0, min(delay, end - time.monotonic()))
            delay = min(delay * 2, _LONGEST)
        message = f"{self._name!r} is still in another transaction after {limit:g} s"
        if inside:
            message += (
                f", while this one waited inside a transaction of {', '.join(map(repr, inside))}. Two that wait for "
                "each other would wait for ever: enter them in the same order everywhere, or one after the other"
            )
        raise TimedOutError(message, name=self._name, timeout=limit, holder=None, inside=inside)

    def _description(self) -> Description:
        try:
            return closing.described(os.open, f"/proc/self/fd/{self._fd}", _FLAGS)
        except FileNotFoundError:  # no /proc
            pass
        except OSError as error:
            raise limits.explained(error, self._name) from None
        with contextlib.suppress(FileNotFoundError):
            file = closing.described(os.open, self._path, _FLAGS)
            if os.path.samestat(os.fstat(file.fileno()), os.fstat(self._fd)):
                return file
        message = f"{self._name!r} was unlinked, and cannot be locked without /proc: mount -t proc proc /proc"
        raise FolderError(message, name=self._name, path="/proc")


class HeldWriterLock(interrupts.Holding):
    """The writer lock for a ``with`` statement, released even if Ctrl-C comes at its first bytecode."""

    __slots__ = ("_lock", "_long", "_wait", "description")

    def __init__(self, lock: WriterLock, *, long: bool, wait: bool) -> None:
        self._lock, self._long, self._wait = lock, long, wait
        self.description: Description | None = None

    def _enter(self, entry: interrupts.Entry) -> None:
        entry.taken = True
        self._lock.take(self, long=self._long, wait=self._wait)

    def _leave(self, entry: interrupts.Entry | None, kind: type[BaseException] | None) -> None:
        if self.description is not None:
            self._lock.end(self.description)

    def _abort(self, entry: interrupts.Entry) -> None:
        self._leave(entry, None)
