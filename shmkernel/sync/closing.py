"""Descriptors that close themselves with their last reference, even after a Ctrl-C at any bytecode.

Code that closes a plain number can be interrupted before the close. The objects made here are closed by their
destructor, which is C. A forked child closes its copies of the parent's.
"""

from __future__ import annotations

import fcntl
import io
import weakref
from typing import TYPE_CHECKING, Any

from shmkernel._core import interrupts

if TYPE_CHECKING:
    from collections.abc import Callable

STREAMS = 2  # the last of the three standard streams

guard = interrupts.Guard()  # held over a fork, so that the child finds all of them in _open
_open: weakref.WeakSet[Descriptor] = weakref.WeakSet()


class Descriptor(io.FileIO):
    """A descriptor above the standard streams."""

    _finalizing = False  # a class attribute hides FileIO's flag: no ResourceWarning when it is destroyed open


def made(call: Callable[..., int], *arguments: Any) -> Descriptor:
    """Return the descriptor that `call` opens; `call` may raise OSError.

    Examples
    --------
    >>> import os
    >>> made(os.open, "/dev/null", os.O_RDWR).fileno() > 2
    True
    """
    new = None
    try:
        with guard:
            new = _wrapped(call, *arguments)
            if new.fileno() <= STREAMS:
                new = _wrapped(fcntl.fcntl, new.fileno(), fcntl.F_DUPFD_CLOEXEC, STREAMS + 1)
            _open.add(new)
    except BaseException:
        if new is not None:  # the traceback would keep it open
            new.close()
        raise
    return new


def _wrapped(call: Callable[..., int], *arguments: Any) -> Descriptor:
    """Call and wrap in one bytecode: a Ctrl-C between two would leak the number."""
    return next(map(Descriptor, map(call, *([argument] for argument in arguments)), ["r+"]))


def close_all() -> None:
    """Close all in a forked child; the parent's stay open."""
    for descriptor in [*_open]:
        descriptor.close()
    _open.clear()
    guard.in_child()
