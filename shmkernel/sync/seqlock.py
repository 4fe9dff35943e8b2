"""Seqlock: copy a segment consistently without a lock on the reader's side.

The words of an exclusive lock are a sequence counter. Its holder sets HOLDER before its first store, raises RELEASED
after its last, then clears HOLDER.

    reader   RELEASED -> HOLDER, 0? -> copy -> HOLDER, 0? -> RELEASED, the same?

A writer that stores during the copy has set HOLDER before the copy ends. If it has cleared HOLDER again, it has raised
RELEASED before that. So the reader sees one of the two. This needs loads and stores in program order, which x86
guarantees; Python has no memory barrier for other processors, where the reader always takes the shared lock. It also
takes the lock after 100 failed copies, as under a writer that hardly pauses.
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
        If a holder died while writing, and none has written under the lock since.
    """
    file = sync_file.opened(name)
    words = file.words
    inside = file.holds and holds.find(file, shared=True)[0]
    for _ in range(_TRIES if ORDERED and not inside else 0):
        before = words[RELEASED]
        if not words[HOLDER]:
            copied = copy()
            if not words[HOLDER] and words[RELEASED] == before:
                return copied
    lock = locks.Lock(name, shared=True)
    lock.warns = False
    with lock:
        if lock.abandoned:
            message = (
                f"{name!r} may be half written: {lock.abandoned} died while it wrote. "
                f"Write it again under shm.writing({name!r}), which clears this"
            )
            raise AbandonedError(message, name=name, holder=lock.abandoned)
        return copy()
