"""Make a segment's file without a name, fill it, then link it; open it, check it, then map it.

    create   O_TMPFILE -> flock(SH) -> pwrite, posix_fallocate of the rest -> mmap -> link
    attach   open -> flock(SH) -> fstat -> mmap

A file gets its name when it is complete, so no process attaches half of one, and a process that dies before the link
leaves nothing. Pages are reserved before a process can store to them: on a full tmpfs the store would raise SIGBUS. A
shared flock means "attached". It belongs to the open file description, and the mapping keeps a duplicate of the
descriptor, so the flock lasts exactly as long as the mapping. An open file with no link left was unlinked between open
and flock. Its name may lead to another file now, so `attach` starts again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shlex
import stat
import sys
from typing import TYPE_CHECKING, Any

from shmkernel._core import capacity, closing, descriptors, folders, paths
from shmkernel.errors import (
    ArgumentError,
    Cure,
    DamagedError,
    FolderError,
    LimitError,
    NotFoundError,
    RefusedError,
    ShmError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from shmkernel._core.closing import Descriptor

_RESERVE = 256 << 20  # bytes a call, which Ctrl-C cannot interrupt: 0.1 s
THEIRS = "Use another name: only that user, or root, can remove it"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EINVAL)  # EINVAL: more than the file system's largest file
_FLAGS = {mode: flags | os.O_NONBLOCK for mode, flags in {"r": os.O_RDONLY, "r+": os.O_RDWR, "c": os.O_RDONLY}.items()}
_ACCESS = {"r+": mmap.ACCESS_WRITE, "r": mmap.ACCESS_READ, "c": mmap.ACCESS_COPY}
MODES = tuple(_ACCESS)


def check_mode(mode: str) -> None:
    """Raise ArgumentError unless `mode` is r, r+ or c, the modes of numpy.memmap for an existing file."""
    if mode not in _ACCESS:
        message = f"mode {mode!r} is unknown: r (read only), r+ (read and write) or c (changes stay private)"
        raise ArgumentError(message, mode=mode)


def blank(folder: str, lock: int = fcntl.LOCK_SH, *, own: Callable[[int], Any] = closing.own) -> Descriptor:
    """Return the descriptor of a new nameless file with a flock: no other process ever sees it unlocked.

    `own` makes the descriptor's owner (`closing`).
    """
    try:
        fd = folders.nameless(folder, own=own)
    except ShmError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        if error.errno == errno.ENOENT and folder.startswith(paths.runtime()):
            raise folders.vanished() from None
        message = (
            f"{folder} cannot hold segments: {error.strerror} (it asked for a nameless file, O_TMPFILE). "
            "Choose a folder in memory (a tmpfs) with SHMKERNEL_DIR"
        )
        raise FolderError(message, Cure("More", "doctor"), path=folder) from None
    try:
        fcntl.flock(fd, lock)
    except BaseException:
        fd.close()
        raise
    return fd


def fill(
    fd: int,
    size: int,
    pieces: Iterable[memoryview],
    name: str,
    progress: Callable[[int], None],
    *,
    grows: bool = False,
) -> None:
    """Write `pieces` one after the other, and reserve the rest of `size` bytes, so that no later store fails.

    With `grows` the size is an estimate: the file ends with the last piece.

    Writing is twice as fast as storing through a new mapping, since the OS need not zero the pages first.

    Raises
    ------
    FullError
        If they do not fit; ``needed`` and ``free`` are in bytes.
    """
    capacity.check_file_size(name, size)
    if size > sys.maxsize or capacity.lacks(size):
        raise capacity.full(name, size)
    done = 0
    try:
        for piece in pieces:
            view = piece
            if grows and done + len(view) > size:
                size = done + len(view)
                capacity.check_file_size(name, size)
                if capacity.lacks(len(view)):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301  handled below
            while view:
                count = os.pwrite(fd, view, done)
                done, view = done + count, view[count:]
                progress(count)
        for start in range(done, done if grows else size, _RESERVE):
            os.posix_fallocate(fd, start, min(_RESERVE, size - start))
    except OSError as error:
        if (code := error.errno) not in _NO_ROOM:
            raise
        os.ftruncate(fd, 0)  # so that the error gives the free space of before
        raise capacity.full(name, size, code=code) from None


def write(fd: int, data: bytes | memoryview, at: int) -> None:
    """Write all of it at this place of a file."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(fd, rest, at)
        at, rest = at + count, rest[count:]


def attach(path: str, mode: str, name: str) -> tuple[Descriptor, os.stat_result]:
    """Open the file at `path`, and take the shared flock that means "attached".

    Returns
    -------
    fd, stat
        The caller closes the descriptor; a mapping made before the close keeps the attachment.

    Raises
    ------
    NotFoundError, RefusedError, DamagedError
        If there is no file, it belongs to another user, or it is no regular file.
    """
    while True:
        fd = _open(path, _FLAGS[mode], name)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:  # check before waiting: another user's process may hold the flock for ever
                _check(os.fstat(fd), path, name)
                fcntl.flock(fd, fcntl.LOCK_SH)
            status = os.fstat(fd)
            if status.st_nlink:
                if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
                    _check(status, path, name)
                return fd, status
        except BaseException:
            fd.close()
            raise
        fd.close()


