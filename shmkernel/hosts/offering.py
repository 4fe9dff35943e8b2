"""What a host tells of its shared segments, and the pieces of them that it sends: the owner's side, without a network.

A copy takes longer than a write, so both sides compare: an offer has the version of the segment. What was copied
between two equal offers, neither of them busy, is whole. This is the sequence lock of `sync.seqlock`, over a network.
The bytes of a small segment come with its offer: there the owner's side compares, and nothing else is asked.
"""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any, NamedTuple

from shmkernel import kinds
from shmkernel._core import paths, records, segment_file
from shmkernel._core.records import Origin
from shmkernel.errors import (
    ArgumentError,
    Cure,
    DamagedError,
    HostError,
    NotFoundError,
    ShmError,
    TimedOutError,
    UnsupportedError,
)
from shmkernel.sync import sync_file, versions

PIECE = 4 << 20  # bytes
SHARED = Cure("What is shared", "list", hosts=True)
REACHED = Cure("What can be reached", "list", hosts=True)
_SMALL = 64 << 10  # bytes of a segment that comes with its offer
_LIVE = "ring"  # a stream of frames: what is copied of it is never one state


class Offer(NamedTuple):
    """A segment that a host shares. ``size`` is in bytes, ``created`` in seconds since 1970, ``owner`` its notebook."""

    host: str
    name: str
    kind: str
    type: str
    size: int
    version: int
    inode: int
    created: float
    owner: str
    busy: str = ""  # who writes to it now

    def __str__(self) -> str:
        return f"{self.host}:{self.name}"

    def same(self, other: Offer) -> bool:
        """Return whether both offers are of the same content, to which nobody writes."""
        return not self.busy and not other.busy and self[:8] == other[:8]

    def origin(self) -> Origin:
        """Return what the record of a snapshot says of this offer."""
        return Origin(self.host, self.name, self.inode, self.version, self.created)


_TYPES = (str, str, str, str, int, int, int, float, str, str)


def parsed(fields: Any) -> Offer:
    """Return the offer that another host has sent; ValueError if it is none."""
    if not isinstance(fields, list) or [*map(type, fields)] != [*_TYPES]:
        raise ValueError("an offer cannot be read")
    offer = Offer(*fields)
    paths.check(offer.name)
    if offer.size <= 0 or offer.inode <= 0 or not math.isfinite(offer.created):  # a snapshot would never be the latest
        raise ValueError("an offer cannot be read")
    return offer


def check(name: str) -> None:
    """Raise an error unless the segment can be shared with other hosts."""
    if paths.foreign(name):
        raise ArgumentError(f"{name!r} is a file of another program: only segments are shared with hosts", name=name)
    try:
        of("here", name)
    except FileNotFoundError:
        raise segment_file.missing(name) from None


def _check_kind(name: str, kind: str) -> None:
    """Raise UnsupportedError if segments of the kind change all the time."""
    if kind == _LIVE or kinds.keeps(kinds.named(kind)):
        snapshot = f"shm.create('{name}_now', dict(shm.attach({name!r})), kind='object')"
        cure = "" if kind == _LIVE else f". Share a snapshot of it: {snapshot}"
        message = f"{name!r}: a {kind} changes all the time, and another host gets a copy that does not{cure}"
        raise UnsupportedError(message, name=name)


def of(host: str, name: str) -> Offer:
    """Return the offer of a segment as it is now.

    Raises
    ------
    NotFoundError, DamagedError
        If the segment is gone, or cannot be read.
    UnsupportedError
        If it is a dict or ring, which may have taken the place of what was shared.
    """
    version, holder = sync_file.peek(name)
    path = paths.path_of(name)
    try:
        head, status = segment_file.glance(path, kinds.HEAD, name)
    except FileNotFoundError:
        raise segment_file.missing(name) from None
    record = records.of(status)
    if record is None or not status.st_size:
        raise segment_file.damaged(name, "it has no record, so another program has put it there")
    _check_kind(name, record.kind)

    def read(at: int, size: int) -> bytes:
        return piece(name, status.st_ino, at, size)

    try:
        what = kinds.described(record.kind, head, status.st_size, read)
    except ShmError:
        raise
    except ValueError as error:
        raise segment_file.damaged(name, error) from None
    return Offer(
        host, name, record.kind, what.text, status.st_size, version, status.st_ino, float(record.created),
        record.label, str(holder or ""),
    )  # fmt: skip


def whole(host: str, name: str) -> tuple[Offer, bytes]:
    """Return the offer of a segment, with its bytes if these are few and nobody writes to it, else with none."""
    offer = of(host, name)
    if offer.size <= _SMALL and not offer.busy:
        with contextlib.suppress(NotFoundError):  # it was replaced: who asks for its bytes will see that
            content = piece(name, offer.inode, 0, offer.size)
            if offer.same(of(host, name)):
                return offer, content
    return offer, b""


def newer(name: str, inode: int, version: int, created: float, patience: float) -> int | None:
    """Wait until the segment has another version; return that, None after `patience` seconds.

    It returns at once if the segment is another: not of this inode and time. Inode 0 stands for any segment. The
    processes that write to the segment wake this one, as they wake each other.
    """
    versions.version(name)  # from now on a replacement counts
    now = of("here", name)
    if inode and (inode, created) != (now.inode, now.created):
        return now.version
    try:
        return versions.wait(name, version, patience)
    except TimedOutError:
        return None


def piece(name: str, inode: int, at: int, size: int) -> bytes:
    """Return a part of the segment with this inode; NotFoundError if the name leads to another now."""
    with segment_file.reading(paths.path_of(name), name) as fd:
        if os.fstat(fd).st_ino != inode:
            raise NotFoundError(f"{name!r} was replaced", name=name)
        return os.pread(fd, min(size, PIECE), at)


def check_copy(offer: Offer, fd: int, name: str) -> None:
    """Raise DamagedError unless the bytes that another host has sent are of the kind that it said."""
    try:
        head = os.pread(fd, kinds.HEAD, 0)
        kinds.described(offer.kind, head, offer.size, lambda at, size: os.pread(fd, size, at))
    except (ValueError, ArgumentError) as error:
        raise DamagedError(f"{offer} is damaged where it comes from: {error}", name=name, why=str(error)) from None


def broken(offer: Offer, received: int, why: str) -> HostError:
    """Make the error for a copy that ended too early."""
    message = f"{offer}: {why} after {received} of {offer.size} bytes. Nothing was named"
    return HostError(message, REACHED, name=str(offer), received=received, size=offer.size)
