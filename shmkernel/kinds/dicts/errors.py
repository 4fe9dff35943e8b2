"""Convert errors of LMDB to the errors that a dict raises."""

from __future__ import annotations

import contextlib
import errno
import functools
import os

import lmdb

from shmkernel._core import capacity, limits, paths, segment_file
from shmkernel.errors import (
    Cure,
    DamagedError,
    FolderError,
    FullError,
    LimitError,
    LockError,
    NotFoundError,
    RefusedError,
    UnsupportedError,
)
from shmkernel.kinds import values
from shmkernel.kinds.dicts import entries
from shmkernel.kinds.dicts.lmdb_pages import MAP, PAGE

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@functools.cache
def check_engine() -> None:
    """Raise UnsupportedError unless this py-lmdb supports the format of LMDB 0.9."""
    try:
        lmdb.version(lib_version=0)
    except lmdb.Error:
        message = (
            "shared dicts need LMDB 0.9, and the py-lmdb that is installed lacks it. Its wheels have it: "
            "pip install --force-reinstall --only-binary lmdb lmdb"
        )
        raise UnsupportedError(message, package="lmdb") from None


def check_owner(name: str, fd: int) -> None:
    """Raise RefusedError if this process has changed its user since it opened the store."""
    owner = os.fstat(fd).st_uid
    if owner != os.geteuid():
        message = f"{name!r} belongs to uid {owner}, and this process has become uid {os.geteuid()}. Attach it before"
        raise RefusedError(message, name=name, owner=owner)


def of(name: str, error: lmdb.Error) -> Exception:
    """Make the error to raise in place of one of LMDB."""
    code = error.code or 0
    if isinstance(error, (lmdb.MapFullError, lmdb.TxnFullError)):
        message = f"{name!r} would need more than the {capacity.human(MAP)} that a dict can have. Use several dicts"
        return FullError(message, name=name, needed=MAP, free=capacity.room().free)
    if isinstance(error, lmdb.ReadersFullError):
        message = f"{name!r} is read by 510 others at this moment, and a dict allows no more. Try again"
        return LimitError(message, name=name, errno=errno.EAGAIN, limit="readers", allowed=510)
    if code == errno.ENOMEM or isinstance(error, lmdb.MemoryError):
        return capacity.no_mapping(name, MAP, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    if code == errno.ENOENT:
        return gone(name)
    if code in NO_ROOM:
        return full(name, PAGE, code)
    if code in (errno.EMFILE, errno.ENFILE, errno.ENOLCK):  # a limit of the process or machine
        return limits.explained(OSError(code, os.strerror(code)), name)
    if code == errno.EINTR:
        return LimitError(
            f"{name!r}: a signal interrupted a system call. Try again", name=name, errno=code, limit="signal"
        )
    if code in (errno.EAGAIN, errno.EACCES):
        message = (
            f"{name!r} is open in another container, in a process that has the same process id, {os.getpid()}, so LMDB "
            "cannot tell them apart. Start this one again (or both with docker run --pid=container:NAME)"
        )
        return RefusedError(message, name=name, pid=os.getpid())
    if is_open(error):
        return LockError(f"{name!r} is still being closed by another thread of this process. Try again", name=name)
    cure = Cure("Remove it", "unlink", name)
    return DamagedError(f"{name!r} cannot be used: {error}", cure, name=name, why=str(error))


def is_open(error: lmdb.Error) -> bool:
    """Return whether this process has the file open already."""
    return "already open in this process" in str(error)


def ended(name: str) -> LockError:
    """Make the error for a use of a transaction that another thread has aborted."""
    return LockError(f"{name!r}: another thread has ended this transaction, so nothing of it is stored", name=name)


def wrong(name: str, error: Exception | str, key: object = None) -> Exception:
    """Make the error for a damaged entry, or for one that this machine or process cannot read."""
    if isinstance(error, OSError):
        return limits.explained(error, name)
    if isinstance(error, values.ZoneError):
        message = f"{name!r} has a time in the zone {error}, which this machine does not know: pip install tzdata"
        return UnsupportedError(message, name=name)
    raw = getattr(error, "raw", None)
    if key is None and raw is not None:
        with contextlib.suppress(Exception):
            key = entries.key_of(raw)[1]
    where = "" if key is None else f" in the value of the key {key!r}"
    return segment_file.damaged(name, error, where, key=key)


def of_new(name: str, error: lmdb.Error) -> Exception:
    """Make the error to raise if the file of a new dict cannot be made."""
    if error.code != errno.EFBIG:
        return of(name, error)
    message = (
        f"{paths.folder()} cannot hold dicts: its file system has no room for a sparse file of {capacity.human(MAP)}. "
        "Choose a folder in memory (a tmpfs) with SHMKERNEL_DIR"
    )
    return FolderError(message, Cure("More", "doctor"), path=paths.folder())


def gone(name: str) -> NotFoundError:
    """Make the error for a dict that was unlinked and cannot be opened."""
    message = f"{name!r} was unlinked or replaced, so it is closed here"
    return NotFoundError(message, Cure("Live names", "list"), name=name, similar=[])


def full(name: str, needed: int, code: int = errno.ENOSPC) -> FullError:
    """Make the error for a change that does not fit."""
    error = capacity.full(name, needed, code=code)
    return error.reworded(f"{error.what}. Nothing was changed. Delete keys", Cure("What else takes memory", "list"))
