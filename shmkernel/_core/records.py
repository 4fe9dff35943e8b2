"""What the operating system cannot hold about a segment: one small file each, ``records/<inode>``.

Whose it is, of what kind, how long it lives. It is written before the segment gets its name and removed after that
has gone: a crash between the two leaves a record without a segment, never a segment without a record, and sweeps drop
it. A reused inode number is harmless, since the newcomer's record is written anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from shmkernel._core import capacity, folders, identity, paths, sessions
from shmkernel.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LIFETIMES = ("session", "attached", "keep")
_known: dict[tuple[int, int], tuple[int, Record]] = {}  # by device and inode: when the segment changed, its record
_KNOWN = 4096
_LONGEST = 1 << 16  # bytes of a record; more is none


class Record(NamedTuple):
    """What is known of one segment beyond its file. ``owner`` is a session's id, ``label`` its notebook."""

    inode: int
    name: str
    kind: str
    owner: str
    label: str
    lifetime: str
    created: float


def encode(record: Record) -> bytes:
    """Write a record as the text of its file."""
    return json.dumps(record._asdict()).encode()


def parse(text: bytes) -> Record | None:
    """Read a record's file, None if it is not one; fields of a later version are passed over.

    Its types are checked here, the rest where it is used: an owner, which becomes part of a path, and a label.

    Examples
    --------
    >>> record = Record(7, "x", "array", "1f", "plot.ipynb", "session", 0.0)
    >>> parse(encode(record)) == record
    True
    """
    try:
        fields = json.loads(text)
        found = Record(**{key: fields[key] for key in Record._fields})
        paths.path_of(found.name)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = (found.kind, found.owner, found.label, found.lifetime)
    right = type(found.inode) is int and all(isinstance(one, str) for one in texts) and sessions.is_time(found.created)
    return found if right else None


def of(segment: os.stat_result) -> Record | None:
    """Return the record of an open segment, read once: whoever changes it moves the segment's ctime."""
    known = _known.get((segment.st_dev, segment.st_ino))
    if known and known[0] == segment.st_ctime_ns:
        return known[1]
    found = read(segment.st_ino)
    if found:
        if len(_known) >= _KNOWN:
            _known.clear()
        _known[segment.st_dev, segment.st_ino] = segment.st_ctime_ns, found
    return found


def read(inode: int | str) -> Record | None:
    """Return the record of the segment with this inode; a file without one came from another program."""
    try:
        found = parse(folders.read(paths.runtime("records", str(inode)), _LONGEST))
    except (FileNotFoundError, IsADirectoryError):
        return None
    return found._replace(label=identity.plain(found.label)) if found and str(found.inode) == str(inode) else None


def at(name: str, found: os.stat_result) -> Record | None:
    """Return the record of the segment that is under this name, None if it is another name (a hard link) of one."""
    record = read(found.st_ino)
    return record if record and _is_of(record, name) else None


def confirm(name: str, found: os.stat_result) -> None:
    """Raise RefusedError if a file of several names is not known to be the segment of this one.

    Where the kernel does not prevent it (sysctl fs.protected_hardlinks=0), others can link any file of ours there.
    """
    if found.st_nlink < 2:  # noqa: PLR2004  the usual
        return
    record = of(found)
    if not (record and _is_of(record, name)):
        what = f"that {record.name!r} has, too" if record else f"that has {found.st_nlink} names (hard links)"
        message = (
            f"{name!r} leads to a file {what}, so it is not trusted: {paths.path_of(name)}. "
            f"Remove this name, the file stays: %shm_unlink {name}"
        )
        raise RefusedError(message, name=name, owner=found.st_uid)


def _is_of(record: Record, name: str) -> bool:
    return paths.path_of(record.name) == paths.path_of(name)


def others(known: Iterable[int]) -> Iterator[Record]:
    """Yield the records of all inodes but the known, also of segments that are about to appear or to go."""
    for entry in {*folders.listdir(f"{folders.prepare()}/records")} - {*map(str, known)}:
        if found := read(entry):
            yield found


def put(new: Record) -> None:
    """Write a record, in one step for those who read it. Call it with names locked."""
    fresh, text = paths.runtime("pending", f"{new.inode}.record"), encode(new)
    capacity.check_file_size(new.name, len(text))
    try:
        fd = folders.open_(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)
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
        os.fchmod(fd, 0o600)  # nothing but its ctime, for those who have read the old record
        while os.fstat(fd).st_ctime_ns == before:  # before Linux 6.13 its clock has steps of 4 ms
            time.sleep(0.001)
            os.fchmod(fd, 0o600)
    finally:
        os.close(fd)
