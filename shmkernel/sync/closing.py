"""Descriptors that close themselves: objects of C, so that no Ctrl-C comes in between.

A number in a list has to be closed by somebody, and whoever would do so can be interrupted before. What is made here
closes with its last reference; a forked child closes those of its parent, of which it has copies.
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

guard = interrupts.Guard()  # held over a fork, so that the child knows of all
_open: weakref.WeakSet[Descriptor] = weakref.WeakSet()


class Descriptor(io.FileIO):
    """A descriptor of its own, above the standard streams."""

    _finalizing = False  # where FileIO notes that it dies unclosed, and warns: here that is as it should be


def made(call: Callable[..., int], *arguments: Any) -> Descriptor:  # noqa: ANN401  what `call` takes
    """Return what `call` opens; OSError as from there.

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
        if new is not None:  # the error's traceback would keep it
            new.close()
        raise
    return new


def _wrapped(call: Callable[..., int], *arguments: Any) -> Descriptor:  # noqa: ANN401
    """Call and wrap in one step of the interpreter: between two, Ctrl-C would leak the number."""
    return next(map(Descriptor, map(call, *([one] for one in arguments)), ["r+"]))


def close_all() -> None:
    """Close all, in a forked child: the parent keeps its own."""
    for one in [*_open]:
        one.close()
    _open.clear()
    guard.in_child()
