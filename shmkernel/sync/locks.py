"""Locks between processes, threads and tasks: the OS's byte locks on open file descriptions of a sync file.

    LOCK      held exclusively to write, shared to read
    GATE      a turnstile. Waiters lock it before LOCK, so neither readers nor writers starve
    VERSION   held for a microsecond while a version is raised

The OS frees the locks of a dead process, but does not report its death. So an exclusive holder writes its identity into
the sync file, and clears it when it leaves. If the next holder finds it uncleared, it is warned: the protected values
may be half written. Leaving raises the version, and changes the file's time to wake waiters that use inotify; the
others sleep in the OS's queue.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING, Any, Self

from shmkernel._core import counts, limits, oflock
from shmkernel._core.interrupts import AsyncHolding, Entry, entry_of
from shmkernel._core.owners import Owner, greenlets
from shmkernel.errors import TimedOutError, warn
from shmkernel.sync import holds, inotify, sync_file
from shmkernel.sync.holds import Hold, Inside
from shmkernel.sync.sync_file import HOLDER, WAITING, WATCHED

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from shmkernel._core.interrupts import Kind

_LOCK, _GATE, VERSION = 0, 1, 2
_SLEEP = fcntl.F_OFD_SETLKW
_NAP = 0.001  # seconds


_LOCKS = {False: oflock.request(fcntl.F_WRLCK, _LOCK), True: oflock.request(fcntl.F_RDLCK, _LOCK)}  # by `shared`
_GATES = {False: oflock.request(fcntl.F_WRLCK, _GATE), True: oflock.request(fcntl.F_RDLCK, _GATE)}
_UNGATE = oflock.request(fcntl.F_UNLCK, _GATE)


class Lock(AsyncHolding):
    """Excludes other processes, threads and tasks that lock the same name; with `shared` only exclusive holders.

    Parameters
    ----------
    name : str
        The name of a segment, or any other name.
    shared : bool
        Other holders may share the lock; none has it exclusively.
    timeout : float, optional
        Seconds until TimedOutError. By default it waits until Ctrl-C.

    Attributes
    ----------
    abandoned : Who or None
        The process that died while it held the lock exclusively, if none has held it so since. It is warned of, too.

    Examples
    --------
    >>> with Lock("setup", timeout=10):
    ...     "nobody else is here"
    'nobody else is here'
    """

    abandoned: sync_file.Who | None = None
    warns = True

    def __init__(self, name: str, *, shared: bool = False, timeout: float | None = None) -> None:
        self.name, self.shared, self.timeout = name, shared, timeout
        self._file = sync_file.opened(name)
        self._request = _LOCKS[shared]

    def __enter__(self) -> Self:
        self.enter(entry_of(self), self.timeout)
        return self

    @limits.explains
    def _leave(self, entry: Entry | None, kind: Kind) -> None:
        del kind
        inside = None if entry is None else entry.taken
        try:
            if inside is None or not holds.leave(inside):  # an explicit call may have left it, and entered again
                inside = holds.latest(self._file)
                if inside is not None:
                    holds.leave(inside)
        except BaseException:
            if inside is not None:
                holds.abort(inside)
            raise

    def _abort(self, entry: Entry) -> None:
        if entry.taken is not None:
            holds.abort(entry.taken)

    def __aenter__(self) -> Coroutine[Any, Any, Self]:
        return self.entering(entry_of(self))

    def entering(self, entry: Entry) -> Coroutine[Any, Any, Self]:
        """Return a coroutine that enters on behalf of the caller, whatever task awaits it."""
        return self._enter_async(entry, Owner(), holds.find(self._file, shared=self.shared)[0])

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Enter, as multiprocessing's locks do: return False after `timeout` seconds, by default the lock's own."""
        timeout = self.timeout if timeout is None else counts.seconds(timeout)
        try:
            self.enter(Entry(self, explicit=True), timeout if block else 0)
        except TimedOutError:
            return False
        return True

    def release(self) -> None:
        """Leave, as multiprocessing's locks do."""
        self._leave(None, None)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.name, self.shared, self.timeout)

    def __repr__(self) -> str:
        return f"<shmkernel lock {self.name!r}{', shared' if self.shared else ''}>"

    @limits.explains
    def enter(self, entry: Entry, timeout: float | None) -> Hold:
        """Enter, and return the hold. ``entry.taken`` is set before the lock is acquired."""
        while True:
            file = self._file
            try:
                busy = False
                if file.holds or file.queued:
                    hold, busy = holds.find(file, shared=self.shared)
                    if hold is not None:
                        if holds.again(hold, entry, Owner()):
                            return hold
                        continue
                inside = self._first(file, entry, Owner())
                hold = inside.hold
                if file.words[WAITING] or not oflock.take(hold.fd, self._request):
                    self._queue(hold, timeout, busy=busy)
                self._entered(inside)
            except FileNotFoundError:  # the sync file was removed: logind does that at the last logout
                self._abort(entry)
                self._file = sync_file.renewed(file)
            except BaseException:
                self._abort(entry)
                raise
            else:
                return hold

    async def _enter_async(self, entry: Entry, owner: Owner, hold: Hold | None) -> Self:
        while True:
            file = self._file
            try:
                if hold is not None and holds.again(hold, entry, owner):
                    return self
                inside = self._first(file, entry, owner)
                file.queued.append(inside.hold)
                hold = await self._queue_async(inside.hold)
                if hold is None:
                    self._entered(inside)
                    file.queued.remove(inside.hold)
                    return self
                self._abort(entry)
            except FileNotFoundError:
                self._abort(entry)
                self._file, hold = sync_file.renewed(file), None
            except BaseException:
                self._abort(entry)
                raise

    def _first(self, file: sync_file.SyncFile, entry: Entry, owner: Owner) -> Inside:
        hold = Hold(file, owner, shared=self.shared)
        entry.taken = inside = Inside(hold, owner, explicit=entry.explicit)
        hold.description.append(file.description())
        hold.fd = hold.description[0].fileno()
        return inside

    def _entered(self, inside: Inside) -> None:
        """Note the new holder, and warn if the one before died holding the lock."""
        file = self._file
        if time.monotonic() > file.checked_until:
            file.check(inside.hold.fd)
        self.abandoned = file.holder() if file.words[HOLDER] else None
        holds.began(inside)
        if self.abandoned is not None and self.warns:
            message = f"{self.abandoned} died while it held {self.name!r}: what the lock protects may be half written"
            warn(message)

    def _queue(self, hold: Hold, timeout: float | None, *, busy: bool) -> None:
        attempt = _Attempt(hold)
        if timeout != 0 and (busy or any(queued.owner.is_thread() for queued in hold.file.queued)):
            raise holds.refused(self.name, shared=self.shared)
        if timeout is None:
            if greenlets():
                while not attempt():
                    time.sleep(_NAP)
            else:
                attempt.sleep()
            return
        end = time.monotonic() + timeout
        waiter = None
        try:
            while not attempt():
                left = end - time.monotonic()
                if left <= 0:
                    raise self._timed_out(timeout)  # noqa: TRY301  the handler serves all errors
                waiter = waiter or self._waiter()
                waiter.wait(min(left, inotify.TICK))
            if waiter is not None:
                waiter.close()
        except BaseException:  # not `finally`, which Ctrl-C can skip
            if waiter is not None:
                waiter.close()
            raise

    async def _queue_async(self, hold: Hold) -> Hold | None:
        """Return None when the lock is acquired, or a hold that this owner can enter again by now."""
        attempt = _Attempt(hold)
        end = None if self.timeout is None else time.monotonic() + self.timeout
        waiter, held = None, None
        try:
            while not attempt():
                held, _ = holds.find(hold.file, shared=self.shared)
                if held is not None:
                    break
                if end is not None and time.monotonic() >= end:
                    raise self._timed_out(self.timeout)  # noqa: TRY301  as above
                waiter = waiter or self._waiter()
                await waiter.wait_async(end)
            if waiter is not None:
                waiter.close()
        except BaseException:
            if waiter is not None:
                waiter.close()
            raise
        return held

    def _waiter(self) -> inotify.Waiter:
        self._file.words[WATCHED] = 1
        return inotify.Waiter(self._file.path)

    def _timed_out(self, timeout: float | None) -> TimedOutError:
        who = self._file.holder()
        message = f"{self.name!r} is still locked after {timeout:g} s, by {who or 'readers who share it'}"
        if any(hold.owner.ended() for hold in [*self._file.holds]):
            message += f". The thread that took it has ended. To let it go: shm.lock({self.name!r}).release()"
        return TimedOutError(message, name=self.name, timeout=timeout, holder=who)


class _Attempt:
    """Acquires a lock that is not free, on one open file description: first the gate, then the lock."""

    def __init__(self, hold: Hold) -> None:
        self._words, self._fd, self._shared = hold.file.words, hold.fd, hold.shared
        self._at_gate = False

    def __call__(self) -> bool:
        """Try without waiting; return whether the lock is acquired."""
        if not self._at_gate:
            if not oflock.take(self._fd, _GATES[self._shared]):
                return False
            self._reached_gate()
        if not oflock.take(self._fd, _LOCKS[self._shared]):
            return False
        self._passed_gate()
        return True

    def sleep(self) -> None:
        """Wait in the OS's queue."""
        fcntl.fcntl(self._fd, _SLEEP, _GATES[self._shared])
        self._reached_gate()
        fcntl.fcntl(self._fd, _SLEEP, _LOCKS[self._shared])
        self._passed_gate()

    def _reached_gate(self) -> None:
        self._at_gate = True
        self._words[WAITING] = 1

    def _passed_gate(self) -> None:
        self._words[WAITING] = 0
        self._at_gate = False
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _UNGATE)
        os.utime(self._fd)


def _rebuild(name: str, shared: bool, timeout: float | None) -> Lock:
    return Lock(name, shared=shared, timeout=timeout)
