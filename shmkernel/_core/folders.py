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
import functools
import os
import stat
import time
from typing import TYPE_CHECKING, Any, TypeVar

from shmkernel._core import closing, descriptors, paths, protocol, trust
from shmkernel._core.closing import LAST, Descriptor
from shmkernel._core.imports import importing
from shmkernel._core.trust import Folder
from shmkernel.errors import Cure, FolderError, ShmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Result = TypeVar("Result")

PARTS = trust.PARTS
has_proc = trust.has_proc
_HELD = 16  # folders kept open; a process needs two, more only if it changes SHMKERNEL_DIR or its user
_STALE = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ESTALE)
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV)
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC
_AT_EMPTY_PATH = 0x1000
_STORES = "/stores"
_RUNTIME = "/.shmk-"  # the end of the path of a runtime folder, before the uid


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
    with _named(f"{root}/{protocol.LINK}"):
        protocol.claim(held, root)


def open_(path: str, flags: int, mode: int = 0o600, *, own: Callable[[int], Any] = closing.own) -> Descriptor:
    """Open a file under a descriptor above 2; a file that is made gets this mode, whatever the umask.

    `own` makes the descriptor's owner (`closing`).
    """
    within, _, rest = path.rpartition("/")  # inlined from `_do`: the call would take a tenth of an attach
    at = _held.get(within)
    if at is None:
        at, rest = _at(path)
    call, wanted = functools.partial(os.open, dir_fd=at), flags | _SAFE
    try:  # opened and owned in one call in C
        owner = next(map(own, map(call, (rest,), (wanted,), (mode,))))
    except OSError as error:
        _forget_if_moved(at, error, path)
        at, rest = _at(path)
        with _named(path):
            owner = next(map(own, map(functools.partial(os.open, dir_fd=at), (rest,), (wanted,), (mode,))))
    fd = Descriptor(owner.fileno())
    fd.owner, fd.close = owner, owner.close
    if fd <= LAST:
        fd = closing.numbered(owner, own)
    if flags & os.O_CREAT:
        os.fchmod(fd, mode)
    return fd


def nameless(path: str, *, own: Callable[[int], Any] = closing.own) -> Descriptor:
    """Open a new file without a name in this folder; `own` as in `open_`."""
    at = _held.get(path)
    rest = "."
    if at is None:
        at, rest = _at(path) if _RUNTIME in path else (_hold_segments(path), rest)
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    try:
        owner = next(map(own, map(functools.partial(os.open, dir_fd=at), (rest,), (flags,), (0o600,))))
    except OSError as error:
        _forget_if_moved(at, error, path)
        at, rest = _at(path) if _RUNTIME in path else (_hold_segments(path), ".")
        with _named(path):
            owner = next(map(own, map(functools.partial(os.open, dir_fd=at), (rest,), (flags,), (0o600,))))
    fd = Descriptor(owner.fileno())
    fd.owner, fd.close = owner, owner.close
    if fd <= LAST:
        fd = closing.numbered(owner, own)
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
        fd.close()


