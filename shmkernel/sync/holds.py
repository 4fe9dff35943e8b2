"""Count who in this process holds a lock, and unlock when the last one leaves.

    Hold      one acquisition of the byte lock, on an open file description of its own
      Inside  one entering of it: by a `with` statement, or by an explicit call
      Inside  the same thread entered again

A hold begins with the first Inside and ends with the last, in whatever order they leave. It belongs to a thread. The
task of the latest Inside may enter again; another task of the thread has to wait until that one has left or ended.

Ctrl-C may interrupt the leaving at any bytecode. Then the end of the `with` statement's token does it once more
(`shmkernel._core.interrupts`). So each step here can be repeated, and no local variable refers to a descriptor that
holds the lock, since tracebacks keep local variables.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from threading import get_ident
from typing import TYPE_CHECKING

from shmkernel._core import limits, oflock
from shmkernel.errors import LockError
from shmkernel.sync import sync_file
from shmkernel.sync.sync_file import HOLDER, RELEASED, WATCHED

if TYPE_CHECKING:
    from shmkernel._core.closing import Description
    from shmkernel._core.interrupts import Entry
    from shmkernel._core.owners import Owner

_HOLDER = slice(HOLDER * 8, HOLDER * 8 + sync_file.WHO)


class Hold:
    """One acquisition of the lock, from the first attempt until it is unlocked."""

    __slots__ = ("claims", "description", "fd", "file", "noted", "owner", "places", "shared")

    def __init__(self, file: sync_file.SyncFile, owner: Owner, *, shared: bool) -> None:
        self.file, self.owner, self.shared = file, owner, shared
        self.places: list[Inside] = []
        self.claims: list[int] = []  # threads that are about to unlock; the first one does
        self.description: list[Description] = []  # at most one
        self.fd = -1
        self.noted = False  # whether the words HOLDER in the sync file name this process


class Inside:
    """One entering of a hold."""

    __slots__ = ("explicit", "hold", "owner")

    def __init__(self, hold: Hold, owner: Owner, *, explicit: bool) -> None:
        self.hold, self.owner, self.explicit = hold, owner, explicit


def find(file: sync_file.SyncFile, *, shared: bool) -> tuple[Hold | None, bool]:
    """Return the hold that the caller may enter again, and whether another task of its thread is in the way.

    Raises
    ------
    LockError
        If the caller holds the lock shared, and wants it exclusively.
    """
    for hold in [*file.holds]:
        if not hold.owner.is_thread():
            continue
        places = [*hold.places]
        if not places or hold.claims:  # a signal handler or finalizer runs this inside `leave`
            unlock(hold)
        elif hold.shared and shared:
            return hold, False
        elif hold.shared:
            if any(inside.owner.is_me() for inside in places):
                raise _upgrade(file.name)
            return None, True
        elif places[-1].owner.is_me():
            return hold, False
        else:
            return None, True
    return None, False


def again(hold: Hold, entry: Entry, owner: Owner) -> bool:
    """Enter a hold once more; return False if another thread has left it and unlocks it."""
    entry.taken = inside = Inside(hold, owner, explicit=entry.explicit)
    with sync_file.guard:  # other threads may change places
        hold.places.append(inside)
        if not hold.claims:
            return True
        hold.places.remove(inside)
    entry.taken = None
    return False


def began(inside: Inside) -> None:
    """Note that this process has acquired the byte lock."""
    hold = inside.hold
    file = hold.file
    hold.places.append(inside)
    file.holds.append(hold)
    sync_file.busy.add(hold)
    if not hold.shared:
        file.page[_HOLDER] = sync_file.me()
        hold.noted = True


@limits.explains
def leave(inside: Inside) -> bool:
    """Leave; the last one unlocks. Return False if it has left already."""
    hold = inside.hold
    if hold.owner.is_thread():
        return _leave(hold, inside)
    with sync_file.guard:
        return _leave(hold, inside)


def _leave(hold: Hold, inside: Inside) -> bool:
    try:
        hold.places.remove(inside)
    except ValueError:
        return False
    if not hold.places:
        unlock(hold)
    return True


def abort(inside: Inside) -> None:
    """Complete the leaving after an interrupted entering or leaving."""
    try:
        _abort(inside.hold, inside)
    except BaseException:  # Ctrl-C again
        _abort(inside.hold, inside)
        raise


def _abort(hold: Hold, inside: Inside) -> None:
    with sync_file.guard:
        if not (hold.shared or hold.claims) and hold in hold.file.holds:
            hold.noted = hold.file.page[_HOLDER] == sync_file.me()
        with contextlib.suppress(ValueError):
            hold.places.remove(inside)
        if not hold.places:
            unlock(hold)


def unlock(hold: Hold) -> None:
    """Unlock the byte lock. This can be repeated, and be called by several threads at once."""
    me = get_ident()
    hold.claims.append(me)
    if hold.claims[0] != me or not hold.description:
        return
    file = hold.file
    if hold.noted:
        sync_file.increase(file.words, RELEASED)
        file.words[HOLDER] = 0
        hold.noted = False
    fd = hold.description[0].fileno()
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, oflock.UNLOCK_ALL)
    try:
        if file.words[WATCHED]:  # a waiter sets it before it tries the lock; system calls order both sides
            os.utime(fd)
    finally:  # a hold that stays known would let this thread enter without the byte lock
        _forget(hold)
        file.idle.append(hold.description.pop())


def _forget(hold: Hold) -> None:
    file = hold.file
    for known in (file.holds, file.queued) if file.queued else (file.holds,):
        try:  # noqa: SIM105  contextlib.suppress takes 0.3 us
            known.remove(hold)
        except ValueError:
            pass
    sync_file.busy.discard(hold)


def latest(file: sync_file.SyncFile) -> Inside | None:
    """Return the Inside that an explicit call leaves; None if it was entered before a fork, in the parent.

    Raises
    ------
    LockError
        If the caller has not entered.
    """
    entered = [inside for hold in [*sync_file.busy] if hold.file.path == file.path for inside in [*hold.places]]
    own = [inside for inside in entered if inside.owner.is_me()]
    orphaned = [inside for inside in entered if inside.owner.ended()]
    for candidates in ([inside for inside in own if inside.explicit], own, orphaned):
        if candidates:
            return candidates[-1]
    if entered:
        message = f"{file.name!r} is held by another thread or task of this process, and only that one can release it"
        raise LockError(message, name=file.name)
    if file.inherited:
        file.inherited -= 1
        return None
    raise LockError(f"{file.name!r} is not locked here", name=file.name)


def _upgrade(name: str) -> LockError:
    message = (
        f"this thread holds the shared lock {name!r} already: leave it first, or take the exclusive lock from the "
        "start. Two holders of a shared lock that both wanted the exclusive one would wait for ever"
    )
    return LockError(message, name=name)


def refused(name: str, *, shared: bool) -> LockError:
    """Make the error for a task that would block the event loop which the holder needs to leave."""
    how = f"shm.lock({name!r}{', shared=True' if shared else ''})"
    message = (
        f"another task of this thread holds {name!r}, or waits for it, and cannot go on while this one blocks the "
        f"event loop. Let it go on: async with {how}:"
    )
    return LockError(message, name=name)
