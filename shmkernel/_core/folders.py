"""The folder of segments and the runtime folder, held open: what lies in them is reached from there.

A path that was checked may lead elsewhere a moment later: logind or a cleaner removes the runtime folder, and another
user makes one of that name, with links in it. So each folder is opened once, checked as it was opened, and every
change is relative to that descriptor:

    path of a segment              -> descriptor of the folder of segments, name
    path inside the runtime folder -> descriptor of the runtime folder, the rest

Paths stay what is passed around and shown. The functions here take them, do what those of `os` with these names do,
and never follow a symbolic link. `prepare` looks whether the folder that is held is still the one under its path,
and checks a new one; so does whatever does not find its file. Until then what is held is the old one, which is ours.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Self, TypeVar

from shmkernel._core import descriptors, paths
from shmkernel.errors import FolderError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    Result = TypeVar("Result")

PARTS = ("sessions", "records", "pending", "dicts", "sync")
_HELD = 16  # folders; a process has two, more only if it changes SHMKERNEL_DIR or its user
_SURE = 0.01  # seconds
_STALE = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ESTALE)
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC
_AT_EMPTY_PATH = 0x1000
_RUNTIME = "/.shmk-"  # what the path of a runtime folder ends with, before the uid


class Folder(int):
    """A descriptor of an open folder, to be given as ``dir_fd``. It is closed with the last reference."""

    path: str
    prepared = False
    sure = 0.0  # until then nobody looks again because something is not there
    _identity: tuple[int, int] | None = None

    def __new__(cls, path: str, name: str, within: Folder | None = None, flags: int = 0) -> Self:
        """Open the folder `name` in another one; `path` is for messages, and for `is_current`."""
        flags |= os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self = super().__new__(cls, descriptors.beyond_streams(os.open(name, flags, dir_fd=within)))
        self.path, self._identity = path, _identity(os.fstat(self))
        return self

    def is_current(self) -> bool:
        """Say whether the path still leads here, and the descriptor too: a daemon may close all that it has."""
        try:
            current = _identity(os.stat(self.path)) == self._identity == _identity(os.fstat(self))
        except OSError:
            return False
        self.sure = time.monotonic() + _SURE if current else 0.0
        return current

    def __del__(self, *, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ending():
            with contextlib.suppress(OSError):
                if _identity(os.fstat(self)) == self._identity:  # else the number is somebody else's by now
                    os.close(self)


_held: dict[str, Folder] = {}  # by path; replaced as a whole, so that no thread meets it half changed


def prepare() -> str:
    """Make the runtime folder where there is none, make sure that it is ours alone, and return its path.

    Raises
    ------
    RefusedError
        If something else stands there, or another user could reach in.
    FolderError, FullError
        If the folder of segments cannot hold it.
    """
    root = paths.runtime()
    held = _held.get(root)
    if held is None or not held.prepared or not held.is_current():
        _hold(root, make=True)
    return root


def open_(path: str, flags: int, mode: int = 0o600) -> int:
    """Open a file, never as a standard stream; one that is made has this mode, whatever the umask."""
    within, _, rest = path.rpartition("/")  # as `_do` does, which would take a tenth of an attach
    at = _held.get(within)
    if at is None:
        at, rest = _at(path)
    try:
        fd = os.open(rest, flags | _SAFE, mode, dir_fd=at)
    except OSError as error:
        _look_again(at, error, path)
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
        _look_again(at, error, path)
        at, rest = _at(path) if _RUNTIME in path else (_hold_segments(path), ".")
        fd = os.open(rest, flags, 0o600, dir_fd=at)
    fd = descriptors.beyond_streams(fd)
    os.fchmod(fd, 0o600)
    return fd


def lstat(path: str) -> os.stat_result:
    """Return what the path itself is."""
    return _do(_lstat, path)


def exists(path: str) -> bool:
    """Say whether there is anything under this path."""
    try:
        lstat(path)
    except FileNotFoundError:
        return False
    return True


def listdir(path: str) -> list[str]:
    """Return the names in a folder."""
    fd = open_(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.listdir(fd)  # of a duplicate
    except OSError as error:
        raise descriptors.ran_out(error) from None
    finally:
        os.close(fd)


def read(path: str, most: int) -> bytes:
    """Return the first bytes of a file, all of a small one."""
    fd = open_(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)


def mkdir(path: str) -> None:
    """Make a folder that we alone can enter, whatever the umask."""
    _do(_mkdir, path)


def unlink(path: str) -> None:
    """Remove a name."""
    _do(os.unlink, path)


def rmdir(path: str) -> None:
    """Remove an empty folder."""
    _do(os.rmdir, path)


def rename(old: str, new: str) -> None:
    """Give a file another name, in place of what has that now."""
    (first, source), (second, target) = _at(old), _at(new)
    os.rename(source, target, src_dir_fd=first, dst_dir_fd=second)


def link(old: str, new: str) -> None:
    """Give a file a second name."""
    (first, source), (second, target) = _at(old), _at(new)
    os.link(source, target, src_dir_fd=first, dst_dir_fd=second, follow_symlinks=False)


def link_nameless(fd: int, path: str) -> None:
    """Give a nameless file its name; FileExistsError if that is taken."""
    at, rest = _at(path)
    try:  # CPython calls linkat, which alone follows /proc's link, only for a dir_fd
        os.link(f"/proc/self/fd/{fd}", rest, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=True)
    except FileNotFoundError:
        if has_proc():
            raise
        _link_without_proc(fd, at, rest)


def has_proc() -> bool:
    """Say whether /proc is mounted, and knows this process: it may be that of another pid namespace."""
    return os.path.exists("/proc/self/fd")


def _link_without_proc(fd: int, at: Folder, rest: str) -> None:
    """Link an open file itself, which takes root or Linux 6.10."""
    import ctypes  # noqa: PLC0415  it takes 10 ms

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.linkat(fd, b"", int(at), os.fsencode(rest), _AT_EMPTY_PATH):
        number = ctypes.get_errno()
        if number != errno.ENOENT:
            raise OSError(number, os.strerror(number), rest)
        message = "there is no /proc here, by which a new file gets its name. Mount it: mount -t proc proc /proc"
        raise FolderError(message, path=at.path)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


_lstat = functools.partial(os.stat, follow_symlinks=False)


def _mkdir(path: str, *, dir_fd: Folder) -> None:
    os.mkdir(path, 0o700, dir_fd=dir_fd)
    _mend(Folder(f"{dir_fd.path}/{path}", path, dir_fd, os.O_NOFOLLOW))


def _do(function: Callable[..., Result], path: str, *arguments: int) -> Result:
    """Call a function of `os`, and once more if the folder that is held has been made anew meanwhile."""
    within, _, rest = path.rpartition("/")
    at = _held.get(within)
    if at is None:
        at, rest = _at(path)
    try:
        return function(rest, *arguments, dir_fd=at)
    except OSError as error:
        _look_again(at, error, path)
    at, rest = _at(path)
    return function(rest, *arguments, dir_fd=at)


def _look_again(at: Folder, error: OSError, path: str) -> None:
    """Forget a folder that has gone, which may be why something was not found; raise the error if it has not."""
    if error.errno not in _STALE or time.monotonic() < at.sure or at.is_current():
        error.filename = path
        try:
            raise descriptors.ran_out(error) from None
        finally:
            del error  # its traceback has this frame, and all that the callers hold would live until the next gc
    _forget(at)


def _at(path: str) -> tuple[Folder, str]:
    """Return the folder that is held, and the path from there."""
    within, _, rest = path.rpartition("/")
    found = _held.get(within)
    if found is None:
        start = path.rfind(_RUNTIME)
        end = path.find("/", start + 1) if start >= 0 else -1
        if end < 0:
            return _hold_segments(within), rest
        within, rest = path[:end], path[end + 1 :]
        found = _held.get(within) or _hold(within, make=False)
    return found, rest


def _hold_segments(path: str) -> Folder:
    try:
        return _keep(Folder(path, path))
    except OSError as error:
        raise paths.no_folder(error, path) from None


def _hold(root: str, *, make: bool) -> Folder:
    """Open the runtime folder anew, and check it, before anything in it is so much as looked at."""
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
        if make:
            _fill(runtime)
    except FileNotFoundError as error:
        if make:
            raise paths.no_folder(error, within) from None
        raise
    except RefusedError:
        raise
    except OSError as error:
        raise paths.no_folder(error, within) from None
    runtime.prepared = make
    return _keep(runtime)


def _ours(path: str, name: str, within: Folder) -> Folder:
    """Open a folder that only we can enter; one that not even we can, after an odd umask, is mended."""
    try:
        folder = Folder(path, name, within, os.O_NOFOLLOW)
        found = os.fstat(folder)
    except NotADirectoryError:
        found = _lstat(name, dir_fd=within)
    else:
        if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            _mend(folder)
            return folder
    message = (
        f"{path} is not a folder that only you can enter, so it is not trusted. "
        "Have its owner remove it, or choose another folder with SHMKERNEL_DIR"
    )
    raise RefusedError(message, path=path, owner=found.st_uid)


def _mend(folder: Folder) -> None:
    if os.fstat(folder).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        at = f"/proc/self/fd/{int(folder)}" if has_proc() else folder.path  # the descriptor is for no more than looking
        os.chmod(at, 0o700)


def _fill(runtime: Folder) -> None:
    """Make what is in the runtime folder for good."""
    for part in PARTS:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o700, dir_fd=runtime)
        _ours(f"{runtime.path}/{part}", part, runtime)
    try:
        fd = os.open("names.lock", paths.LOCK, 0o600, dir_fd=runtime)
    except PermissionError:  # whoever made it died before it had its mode
        os.chmod("names.lock", 0o600, dir_fd=runtime)
        fd = os.open("names.lock", paths.LOCK, 0o600, dir_fd=runtime)
    try:
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _check_uid(folder: str) -> None:
    """Refuse where the number that this process has as its user stands for every stranger."""
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
            f"this process has no user of its own here: uid {uid} stands for everybody whom its user namespace "
            f"does not know, so nothing in {folder} can be told to be yours. Give it one: unshare --map-root-user"
        )
        raise RefusedError(message, path=folder, owner=uid)


def _keep(folder: Folder) -> Folder:
    global _held  # noqa: PLW0603  replaced as a whole
    others = [(path, one) for path, one in _held.items() if path != folder.path]
    _held = dict([*others[1 - _HELD :], (folder.path, folder)])
    return folder


def _forget(folder: Folder) -> None:
    global _held  # noqa: PLW0603
    _held = {path: one for path, one in _held.items() if one is not folder}
