"""Sleeping until something happens to a file: inotify, one instance a process, shared by all who wait.

Whoever of them wakes first takes the events out, and wakes the others, each through an eventfd of its own: nobody's
events are lost to another, and no thread stands between. What happened is not told: each looks again at what it waits
for. Watches are counted, since the same file gives the same watch. Where no instance is to be had (a user has 128),
waiting means to look every 10 ms.

    utime on a sync file          somebody left a lock, or published
    close of a sync file          somebody died, perhaps before his utime
    change of a segment's links   it was unlinked or replaced
    a new file in the folder      a name that did not exist may lead to a segment now
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
import time
import weakref
from typing import TYPE_CHECKING, Self

from shmkernel import fork, interrupts

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType

TICK = 0.05  # seconds; a loop that sleeps does not see Ctrl-C
_POLL = 0.01
_ATTRIB, _CLOSE_WRITE, _CLOSE, _MOVED_TO, _CREATE, _DELETE_SELF = 0x4, 0x8, 0x10, 0x80, 0x100, 0x400
_MASK = _ATTRIB | _CLOSE_WRITE | _DELETE_SELF
_FOLDER_MASK = _CREATE | _MOVED_TO
_EVENTS = 4096
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_guard = interrupts.Guard()
_inotify = -1
_watches: dict[int, int] = {}  # by watch: how many wait for it
_waiters: weakref.WeakSet[Waiter] = weakref.WeakSet()
_resting: Waiter | None = None  # for the next wait for the same: to make and to close one takes 30 us


class Waiter:
    """Waits for what happens to files from its making on; a folder is watched for what appears in it.

    Look once after making it: what happened before wakes nobody.
    """

    def __init__(self, *paths: str, key: object = None) -> None:
        global _inotify  # noqa: PLW0603  one a process
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(self._event, select.EPOLLIN)
        self._watches: list[int] = []
        self.blind, self._key = False, key
        with _guard:
            _waiters.add(self)
            if _inotify < 0:
                _inotify = int(_libc.inotify_init1(_FLAGS))
            if _inotify >= 0:
                self._poll.register(_inotify, select.EPOLLIN)
                watched = [self._watch(path) for path in paths]
                self.blind = not all(watched)
            else:
                self.blind = True

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until something has happened, or for nothing, or until the time is over; look again in any case."""
        if self.blind:
            timeout = _POLL if timeout is None else min(timeout, _POLL)
        if self._poll.poll(-1 if timeout is None else max(timeout, 0)):
            self._take()

    async def wait_async(self, end: float | None = None) -> None:
        """Sleep likewise, until `end` of time.monotonic at the latest, and let others run meanwhile."""
        import asyncio  # noqa: PLC0415  slow, and here it is loaded

        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        tick = _POLL if self.blind else TICK
        timer = loop.call_later(tick if end is None else max(0, min(tick, end - time.monotonic())), _wake, woken)
        loop.add_reader(self._poll.fileno(), _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()
            loop.remove_reader(self._poll.fileno())
        self._take()

    def goes_on(self, key: object) -> bool:
        """Wait again, if it was for what this key stands for."""
        if self._key != key:
            return False
        _waiters.add(self)
        return True

    def rest(self) -> None:
        """Wait no more, for now: the next `waiter` with this key may go on with this one."""
        global _resting
        with _guard:
            _waiters.discard(self)
            before, _resting = (self, _resting) if self.blind else (_resting, self)
        if before is not None:
            before.close()

    def close(self) -> None:
        """Wait no more."""
        with _guard:
            if self._poll.closed:
                return
            _waiters.discard(self)
            for watch in self._watches:
                _watches[watch] -= 1
                if not _watches[watch]:
                    del _watches[watch]
                    _libc.inotify_rm_watch(_inotify, watch)  # which fails for a file that is gone: so is the watch
            self._poll.close()
            os.close(self._event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self, *, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ending():  # Ctrl-C has ended its block too early
            self.close()

    def _watch(self, path: str) -> bool:
        mask = _FOLDER_MASK if os.path.isdir(path) else _MASK
        watch = int(_libc.inotify_add_watch(_inotify, os.fsencode(path), mask))
        if watch < 0:
            return False
        _watches[watch] = _watches.get(watch, 0) + 1
        self._watches.append(watch)
        return True

    def _take(self) -> None:
        with _guard:
            try:
                os.read(self._event, 8)
            except BlockingIOError:
                pass
            else:
                return  # somebody else took the events
            try:
                os.read(_inotify, _EVENTS)
            except OSError:
                return
            for other in _waiters:
                if other is not self:
                    os.eventfd_write(other._event, 1)  # noqa: SLF001


def waiter(key: object, *paths: str) -> Waiter:
    """Return a waiter for these files, which `key` stands for: the one that rests, or a new one."""
    global _resting
    with _guard:
        rested, _resting = _resting, None
        if rested is not None and rested.goes_on(key):
            return rested
    if rested is not None:
        rested.close()
    return Waiter(*paths, key=key)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _after_fork() -> None:
    """Let go of the parent's instance, whose events are the parent's."""
    global _inotify, _resting  # noqa: PLW0603
    for one in [*_waiters, *([_resting] if _resting else [])]:
        one._poll.close()  # noqa: SLF001
        os.close(one._event)  # noqa: SLF001
    _waiters.clear()
    _resting = None
    _watches.clear()
    if _inotify >= 0:
        os.close(_inotify)
    _inotify = -1
    _guard.in_child()


fork.on("waiters", before=_guard.before_fork, in_parent=_guard.in_parent, in_child=_after_fork)
