"""List segments with their owners and holders."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from shmkernel import kinds
from shmkernel._core import folders, identity, limits, oflock, paths, records, registry, segment_file, sessions
from shmkernel.errors import LimitError
from shmkernel.sync import sync_file
from shmkernel.verbs import attachments

if TYPE_CHECKING:
    import builtins
    import mmap
    from collections.abc import Callable, Iterable


class _ReplacedError(Exception):
    """The name leads to another segment by now."""


class Holder(NamedTuple):
    """A process that has a segment attached."""

    pid: int
    label: str


class Info(NamedTuple):
    """One segment.

    ``type`` describes the content in short; ``size`` is in bytes, ``created`` in seconds since 1970.
    ``owner`` names the notebook or program that made it; ``owner_alive`` says whether that still runs.
    ``attached`` lists the processes that hold it; ``elsewhere`` says that a process in another container does.
    ``version`` counts how often its content was published.
    ``state`` is empty for a segment that can be attached. ``replaced`` and ``unlinked`` mean memory that this process
    still has but that the name no longer refers to. ``damaged`` means that its bytes cannot be trusted, ``unreadable``
    that this user may not read them; then ``type`` gives the reason.
    ``recipe`` is empty, or tells of which cell and values ``%%shm_cache`` has kept it.
    ``stayed`` is set by `keep` only: it made a copy, and these processes still have the old memory.
    ``origin`` of a snapshot names the segment of another host that it was copied from, its inode and its version.
    ``copied`` are the bytes of an object that each process copies when it attaches; it shares the others.
    """

    name: str
    kind: str
    type: str
    size: int
    owner: str
    owner_alive: bool
    owner_pid: int | None
    mine: bool
    attached: tuple[Holder, ...]
    elsewhere: bool
    lifetime: str
    created: float | None
    path: str
    state: str = ""
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    order: str | None = None
    version: int = 0
    stayed: tuple[Holder, ...] = ()
    recipe: str = ""
    origin: records.Origin | None = None
    copied: int = 0


@limits.explains
def list() -> builtins.list[Info]:  # noqa: A001  the verb's name in every face
    """Return the segments of this user, and the unlinked or replaced memory that this process still has.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=(2, 3))
    >>> [(row.name, row.type, row.size) for row in shm.list()]
    [('x', 'float64 (2, 3)', 176)]
    >>> shm.unlink("x")
    >>> [(row.name, row.state) for row in shm.list()]
    [('x', 'unlinked')]
    >>> del x
    """
    return rows_of(names())


@limits.explains
def first(most: int) -> tuple[builtins.list[Info], int, int]:
    """Return the first segments by name, and the number and the bytes of all: the others are not read."""
    files = paths.files()
    wanted = [*_posix(file.inode() for file in files.values()), *sorted(files)]
    rows = rows_of(wanted[:most])
    count, size = len(rows), sum(row.size for row in rows)
    for name in wanted[most:]:
        try:
            file = files.get(name)
            size += registry.size(file.stat(follow_symlinks=False) if file else os.lstat(paths.path_of(name)))
        except FileNotFoundError:  # unlinked just now
            continue
        count += 1
    return rows, count, size


def names() -> builtins.list[str]:
    """Return the names of all segments, ``/posix`` names last."""
    inodes = paths.inodes()
    return [*sorted(inodes), *_posix(inodes.values())]


def _posix(inodes: Iterable[int]) -> builtins.list[str]:
    """Return the ``/posix`` names that have records; `inodes` are those of all other names."""
    return sorted(record.name for record in records.others(inodes) if record.name.startswith("/"))


@limits.explains
def info(name: str) -> Info:
    """Return the description of one segment.

    Raises
    ------
    NotFoundError
        There is no segment of this name, and this process has no memory of an earlier one.

    Examples
    --------
    >>> import shmkernel as shm
    >>> x = shm.create("x", shape=(2, 3))
    >>> shm.info("x").dtype
    'float64'
    >>> shm.unlink("x")
    """
    paths.path_of(name)
    rows = [row for row in rows_of([name]) if row.name == name]
    if not rows:
        raise segment_file.missing(name)
    return rows[0]


def rows_of(wanted: Iterable[str], *, probe: bool = True) -> builtins.list[Info]:
    """Describe the wanted segments that exist, and the unlinked or replaced memory that this process still has.

    `probe` looks for holders in other containers. It takes the registry's lock, which other threads may have to wait
    for.
    """
    now = _Now()
    rows: builtins.list[Info] = []
    here: set[int] = set()
    for name in wanted:
        try:
            row, inode = _row(name, now)
        except FileNotFoundError:
            continue
        here.add(inode)
        rows.append(row)
    if probe and not now.complete and not all(row.attached for row in rows):
        with registry.locked():
            rows = [row if row.attached else row._replace(elsewhere=registry.in_use(row.name)) for row in rows]
    live = {row.name for row in rows}
    for attachment in attachments.everything():
        mapping = attachment()  # None if another thread has just released it
        if mapping is None or attachment.key[1] in here:
            continue
        if attachment.name in live or registry.inode_at(attachment.name) is None:
            here.add(attachment.key[1])
            rows.append(_ghost(attachment, mapping, "replaced" if attachment.name in live else "unlinked", now))
    return rows


def of_value(name: str, value: object) -> Info:
    """Return what is known of a segment that this process has just attached, without a look at its files.

    It does not ask who else has it: ``attached`` is empty. What cannot be known so, `info` tells.
    """
    attachment = attachments.given(value)
    mapping, record = (attachment(), attachment.record) if attachment else (None, None)
    if attachment is None or mapping is None or record is None or kinds.keeps(reader := kinds.named(attachment.kind)):
        return info(name)
    try:
        if hasattr(reader, "describe_source"):
            what = kinds.described(reader.name, b"", attachment.size, lambda at, count: mapping[at : at + count])
        else:
            what = reader.describe(mapping[: kinds.HEAD], attachment.size)
    except ValueError:  # damaged since
        return info(name)
    mine = sessions.mine()
    own = bool(mine and record.owner == mine.id)
    return Info(
        name=attachment.name, kind=attachment.kind, type=what.text, size=attachment.size,
        owner=record.label, owner_alive=own or sessions.alive(record.owner), owner_pid=None, mine=own,
        attached=(), elsewhere=False, lifetime=record.lifetime, created=record.created, path=attachment.path,
        dtype=what.dtype, shape=what.shape, order=what.order, origin=record.origin, copied=what.copied,
    )  # fmt: skip


def holders(attachment: attachments.Attachment) -> tuple[Holder, ...]:
    """Return the processes that have this mapping's memory attached, this one first, even if its name is gone."""
    return _Now().sharers(attachment)


