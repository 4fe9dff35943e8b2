"""Who holds: a thread, and inside a running event loop the task.

another thread        is somebody else: it waits
another task          of the same thread is somebody else too; it cannot wait without blocking the loop that has to
                      free it, so the blocking form is refused, and ``async with`` waits
a task that ended     leaves what it holds to its thread: a cell of a notebook can be a task of its own
a thread that ended   leaves what it holds to nobody; a new thread may have its number, and is somebody else
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class _Thread(threading.local):
    """What lives as long as the thread. Its number would not do: another thread may get it."""

    def __init__(self) -> None:
        self.me = _Alive()
        self.ref = weakref.ref(self.me)


class _Alive:
    __slots__ = ("__weakref__",)


_thread = _Thread()


def task() -> asyncio.Task[Any] | None:
    """Return the task that runs now in this thread, if one does."""
    loaded = sys.modules.get("asyncio")  # without it there is no loop
    if loaded is None or loaded._get_running_loop() is None:  # noqa: SLF001  the public one raises: 1 us
        return None
    found: asyncio.Task[Any] | None = loaded.current_task()
    return found


class Owner:
    """Who has entered, as of its making.

    Examples
    --------
    >>> owner = Owner()
    >>> owner.is_me(), owner.is_thread(), owner.ended()
    (True, True, False)
    """

    __slots__ = ("_task", "_thread")

    def __init__(self) -> None:
        self._thread, self._task = _thread.ref, task()

    def is_thread(self) -> bool:
        """Say whether this thread is the owner's, in whatever task."""
        return self._thread is _thread.ref

    def is_me(self) -> bool:
        """Say whether who asks is the owner: its thread, and its task unless that has ended."""
        if self._thread is not _thread.ref:
            return False
        return self._task is None or self._task.done() or self._task is task()

    def at_end(self, act: Callable[[object], object]) -> object:
        """Have something done when the owner's thread ends, as long as what this returns is kept."""
        thread = self._thread()
        return None if thread is None else weakref.ref(thread, act)

    def ended(self) -> bool:
        """Say whether the thread has ended."""
        return self._thread() is None


def greenlets() -> bool:
    """Say whether owners are greenlets of one thread: gevent, or eventlet, had replaced `threading.local` before.

    Who waits in the OS there stops the one that has to leave. `time.sleep`, which they replace too, lets it run.
    """
    return _Thread.__mro__[1].__module__ != "_thread"
