"""Locks between processes and threads: byte locks of the OS, on open file descriptions of a sync file.

    LOCK      who has it exclusively writes, who shares it reads
    GATE      who has to wait stands here, and who comes later behind him: neither writers nor readers starve
    VERSION   around the raising of a version, a microsecond

The OS frees what a dead process held, but does not say that it died: who enters exclusively writes who he is beside
the lock, and clears it when he leaves. Whoever finds it uncleared is told, for what the lock protects may be half
written. Leaving raises the version, and wakes by a change of the file's time those who poll; the others sleep in the
OS's own queue.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import time
import warnings
from threading import get_ident
from typing import TYPE_CHECKING, Self

from shmkernel import frames
from shmkernel.errors import LockError, TimedOutError
from shmkernel.sync import files, wakeups
from shmkernel.sync.files import HOLDER, RELEASED, WAITING, WATCHED, Hold

if TYPE_CHECKING:
    from types import FrameType, TracebackType

_LOCK, _GATE, VERSION = 0, 1, 2
_TRY, _SLEEP = fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW
_HOLDER = slice(HOLDER * 8, HOLDER * 8 + files.WHO)
UNLOCK_ALL = struct.pack("hhqqi4x", fcntl.F_UNLCK, 0, 0, 0, 0)


def request(kind: int, byte: int) -> bytes:
    """Make a struct flock for one byte."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)


_LOCKS = {False: request(fcntl.F_WRLCK, _LOCK), True: request(fcntl.F_RDLCK, _LOCK)}  # by: shared?
_GATES = {False: request(fcntl.F_WRLCK, _GATE), True: request(fcntl.F_RDLCK, _GATE)}
_UNGATE = request(fcntl.F_UNLCK, _GATE)


class Lock:
    """Excludes every other process and thread that locks the same name, or with `shared` only those that write.

    Parameters
    ----------
    name : str
        A segment's, or any other.
    shared : bool
        Others may share the lock, but nobody has it exclusively.
    timeout : float, optional
        Seconds until TimedOutError; by default patience has no end but Ctrl-C.

    Attributes
    ----------
    abandoned : Who or None
        Who died while he held the lock exclusively, if nobody has held it so since: a warning says so too.

    Examples
    --------
    >>> with Lock("setup", timeout=10):
    ...     "nobody else is here"
    'nobody else is here'
    """

    abandoned: files.Who | None = None
    warns = True

    def __init__(self, name: str, *, shared: bool = False, timeout: float | None = None) -> None:
        self.name, self.shared, self.timeout = name, shared, timeout
        self._file = files.opened(name)
        self._request = _LOCKS[shared]
        frames.after_each_cell(tidy)

    def __enter__(self) -> Self:
        self.enter(self.timeout, sys._getframe(1))  # noqa: SLF001
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leave()

    async def __aenter__(self) -> Self:
        import asyncio  # noqa: PLC0415  slow, and here it is loaded

        file, me = self._file, asyncio.current_task()
        key, hold = file.hold()
        if hold is not None and not _let_go(file, key, hold):
            self._again(hold, None)
            return self
        try:
            fd = file.description()
            try:
                await self._queue_async(_Attempt(file, fd, shared=self.shared))
                self._entered(file, fd, me, None)
            except BaseException:
                self._undo(file, fd, me)
                raise
        except FileNotFoundError:
            self._file = files.renewed(file)
            return await self.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._leave()

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Enter, as multiprocessing's locks do: False when the time is over."""
        try:
            self.enter(timeout if block else 0, None)
        except TimedOutError:
            return False
        return True

    def release(self) -> None:
        """Leave."""
        self._leave()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.name, self.shared, self.timeout)

    def __repr__(self) -> str:
        return f"<shmkernel lock {self.name!r}{', shared' if self.shared else ''}>"

    def _again(self, hold: Hold, frame: FrameType | None) -> None:
        if hold.shared and not self.shared:
            message = (
                f"this thread holds {self.name!r} shared already: leave that first, or take it exclusively "
                "from the start. Two that wait for each other's share would wait for ever"
            )
            raise LockError(message, name=self.name)
        hold.frames.append(frame)

    def enter(self, timeout: float | None, frame: FrameType | None) -> Hold:
        """Enter on behalf of a frame: when that has ended, nobody is inside, though Ctrl-C kept him from leaving."""
        file = self._file
        me: object = get_ident()
        if file.holds:  # else nobody of this process is inside
            me, hold = file.hold()
            if hold is not None and not _let_go(file, me, hold):
                self._again(hold, frame)
                return hold
        try:
            fd = file.description()
            try:
                if file.words[WAITING] or not _try(fd, self._request):
                    self._queue(_Attempt(file, fd, shared=self.shared), timeout)
                return self._entered(file, fd, me, frame)
            except BaseException:
                self._undo(file, fd, me)
                raise
        except FileNotFoundError:  # somebody has emptied the folder: logind at the last logout
            self._file = files.renewed(file)
            return self.enter(timeout, frame)

    def _entered(self, file: files.SyncFile, fd: int, me: object, frame: FrameType | None) -> Hold:
        """Note who is in, and tell of one who died inside."""
        if time.monotonic() > file.sure:
            file.check(fd)
        self.abandoned = file.holder() if file.words[HOLDER] else None
        file.holds[me] = hold = Hold(fd, self.shared, frame)
        files.busy.add(file)
        if not self.shared:
            file.page[_HOLDER] = files.me()
        if self.abandoned is not None and self.warns:
            message = f"{self.abandoned} died holding {self.name!r}: what it protects may be half written"
            warnings.warn(message, RuntimeWarning, stacklevel=4)
        return hold

    def _undo(self, file: files.SyncFile, fd: int, me: object) -> None:
        if me in file.holds:
            self._leave()
        else:
            files.drop(fd)

    def _leave(self) -> None:
        file = self._file
        me: object = get_ident()
        hold = file.holds.get(me)
        if hold is None:
            me, hold = file.hold()
        if hold is None:
            raise LockError(f"{self.name!r} is not locked here", name=self.name)
        if len(hold.frames) > 1 and not hold.gone() and len(hold.frames) > 1:
            hold.frames.pop()
        else:
            _unlock(file, me, hold)

    def _queue(self, attempt: _Attempt, timeout: float | None) -> None:
        if timeout is None:
            attempt.sleep()
            return
        end = time.monotonic() + timeout
        with attempt, self._waiter() as waiter:
            while not attempt():
                left = end - time.monotonic()
                if left <= 0:
                    raise self._timed_out(timeout)
                waiter.wait(min(left, wakeups.TICK))

    async def _queue_async(self, attempt: _Attempt) -> None:
        if attempt():
            return
        end = None if self.timeout is None else time.monotonic() + self.timeout
        with attempt, self._waiter() as waiter:
            while not attempt():
                if end is not None and time.monotonic() >= end:
                    raise self._timed_out(self.timeout)
                await waiter.wait_async(end)

    def _waiter(self) -> wakeups.Waiter:
        self._file.words[WATCHED] = 1
        return wakeups.Waiter(self._file.path)

    def _timed_out(self, timeout: float | None) -> TimedOutError:
        who = self._file.holder()
        message = f"{self.name!r} is still locked after {timeout:g} s, by {who or 'readers who share it'}"
        return TimedOutError(message, name=self.name, timeout=timeout, holder=who)


