"""Put Python's garbage collector off while one call makes many objects.

None of them is garbage yet, but the collector looks at all again whenever their number has grown by a quarter: a
million lists take two to three times as long with it on Python 3.11.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from shmkernel._core import fork, interrupts

if TYPE_CHECKING:
    from shmkernel._core.interrupts import Entry, Kind


class _Postponing(interrupts.Holding):
    """Turns the collector off, unless it is off already: ``with postponed:``.

    Examples
    --------
    >>> with postponed:
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: set[Entry] = set()  # whose end turns it on again

    def _enter(self, entry: Entry) -> None:
        entry.taken = gc.isenabled()
        if entry.taken:
            self._entries.add(entry)
            gc.disable()

    def _leave(self, entry: Entry | None, kind: Kind) -> None:
        del kind
        if entry is not None:
            self._abort(entry)

    def _abort(self, entry: Entry) -> None:
        if entry.taken:
            gc.enable()
            self._entries.discard(entry)

    def in_child(self) -> None:
        """Turn it on in a forked child, where the thread that turned it off may not be."""
        if self._entries:
            self._entries.clear()
            gc.enable()


postponed = _Postponing()
fork.on("garbage", in_child=postponed.in_child)