def peek(path: str, size: int, name: str) -> bytes:
    """Return the first `size` bytes without attaching; errors as for `attach`."""
    try:
        return glance(path, size, name)[0]
    except FileNotFoundError:
        raise missing(name) from None


def glance(path: str, size: int, name: str) -> tuple[bytes, os.stat_result]:
    """Return the first `size` bytes and the stat, without attaching.

    Errors are as for `attach`, but a missing file is a plain FileNotFoundError: to look for similar names takes long.
    """
    fd = _opened(path, _FLAGS["r"], name)
    try:
        status = os.fstat(fd)
        _check(status, path, name)
        return os.pread(fd, size, 0), status
    finally:
        fd.close()


@contextlib.contextmanager
def reading(path: str, name: str) -> Iterator[Descriptor]:
    """Open the file for os.pread, without attaching; errors as for `attach`."""
    fd = _open(path, _FLAGS["r"], name)
    try:
        _check(os.fstat(fd), path, name)
        yield fd
    finally:
        fd.close()


def map_(fd: int, size: int, mode: str, name: str) -> mmap.mmap:
    """Map the whole file; `mode` r makes the pages read-only, c keeps stores private (copy on write)."""
    descriptors.take_streams()  # mmap duplicates the descriptor to the lowest free number
    try:
        return mmap.mmap(fd, size, access=_ACCESS[mode])
    except OSError as error:
        raise capacity.no_mapping(name, size, descriptors.ran_out(error, name)) from None


link = folders.link_nameless  # gives a nameless file its name; FileExistsError if that is taken


def may_remove(path: str, status: os.stat_result) -> bool:
    """Return whether this user may remove the name; in a sticky folder only an owner (of file or folder) may."""
    me, folder = os.geteuid(), os.stat(os.path.dirname(path))
    return me in (0, status.st_uid, folder.st_uid) or not folder.st_mode & stat.S_ISVTX


def _check(status: os.stat_result, path: str, name: str) -> None:
    _check_owner(status, path, name)
    if not stat.S_ISREG(status.st_mode):
        raise _not_a_segment(path, name, "not a regular file")


def _check_owner(status: os.stat_result, path: str, name: str) -> None:
    if status.st_uid != os.geteuid():
        message = f"{name!r} belongs to another user (uid {status.st_uid}), so it is not trusted: {path}. {THEIRS}"
        raise RefusedError(message, name=name, owner=status.st_uid)


def _open(path: str, flags: int, name: str) -> Descriptor:
    try:
        return _opened(path, flags, name)
    except FileNotFoundError:
        raise missing(name) from None


def _opened(path: str, flags: int, name: str) -> Descriptor:
    try:
        return folders.open_(path, flags)
    except FileNotFoundError:
        raise
    except LimitError as error:
        raise descriptors.ran_out(error, name) from None
    except ShmError:
        raise
    except PermissionError as error:
        status = folders.lstat(path)
        _check(status, path, name)
        cure = f"Give yourself permission, in a terminal: chmod 600 {shlex.quote(path)}"
        message = f"{name!r} may not be opened: {path} ({error.strerror}). {cure}"
        raise RefusedError(message, name=name, owner=status.st_uid) from None
    except OSError as error:
        what = {errno.ELOOP: "a symbolic link", errno.EISDIR: "a directory", errno.ENXIO: "a socket or device"}
        if error.errno not in what:
            raise
        status = None
        with contextlib.suppress(OSError):  # a folder of the path is a link to itself
            status = folders.lstat(path)
        if status:
            _check_owner(status, path, name)
        raise _not_a_segment(path, name, what[error.errno]) from None


def _not_a_segment(path: str, name: str, what: str) -> DamagedError:
    message = f"{name!r} is not a segment: {path} is {what}"
    if what == "a directory":
        return DamagedError(f"{message}. Remove it, in a terminal: rmdir {shlex.quote(path)}", name=name)
    return DamagedError(message, Cure("Remove it", "unlink", name), name=name)


def damaged(name: str, why: object, where: str = "", **facts: object) -> DamagedError:
    """Make the error for bytes that cannot be trusted."""
    cures = Cure("Inspect it", "info", name), Cure("Remove it", "unlink", name)
    return DamagedError(f"{name!r} is damaged{where}: {why}", *cures, name=name, why=str(why), **facts)


def missing(name: str) -> NotFoundError:
    """Make the NotFoundError for a name; it proposes similar names."""
    posix = [f"/{name}"] if os.path.exists(f"{paths.folder()}/{name}") else []  # a name of the standard library
    similar = [*posix, *paths.near(name, paths.names())]
    message = f"no segment named {name!r}.{paths.hint(similar)}"
    return NotFoundError(message, Cure("Live names", "list"), name=name, similar=similar)
