"""Release what a `with` statement holds even if Ctrl-C skips its ``__exit__``.

Python calls the handler of a signal between two bytecodes. If that raises KeyboardInterrupt just before the first
line of an ``__exit__`` written in Python runs, the ``__exit__`` is skipped (gh-74174). On Python 3.14 it may
even be raised between the end of ``__enter__`` and the beginning of the block, which skips the ``__exit__`` of a
``threading.Lock`` too (gh-148874). ``try: ... finally:`` has the same gap. A lock would stay locked.

So here the `with` statement itself owns the hold. Python looks up ``__exit__`` before it calls ``__enter__``, and keeps
the result on the frame's value stack until it is called:

    with x:
      x.__exit__     -> makes an Entry, and a functools.partial that ends it: the token
      x.__enter__()  -> finds the Entry that this thread has just made, and acquires
      the block
      token(...)     -> ends the Entry

Nothing else refers to the token. If the frame is unwound, or a suspended generator is collected, before the token was
called, the token dies, and the callback of a weak reference aborts the Entry. No frame may refer to the token, since
tracebacks keep frames and IPython keeps tracebacks. So it is a `functools.partial`: calling it makes no Python frame.

`contextlib.ExitStack` and explicit calls look up ``__exit__`` on the class, or after ``__enter__``. They make no token,
and hold until ``__exit__`` is called.
"""

from __future__ import annotations

import functools
import threading
import weakref
from threading import get_ident
from typing import TYPE_CHECKING, Any

from shmkernel._core import fork

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

    Kind = type[BaseException] | None

_PATIENCE = 0.01  # seconds that a fork waits for a guard: most are held for microseconds


class Entry:
    """One entering of a `Holding`: by a ``with`` statement, or by an explicit ``__enter__``.

    It is made before anything is acquired. `Holding._enter` sets ``taken`` before it acquires, so that `_abort` can
    release it whenever the statement is torn down. ``over`` is true once it was left or torn down.
    """

    __slots__ = ("explicit", "generation", "holding", "over", "taken", "token")

    def __init__(self, holding: Holding, *, explicit: bool) -> None:
        self.holding, self.explicit, self.generation = holding, explicit, fork.generation
        self.taken: Any = None
        self.over = False
        self.token: object = None  # a weak reference, whose callback is `died`

    @property
    def inherited(self) -> bool:
        """Whether it was made before a fork: it belongs to the parent, and leaving it here does nothing."""
        return fork.inherited(self.generation)

    def end(self) -> None:
        """Mark the entry as over: the death of its token aborts nothing."""
        self.over = True
        self.token = None

    def died(self, _: object) -> None:
        """Abort when the token dies, unless the entry is over by then."""
        if not self.over:
            self.over = True
            if not self.inherited:
                self.holding._abort(self)  # noqa: SLF001  Entry and Holding are one protocol


class _Here(threading.local):
    def __init__(self) -> None:
        self.entries: list[Entry] = []  # statements between the lookup of `__exit__` and `__enter__`


_here = _Here()


class Exit:
    """The ``__exit__`` of a `Holding`: each lookup by a ``with`` statement begins an `Entry`."""

    def __init__(self, name: str) -> None:
        self._name = name  # the method to call with the entry

    def __get__(self, holding: Holding | None, cls: type) -> Callable[..., Any]:
        leave = getattr(cls, self._name)
        if holding is None:
            return functools.partial(_leave_explicitly, leave)
        entry = Entry(holding, explicit=False)
        token = functools.partial(leave, holding, entry)
        entry.token = weakref.ref(token, entry.died)
        waiting = _here.entries
        while waiting and waiting[-1].over:  # looked up, but never entered
            waiting.pop()
        waiting.append(entry)
        return token


def _leave_explicitly(leave: Callable[..., Any], holding: Holding, *error: Any) -> Any:
    return leave(holding, None, *error)


def entry_of(holding: Holding) -> Entry:
    """Return the entry of the ``with`` statement that is about to enter, or a new one for an explicit call."""
    waiting = _here.entries
    while waiting and waiting[-1].over:
        waiting.pop()
    if waiting and waiting[-1].holding is holding:
        return waiting.pop()
    return Entry(holding, explicit=True)


