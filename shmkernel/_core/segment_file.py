"""Blocks of bytes in memory: made without a name, filled, then linked; opened and checked before use.

    create   O_TMPFILE -> flock(SH) -> pwrite, posix_fallocate of the rest -> mmap -> link
    attach   open -> flock(SH) -> fstat -> mmap

A block has no name until it is whole, so nobody attaches half of one, and a process that dies on the way
leaves nothing. Pages are reserved before anybody can store to them: an overcommitted tmpfs would answer the
store with SIGBUS. The shared flock says "attached": it belongs to the open file description, of which the
mapping keeps a duplicate, so it lasts exactly as long as the mapping. An opened file with no link left was
unlinked between open and flock; the name may lead elsewhere by now, so the attach starts again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
from typing import TYPE_CHECKING

from shmkernel._core import capacity, descriptors, folders, fork, interrupts, paths
from shmkernel.errors import (
    ArgumentError,
    DamagedError,
    FolderError,
    LimitError,
    NotFoundError,
    RefusedError,
    ShmError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_RESERVE = 256 << 20  # a call cannot be interrupted: 0.1 s each
THEIRS = "Use another name: only that user, or root, can remove it"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EINVAL)  # the last for a size beyond the file system's
_FLAGS = {mode: flags | os.O_NONBLOCK for mode, flags in {"r": os.O_RDONLY, "r+": os.O_RDWR, "c": os.O_RDONLY}.items()}
_ACCESS = {"r": mmap.ACCESS_READ, "r+": mmap.ACCESS_WRITE, "c": mmap.ACCESS_COPY}

# Held over every fork, and from the opening of a lock until it is noted: a child closes those that it finds noted, and
# would hold any other for as long as it lives.
no_fork = interrupts.Guard()
fork.on("descriptors", before=no_fork.before_fork, in_parent=no_fork.in_parent, in_child=no_fork.in_child)


def check_mode(mode: str) -> None:
    """Raise ArgumentError unless `mode` is one of numpy.memmap's letters for an existing file."""
    if mode not in _ACCESS:
        message = f"mode {mode!r} is unknown: r (read only), r+ (read and write) or c (changes stay private)"
        raise ArgumentError(message, mode=mode)


def blank(folder: str, lock: int = fcntl.LOCK_SH) -> int:
    """Return the descriptor of a new nameless file, locked already: nobody ever sees it free."""
    try:
        fd = folders.nameless(folder)
    except ShmError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = (
            f"{folder} cannot hold segments: {error.strerror} (it asked for a nameless file, O_TMPFILE). "
            "Choose a folder in memory (a tmpfs) with SHMKERNEL_DIR. More: %shm_doctor"
        )
        raise FolderError(message, path=folder) from None
    fcntl.flock(fd, lock)
    return fd


def fill(fd: int, size: int, pieces: Iterable[memoryview], name: str, progress: Callable[[int], None]) -> None:
    """Write `pieces` one after the other, and reserve what they leave of `size` bytes: no later store can fail.

    Writing is twice as fast as storing through a fresh mapping, since the OS need not zero the pages first.

    Raises
    ------
    FullError
        With ``needed`` and ``free`` in bytes, if there is no room for them.
    """
    capacity.check_file_size(name, size)
    if capacity.lacks(size):
        raise capacity.full(name, size)
    done = 0
    try:
        for piece in pieces:
            view = piece
            while view:
                count = os.pwrite(fd, view, done)
                done, view = done + count, view[count:]
                progress(count)
        for start in range(done, size, _RESERVE):
            os.posix_fallocate(fd, start, min(_RESERVE, size - start))
    except (OSError, OverflowError) as error:
        code = error.errno if isinstance(error, OSError) else errno.ENOSPC
        if code not in _NO_ROOM:
            raise
        os.ftruncate(fd, 0)  # so that the figures speak of before
        raise capacity.full(name, size, code=code) from None


