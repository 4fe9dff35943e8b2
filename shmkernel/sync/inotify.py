"""Sleep until a file or folder changes: one inotify instance a process, shared by all waiters.

The waiter that wakes first reads the events from the instance, and wakes the others through their eventfds. So no
waiter misses an event that another has read, and no extra thread is needed. A waiter does not learn what happened: it
checks its condition again. Watches are shared too, since inotify returns the same watch for the same file. If the
process cannot have an instance (a user has 128), waiters poll every 10 ms. A waiter takes two descriptors. All take at
most a quarter of those that the process may have; those beyond poll, too, the more there are the more rarely.

    utime on a sync file          a process left a lock, or published
    close of a sync file          a process died, perhaps before its utime
    change of a segment's links   it was unlinked or replaced
    a new file in the folder      a name that was free may lead to a segment now
    one less in the folder        a name is free: the process that serves this host withdraws it
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import sys
import time
import weakref
from typing import TYPE_CHECKING

from shmkernel._core import closing, fork, interrupts

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from shmkernel._core.closing import Description

TICK = 0.05  # seconds: an event loop that sleeps longer reacts late to Ctrl-C
_POLL, _POLLERS = 0.01, 16  # seconds between two looks, of so many waiters
_SHARE = 8  # two descriptors of each waiter: a quarter
_LONGEST = 3600.0  # seconds; epoll accepts up to 24 days
_ATTRIB, _CLOSE_WRITE, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF = 0x4, 0x8, 0x80, 0x100, 0x200, 0x400
_MASK = _ATTRIB | _CLOSE_WRITE | _DELETE_SELF
_FOLDER_MASK = _CREATE | _MOVED_TO | _DELETE
_EVENTS = 4096
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_guard = interrupts.Guard()
_inotify: Description | None = None
_watches: set[int] = set()  # all watches of the instance
_waiters: weakref.WeakSet[Waiter] = weakref.WeakSet()
_resting: Waiter | None = None  # kept for the next wait with the same key: making and closing one takes 30 us


class Waiter:
    """Waits for changes of files, and for new files in folders, that happen after it was made.

    Check the condition once after making it: earlier changes wake nobody.
    """

    _poll: select.epoll | None = None  # defaults here, since Ctrl-C may end `__init__` before its first line
    event: Description | None = None
    watched: set[int] | frozenset[int] = frozenset()

    def __init__(self, *paths: str, key: object = None) -> None:
        self.polling, self._key = True, key
        try:
            if len(_waiters) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE:
                raise OSError  # noqa: TRY301  the handler serves all errors
            self.event = closing.described(os.eventfd, 0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._poll = _epoll()
            self._poll.register(self.event, select.EPOLLIN)
        except (OSError, AttributeError):  # too many open files; gevent removes epoll
            self._poll = None
        with _guard:
            _waiters.add(self)
            if self._poll is not None and (instance := _instance()) is not None:
                self._poll.register(instance, select.EPOLLIN)
                self.watched = set()
                watching = [self._watch(instance, self.watched, path) for path in paths]
                self.polling = not all(watching)

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until a change or the timeout, or wake for no reason: check the condition again in any case."""
        longest = _pause() if self.polling else _LONGEST
        left = longest if timeout is None else max(min(timeout, longest), 0)
        if self._poll is None:
            time.sleep(left)
        elif self._poll.poll(left):
            self._take()

    async def wait_async(self, end: float | None = None) -> None:
        """Sleep likewise, until `end` of time.monotonic at the latest, while other tasks run."""
        import asyncio  # noqa: PLC0415  slow, and here it is loaded

        tick = _pause() if self.polling else TICK
        left = tick if end is None else max(0, min(tick, end - time.monotonic()))
        if self._poll is None:
            await asyncio.sleep(left)
            return
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        timer = loop.call_later(left, _wake, woken)
        loop.add_reader(self._poll.fileno(), _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()
            if not loop.is_closed():  # it is closed if the task is collected with its loop
                loop.remove_reader(self._poll.fileno())
        self._take()

    def resume(self, key: object) -> bool:
        """Return whether it waited for the same key, and if so wait again."""
        if self._key != key:
            return False
        _waiters.add(self)
        return True

    def rest(self) -> None:
        """Stop waiting, but keep this one for the next `waiter` with the same key."""
        global _resting
        with _guard:
            _waiters.discard(self)
            replaced, _resting = (self, _resting) if self.polling else (_resting, self)
        if replaced is not None:
            replaced.close()

    def close(self) -> None:
        """Stop waiting, and close. This can be repeated."""
        with _guard:
            _waiters.discard(self)
            others = {watch for one in (*_waiters, _resting) if one not in (None, self) for watch in one.watched}
            for watch in _watches - others:  # includes those of waiters whose close Ctrl-C interrupted
                _libc.inotify_rm_watch(_number(_inotify), watch)  # fails if the file is removed, and with it the watch
                _watches.discard(watch)
            self.watched = frozenset()
            for descriptor in (self._poll, self.event):
                if descriptor is not None:
                    descriptor.close()

    def __del__(self, *, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ending():  # Ctrl-C has skipped the close
            self.close()

    @staticmethod
    def _watch(instance: Description, watched: set[int], path: str) -> bool:
        mask = _FOLDER_MASK if os.path.isdir(path) else _MASK
        watch = int(_libc.inotify_add_watch(instance.fileno(), os.fsencode(path), mask))
        if watch < 0:
            return False
        _watches.add(watch)
        watched.add(watch)
        return True

    def _take(self) -> None:
        with _guard:
            try:
                os.read(_number(self.event), 8)
            except BlockingIOError:
                pass
            else:
                return  # another waiter has read the events
            try:
                os.read(_number(_inotify), _EVENTS)
            except OSError:
                return
            for other in _waiters:
                if other is not self and other.event is not None:
                    os.eventfd_write(other.event.fileno(), 1)


def waiter(key: object, *paths: str) -> Waiter:
    """Return a waiter for these files: the resting one if its key is equal, else a new one."""
    global _resting
    with _guard:
        rested, _resting = _resting, None
        if rested is not None and rested.resume(key):
            return rested
    if rested is not None:
        rested.close()
    return Waiter(*paths, key=key)


def _pause() -> float:
    """Return how long a waiter that polls sleeps: together they look 1,600 times a second at most."""
    return _POLL * max(1, len(_waiters) / _POLLERS)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _epoll() -> select.epoll:
    new = select.epoll()
    while new.fileno() <= closing.LAST:
        above = map(fcntl.fcntl, [new], [fcntl.F_DUPFD_CLOEXEC], [closing.LAST + 1])
        new = next(map(select.epoll.fromfd, above))
    return new


def _instance() -> Description | None:
    """Return the process's inotify instance; None if it cannot have one."""
    global _inotify
    if _inotify is None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: inotify_init1 returned -1
            _inotify = closing.described(_libc.inotify_init1, _FLAGS)
    return _inotify


def _number(descriptor: Description | None) -> int:
    return -1 if descriptor is None else descriptor.fileno()


def _in_child() -> None:
    """Drop the parent's instance, whose events are the parent's; its descriptors are closed already."""
    global _inotify, _resting
    for waiter in (*_waiters, _resting):
        if waiter is not None and waiter._poll is not None:  # noqa: SLF001  of this module
            waiter._poll.close()  # noqa: SLF001  of this module
    _waiters.clear()
    _watches.clear()
    _inotify = _resting = None
    _guard.in_child()


fork.on("waiters", before=_guard.before_fork, in_parent=_guard.in_parent, in_child=_in_child)
