"""Open files that close themselves in C, whatever Ctrl-C interrupts; a forked child closes its copies of the parent's.

Ctrl-C is raised between two bytecodes: after a call has returned the number of a descriptor, and before that is stored
anywhere. So the number must never be on its own. A call that opens a file, and the object that owns it, are one chain
of calls in C:

    next(map(own, map(os.open, ...)))

The owner closes the descriptor with its last reference. It must do so in C: Ctrl-C would also end a ``__del__`` that is
written in Python. Two types of the standard library can own a descriptor, and close it without a warning:

    select.epoll.fromfd   any descriptor: it is not looked at
    Description           a subclass of io.FileIO: no folder. It can hold locks, and is noted, so that a child closes it
"""

from __future__ import annotations

import fcntl
import functools
import io
import itertools
import os
import posix
import select
import weakref
from typing import TYPE_CHECKING, Any

from shmkernel._core import fork, interrupts
from shmkernel._core.imports import original

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAST = 2  # the last of the three standard streams

# Held over every fork, and while a descriptor that a child must not keep is opened and noted.
no_fork = interrupts.Guard()
_open: weakref.WeakSet[Description] = weakref.WeakSet()
_kept: dict[int, tuple[object, object]] = {}  # what is kept, and the weak reference that ends this
_numbers = itertools.count()
_lost: list[object] = []  # owners of numbers that belong to other files by now: they must not close them
try:
    own: Callable[[int], Any] = select.epoll.fromfd
except AttributeError:  # gevent removes it
    own = original("select").epoll.fromfd


class Descriptor(int):
    """The number of an open file, which is closed with the last reference to it."""

    owner: Any
    close: Callable[[], None]  # the owner's: closes the file now, and can be repeated


class Description(io.FileIO):
    """An open file description above the standard streams. Byte locks and flocks belong to it; ``held`` says so."""

    held = False
    identity: tuple[int, int] | None = None
    _finalizing = False  # hides FileIO's flag: no ResourceWarning for one that an interrupt left open

    def is_ours(self) -> bool:
        """Return whether the number still leads to the file: a program that becomes a daemon may have closed it."""
        try:
            status = os.fstat(self.fileno())
        except (OSError, ValueError):  # ValueError: it is closed
            return False
        return (status.st_dev, status.st_ino) == self.identity

    def end(self) -> None:
        """Close, unless the number belongs to another file now. This can be repeated."""
        if self.is_ours():
            self.close()
        elif not self.closed:
            vars(self)["close"] = bool  # its finalizer calls this, which does nothing


def opened(call: Callable[..., int], *arguments: Any) -> Descriptor:
    """Return the descriptor that a function written in C opens; it lies above the standard streams.

    Examples
    --------
    >>> opened(os.open, "/", os.O_PATH) > 2
    True
    """
    owner = next(map(own, itertools.starmap(call, (arguments,))))
    fd = Descriptor(owner.fileno())
    fd.owner, fd.close = owner, owner.close
    return fd if fd > LAST else numbered(owner)


def owner_of(call: Callable[..., int], *arguments: Any) -> Any:
    """Return the owner of the descriptor that a function written in C opens, whatever its number."""
    return next(map(own, itertools.starmap(call, (arguments,))))


def numbered(owner: Any, own: Callable[[int], Any] = own) -> Descriptor:
    """Return the number of an open file, moved above the standard streams: nothing printed must go into it."""
    if owner.fileno() <= LAST:
        owner = next(map(own, map(fcntl.fcntl, [owner], [fcntl.F_DUPFD_CLOEXEC], [LAST + 1])))
    fd = Descriptor(owner.fileno())
    fd.owner, fd.close = owner, owner.close
    return fd


def described(call: Callable[..., int], *arguments: Any) -> Description:
    """Return the description of the file that a function written in C opens; `call` may raise OSError.

    Examples
    --------
    >>> described(os.open, "/dev/null", os.O_RDWR).fileno() > 2
    True
    """
    return _noted(itertools.starmap(call, (arguments,)))[0]


def pipe() -> list[Description]:
    """Return the reading and the writing end of a new pipe."""
    return _noted(itertools.chain.from_iterable(itertools.starmap(posix.pipe, ((),))))


def note(file: Description) -> Description:
    """Have forked children close this file. Open it with `no_fork` held."""
    status = os.fstat(file.fileno())
    file.identity = status.st_dev, status.st_ino
    _open.add(file)
    return file


def _noted(numbers: Iterator[int]) -> list[Description]:
    """Own descriptors that are opened as `numbers` is read, and note them."""
    new: list[Description] = []
    try:
        with no_fork:
            new.extend(map(Description, numbers))
            for at, file in enumerate(new):
                if file.fileno() <= LAST:
                    new[at] = next(map(Description, map(fcntl.fcntl, [file], [fcntl.F_DUPFD_CLOEXEC], [LAST + 1])))
                note(new[at])
    except BaseException:
        for file in new:  # the traceback would keep them open
            file.close()
        raise
    return new


def keep_with(value: object, kept: object) -> None:
    """Keep an object for as long as `value` lives; TypeError if that has no weak references.

    `weakref.finalize` would call a function in Python, which Ctrl-C ends before it lets go.
    """
    number = next(_numbers)
    _kept[number] = kept, weakref.ref(value, functools.partial(_kept.pop, number))


def lose(owner: object) -> None:
    """Keep an owner for ever: its number belongs to another file by now, which it would close."""
    _lost.append(owner)


def _in_child() -> None:
    """Close the parent's descriptions: a child would hold their locks for as long as it lives."""
    for file in [*_open]:
        file.end()
    _open.clear()
    no_fork.in_child()


fork.on("descriptors", before=no_fork.before_fork, in_parent=no_fork.in_parent, in_child=_in_child)