def attach(path: str, mode: str, name: str) -> tuple[int, os.stat_result]:
    """Open the block at `path`, and lock it as attached.

    Returns
    -------
    fd, stat
        The caller closes the descriptor; a mapping made before that keeps the attachment.

    Raises
    ------
    NotFoundError, RefusedError, DamagedError
        If there is none, or what is there is somebody else's or no regular file.
    """
    while True:
        fd = _open(path, _FLAGS[mode], name)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:  # nobody waits for a stranger, who may hold it for ever
                _check(os.fstat(fd), path, name)
                fcntl.flock(fd, fcntl.LOCK_SH)
            found = os.fstat(fd)
            if found.st_nlink:
                if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
                    _check(found, path, name)
                return fd, found
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def peek(path: str, size: int, name: str) -> bytes:
    """Return the first `size` bytes without attaching; errors as for `attach`."""
    with reading(path, name) as fd:
        return os.pread(fd, size, 0)


@contextlib.contextmanager
def reading(path: str, name: str) -> Iterator[int]:
    """Open the block to be read by calls, without attaching; errors as for `attach`."""
    fd = _open(path, _FLAGS["r"], name)
    try:
        _check(os.fstat(fd), path, name)
        yield fd
    finally:
        os.close(fd)


def map_(fd: int, size: int, mode: str, name: str) -> mmap.mmap:
    """Map the whole block; `mode` r is enforced by the processor, c keeps stores private."""
    descriptors.take_streams()  # the mapping keeps a duplicate of the descriptor, under the lowest number that is free
    try:
        return mmap.mmap(fd, size, access=_ACCESS[mode])
    except OSError as error:
        raise capacity.no_mapping(name, size, descriptors.ran_out(error, name)) from None


def link(fd: int, path: str) -> None:
    """Give a nameless block its name; FileExistsError if that is taken."""
    folders.link_nameless(fd, path)


def may_remove(path: str, found: os.stat_result) -> bool:
    """Say whether this user may remove the name, by the rules of a folder where each may remove what is his."""
    me, folder = os.geteuid(), os.stat(os.path.dirname(path))
    return me in (0, found.st_uid, folder.st_uid) or not folder.st_mode & stat.S_ISVTX


def _check(found: os.stat_result, path: str, name: str) -> None:
    _check_owner(found, path, name)
    if not stat.S_ISREG(found.st_mode):
        raise _damaged(path, name, "not a regular file")


def _check_owner(found: os.stat_result, path: str, name: str) -> None:
    if found.st_uid != os.geteuid():
        message = f"{name!r} belongs to another user (uid {found.st_uid}), so it is not trusted: {path}. {THEIRS}"
        raise RefusedError(message, name=name, owner=found.st_uid)


def _open(path: str, flags: int, name: str) -> int:
    try:
        return folders.open_(path, flags)
    except FileNotFoundError:
        raise missing(name) from None
    except LimitError as error:
        raise descriptors.ran_out(error, name) from None
    except ShmError:
        raise
    except PermissionError as error:
        found = folders.lstat(path)
        _check(found, path, name)
        message = f"{name!r} may not be opened: {path} ({error.strerror}). Give yourself leave: chmod 600 {path}"
        raise RefusedError(message, name=name, owner=found.st_uid) from None
    except OSError as error:
        what = {errno.ELOOP: "a symbolic link", errno.EISDIR: "a directory", errno.ENXIO: "a socket or device"}
        if error.errno not in what:
            raise
        _check_owner(folders.lstat(path), path, name)
        raise _damaged(path, name, what[error.errno]) from None


def _damaged(path: str, name: str, what: str) -> DamagedError:
    cure = f"rmdir {path}" if what == "a directory" else f"%shm_unlink {name}"
    return DamagedError(f"{name!r} is no segment: {path} is {what}. Remove it: {cure}", name=name)


def missing(name: str) -> NotFoundError:
    """Make the error for a name that leads nowhere, with the names that come near."""
    posix = [f"/{name}"] if os.path.exists(f"{paths.folder()}/{name}") else []  # as the stdlib calls its blocks
    similar = [*posix, *paths.near(name, paths.names())]
    message = f"no segment named {name!r}.{paths.hint(similar)} Live names: %shm_list"
    return NotFoundError(message, name=name, similar=similar)
