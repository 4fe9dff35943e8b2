"""What an error of LMDB means to those who use a dict."""

from __future__ import annotations

import errno
import os

import lmdb

from shmkernel import limits, names
from shmkernel.dicts.meta import MAP, PAGE
from shmkernel.errors import DamagedError, FolderError, FullError, NotFoundError, RefusedError

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def of(name: str, error: lmdb.Error) -> Exception:
    """Make the error to raise instead."""
    code = error.code or 0
    if isinstance(error, (lmdb.MapFullError, lmdb.TxnFullError)):
        message = f"{name!r} would need more than the {limits.human(MAP)} that a dict can have. Use several"
        return FullError(message, name=name, needed=MAP, free=limits.room().free)
    if code == errno.ENOENT:
        return gone(name)
    if code in NO_ROOM:
        return full(name, PAGE)
    if code in (errno.EMFILE, errno.ENFILE):  # not the dict's fault
        return OSError(code, os.strerror(code), name)
    if code in (errno.EAGAIN, errno.EACCES):
        message = (
            f"{name!r} is open in another container, in a process with the number {os.getpid()} as well, by "
            "which LMDB knows them apart. Start this one again (or both with docker run --pid=container:NAME)"
        )
        return RefusedError(message, name=name, pid=os.getpid())
    return DamagedError(f"{name!r} cannot be used: {error}. Remove it: %shm_unlink {name}", name=name, why=str(error))


def of_new(error: lmdb.Error) -> Exception:
    """Make the error to raise where the file of a new dict cannot be made."""
    if error.code != errno.EFBIG:
        return error
    message = (
        f"{names.folder()} cannot hold dicts: its file system has no files of {limits.human(MAP)}, empty or not. "
        "Choose a folder in memory (a tmpfs) with SHMKERNEL_DIR. More: %shm_doctor"
    )
    return FolderError(message, path=names.folder())


def gone(name: str) -> NotFoundError:
    """Make the error for a dict that cannot be opened any more."""
    message = f"{name!r} was unlinked or replaced, so it is closed here. What there is: %shm_list"
    return NotFoundError(message, name=name, similar=[])


def full(name: str, needed: int) -> FullError:
    """Make the error for a change that does not fit."""
    error = limits.full(name, needed)
    message = f"{error.message}. Nothing was changed. Delete keys, or other segments: %shm_list"
    return FullError(message, name=name, **error.facts)