def plain(path: str) -> Descriptor:
    """Open a regular file to read; anything else in its place counts as missing: a link, folder, FIFO or device."""
    try:
        fd = open_(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _missing(path) from None
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    fd.close()
    raise _missing(path)


def plain_inside(rest: str) -> Descriptor:
    """Open a regular file to read, by its path inside the runtime folder."""
    root = paths.runtime()
    at = _held.get(root)
    if at is not None:
        with contextlib.suppress(OSError):  # the usual case with few calls
            flags = os.O_RDONLY | os.O_NONBLOCK | _SAFE
            owner = next(map(closing.own, map(functools.partial(os.open, dir_fd=at), (rest,), (flags,))))
            fd = Descriptor(owner.fileno())
            fd.owner, fd.close = owner, owner.close
            if fd > LAST and stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            fd.close()
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
        fd.close()
    raise _missing(path)


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def vanished() -> FolderError:
    """Make the error for a runtime folder that another program empties or removes while it is in use.

    The next verb makes it anew.
    """
    root = paths.runtime()
    if held := _held.get(root):
        _forget(held)
    message = (
        f"{root} vanished while it was in use: another program cleans {paths.folder()}. Try again, or choose another "
        "folder with SHMKERNEL_DIR"
    )
    return FolderError(message, Cure("More", "doctor"), path=root)


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
    _do_both(os.rename, old, new)


def link(old: str, new: str) -> None:
    """Give a file a second name."""
    _do_both(_link, old, new)


def link_nameless(fd: int, path: str) -> None:
    """Give a nameless file its name; FileExistsError if the name is taken."""
    source = f"/proc/self/fd/{fd}"
    try:
        _do(functools.partial(_link_from, source), path)
    except FileNotFoundError:
        if has_proc():
            raise vanished() from None
        _link_without_proc(fd, *_at(path))


def _link_without_proc(fd: int, at: Folder, rest: str) -> None:
    """Link an open file by its descriptor, which needs root or Linux 6.10."""
    with importing:
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
_link = functools.partial(os.link, follow_symlinks=False)


def _link_from(source: str, path: str, *, dir_fd: Folder) -> None:
    # Only linkat follows the link in /proc, and CPython calls it only if a dir_fd is given.
    os.link(source, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=True)


def _mkdir(path: str, *, dir_fd: Folder) -> None:
    os.mkdir(path, 0o700, dir_fd=dir_fd)
    trust.mend(Folder(f"{dir_fd.path}/{path}", path, dir_fd, os.O_NOFOLLOW))


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
    with _named(path):
        return function(rest, *arguments, dir_fd=at)


def _do_both(function: Callable[..., None], old: str, new: str) -> None:
    """Call a function with two paths; call it again if a held folder has been removed and made anew."""
    (first, source), (second, target) = _at(old), _at(new)
    try:
        function(source, target, src_dir_fd=first, dst_dir_fd=second)
    except OSError as error:
        if error.errno not in _STALE or (first.is_current() and second.is_current()):
            error.filename = old
            raise descriptors.ran_out(error) from None
    else:
        return
    for folder in (first, second):
        if not folder.is_current():
            _forget(folder)
    (first, source), (second, target) = _at(old), _at(new)
    with _named(old):
        function(source, target, src_dir_fd=first, dst_dir_fd=second)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Have an error for a missing file tell its whole path, not the one from a held folder."""
    try:
        yield
    except FileNotFoundError as error:
        error.filename = path
        raise


def _forget_if_moved(at: Folder, error: OSError, path: str) -> None:
    """Forget the held folder if it is no longer under its path; raise the error if it still is.

    If something else lies in place of a folder, what should be in it is missing.
    """
    if error.errno not in _STALE or time.monotonic() < at.checked_until or at.is_current():
        error.filename = path
        try:
            if error.errno == errno.ENOTDIR or (error.errno == errno.ELOOP and f"{_STORES}/" in path):
                raise _missing(path) from None
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
    trust.check_uid(within)
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(base, 0o700, dir_fd=segments)
        runtime = trust.ours(root, base, segments)
        numbered = protocol.check(runtime, root)
        if make:
            trust.fill(runtime, numbered=numbered)
    except FileNotFoundError as error:
        if make:
            raise paths.no_folder(error, within) from None
        error.filename = root
        raise
    except ShmError:
        raise
    except OSError as error:
        raise paths.no_folder(error, within) from None
    runtime.prepared = make
    return _keep(runtime)


def _keep(folder: Folder) -> Folder:
    global _held
    others = [(path, held) for path, held in _held.items() if path != folder.path]
    _held = dict([*others[1 - _HELD :], (folder.path, folder)])
    return folder


def _forget(folder: Folder) -> None:
    global _held
    _held = {path: held for path, held in _held.items() if held is not folder}
