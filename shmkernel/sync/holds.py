"""Who of this process is inside a lock, and how a hold ends.

    Hold      one acquisition of the byte lock, through a description of its own
      Inside  one time that it was entered: by a `with` statement, or by an explicit call
      Inside  the same thread entered again

A hold begins with the first and ends with the last of them, whoever leaves first. It belongs to a thread. The latest
inside says which task of the thread may enter again: another has to wait until that has left, unless it has ended.

Whatever ends a hold may be interrupted at any bytecode, and is then done once more, by the end of the `with`
statement's token (`shmkernel._core.interrupts`). So each step here can be repeated, and nothing is kept in a local
variable that would hold the lock, since tracebacks keep those.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from threading import get_ident
from typing import TYPE_CHECKING

from shmkernel.errors import LockError
from shmkernel.sync import sync_file
from shmkernel.sync.sync_file import HOLDER, RELEASED, WATCHED

if TYPE_CHECKING:
    from shmkernel._core.interrupts import Entry
    from shmkernel._core.owners import Owner
    from shmkernel.sync.closing import Descriptor

TRY = fcntl.F_OFD_SETLK
UNLOCK_ALL = struct.pack("hhqqi4x", fcntl.F_UNLCK, 0, 0, 0, 0)
_HOLDER = slice(HOLDER * 8, HOLDER * 8 + sync_file.WHO)


class Hold:
    """One acquisition of the lock, from the first attempt until it is unlocked."""

    __slots__ = ("claims", "description", "fd", "file", "owner", "places", "shared", "told")

    def __init__(self, file: sync_file.SyncFile, owner: Owner, *, shared: bool) -> None:
        self.file, self.owner, self.shared = file, owner, shared
        self.places: list[Inside] = []
        self.claims: list[int] = []  # threads that mean to unlock: the first does
        self.description: list[Descriptor] = []  # none, or one
        self.fd = -1
        self.told = False  # that this process holds the lock exclusively stands in the file


class Inside:
    """One time that a hold was entered."""

    __slots__ = ("explicit", "hold", "owner")

    def __init__(self, hold: Hold, owner: Owner, *, explicit: bool) -> None:
        self.hold, self.owner, self.explicit = hold, owner, explicit


def find(file: sync_file.SyncFile, *, shared: bool) -> tuple[Hold | None, bool]:
    """Return the hold that who asks may enter again; and whether another task of its thread is in the way.

    Raises
    ------
    LockError
        If it holds the lock shared, and wants it alone.
    """
    for hold in [*file.holds]:
        if not hold.owner.is_thread():
            continue
        places = [*hold.places]
        if not places or hold.claims:  # this runs inside of the leaving, in the handler of a signal, say
            unlock(hold)
        elif hold.shared and shared:
            return hold, False
        elif hold.shared:
            if any(one.owner.is_me() for one in places):
                raise _upgrade(file.name)
            return None, True
        elif places[-1].owner.is_me():
            return hold, False
        else:
            return None, True
    return None, False


def again(hold: Hold, entry: Entry, owner: Owner) -> bool:
    """Enter a hold once more; say whether that was in time, before another thread left it."""
    entry.taken = inside = Inside(hold, owner, explicit=entry.explicit)
    with sync_file.guard:  # places may be changed by more than one thread
        hold.places.append(inside)
        if not hold.claims:
            return True
        hold.places.remove(inside)
    entry.taken = None
    return False


def began(inside: Inside) -> None:
    """Note that the byte lock is taken."""
    hold = inside.hold
    file = hold.file
    hold.places.append(inside)
    file.holds.append(hold)
    sync_file.busy.add(hold)
    if not hold.shared:
        file.page[_HOLDER] = sync_file.me()
        hold.told = True


def leave(inside: Inside) -> bool:
    """Be inside no more; the last to leave unlocks. Return False if it has left already."""
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
    """Do what is still to be done of the entering or the leaving, which was interrupted, so that it is left."""
    try:
        _abort(inside.hold, inside)
    except BaseException:  # Ctrl-C again
        _abort(inside.hold, inside)
        raise


def _abort(hold: Hold, inside: Inside) -> None:
    with sync_file.guard:
        if not (hold.shared or hold.claims) and hold in hold.file.holds:
            hold.told = hold.file.page[_HOLDER] == sync_file.me()
        with contextlib.suppress(ValueError):
            hold.places.remove(inside)
        if not hold.places:
            unlock(hold)


def unlock(hold: Hold) -> None:
    """Let others in. It may be done twice, and by several at once."""
    me = get_ident()
    hold.claims.append(me)
    if hold.claims[0] != me or not hold.description:
        return
    file = hold.file
    if hold.told:
        file.words[RELEASED] += 1
        file.words[HOLDER] = 0
        hold.told = False
    fd = hold.description[0].fileno()
    fcntl.fcntl(fd, TRY, UNLOCK_ALL)
    if file.words[WATCHED]:  # who waits sets it, then looks; in between both have called into the OS
        os.utime(fd)
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
    """Return what an explicit call leaves; None for what was entered before a fork, and is the parent's.

    Raises
    ------
    LockError
        If there is nothing that who asks could leave.
    """
    inside = [one for hold in [*sync_file.busy] if hold.file.path == file.path for one in [*hold.places]]
    mine = [one for one in inside if one.owner.is_me()]
    for found in ([one for one in mine if one.explicit], mine, [one for one in inside if one.owner.ended()]):
        if found:
            return found[-1]
    if inside:
        message = f"{file.name!r} is held by another thread or task of this process, which has to leave it"
        raise LockError(message, name=file.name)
    if file.inherited:
        file.inherited -= 1
        return None
    raise LockError(f"{file.name!r} is not locked here", name=file.name)


def _upgrade(name: str) -> LockError:
    message = (
        f"this thread holds {name!r} shared already: leave that first, or take it exclusively "
        "from the start. Two that wait for each other's share would wait for ever"
    )
    return LockError(message, name=name)


def refused(name: str, *, shared: bool) -> LockError:
    """Make the error for a task that would block the loop which has to free the lock."""
    how = f"shm.lock({name!r}{', shared=True' if shared else ''})"
    message = (
        f"another task of this thread holds {name!r}, or waits for it, and cannot go on while this one blocks the "
        f"event loop. Let it go on: async with {how}:"
    )
    return LockError(message, name=name)