def refreshed(rows: Iterable[Info]) -> builtins.list[Info]:
    """Update what can change without a change of the segment's file: holders, and whether the owner is alive."""
    now = _Now()
    current = []
    for row in rows:
        try:
            at = os.lstat(row.path)
        except FileNotFoundError:
            continue
        holders, owner = now.holders((at.st_dev, at.st_ino)), now.owner(records.of(at))
        if (row.attached, row.owner_alive, row.mine) != (holders, owner["owner_alive"], owner["mine"]):
            row = row._replace(attached=holders, **owner)  # noqa: PLW2901  the row, completed
        current.append(row)
    return current


class _Now:
    """The state of sessions and of the OS's locks, read once for all rows."""

    def __init__(self) -> None:
        known = sessions.everyone()
        self._by_id = {session.id: session for session in known}
        self._by_pid = {(session.pid, session.pid_ns): session for session in known}
        self._attached, self._mine = oflock.holders(), sessions.mine()
        # /proc/locks leaves out the processes of pid namespaces that are not inside its own.
        self.complete = identity.pid_namespace() == identity.INITIAL and os.path.exists("/proc/locks")
        self.records = paths.runtime("records")
        self._synced = frozenset(folders.listdir(paths.runtime("sync")))
        self._owner, self._holder = functools.cache(self._ask), functools.cache(self._find)

    def version(self, name: str, path: str) -> int:
        """Return the version of a name, without a look for the sync files that are not there."""
        return sync_file.peek(name)[0] if os.path.basename(path) in self._synced else 0

    def owner(self, record: records.Record | None) -> dict[str, Any]:
        """Return the fields of `Info` about the owner, except its label."""
        return self._owner(record.owner if record else None)

    def _ask(self, owner: str | None) -> dict[str, Any]:
        if owner is None:
            return {"owner_alive": False, "owner_pid": None, "mine": False}
        session = self._by_id.get(owner)
        return {
            "owner_alive": sessions.alive(owner),
            "owner_pid": session.pid if session else None,
            "mine": bool(self._mine and owner == self._mine.id),
        }

    def sharers(self, attachment: attachments.Attachment) -> tuple[Holder, ...]:
        """Return the processes that have this mapping's memory; this process is always one of them."""
        holders = self.holders(attachment.key[:2])
        return holders if os.getpid() in [holder.pid for holder in holders] else (self._holder(os.getpid()), *holders)

    def holders(self, file: tuple[int, int]) -> tuple[Holder, ...]:
        """Return the processes that hold a lock on a file, given by device and inode: this one first, then by label.

        Not sorted by pid: pids wrap around, so their order means nothing.
        """
        pids = self._attached.get(file)
        if pids is None:
            return ()
        holders = map(self._holder, {*pids})
        return tuple(sorted(holders, key=lambda holder: (holder.pid != os.getpid(), holder.label, holder.pid)))

    def _find(self, pid: int) -> Holder:
        """Name a process by its session, or by the session of its nearest ancestor that has one."""
        space, at = identity.pid_namespace(), pid
        while at > 1:
            if session := self._by_pid.get((at, space)):
                return Holder(pid, session.label if at == pid else f"child of {session.label}")
            try:
                with open(f"/proc/{at}/stat", encoding="utf-8", errors="replace") as file:
                    at = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                break
        return Holder(pid, f"process {pid}")


