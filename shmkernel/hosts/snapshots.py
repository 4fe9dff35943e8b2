"""Copy a segment of another host: a read-only snapshot, which all processes of this host share.

The snapshot of hostA:x is the segment hostA.x. Its record says what it is a copy of, and of which version.

    kernel                                   the process that serves this host
      fetch hostA:x  ----------------------->  find it; wait for its turn to copy this one
                     <-----------------------  offer: kind, size, version; the bytes too if they are few, then done
      make a nameless file, reserve its size
      descriptor     ----------------------->  copy it, piece by piece, with pwrite
                     <-----------------------  so many bytes (progress)
                     <-----------------------  done: the version is still the same; else the next offer
      check the bytes, write the record, name it

To wait for a new version, a kernel asks that process, which asks the other host: that answers once there is one.

The memory is the kernel's: if it dies, or anything fails, the file has no name and is gone.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, SupportsIndex

from shmkernel._core import paths, records, registry, segment_file
from shmkernel._core.progress import Progress
from shmkernel._core.records import Record
from shmkernel.errors import ArgumentError, Cure, HostError, NotFoundError, TakenError, TimedOutError
from shmkernel.hosts import certificates, channel, offering
from shmkernel.verbs import staging

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmkernel._core.closing import Descriptor
    from shmkernel._core.records import Origin
    from shmkernel.hosts.channel import Channel
    from shmkernel.hosts.offering import Offer


_LOST = (EOFError, BrokenPipeError, ConnectionResetError)  # the process that serves this host has ended


def found(name: str, *, refresh: bool = False) -> str | None:
    """Return the name of the snapshot of ``host:name``, or of what one other host shares as `name`; fetch it first.

    None means that no host is meant, or that none shares the name. `refresh` is that of `fetch`, which takes the name
    of a snapshot too.
    """
    if refresh and ":" not in name:
        inode = registry.inode_at(name)
        record = records.read(inode) if inode is not None else None
        if inode is not None and (record is None or record.origin is None):
            raise ArgumentError(f"{name!r} is a segment of this host: only snapshots are copied again", name=name)
        name = str(record.origin) if record else name
    host, colon, plain = name.rpartition(":")
    try:
        paths.check(plain)
        if colon:
            certificates.check_host(host)
    except ArgumentError:
        return None
    try:
        return fetch(name, refresh=refresh)
    except NotFoundError:
        if colon:
            raise
        return None  # the error of a name that is not here says more


def fetch(name: str, *, refresh: bool = False) -> str:
    """Copy a segment of another host, unless a snapshot of it is here; return the snapshot's name.

    With `refresh` it is copied again if it has a new version, and replaces the older snapshot.
    """
    host, colon, plain = name.rpartition(":")
    if colon and not refresh and (here := _snapshot(host, plain)):
        return paths.local(here.host, here.name)
    with _server(name) as server:
        offer, content = _offer(server, name)
        made, here = paths.local(offer.host, offer.name), _snapshot(offer.host, offer.name)
        if here and (not refresh or here == offer.origin()):
            return made
        with staging.room_for(made), _needing(made, offer):
            staging.check(made, None, "session", _replaces(offer))
            session = registry.begin()
            fd = segment_file.blank(paths.folder())
            try:
                offer = _filled(server, offer, content, fd, made)
                offering.check_copy(offer, fd, made)
                record = Record(
                    os.fstat(fd).st_ino, made, offer.kind, session.id, session.label, "session", time.time(),
                    origin=offer.origin(),
                )  # fmt: skip
                registry.link_all([(fd, record)], _replaces(offer))
            finally:
                fd.close()
    return made


def wait(name: str, since: int | None, timeout: float | None) -> int:
    """Sleep until ``host:name`` has another version than its snapshot here, or than `since`, and return it."""
    if since is not None and not isinstance(since, SupportsIndex):
        raise ArgumentError(f"since={since!r}: a version is a whole number", name=name, since=since)
    host, _, plain = name.rpartition(":")
    here = _snapshot(host, plain) if since is None else None
    known = here[2:] if here else None if since is None else (0, int(since))
    with _server(name) as server:
        try:
            answer = _asked(server, {"do": "wait", "name": name, "known": known, "timeout": timeout}, None)
        except _LOST:
            message = f"{name}: the process that serves this host has ended"
            raise HostError(message, Cure("Join again", "join"), name=name) from None
    if answer["version"] is None:
        raise TimedOutError(f"{name} had no new version within {timeout:g} s", name=name, timeout=timeout)
    return int(answer["version"])


def _server(name: str) -> Channel:
    server = channel.connected()
    if server is None and ":" not in name:
        raise segment_file.missing(name)
    if server is None:
        raise HostError(f"{name!r}: this host has not joined others", Cure("Join", "join"), name=name)
    return server


def _offer(server: Channel, name: str) -> tuple[Offer, bytes]:
    try:
        return _parsed(_asked(server, {"do": "fetch", "name": name}, None))
    except _LOST:
        if ":" not in name:  # as if that process had ended before
            raise segment_file.missing(name) from None
        raise _ended(name) from None


def _parsed(message: dict[str, Any]) -> tuple[Offer, bytes]:
    return offering.parsed(message["offer"]), base64.b64decode(message["content"])


def _asked(server: Channel, request: dict[str, Any], fd: int | None) -> dict[str, Any]:
    server.send(request, fd)
    return server.receive()[0]


def _ended(name: str, so_far: str = "") -> HostError:
    message = f"{name}: the process that serves this host has ended{so_far}. Nothing was named"
    return HostError(message, Cure("Join again", "join"), name=name)


def _filled(server: Channel, offer: Offer, content: bytes, fd: Descriptor, name: str) -> Offer:
    """Have the file filled with what was offered, or with what is offered next; return the offer that was copied."""
    while True:
        os.ftruncate(fd, 0)
        segment_file.fill(fd, offer.size, [], name, lambda _: None)
        if content:
            segment_file.write(fd, content, 0)
            return offer
        received = 0
        try:
            message = _asked(server, {}, fd)
            with Progress(str(offer), offer.size) as progress:
                while "bytes" in message:
                    received += message["bytes"]
                    progress(message["bytes"])
                    message, _ = server.receive()
        except _LOST:
            raise _ended(str(offer), f" after {received} of {offer.size} bytes") from None
        if "done" in message:
            return offer
        offer, content = _parsed(message)


def _snapshot(host: str, name: str) -> Origin | None:
    """Return what the snapshot that is here was copied from, None if there is none."""
    inode = registry.inode_at(paths.local(host, name))
    record = records.read(inode) if inode is not None else None
    origin = record.origin if record else None
    return origin if origin and (origin.host, origin.name) == (host, name) else None


@contextlib.contextmanager
def _needing(made: str, offer: Offer) -> Iterator[None]:
    """Word a TakenError for a snapshot: the cures of `create` would attach another segment, or replace it."""
    try:
        yield
    except TakenError as error:
        if not error.cures:  # it is of another user
            raise
        here = records.read(registry.inode_at(made) or 0)
        what = f"a snapshot of {here.origin}" if here and here.origin else "another segment"
        message = f"{offer}: its snapshot needs the name {made!r}, which {what} has"
        cure = Cure("If nobody needs that any more, unlink it", "unlink", made)
        raise TakenError(message, cure, name=made, **error.facts) from None


def _replaces(offer: Offer) -> staging.MayReplace:
    """Return what allows a new snapshot to replace an old one of the same segment, and nothing else."""

    def allowed(record: Record | None) -> bool:
        origin = record.origin if record else None
        return origin is not None and (origin.host, origin.name) == (offer.host, offer.name)

    return allowed