class Holding:
    """The base class of context managers that survive Ctrl-C.

    A subclass acquires in `_enter`, which first sets ``entry.taken`` (never to None), and releases in `_leave`. If the
    statement is torn down, or `_leave` raises, `_abort` releases what is still held. It must work after any number of
    steps of the others.
    """

    __slots__ = ()

    def __enter__(self) -> Any:
        waiting = _here.entries
        if waiting and waiting[-1].holding is self and not waiting[-1].over:  # as in `entry_of`, without a call
            return self._enter(waiting.pop())
        return self._enter(entry_of(self))

    if TYPE_CHECKING:

        def __exit__(self, kind: Kind, error: BaseException | None, at: TracebackType | None) -> None: ...
    else:
        __exit__ = Exit("_exit")

    def _enter(self, entry: Entry) -> Any:
        raise NotImplementedError

    def _leave(self, entry: Entry | None, kind: Kind) -> None:
        """Release what this entry holds; with None, from an explicit call, what this owner entered last."""
        raise NotImplementedError

    def _abort(self, entry: Entry) -> None:
        """Release what an entry still holds whose statement was torn down."""
        raise NotImplementedError

    def _exit(self, entry: Entry | None, kind: Kind, error: BaseException | None, at: TracebackType | None) -> None:
        del error, at
        if entry is None:
            self._leave(None, kind)
        elif entry.generation != fork.generation or (fork.forking and entry.inherited):  # without a call, mostly
            entry.end()
        elif entry.taken is None:  # x.__exit__(...) by hand, after x.__enter__()
            entry.end()
            self._leave(None, kind)
        else:
            self._leave(entry, kind)
            entry.over, entry.token = True, None  # as `end` does; every lock of ours passes here


class _Done:
    """The awaitable of an ``async with`` that has been left already."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


_DONE = _Done()


class AsyncHolding(Holding):
    """The base of objects for ``async with`` as well.

    A subclass defines ``__aenter__`` as a plain method that calls `entry_of` at once and returns a coroutine. What
    leaves is a plain method too: the token dies after the call, before the awaitable that it returns ends.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        async def __aexit__(self, kind: Kind, error: BaseException | None, at: TracebackType | None) -> None: ...
    else:
        __aexit__ = Exit("_exit_async")

    def _exit_async(
        self, entry: Entry | None, kind: Kind, error: BaseException | None, at: TracebackType | None
    ) -> Awaitable[None]:
        self._exit(entry, kind, error, at)
        return _DONE


class Guard(Holding):
    """A re-entrant mutex inside this process, for short sections that never block: ``with guard:``.

    It is re-entrant because a finalizer may enter it while its thread is inside. It survives Ctrl-C at any bytecode,
    and forks by `before_fork`, `in_parent` and `in_child`.

    Examples
    --------
    >>> guard = Guard()
    >>> with guard:
    ...     with guard:
    ...         "nobody else is here"
    'nobody else is here'
    """

    __slots__ = ("_lock", "_owner")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # acquired once by its owner; a plain Lock does not know its owner
        self._owner: int | None = None

    def _enter(self, entry: Entry) -> None:
        me = get_ident()
        if self._owner == me:
            entry.taken = False
            return
        entry.taken = True
        self._lock.acquire()
        self._owner = me

    def _leave(self, entry: Entry | None, kind: Kind) -> None:
        del kind
        if entry is not None and entry.taken:
            self._owner = None
            self._lock.release()

    def _abort(self, entry: Entry) -> None:
        if entry.taken and self.is_mine():
            self._owner = None
            self._lock.release()

    def is_mine(self) -> bool:
        """Return whether this thread is inside."""
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001  as threading.Condition asks

    def before_fork(self) -> bool:
        """Keep other threads out; return True if one stays inside, perhaps since it waits for another guard."""
        return not self.is_mine() and not self._lock.acquire(timeout=_PATIENCE)

    def in_parent(self) -> None:
        """Release what `before_fork` acquired."""
        if self.is_mine() and self._owner is None:
            self._lock.release()

    def in_child(self) -> None:
        """Replace the mutex: its owner is a thread of the parent."""
        self._lock, self._owner = threading.RLock(), None
