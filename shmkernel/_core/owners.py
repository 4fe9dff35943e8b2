"""Identify the owner of a hold: a thread, and inside a running event loop also the asyncio task.

another thread        is another owner: it waits
another task          of the same thread is another owner too. Waiting would block the event loop that the owner needs
                      to release, so the blocking form raises LockError, and ``async with`` waits
a task that ended     passes its holds to its thread: each cell of a notebook may run as a task of its own
a thread that ended   passes its holds to no thread; a new thread with the same ident is another owner
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from shmkernel._core import fork

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class _Thread(threading.local):
    """An object that lives as long as the thread. The ident would not do: a later thread may get it."""

    def __init__(self) -> None:
        self.me = _Alive()
        self.ref = weakref.ref(self.me)


class _Alive:
    __slots__ = ("__weakref__",)


_thread = _Thread()


def task() -> asyncio.Task[Any] | None:
    """Return the asyncio task that this thread is running, None if there is none."""
    loaded = sys.modules.get("asyncio")  # if it is not loaded, there is no event loop
    if loaded is None or loaded._get_running_loop() is None:  # noqa: SLF001  the public one raises: 1 us
        return None
    current: asyncio.Task[Any] | None = loaded.current_task()
    return current


class Owner:
    """The thread and task that made this object.

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
        """Return whether this thread is the owner's, whatever task it runs."""
        return self._thread is _thread.ref

    def is_me(self) -> bool:
        """Return whether the caller is the owner: the same thread, and the same task unless that has ended."""
        if self._thread is not _thread.ref:
            return False
        return self._task is None or self._task.done() or self._task is task()

    def at_end(self, act: Callable[[object], object]) -> object:
        """Call `act` when the owner's thread ends, provided that the returned object is still referenced.

        A forked child does not call it: there the threads of the parent end too, while the owner lives on.
        """
        thread = self._thread()
        return None if thread is None else weakref.ref(thread, functools.partial(_ended, act, fork.generation))

    def ended(self) -> bool:
        """Return whether the owner's thread has ended."""
        return self._thread() is None


def _ended(act: Callable[[object], object], generation: int, thread: object) -> None:
    if not fork.inherited(generation):
        act(thread)


def greenlets() -> bool:
    """Return whether threads are greenlets: gevent or eventlet had replaced `threading.local` before the import.

    A wait in the OS then also stops the greenlet that has to release. `time.sleep`, which they replace, lets it run.
    """
    return _Thread.__mro__[1].__module__ != "_thread"
