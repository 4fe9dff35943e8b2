"""The protocol number of a runtime folder, which says what releases can share it.

The number is the target of a symbolic link in the runtime folder, ``protocol -> 1 shmkernel>=0.1.0``. The OS makes a
link with its target or not at all, so no process reads half a number. It is written under names.lock alone:

    runtime folder opened   our number: used. Another: refused, if there is anything in the folder
    names.lock taken        the same again. No number, or an empty folder: it gets ours

So a number binds while anything that was made under it exists: a session, a segment, a sync file. When all that is
gone, the next release may have the folder. Raise NUMBER, and set SINCE, when a release changes what the files in the
runtime folder mean to others; names.lock and this link must never change. A folder without a number is that of a
release before the first number, which can share it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shlex

from shmkernel._core import closing
from shmkernel.errors import Cure, DamagedError, FolderError

NUMBER = 1
SINCE = "shmkernel>=0.1.0"
LINK = "protocol"
TEXT = f"{NUMBER} {SINCE}"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PART = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_FORM = re.compile(r"([0-9]{1,9}) ([!-~]{1,80})")


def check(runtime: int, path: str) -> bool:
    """Return whether the runtime folder has our number; False if it has none, or one that binds nothing any more.

    Parameters
    ----------
    runtime : int
        Descriptor of the runtime folder.
    path : str
        Its path, for the message.

    Raises
    ------
    FolderError
        If releases with another protocol use the folder.
    DamagedError
        If the number cannot be read.
    """
    try:
        found = os.readlink(LINK, dir_fd=runtime)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise _damaged(path) from None
    match = _FORM.fullmatch(found)
    if match is None:
        raise _damaged(path)
    number, release = int(match[1]), match[2]
    if number != NUMBER and not _is_empty(runtime):
        raise _other(number, release, path)
    return number == NUMBER


def claim(runtime: int, path: str) -> None:
    """Give the runtime folder our number, if `check` allows it. Call it with names locked."""
    if check(runtime, path):
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(LINK, dir_fd=runtime)
    try:
        os.symlink(TEXT, LINK, dir_fd=runtime)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # segments of a full folder must still be unlinked
            raise


def _is_empty(runtime: int) -> bool:
    """Return whether the runtime folder has only empty folders, whatever their names."""
    fd = closing.opened(functools.partial(os.open, dir_fd=runtime), ".", _FOLDER)
    try:
        for entry in {*os.listdir(fd)} - {LINK, "names.lock"}:
            part = closing.opened(functools.partial(os.open, dir_fd=fd), entry, _PART)
            try:
                if os.listdir(part):
                    return False
            finally:
                part.close()
    except OSError:  # something else than a folder
        return False
    finally:
        fd.close()
    return True


def _other(number: int, release: str, path: str) -> FolderError:
    message = (
        f"{path} is in use by {release} (protocol {number}), which cannot share segments with this release of "
        f"shmkernel (protocol {NUMBER}). Restart those kernels with this release and unlink what they have kept, "
        f"or use their release here: pip install {shlex.quote(release)}, or choose another folder with SHMKERNEL_DIR"
    )
    return FolderError(message, Cure("More", "doctor"), path=path, protocol=number, release=release)


def _damaged(path: str) -> DamagedError:
    link = f"{path}/{LINK}"
    message = (
        f"{link} is damaged: it is not a link that names a protocol, so no release knows whether it can use "
        f"{path}. Move it away, in a terminal: mv {shlex.quote(link)} {shlex.quote(f'{link}.damaged')}"
    )
    return DamagedError(message, Cure("More", "doctor"), path=path)
