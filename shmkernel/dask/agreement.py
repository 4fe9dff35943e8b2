"""Whether both ends of a connection see the same segments: they tell each other in Dask's handshake.

What they compare names the start of the machine, the folder of segments by device and inode, the user, and the version
of shmkernel. Two containers on one machine share the first, and not the second, unless they share /dev/shm.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from typing import TYPE_CHECKING, Any

from distributed.comm.core import Comm

import shmkernel
from shmkernel._core import paths
from shmkernel.stdlib import references

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY = "shmkernel"


class _State(threading.local):
    agreed = False


_state = _State()


def here() -> list[object] | None:
    """Return what a process must have in common with this one to get references; None if nobody has."""
    try:
        folder = os.stat(paths.folder())
    except OSError:
        return None
    boot = references.boot()
    return [shmkernel.__version__, boot, folder.st_dev, folder.st_ino, os.geteuid()] if boot else None


def holds(options: Mapping[str, Any] | None) -> bool:
    """Return whether the options of a connection say that both ends agree."""
    return bool(options and options.get(KEY))


def agreed() -> bool:
    """Return whether this thread serializes for a process that sees the same segments."""
    return _state.agreed


@contextlib.contextmanager
def serializing(*, agreed: bool) -> Iterator[None]:
    """Serialize for a process that sees the same segments, or for any."""
    before, _state.agreed = _state.agreed, agreed
    try:
        yield
    finally:
        _state.agreed = before


def install() -> None:
    """Add to what Dask's processes tell each other when they connect."""
    info, configuration = Comm.handshake_info, Comm.handshake_configuration

    @functools.wraps(info)
    def handshake_info(self: Any) -> dict[str, Any]:
        return {**info(self), KEY: here()}

    @functools.wraps(configuration)
    def handshake_configuration(local: dict[str, Any], remote: dict[str, Any]) -> dict[str, Any]:
        mine, theirs = local.get(KEY), remote.get(KEY)
        same = mine is not None and theirs is not None and [*mine] == [*theirs]
        return {**configuration(local, remote), KEY: same}

    Comm.handshake_info = handshake_info
    Comm.handshake_configuration = staticmethod(handshake_configuration)