def _row(name: str, now: _Now) -> tuple[Info, int]:
    path = paths.path_of(name)
    state, what = "", kinds.Description("unknown")
    try:
        head, status = segment_file.glance(path, kinds.HEAD, name)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        state, what, head, status = _state(error), _why(error), b"", os.lstat(path)
    record = records.of(status, now.records)
    kind = record.kind if record else "file"
    if not state:
        try:
            if record:
                what = kinds.described(kind, head, status.st_size, _reading(path, name, status.st_ino))
            elif reader := kinds.for_bytes(head, foreign=paths.foreign(name)):
                kind, read = reader.name, _reading(path, name, status.st_ino)
                what = kinds.described(kind, head, status.st_size, read)
        except _ReplacedError:
            return _row(name, now)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            state, what = _state(error), _why(error)
    return Info(
        name=name, kind=kind, type=what.text, size=registry.size(status),
        owner=record.label if record else "another program", elsewhere=False,
        attached=now.holders((status.st_dev, status.st_ino)),
        lifetime=record.lifetime if record else "keep", created=record.created if record else status.st_mtime,
        path=path, state=state, dtype=what.dtype, shape=what.shape, order=what.order, version=now.version(name, path),
        recipe=record.recipe if record else "", origin=record.origin if record else None, copied=what.copied,
        **now.owner(record),
    ), status.st_ino  # fmt: skip


def _state(error: OSError | ValueError) -> str:
    return "unreadable" if isinstance(error, PermissionError) else "damaged"


def _why(error: OSError | ValueError) -> kinds.Description:
    """Return why a segment cannot be used; raise an error that comes from a limit, which says nothing about it."""
    if isinstance(error, OSError) and isinstance(limits.explained(error), LimitError):
        raise error
    return kinds.Description(str(error))


def _reading(path: str, name: str, inode: int) -> Callable[[int, int], bytes]:
    """Return what reads any part of a segment's file, by offset and size; it raises `_ReplacedError` for another."""

    def read(at: int, count: int) -> bytes:
        with segment_file.reading(path, name) as fd:
            if os.fstat(fd).st_ino != inode:
                raise _ReplacedError
            return os.pread(fd, count, at)

    return read


def _described(kind: str, mapping: mmap.mmap, size: int) -> kinds.Description:
    """Describe memory without a name; another process may have damaged it since it was attached."""
    read = attachments.reading(mapping)
    try:
        return kinds.described(kind, read(0, kinds.HEAD), size, read)
    except ValueError as error:
        return kinds.Description(f"damaged: {error}")


def _ghost(attachment: attachments.Attachment, mapping: mmap.mmap, state: str, now: _Now) -> Info:
    what, record = _described(attachment.kind, mapping, attachment.size), attachment.record
    return Info(
        name=attachment.name, kind=attachment.kind, type=what.text, size=attachment.size,
        owner=record.label if record else "another program", attached=now.sharers(attachment), elsewhere=False,
        lifetime="attached", created=record.created if record else None,
        path=paths.path_of(attachment.name), state=state, dtype=what.dtype, shape=what.shape, order=what.order,
        copied=what.copied, **now.owner(record) | {"owner_pid": None},
    )  # fmt: skip
