"""Keep the monitor's rows up to date at little cost.

A listing of 1,000 segments takes 50 ms, too much for four times a second. So the board first reads the modification
times of three folders: every change of names, records or sessions changes one of them. It then reads again only the
segments whose file or record has changed. Some changes leave no trace in a folder: attaching and detaching, the death
of an owner together with its watchdog, a mapping of this process that was freed. For these it polls once a second.
It takes no lock: a busy cell could stop this thread while it holds one, and every kernel would have to wait.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from shmkernel import render
from shmkernel._core import capacity, folders, paths, records, registry
from shmkernel.sync import sync_file
from shmkernel.verbs import attachments, listing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shmkernel.verbs.listing import Info

GHOSTS = ("replaced", "unlinked")
_OFTEN = 1.0  # seconds between two polls
_SHARE = 100  # a poll may take a hundredth of the time
_TICK = 20_000_000  # nanoseconds, more than a tick of the clock of file times

_Clock = tuple[int, ...]


class Row(NamedTuple):
    """A segment on the board. ``key`` is unique, unlike the name; ``inode`` is 0 if there is no file.

    ``version`` is None if the segment was never locked, published or waited for.
    """

    key: str
    inode: int
    info: Info
    version: int | None = None


class Change(NamedTuple):
    """The result of a scan: rows that are new or have changed, and the keys of rows that are gone."""

    rows: list[Row]
    gone: list[str]


class Board:
    """All rows by key. Not thread-safe."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.chosen = ""  # key of the row whose version each scan reads
        self._folders: _Clock = ()
        self._files: dict[str, _Clock] = {}
        self._posix: dict[str, str] = {}  # entry among the records to its name; a listing of the folder lacks these
        self._due = 0.0

    def scan(self) -> Change:
        """Update the rows, and return what has changed since the last scan."""
        before = dict(self.rows)
        now, folders = time.monotonic(), _folders()
        if folders != self._folders:
            settled = time.time_ns() - max(folders) > _TICK  # later changes may fall into the same tick
            self._folders = folders if settled else ()
            self._names()
            self._due = 0.0
        if now >= self._due:
            began = time.thread_time()
            self._poll()
            self._due = now + max(_OFTEN, _SHARE * (time.thread_time() - began))
        if row := self.rows.get(self.chosen):
            self.rows[row.key] = _versioned(row)
        changed = [row for key, row in self.rows.items() if before.get(key) is not row and before.get(key) != row]
        return Change(changed, [key for key in before if key not in self.rows])

    def _names(self) -> None:
        """Read the segments whose file or record has changed."""
        files = {}
        for name in (*paths.names(), *self._foreign()):
            if clock := _file(name):
                files[name] = clock
        stale = [name for name, clock in files.items() if self._files.get(name) != clock]
        fresh = {info.name: info for info in listing.rows_of(stale, probe=False) if info.state not in GHOSTS}
        found = {}
        for name, (inode, *_) in files.items():
            if info := fresh.get(name):
                found[name] = Row(name, inode, info)
            elif name in self.rows and name not in stale:
                found[name] = self.rows[name]
        self.rows = found | {key: row for key, row in self.rows.items() if row.info.state in GHOSTS}
        self._files = {name: files[name] for name in found}

    def _foreign(self) -> list[str]:
        """Return the ``/posix`` names, which only the records have; read each record once."""
        entries = [entry for entry in os.listdir(paths.runtime("records")) if entry.isdigit()]
        known = {entry: self._posix[entry] for entry in entries if entry in self._posix}
        fresh = ((entry, records.read(entry)) for entry in entries if entry not in known)
        self._posix = known | {entry: record.name for entry, record in fresh if record}
        return sorted(name for name in self._posix.values() if name.startswith("/"))

    def _poll(self) -> None:
        """Update what changes without a trace in a folder: holders, owners, and this process's unlinked memory."""
        live = [row for row in self.rows.values() if row.info.state not in GHOSTS]
        fresh = {info.name: info for info in listing.refreshed(row.info for row in live)}
        lost = _lost()
        ghosts = ghosts_of(listing.rows_of(lost, probe=False)) if lost else []
        found = {
            row.key: row if fresh[row.key] is row.info else row._replace(info=fresh[row.key])
            for row in live if row.key in fresh
        }  # fmt: skip
        for key in _with_versions() & found.keys():
            found[key] = _versioned(found[key])
        self.rows = found | {row.key: row for row in ghosts}


class Usage(NamedTuple):
    """Use of the folder in bytes: ``mine`` by this session's segments, ``shared`` by segments of other owners."""

    total: int
    mine: int
    shared: int
    others: int
    free: int
    short: bool


def usage_of(rows: Iterable[Row]) -> Usage:
    """Compute the use of the folder. ``short`` is true if less than a tenth is available."""
    now, mine, shared = capacity.room(), 0, 0
    for _, inode, info, _ in rows:
        if inode and info.mine:
            mine += info.size
        elif inode:
            shared += info.size
    mine = min(mine, now.used)  # a sparse file uses less than its size
    shared = min(shared, now.used - mine)
    return Usage(now.total, mine, shared, now.used - mine - shared, now.free, now.free * 10 < now.total)


def ghosts_of(infos: Iterable[Info]) -> list[Row]:
    """Make rows with unique keys for unlinked and replaced memory, which may have had the same name."""
    found: dict[str, Row] = {}
    for info in infos:
        if info.state in GHOSTS:
            number = 0
            while (key := f"{info.name} ({info.state} {number})") in found:
                number += 1
            found[key] = Row(key, 0, info)
    return list(found.values())


def as_json(row: Row) -> dict[str, object]:
    """Return a row in the form that the page receives."""
    info = row.info
    return {
        "key": row.key, "inode": str(row.inode), "name": info.name, "kind": info.kind, "type": render.clean(info.type),
        "size": info.size, "human": capacity.human(info.size), "owner": render.clean(info.owner),
        "alive": info.owner_alive, "mine": info.mine, "pid": info.owner_pid,
        "attached": [f"{render.people([holder])} ({holder.pid})" for holder in info.attached[:20]],
        "count": len(info.attached), "lifetime": info.lifetime, "created": info.created,
        "version": row.version, "state": info.state, "note": render.clean(render.note(info)),
        "origin": render.clean(render.origin(info)),
    }  # fmt: skip


def _with_versions() -> set[str]:
    """Return the names that somebody has locked, published or waited for."""
    try:
        return set(map(paths.called, os.listdir(paths.runtime("sync"))))
    except FileNotFoundError:
        return set()


def _versioned(row: Row) -> Row:
    return row._replace(version=sync_file.peek(row.info.name)[0] or None) if row.inode else row


def _folders() -> _Clock:
    watched = (paths.folder(), paths.runtime("records"), paths.runtime("sessions"))
    folders.prepare()
    return tuple(os.stat(path).st_mtime_ns for path in watched)


def _file(name: str) -> _Clock | None:
    try:
        found = os.lstat(paths.path_of(name))
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_ctime_ns, found.st_size


def _lost() -> set[str]:
    """Return the names of this process's attachments that were unlinked or replaced."""
    return {held.name for held in attachments.everything() if registry.inode_at(held.name) != held.key[1]}
