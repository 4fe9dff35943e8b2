"""Folders that only this user can enter: open one, check whose it is, make what the runtime folder holds."""

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
from typing import TYPE_CHECKING, Self

from shmkernel._core import closing, paths, protocol
from shmkernel._core.closing import Descriptor
from shmkernel.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = ("sessions", "records", "pending", "stores", "sync")
_RECHECK = 0.01  # seconds
_UIDS = (1 << 32) - 1  # the first user namespace maps them all
_identity: Callable[[os.stat_result], tuple[int, int]] = operator.attrgetter("st_dev", "st_ino")


class Folder(Descriptor):
    """The descriptor of an open folder, for ``dir_fd``."""

    path: str
    prepared = False
    checked_until = 0.0  # until then a missing file is no reason to check the folder again
    _identity: tuple[int, int] | None = None

    def __new__(cls, path: str, name: str, within: Folder | None = None, flags: int = 0) -> Self:
        """Open the folder `name` inside `within`; `path` is for messages, and for `is_current`."""
        flags |= os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        fd = closing.opened(functools.partial(os.open, dir_fd=within), name, flags)
        self = super().__new__(cls, fd)
        self.owner, self.close = fd.owner, fd.close
        self.path, self._identity = path, _identity(os.fstat(self))
        return self

    def is_current(self) -> bool:
        """Return whether path and descriptor still lead to this folder: a daemon may have closed all descriptors."""
        try:
            current = _identity(os.fstat(self)) == self._identity == _identity(os.stat(self.path))
        except OSError as error:
            if error.errno == errno.EBADF:  # what is opened next may have the number, and this would close it
                closing.lose(self.owner)
            return False
        self.checked_until = time.monotonic() + _RECHECK if current else 0.0
        return current

    def __del__(self, *, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ending():
            with contextlib.suppress(OSError):
                if self._identity not in (None, _identity(os.fstat(self))):
                    closing.lose(self.owner)  # the number belongs to another file now


def ours(path: str, name: str, within: Folder) -> Folder:
    """Open a folder that only this user can enter. If not even this user can, after an odd umask, repair its mode."""
    try:
        folder = Folder(path, name, within, os.O_NOFOLLOW)
        status = os.fstat(folder)
    except NotADirectoryError:
        status = os.lstat(name, dir_fd=within)
    else:
        if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
            mend(folder)
            return folder
    message = (
        f"{path} is not a folder that only you can enter, so it is not trusted. "
        "Have its owner remove it, or choose another folder with SHMKERNEL_DIR"
    )
    raise RefusedError(message, path=path, owner=status.st_uid)


def mend(folder: Folder) -> None:
    if os.fstat(folder).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        at = f"/proc/self/fd/{int(folder)}" if has_proc() else folder.path  # O_PATH: no fchmod
        os.chmod(at, 0o700)


def fill(runtime: Folder, *, numbered: bool) -> None:
    """Make the folders, names.lock and the protocol number inside the runtime folder."""
    for part in PARTS:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o700, dir_fd=runtime)
        ours(f"{runtime.path}/{part}", part, runtime)
    open_here = functools.partial(os.open, dir_fd=runtime)
    try:
        fd = closing.opened(open_here, "names.lock", paths.LOCK, 0o600)
    except PermissionError:  # its maker died before fchmod
        os.chmod("names.lock", 0o600, dir_fd=runtime)
        fd = closing.opened(open_here, "names.lock", paths.LOCK, 0o600)
    try:
        os.fchmod(fd, 0o600)
        if not numbered:
            fcntl.flock(fd, fcntl.LOCK_EX)
            protocol.claim(runtime, runtime.path)
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # a child that another thread has just forked shares it
        fd.close()


def check_uid(folder: str) -> None:
    """Raise RefusedError if this process runs as the overflow uid, and that stands for users without a mapping too."""
    uid = os.geteuid()
    try:
        with open("/proc/sys/kernel/overflowuid", encoding="utf-8") as file:
            if uid != int(file.read()):
                return
        with open("/proc/self/uid_map", encoding="utf-8") as file:
            mapped = sum(int(line.split()[2]) for line in file)
    except (OSError, ValueError, IndexError):
        return
    if mapped < _UIDS:
        message = (
            f"this process has no user of its own here: uid {uid} stands for every user that its user namespace "
            f"does not know, so no file in {folder} is known to be yours. Give it one: unshare --map-root-user"
        )
        raise RefusedError(message, path=folder, owner=uid)


def has_proc() -> bool:
    """Return whether /proc is mounted and knows this process: it may belong to another pid namespace."""
    return os.path.exists("/proc/self/fd")
