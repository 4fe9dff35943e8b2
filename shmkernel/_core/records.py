"""Read and write the record of each segment: a small file, ``records/<inode>``, with its owner, kind and lifetime.

The record is written before the segment gets its name, and removed after the name is unlinked. So a crash in between
leaves a record without a segment, which the next sweep removes, and never a segment without a record. A reused inode
number does no harm: the new segment's record replaces the old one.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from shmkernel._core import capacity, folders, identity, paths, sessions
from shmkernel.errors import Cure, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LIFETIMES = ("session", "attached", "keep")
_known: dict[int, tuple[tuple[int, int], Record]] = {}  # by inode: the segment's device and ctime, its record
_KNOWN = 1 << 14  # records: a monitor asks for all of them again and again
_LONGEST = 1 << 16  # bytes; a longer record is damaged


class Origin(NamedTuple):
    """What a segment is a snapshot of: the segment `name` of another host, at this version.

    After a restart that host counts inodes and versions from the start, so ``created`` belongs to what is compared. It
    is 0 in the record of a release that did not write it.
    """

    host: str
    name: str
    inode: int
    version: int
    created: float = 0.0

    def __str__(self) -> str:
        return f"{self.host}:{self.name}"


class Record(NamedTuple):
    """The facts about a segment that its file cannot hold. ``owner`` is a session's id, ``label`` its notebook.

    ``recipe`` is empty, or what `%%shm_cache` compares before it takes the segment for the value of its cell. It is
    the first field that may be missing: releases without it ignore it. So may ``origin``, which is None unless the
    segment is a snapshot of another host's.
    """

    inode: int
    name: str
    kind: str
    owner: str
    label: str
    lifetime: str
    created: float
    recipe: str = ""
    origin: Origin | None = None


_values = operator.itemgetter(*Record._fields[:-2])
_TYPES = [int, *[str] * 5, str]  # of all fields but `created`


def encode(record: Record) -> bytes:
    """Return the content of a record's file."""
    return json.dumps(record._asdict()).encode()


def parse(content: bytes) -> Record | None:
    """Return the record in the content of a file, None if it is damaged. Fields of later versions are ignored.

    Types are checked here. The owner, which becomes part of a path, and the label are checked where they are used.

    Examples
    --------
    >>> record = Record(7, "x", "array", "1f", "plot.ipynb", "session", 0.0)
    >>> parse(encode(record)) == record
    True
    """
    try:
        fields = json.loads(content.decode())
        values = _values(fields)  # first: what is no dict ends here
        origin = fields.get("origin")
        if origin is not None:
            origin = _origin(origin)
        record = Record._make((*values, fields.get("recipe", ""), origin))
        paths.check(record.name)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    right = [*map(type, (*record[:6], record.recipe))] == _TYPES and sessions.is_time(record.created)
    return record if right else None


def _origin(fields: list[object]) -> Origin:
    origin = Origin(*fields)  # type: ignore[arg-type]  # the next line checks them
    if [*map(type, origin)] != [str, str, int, int, float]:
        raise TypeError
    return origin


def of(segment: os.stat_result, folder: str | None = None) -> Record | None:
    """Return the record of an open segment, cached until the segment's ctime changes: `change` changes it.

    `folder` is that of the records, for a caller that reads many.
    """
    known, now = _known.get(segment.st_ino), (segment.st_dev, segment.st_ctime_ns)
    if known and known[0] == now:
        return known[1]
    record = read(segment.st_ino, folder)
    if record:
        if len(_known) >= _KNOWN:
            _known.clear()
        _known[segment.st_ino] = now, record
    return record


def forget(inode: int) -> None:
    """Drop a record from the cache: its segment goes."""
    _known.pop(inode, None)


def read(inode: int | str, folder: str | None = None) -> Record | None:
    """Return the record of the segment with this inode, None for a file of another program; `folder` as for `of`."""
    try:
        record = parse(folders.read(f"{folder or paths.runtime('records')}/{inode}", _LONGEST))
    except FileNotFoundError:
        return None
    if record is None or str(record.inode) != str(inode):
        return None
    label = identity.plain(record.label)
    return record if label == record.label else record._replace(label=label)


def at(name: str, status: os.stat_result) -> Record | None:
    """Return the record of the segment with this name, None if the name is a hard link to another segment."""
    record = read(status.st_ino)
    return record if record and _is_of(record, name) else None


def confirm(name: str, status: os.stat_result) -> bool:
    """Raise RefusedError if the file has several names (hard links), and its record does not give this one.

    With sysctl fs.protected_hardlinks=0 other users can link any file of ours under a segment's name. A store has two
    names as well. Return False if it has lost this one since it was opened: its record goes then too.
    """
    if status.st_nlink < 2:  # noqa: PLR2004  the usual
        return True
    record = of(status)
    if not (record and _is_of(record, name)):
        try:
            if folders.lstat(paths.path_of(name)).st_ino != status.st_ino:
                return False
        except FileNotFoundError:
            return False
        what = (
            f"is a second name (hard link) of {record.name!r}"
            if record
            else f"has {status.st_nlink} names (hard links)"
        )
        message = f"the file of {name!r} {what}, so it is not trusted: {paths.path_of(name)}"
        cure = Cure("Remove this name (the file stays)", "unlink", name)
        raise RefusedError(message, cure, name=name, owner=status.st_uid)
    return True


def _is_of(record: Record, name: str) -> bool:
    return paths.path_of(record.name) == paths.path_of(name)


def others(known: Iterable[int]) -> Iterator[Record]:
    """Yield the records of all inodes but the known, also of segments that are being linked or unlinked."""
    for entry in {*folders.listdir(f"{folders.prepare()}/records")} - {*map(str, known)}:
        if record := read(entry):
            yield record


def put(new: Record) -> None:
    """Write a record: a reader sees the old one or the new one. Call it with names locked."""
    fresh, text = paths.runtime("pending", f"{new.inode}.record"), encode(new)
    capacity.check_file_size(new.name, len(text))
    try:
        fd = folders.open_(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            os.write(fd, text)
        finally:
            fd.close()
        folders.rename(fresh, paths.runtime("records", str(new.inode)))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            folders.unlink(fresh)
        raise


def change(new: Record) -> None:
    """Replace the record of a segment that has its name. Call it with names locked."""
    fd = folders.open_(paths.path_of(new.name), os.O_RDONLY | os.O_NONBLOCK)
    try:
        before = os.fstat(fd).st_ctime_ns
        put(new)
        os.fchmod(fd, 0o600)  # changes only the ctime, which ends the caches of the old record
        while os.fstat(fd).st_ctime_ns == before:  # before Linux 6.13 its clock has steps of 4 ms
            time.sleep(0.001)
            os.fchmod(fd, 0o600)
    finally:
        fd.close()
