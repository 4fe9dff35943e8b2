"""`with` statements that Ctrl-C cannot leave half-way.

Python calls the handler of a signal between two bytecodes. If that raises KeyboardInterrupt just before the first
line of an ``__exit__`` written in Python runs, the ``__exit__`` is skipped (gh-74174). On Python 3.14 it may
even be raised between the end of ``__enter__`` and the beginning of the block, which skips the ``__exit__`` of a
``threading.Lock`` too (gh-148874). ``try: ... finally:`` has the same gap. What was taken would stay taken.

So here the statement itself is what holds. Python looks up ``__exit__`` before it calls ``__enter__``, and keeps the
result on the value stack of the frame until it is called:

    with x:
      x.__exit__     -> makes an Entry, and a partial that ends it: the token
      x.__enter__()  -> finds the Entry that this thread has just made, and takes what it is for
      the block
      token(...)     -> ends the Entry

Nothing else refers to the token. If the frame is unwound, or a suspended generator is collected, before the token
was called, it dies, and a weak reference to it ends the Entry. No frame may hold it: tracebacks keep frames, and
IPython keeps tracebacks. This is why it is a `functools.partial`, which is called by C.

`contextlib.ExitStack` and explicit calls take ``__exit__`` from the class, or after ``__enter__``: they make no
token, and hold until they are left.
"""

from __future__ import annotations

import functools
import threading
import weakref
from threading import get_ident
from typing import TYPE_CHECKING, Any

from shmkernel._core import fork

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Kind = type[BaseException] | None


class Entry:
    """One time that something was entered: by a ``with`` statement, or by an explicit ``__enter__``.

    It is made before anything is taken. Whoever takes something notes it here first, in ``taken``, so that `Holding.
    _abort` finds it whenever the statement is torn down. ``over`` says that it was left, or torn down.
    """

    __slots__ = ("_token", "explicit", "generation", "holding", "over", "taken")

    def __init__(self, holding: Holding, *, explicit: bool) -> None:
        self.holding, self.explicit, self.generation = holding, explicit, fork.generation
        self.taken: Any = None
        self.over = False
        self._token: object = None

    @property
    def inherited(self) -> bool:
        """Whether it was made before a fork: then it is the parent's, and leaving it here does nothing."""
        return self.generation != fork.generation

    def watch(self, token: object) -> None:
        """Abort when the token dies, unless it was left before."""
        self._token = weakref.ref(token, self._died)

    def end(self) -> None:
        """Note that nothing is left to do when the token dies."""
        self.over = True
        self._token = None

    def _died(self, _: object) -> None:
        if not self.over:
            self.over = True
            if not self.inherited:
                self.holding._abort(self)  # noqa: SLF001  the other half of this protocol


class _Here(threading.local):
    def __init__(self) -> None:
        self.entries: list[Entry] = []  # of statements between the lookup of `__exit__` and `__enter__`


_here = _Here()


class Exit:
    """The ``__exit__`` of a `Holding`: each lookup by a ``with`` statement begins an `Entry`."""

    def __init__(self, name: str) -> None:
        self._name = name  # of the method that leaves

    def __get__(self, holding: Holding | None, cls: type) -> Callable[..., Any]:
        leave = getattr(cls, self._name)
        if holding is None:
            return functools.partial(_leave_explicitly, leave)
        entry = Entry(holding, explicit=False)
        token = functools.partial(leave, holding, entry)
        entry.watch(token)
        waiting = _here.entries
        while waiting and waiting[-1].over:  # looked up, and never entered
            waiting.pop()
        waiting.append(entry)
        return token


def _leave_explicitly(leave: Callable[..., Any], holding: Holding, *error: Any) -> Any:  # noqa: ANN401  as it is
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
    """The base of what ``with`` holds.

    A subclass takes in `_enter`, which notes that in ``entry.taken`` (never None), and gives back in `_leave`. If the
    statement is torn down, or `_leave` raises, `_abort` gives back what is still taken; it may find everything from
    nothing to all of it done already.

    For ``async with`` a subclass defines ``__aenter__`` as a plain method that calls `entry_of` at once and returns
    a coroutine, and ``__aexit__ = Exit("_exit_async")``, a plain method too: the token ends with the call, not with the
    coroutine that it returns.
    """

    __slots__ = ()

    def __enter__(self) -> Any:  # noqa: ANN401  what the subclass gives
        return self._enter(entry_of(self))

    if TYPE_CHECKING:

        def __exit__(self, kind: Kind, error: BaseException | None, at: TracebackType | None) -> None: ...
    else:
        __exit__ = Exit("_exit")

    def _enter(self, entry: Entry) -> Any:  # noqa: ANN401  what the subclass gives
        raise NotImplementedError

    def _leave(self, entry: Entry | None, kind: Kind) -> None:
        """Give back what was taken for this entry; for None, by an explicit call, what this owner entered last."""
        raise NotImplementedError

    def _abort(self, entry: Entry) -> None:
        """Give back what is still taken for an entry whose statement was torn down."""
        raise NotImplementedError

    def _exit(self, entry: Entry | None, kind: Kind, error: BaseException | None, at: TracebackType | None) -> None:
        del error, at
        if entry is None:
            self._leave(None, kind)
        elif entry.inherited:
            entry.end()
        elif entry.taken is None:  # x.__exit__(...) by hand, after x.__enter__()
            entry.end()
            self._leave(None, kind)
        else:
            self._leave(entry, kind)
            entry.end()


class Guard(Holding):
    """A mutex inside this process, for sections of our own that are short and never block: ``with guard:``.

    A thread may enter it again: garbage collection may strike inside. It survives Ctrl-C at any bytecode, and a fork:
    see `before_fork`, `in_parent` and `in_child`.

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
        self._lock = threading.RLock()  # entered once by its owner; it alone can say whose it is
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
        """Say whether this thread is inside."""
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001  as threading.Condition asks

    def before_fork(self) -> None:
        """Wait until no other thread is inside."""
        if not self.is_mine():
            self._lock.acquire()

    def in_parent(self) -> None:
        """Go on after a fork."""
        if self.is_mine() and self._owner is None:
            self._lock.release()

    def in_child(self) -> None:
        """Forget who was inside: threads of the parent."""
        self._lock, self._owner = threading.RLock(), None
