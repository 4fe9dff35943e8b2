"""Reach every file through an open, checked descriptor of its folder.

A path that was checked may lead elsewhere a moment later: logind or a cleaner removes the runtime folder, and another
user makes one of the same name, with links in it. So each folder is opened once, the open descriptor is checked, and
every change is relative to it:

    path of a segment              -> descriptor of the folder of segments, name
    path inside the runtime folder -> descriptor of the runtime folder, the rest

Callers pass paths. The functions here do what the functions of `os` with the same names do, and never follow a
symbolic link. `prepare`, and every call that does not find its file, checks that the held folder is still the one
under its path, and if not opens and checks the new one. Until then the old folder, which is ours, is used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import operator
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Self, TypeVar

from shmkernel._core import descriptors, paths, protocol
from shmkernel.errors import FolderError, RefusedError, ShmError

if TYPE_CHECKING:
    from collections.abc import Callable

    Result = TypeVar("Result")

PARTS = ("sessions", "records", "pending", "stores", "sync")
_HELD = 16  # folders kept open; a process needs two, more only if it changes SHMKERNEL_DIR or its user
_RECHECK = 0.01  # seconds
_STALE = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ESTALE)
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC
_AT_EMPTY_PATH = 0x1000
_identity: Callable[[os.stat_result], tuple[int, int]] = operator.attrgetter("st_dev", "st_ino")
_RUNTIME = "/.shmk-"  # the end of the path of a runtime folder, before the uid


class Folder(int):
    """The descriptor of an open folder, for ``dir_fd``. It is closed with the last reference."""

    path: str
    prepared = False
    checked_until = 0.0  # until then a missing file is no reason to check the folder again
    _identity: tuple[int, int] | None = None

    def __new__(cls, path: str, name: str, within: Folder | None = None, flags: int = 0) -> Self:
        """Open the folder `name` inside `within`; `path` is for messages, and for `is_current`."""
        flags |= os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self = super().__new__(cls, descriptors.beyond_streams(os.open(name, flags, dir_fd=within)))
        self.path, self._identity = path, _identity(os.fstat(self))
        return self

    def is_current(self) -> bool:
        """Return whether path and descriptor still lead to this folder: a daemon may have closed all descriptors."""
        try:
            current = _identity(os.stat(self.path)) == self._identity == _identity(os.fstat(self))
        except OSError:
            return False
        self.checked_until = time.monotonic() + _RECHECK if current else 0.0
        return current

    def __del__(self, *, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ending():
            with contextlib.suppress(OSError):
                if _identity(os.fstat(self)) == self._identity:  # else the number belongs to another file now
                    os.close(self)


_held: dict[str, Folder] = {}  # by path; never changed in place: other threads read it without a lock


def prepare() -> str:
    """Make the runtime folder if it is missing, check that only this user can enter it, and return its path.

    Raises
    ------
    RefusedError
        If it is no folder, belongs to another user, or others may enter it.
    FolderError, FullError
        If it cannot be made in the folder of segments, or releases with another protocol use it.
    """
    root = paths.runtime()
    held = _held.get(root)
    if held is None or not held.prepared or not held.is_current():
        _hold(root, make=True)
    return root


def check_protocol(root: str) -> None:
    """Raise FolderError if releases with another protocol use the runtime folder. Call it with names locked."""
    held = _held.get(root) or _hold(root, make=True)
    with contextlib.suppress(OSError):  # the usual case without a call
        if os.readlink(protocol.LINK, dir_fd=held) == protocol.TEXT:
            return
    protocol.claim(held, root)


def open_(path: str, flags: int, mode: int = 0o600) -> int:
    """Open a file under a descriptor above 2; a file that is made gets this mode, whatever the umask."""
    within, _, rest = path.rpartition("/")  # inlined from `_do`: the call would take a tenth of an attach
    at = _held.get(within)
    if at is None:
        at, rest = _at(path)
    try:
        fd = os.open(rest, flags | _SAFE, mode, dir_fd=at)
    except OSError as error:
        _forget_if_moved(at, error, path)
        at, rest = _at(path)
        fd = os.open(rest, flags | _SAFE, mode, dir_fd=at)
    if fd <= descriptors.LAST:
        fd = descriptors.beyond_streams(fd)
    if flags & os.O_CREAT:
        os.fchmod(fd, mode)
    return fd


def nameless(path: str) -> int:
    """Open a new file without a name in this folder."""
    at = _held.get(path)
    rest = "."
    if at is None:
        at, rest = _at(path) if _RUNTIME in path else (_hold_segments(path), rest)
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    try:
        fd = os.open(rest, flags, 0o600, dir_fd=at)
    except OSError as error:
        _forget_if_moved(at, error, path)
        at, rest = _at(path) if _RUNTIME in path else (_hold_segments(path), ".")
        fd = os.open(rest, flags, 0o600, dir_fd=at)
    if fd <= descriptors.LAST:
        fd = descriptors.beyond_streams(fd)
    os.fchmod(fd, 0o600)
    return fd


def lstat(path: str) -> os.stat_result:
    """Return the stat of the path itself, not of a link's target."""
    return _do(_lstat, path)


