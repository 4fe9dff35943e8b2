"""Keep descriptors above the standard streams, and explain when there are no more of them.

A daemon closes 0, 1 and 2. The next files that are opened get these numbers, and whatever is printed then goes into
them: into a segment that others have attached. So a descriptor of ours with such a number is moved up. Some calls
choose their numbers themselves (LMDB, inotify, and `mmap`, which duplicates its descriptor): before them
`take_streams` opens /dev/null under the free ones of 0, 1 and 2, as daemons do.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import resource
from typing import Any

from shmkernel._core import closing
from shmkernel._core.closing import LAST
from shmkernel.errors import LimitError


def take_streams() -> None:
    """Open /dev/null under the free ones of 0, 1 and 2, so that no later descriptor gets these numbers."""
    try:
        for stream in range(LAST + 1):
            fcntl.fcntl(stream, fcntl.F_GETFD)
    except OSError:
        while (owner := _null()).fileno() <= LAST:
            closing.lose(owner)  # these stay open
        owner.close()


def _null() -> Any:
    try:
        return closing.owner_of(os.open, os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # a chroot without /dev: any descriptor that cannot be written will do
        return closing.owner_of(os.open, "/", os.O_PATH | os.O_CLOEXEC)


def ran_out(error: OSError, name: str | None = None) -> OSError:
    """Convert EMFILE or ENFILE to a LimitError that names the limit; return any other error unchanged."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return error
    subject = f"{name!r}: t" if name else "T"
    if error.errno == errno.ENFILE:
        message = f"{subject}oo many open files on this machine. It may have more: sudo sysctl fs.file-max=1000000"
        return LimitError(message, name=name, errno=errno.ENFILE, limit="fs.file-max")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cure = "Delete variables and close segments that it does not need"
    if soft < hard:
        call = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({hard}, {hard}))"
        cure = f"It may have {hard}: {call}, or before it starts ulimit -n {hard}"
    message = (
        f"{subject}oo many open files: this process may have {soft} (ulimit -n), "
        f"and each attached segment takes one. {cure}"
    )
    return LimitError(message, name=name, errno=errno.EMFILE, limit="ulimit -n", allowed=soft)


def check_spare(count: int) -> None:
    """Raise LimitError if fewer than `count` descriptors are left: some libraries abort the process without one."""
    spare: list[Any] = []
    try:
        spare.extend(map(closing.own, itertools.starmap(os.open, [("/", os.O_PATH | os.O_CLOEXEC)] * count)))
    except OSError as error:
        raise ran_out(error) from None
    finally:
        for owner in spare:
            owner.close()
