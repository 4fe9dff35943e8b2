"""Imports that are made late, when a call first needs them: no fork comes between their beginning and their end.

A child forked meanwhile by another thread would have a module that is being imported by nobody, and wait for it for
ever. So late imports stand in ``with importing:``, and a fork waits for those of other threads, and for any import of a
module of this package: who unpickles a value begins one too. Threads do not wait for each other here: Python's own
locks see to that, and find deadlocks.
"""

from __future__ import annotations

import importlib
import time
from threading import get_ident
from typing import TYPE_CHECKING

from shmkernel._core import fork, interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmkernel._core.interrupts import Entry, Kind

_LIMIT = 10.0  # seconds: the other import may wait for one that the forking thread is in the middle of
_NAP = 0.001
_PACKAGE = __name__.partition(".")[0]
_module_locks: dict[str, Callable[[], object]] = vars(importlib._bootstrap)["_module_locks"]  # noqa: SLF001  no other tells


class Importing(interrupts.Holding):
    """Keeps a fork waiting: ``with importing: from x import y``.

    Examples
    --------
    >>> with importing:
    ...     import json
    """

    __slots__ = ("_guard", "_inside")

    def __init__(self) -> None:
        self._guard = interrupts.Guard()  # held over a fork, and while somebody enters
        self._inside: dict[Entry, int] = {}

    def _enter(self, entry: Entry) -> None:
        entry.taken = True
        with self._guard:
            self._inside[entry] = get_ident()

    def _leave(self, entry: Entry | None, kind: Kind) -> None:
        del kind
        if entry is not None:
            self._abort(entry)

    def _abort(self, entry: Entry) -> None:
        self._inside.pop(entry, None)

    def before_fork(self) -> None:
        """Wait until no other thread imports, then let none begin."""
        until = time.monotonic() + _LIMIT
        self._guard.before_fork()
        while self._others() and time.monotonic() < until:
            self._guard.in_parent()
            time.sleep(_NAP)
            self._guard.before_fork()

    def _others(self) -> bool:
        me = get_ident()
        return any(thread != me for thread in [*self._inside.values(), *_importers()])

    def in_parent(self) -> None:
        """Let them go on."""
        self._guard.in_parent()

    def in_child(self) -> None:
        """Forget the other threads."""
        self._inside.clear()
        self._guard.in_child()


def _importers() -> Iterator[int]:
    """Yield the threads that import a module of this package: they hold its lock, which importlib keeps while it is."""
    for name, reference in [*_module_locks.items()]:
        if name.partition(".")[0] == _PACKAGE and (owner := getattr(reference(), "owner", None)):
            yield owner


importing = Importing()
fork.on("imports", before=importing.before_fork, in_parent=importing.in_parent, in_child=importing.in_child)
