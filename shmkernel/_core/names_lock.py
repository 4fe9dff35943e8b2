"""names.lock: a flock that allows one process and thread of this user at a time to change segment names.

A flock belongs to the open file description, which a forked child shares. If the parent only closed its descriptor, the
child would hold the lock for as long as it lives, and block every kernel of this user. So the parent unlocks before it
closes, which unlocks all copies, and a child closes its copies, since the parent may die before it unlocks.

A file object marks itself closed, releases the GIL, then closes: another thread may fork in between. The descriptor
that such a child keeps is unlocked by then.
"""

from __future__ import annotations

import fcntl
import os
import threading
from typing import TYPE_CHECKING

from shmkernel._core import closing, folders, interrupts
from shmkernel._core.closing import Description

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmkernel._core.interrupts import Entry, Kind

_thread = threading.local()


class NamesLock(interrupts.Holding):
    """The lock, for one ``with`` statement. After it, `catch_up` is called with each inode given to `later`.

    Without `catch_up` they wait for the next lock that has one.
    """

    __slots__ = ("_catch_up",)

    def __init__(self, catch_up: Callable[[int], None] | None = None) -> None:
        self._catch_up = catch_up

    def _enter(self, entry: Entry) -> None:
        root = folders.prepare()
        path = f"{root}/names.lock"
        try:
            with closing.no_fork:
                try:
                    file = folders.open_(path, os.O_RDWR, own=Description).owner
                except FileNotFoundError:  # names.lock was removed, the folder was not
                    file = folders.open_(path, os.O_RDWR | os.O_CREAT, own=Description).owner
                entry.taken = _thread.file = closing.note(file)
            fcntl.flock(file, fcntl.LOCK_EX)
            folders.check_protocol(root)
        except BaseException:
            self._abort(entry)
            raise

    def _leave(self, entry: Entry | None, kind: Kind) -> None:
        del kind
        assert entry, "only a with statement enters"
        self._abort(entry)

    def _abort(self, entry: Entry) -> None:
        file: Description | None = entry.taken
        if file is not None and not file.closed:
            fcntl.flock(file, fcntl.LOCK_UN)
            file.close()
        while self._catch_up and (late := vars(_thread).get("late")):
            self._catch_up(late.pop())


def is_mine() -> bool:
    """Return whether this thread holds the lock, or waits for it."""
    file = getattr(_thread, "file", None)
    return file is not None and not file.closed


def later(inode: int) -> None:
    """Have this thread call `catch_up` with an inode when it has released the lock."""
    vars(_thread).setdefault("late", []).append(inode)