class _Attempt:
    """One description on its way to a lock that is not free: first to the gate, then through it."""

    def __init__(self, file: files.SyncFile, fd: int, *, shared: bool) -> None:
        self._words, self._fd, self._shared = file.words, fd, shared
        self._at_gate = False

    def __call__(self) -> bool:
        """Try, and say whether it is through."""
        if not self._at_gate:
            if not _try(self._fd, _GATES[self._shared]):
                return False
            self._stand()
        if not _try(self._fd, _LOCKS[self._shared]):
            return False
        self._pass()
        return True

    def sleep(self) -> None:
        """Wait in the OS's own queue."""
        with self:
            fcntl.fcntl(self._fd, _SLEEP, _GATES[self._shared])
            self._stand()
            fcntl.fcntl(self._fd, _SLEEP, _LOCKS[self._shared])
            self._pass()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._at_gate:  # gave up; the gate opens when the description is closed
            self._words[WAITING] = 0

    def _stand(self) -> None:
        self._at_gate = True
        self._words[WAITING] = 1

    def _pass(self) -> None:
        self._words[WAITING] = 0
        self._at_gate = False
        fcntl.fcntl(self._fd, _TRY, _UNGATE)
        os.utime(self._fd)


def _unlock(file: files.SyncFile, me: object, hold: Hold) -> None:
    inside = not hold.shared
    try:
        if inside:
            file.words[RELEASED] += 1
            file.words[HOLDER] = 0
            inside = False
        fcntl.fcntl(hold.fd, _TRY, UNLOCK_ALL)
        if file.words[WATCHED]:  # who waits sets it, then looks; in between both have called into the OS
            os.utime(hold.fd)
        del file.holds[me]
    except BaseException:  # Ctrl-C
        file.holds.pop(me, None)
        if inside:
            file.words[RELEASED] += 1
            file.words[HOLDER] = 0
        files.drop(hold.fd)  # which unlocks, too, and wakes
        raise
    if not file.holds:
        files.busy.discard(file)
    file.idle.append(hold.fd)


def _let_go(file: files.SyncFile, me: object, hold: Hold) -> bool:
    """Leave on behalf of frames that have ended; say whether nobody is inside any more."""
    if not hold.gone():
        return False
    _unlock(file, me, hold)
    return True


def tidy(*_: object) -> None:
    """Leave what this thread is inside of no more; a notebook does so after each cell."""
    for file in [*files.busy]:
        me, hold = file.hold()
        if hold is not None:
            _let_go(file, me, hold)


def _try(fd: int, request: bytes) -> bool:
    try:
        fcntl.fcntl(fd, _TRY, request)
    except BlockingIOError:
        return False
    return True


def _rebuild(name: str, shared: bool, timeout: float | None) -> Lock:
    return Lock(name, shared=shared, timeout=timeout)
