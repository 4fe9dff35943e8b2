"""Copies that are whole, without a lock on the reader's side.

The exclusive lock is a sequence counter as it stands: its holder sets HOLDER before his first store, raises RELEASED
after his last, and clears HOLDER then.

    reader   RELEASED -> HOLDER, 0? -> copy -> HOLDER, 0? -> RELEASED, the same?

A writer who stores while the copy is made has set HOLDER before it ends. He is seen there, or, if he has cleared it,
by RELEASED, which he raised before that. This needs stores and loads to be seen in their order, which x86 promises,
and for which Python has no word on other processors: there it is always the lock. Under a writer who hardly pauses
almost all copies fail, so that the reader takes the shared lock after some.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, TypeVar

from shmkernel.errors import AbandonedError
from shmkernel.sync import holds, locks, sync_file
from shmkernel.sync.sync_file import HOLDER, RELEASED

if TYPE_CHECKING:
    from collections.abc import Callable

ORDERED = platform.machine() in ("x86_64", "i686")
_TRIES = 100
T = TypeVar("T")


def snapshot(name: str, copy: Callable[[], T]) -> T:
    """Return what `copy` returns, made while nobody held the lock of `name` exclusively.

    Raises
    ------
    AbandonedError
        If a holder died inside: until somebody has written again under the lock, no copy can be trusted.
    """
    file = sync_file.opened(name)
    words = file.words
    inside = file.holds and holds.find(file, shared=True)[0]
    for _ in range(_TRIES if ORDERED and not inside else 0):
        before = words[RELEASED]
        if not words[HOLDER]:
            made = copy()
            if not words[HOLDER] and words[RELEASED] == before:
                return made
    lock = locks.Lock(name, shared=True)
    lock.warns = False
    with lock:
        if lock.abandoned:
            message = (
                f"{name!r} may be half written: {lock.abandoned} died in the middle. "
                f"Write it again under shm.writing({name!r}), which clears this"
            )
            raise AbandonedError(message, name=name, holder=lock.abandoned)
        return copy()