def exists(path: str) -> bool:
    """Return whether the path exists."""
    try:
        lstat(path)
    except FileNotFoundError:
        return False
    return True


def listdir(path: str) -> list[str]:
    """Return the names in a folder."""
    fd = open_(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.listdir(fd)  # it duplicates the descriptor, which may fail
    except OSError as error:
        raise descriptors.ran_out(error) from None
    finally:
        os.close(fd)


def plain(path: str) -> int:
    """Open a regular file to read; anything else in its place counts as missing: a link, folder, FIFO or device."""
    try:
        fd = open_(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _missing(path) from None
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise _missing(path)


def plain_inside(rest: str) -> int:
    """Open a regular file to read, by its path inside the runtime folder."""
    root = paths.runtime()
    at = _held.get(root)
    if at is not None:
        with contextlib.suppress(OSError):  # the usual case with few calls
            fd = os.open(rest, os.O_RDONLY | os.O_NONBLOCK | _SAFE, dir_fd=at)
            if fd > descriptors.LAST and stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
    return plain(f"{root}/{rest}")


def read(path: str, most: int) -> bytes:
    """Return the first `most` bytes of a regular file, as `plain` opens it."""
    try:
        fd = open_(path, os.O_RDONLY | os.O_NONBLOCK)  # not `plain`: a call less in every attach
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _missing(path) from None
        raise
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return os.read(fd, most)
    finally:
        os.close(fd)
    raise _missing(path)


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def mkdir(path: str) -> None:
    """Make a folder that only this user can enter, whatever the umask."""
    _do(_mkdir, path)


def unlink(path: str) -> None:
    """Remove a name."""
    _do(os.unlink, path)


def rmdir(path: str) -> None:
    """Remove an empty folder."""
    _do(os.rmdir, path)


def rename(old: str, new: str) -> None:
    """Rename a file; it replaces one that has the new name."""
    (first, source), (second, target) = _at(old), _at(new)
    os.rename(source, target, src_dir_fd=first, dst_dir_fd=second)


def link(old: str, new: str) -> None:
    """Give a file a second name."""
    (first, source), (second, target) = _at(old), _at(new)
    os.link(source, target, src_dir_fd=first, dst_dir_fd=second, follow_symlinks=False)


def link_nameless(fd: int, path: str) -> None:
    """Give a nameless file its name; FileExistsError if the name is taken."""
    at, rest = _at(path)
    # Only linkat follows the link in /proc, and CPython calls it only if a dir_fd is given.
    try:
        os.link(f"/proc/self/fd/{fd}", rest, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=True)
    except FileNotFoundError:
        if has_proc():
            raise
        _link_without_proc(fd, at, rest)


def has_proc() -> bool:
    """Return whether /proc is mounted and knows this process: it may belong to another pid namespace."""
    return os.path.exists("/proc/self/fd")


def _link_without_proc(fd: int, at: Folder, rest: str) -> None:
    """Link an open file by its descriptor, which needs root or Linux 6.10."""
    import ctypes  # noqa: PLC0415  it takes 10 ms

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.linkat(fd, b"", int(at), os.fsencode(rest), _AT_EMPTY_PATH):
        number = ctypes.get_errno()
        if number != errno.ENOENT:
            raise OSError(number, os.strerror(number), rest)
        message = (
            "there is no /proc here, which a new segment needs to get its name. Mount it: mount -t proc proc /proc"
        )
        raise FolderError(message, path=at.path)


_lstat = functools.partial(os.stat, follow_symlinks=False)


def _mkdir(path: str, *, dir_fd: Folder) -> None:
    os.mkdir(path, 0o700, dir_fd=dir_fd)
    _mend(Folder(f"{dir_fd.path}/{path}", path, dir_fd, os.O_NOFOLLOW))


def _do(function: Callable[..., Result], path: str, *arguments: int) -> Result:
    """Call a function of `os`; call it again if the held folder has been removed and made anew."""
    within, _, rest = path.rpartition("/")
    at = _held.get(within)
    if at is None:
        at, rest = _at(path)
    try:
        return function(rest, *arguments, dir_fd=at)
    except OSError as error:
        _forget_if_moved(at, error, path)
    at, rest = _at(path)
    return function(rest, *arguments, dir_fd=at)


def _forget_if_moved(at: Folder, error: OSError, path: str) -> None:
    """Forget the held folder if it is no longer under its path; raise the error if it still is."""
    if error.errno not in _STALE or time.monotonic() < at.checked_until or at.is_current():
        error.filename = path
        try:
            raise descriptors.ran_out(error) from None
        finally:
            del error  # error, traceback and this frame form a cycle: it would keep the callers' arrays until gc
    _forget(at)


def _at(path: str) -> tuple[Folder, str]:
    """Return the held folder of a path, and the rest of the path from there."""
    within, _, rest = path.rpartition("/")
    folder = _held.get(within)
    if folder is None:
        start = path.rfind(_RUNTIME)
        end = path.find("/", start + 1) if start >= 0 else -1
        if end < 0:
            return _hold_segments(within), rest
        within, rest = path[:end], path[end + 1 :]
        folder = _held.get(within) or _hold(within, make=False)
    return folder, rest


def _hold_segments(path: str) -> Folder:
    try:
        return _keep(Folder(path, path))
    except OSError as error:
        raise paths.no_folder(error, path) from None


def _hold(root: str, *, make: bool) -> Folder:
    """Open the runtime folder anew, and check it before anything in it is read."""
    within, _, base = root.rpartition("/")
    segments = _held.get(within)
    if segments is None or not segments.is_current():
        segments = _hold_segments(within)
    _check_uid(within)
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(base, 0o700, dir_fd=segments)
        runtime = _ours(root, base, segments)
        numbered = protocol.check(runtime, root)
        if make:
            _fill(runtime, numbered=numbered)
    except FileNotFoundError as error:
        if make:
            raise paths.no_folder(error, within) from None
        raise
    except ShmError:
        raise
    except OSError as error:
        raise paths.no_folder(error, within) from None
    runtime.prepared = make
    return _keep(runtime)


def _ours(path: str, name: str, within: Folder) -> Folder:
    """Open a folder that only this user can enter. If not even this user can, after an odd umask, repair its mode."""
    try:
        folder = Folder(path, name, within, os.O_NOFOLLOW)
        status = os.fstat(folder)
    except NotADirectoryError:
        status = _lstat(name, dir_fd=within)
    else:
        if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
            _mend(folder)
            return folder
    message = (
        f"{path} is not a folder that only you can enter, so it is not trusted. "
        "Have its owner remove it, or choose another folder with SHMKERNEL_DIR"
    )
    raise RefusedError(message, path=path, owner=status.st_uid)


def _mend(folder: Folder) -> None:
    if os.fstat(folder).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        at = f"/proc/self/fd/{int(folder)}" if has_proc() else folder.path  # O_PATH: no fchmod
        os.chmod(at, 0o700)


def _fill(runtime: Folder, *, numbered: bool) -> None:
    """Make the folders, names.lock and the protocol number inside the runtime folder."""
    for part in PARTS:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o700, dir_fd=runtime)
        _ours(f"{runtime.path}/{part}", part, runtime)
    try:
        fd = os.open("names.lock", paths.LOCK, 0o600, dir_fd=runtime)
    except PermissionError:  # its maker died before fchmod
        os.chmod("names.lock", 0o600, dir_fd=runtime)
        fd = os.open("names.lock", paths.LOCK, 0o600, dir_fd=runtime)
    try:
        os.fchmod(fd, 0o600)
        if not numbered:
            fcntl.flock(fd, fcntl.LOCK_EX)
            protocol.claim(runtime, runtime.path)
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # a child that another thread has just forked shares it
        os.close(fd)


def _check_uid(folder: str) -> None:
    """Raise RefusedError if this process runs as the overflow uid, which stands for every unmapped user."""
    uid = os.geteuid()
    try:
        with open("/proc/sys/kernel/overflowuid", encoding="utf-8") as file:
            if uid != int(file.read()):
                return
        with open("/proc/self/uid_map", encoding="utf-8") as file:
            spans = [tuple(map(int, line.split())) for line in file]
    except (OSError, ValueError):
        return
    if not any(first <= uid < first + count for first, _, count in spans):
        message = (
            f"this process has no user of its own here: uid {uid} stands for every user that its user namespace "
            f"does not know, so no file in {folder} is known to be yours. Give it one: unshare --map-root-user"
        )
        raise RefusedError(message, path=folder, owner=uid)


def _keep(folder: Folder) -> Folder:
    global _held
    others = [(path, held) for path, held in _held.items() if path != folder.path]
    _held = dict([*others[1 - _HELD :], (folder.path, folder)])
    return folder


def _forget(folder: Folder) -> None:
    global _held
    _held = {path: held for path, held in _held.items() if held is not folder}
