"""Sessions: begin one for this process, and tell whether those of other processes are alive.

A session is one process and one file, `sessions/<id>`. The process holds an exclusive flock on the file for as long as
it lives; the text in the file only describes it. So a session is alive while its flock is held, and no fact can go
stale. The file is locked before it has a name (nameless, then flock, then link) and never rewritten. Others probe the
flock with LOCK_SH, so that two probes at once do not take each other for a live session.

    kernel ---- holds LOCK_EX on sessions/<id> ---------------------------- dies
    watchdog -- waits for LOCK_SH on sessions/<id> ------------------------ gets it, sweeps, ends

The watchdog waits before the file gets its name, so that whenever the process dies a watchdog sweeps.

What a multiprocessing child creates belongs to its parent: the child's file names the parent's session, the child's
session is alive while either process is, and the parent's watchdog waits for both. If the parent has no session, one is
made on its behalf, and its watchdog holds the lock until the parent ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import time
from typing import NamedTuple, cast

from shmkernel._core import (
    closing,
    folders,
    fork,
    identity,
    interrupts,
    launch,
    names_lock,
    oflock,
    paths,
    segment_file,
)
from shmkernel._core.closing import Description, Descriptor

_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_PIDS = 1 << 31
_DOOMSDAY = 1e11  # seconds since 1970, in the year 5138


class Session(NamedTuple):
    """One process that shares memory; ``pid_ns`` is its pid namespace, ``parent`` its parent's session id."""

    id: str
    label: str
    pid: int
    pid_ns: int
    started: float
    kernel: str | None = None
    parent: str | None = None


class _Own(NamedTuple):
    session: Session
    lock: Description
    watchdog: Description | None  # a pipe that only the watchdog has open for writing

    def close(self) -> None:
        with closing.no_fork:
            self.lock.end()
        if self.watchdog:
            self.watchdog.end()

    def holds(self, path: str) -> bool:
        """Return whether this process holds the lock of the session's file at `path`, and not of one elsewhere."""
        if not self.lock.is_ours():
            return False
        try:
            there = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):  # any other error does not say that it is gone
            return False
        return (there.st_dev, there.st_ino) == self.lock.identity

    def is_elsewhere(self) -> bool:
        """Return whether the session's file has a name: then, if not here, in a folder that a mount has hidden."""
        return self.lock.is_ours() and os.fstat(self.lock.fileno()).st_nlink > 0

    def unwatched(self) -> bool:
        """Return whether the watchdog has ended, or its pipe was closed here."""
        return self.watchdog is not None and not (self.watchdog.is_ours() and launch.watches(self.watchdog))


# By folder of segments and effective user: each pair has a runtime folder of its own, and a watchdog sweeps one. A
# process may change SHMKERNEL_DIR or drop its privileges.
_Place = tuple[str, int]
_mine: dict[_Place, _Own] = {}
_elsewhere: list[_Own] = []  # in folders that were replaced: a mount hides them, or they were moved
_inherited: dict[_Place, str] = {}  # in a forked child: the id of the parent's session, likewise
_SIZE = 4096  # bytes read of a session's file
_RECHECK = 0.01  # seconds
_checked_until = 0.0  # until then `covers` does not check again that the lock is held
_guard = interrupts.Guard()


def mine() -> Session | None:
    """Return this process's session, None if it has not begun one."""
    own = _mine.get((paths.folder(), os.geteuid()))
    return own.session if own else None


def covers(path: str) -> bool:
    """Return whether this process has a session in the folder of a segment's path."""
    global _checked_until
    own = _mine.get((path.rpartition("/")[0], os.geteuid()))
    if own is not None and (now := time.monotonic()) > _checked_until:
        try:  # as `own.lock.is_ours()`: a call less in every attach
            held = os.fstat(own.lock.fileno())
        except (OSError, ValueError):
            return False
        if (held.st_dev, held.st_ino) != own.lock.identity:
            return False
        _checked_until = now + _RECHECK
    return own is not None


def has_file() -> bool:
    """Return whether this process's session has its file: another program can remove it at any time."""
    own = _mine.get((paths.folder(), os.geteuid()))
    try:
        return own is not None and os.fstat(own.lock.fileno()).st_nlink > 0
    except (OSError, ValueError):  # the descriptor was closed
        return False


def begin() -> tuple[Session, bool]:
    """Return this process's session, with a watchdog running, and whether it is new.

    Raises
    ------
    WatchdogError
        If the watchdog cannot be started.
    """
    launch.prepare()
    with _guard:
        root = folders.prepare()
        here = os.path.dirname(root), os.geteuid()
        own = _mine.get(here)
        if own and own.holds(f"{root}/sessions/{own.session.id}"):
            if own.unwatched():  # it was killed: start another
                fresh = _watch(root, own.session, own.lock)
                if own.watchdog:
                    own.watchdog.end()
                _mine[here] = own._replace(watchdog=fresh)
            return own.session, False
        if own and own.is_elsewhere():  # it lives on there, as do its segments, until this process ends
            _elsewhere.append(own)
            own = None
        # If only the file was removed, which logind does at the last logout, the session continues.
        session = (
            own.session if own and own.lock.is_ours() else _describe(os.getpid(), identity.label(), _parent(root, here))
        )
        _mine[here] = _open(root, session)
        if own:
            own.close()
        return session, True


def end() -> None:
    """End this process's session as its death would: the watchdog unlinks what it owns."""
    with _guard, closing.no_fork:
        own = _mine.pop((paths.folder(), os.geteuid()), None)
        for one in [own, *_elsewhere] if own else _elsewhere:
            one.close()
        _elsewhere.clear()


def everyone() -> list[Session]:
    """Return every session that has a file, alive or ended."""
    return [session for id_ in folders.listdir(f"{folders.prepare()}/sessions") if (session := read(id_))]


def read(id_: str) -> Session | None:
    """Return the session with this id, None if it has no file any more."""
    fd = _opened(id_)
    if fd is None:
        return None
    try:
        session = parse(os.read(fd, _SIZE))
    finally:
        fd.close()
    return session if session and session.id == id_ else None


def alive(id_: str) -> bool:
    """Return whether the session, or its parent's, is alive."""
    if _locked(id_):
        return True
    session = read(id_)
    return bool(session and session.parent and _locked(session.parent))


def wait(id_: str) -> None:
    """Sleep until the session's process has ended."""
    fd = _opened(id_)
    if fd is None:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    finally:
        fd.close()


def encode(session: Session) -> bytes:
    """Return the content of a session's file."""
    return json.dumps(session._asdict()).encode()


def parse(text: bytes) -> Session | None:
    """Return the session in the content of a file, None if it is damaged. Fields of later versions are ignored.

    Examples
    --------
    >>> someone = Session("1f", "plot.ipynb", 4711, 1, 0.0)
    >>> parse(encode(someone)) == someone
    True
    """
    try:
        fields = json.loads(text)
        session = Session(**{key: fields[key] for key in Session._fields if key in fields})
    except (ValueError, TypeError, RecursionError):
        return None
    texts: list[object] = [session.label, "" if session.kernel is None else session.kernel]
    whole = type(session.pid) is type(session.pid_ns) is int and 0 < session.pid < _PIDS
    right = whole and all(isinstance(text, str) for text in texts) and is_time(session.started)
    right = right and is_id(session.id) and (session.parent is None or is_id(session.parent))
    if not right:
        return None
    kernel = session.kernel and identity.plain(session.kernel)
    return session._replace(label=identity.plain(session.label), kernel=kernel)


def is_id(value: object) -> bool:
    """Return whether this can be the id of a session, and so part of a path."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def is_time(value: object) -> bool:
    """Return whether this is a number of seconds since 1970 that can be formatted as a date."""
    return type(value) in (int, float) and 0 <= cast("float", value) < _DOOMSDAY


def _describe(pid: int, label: str, parent: str | None) -> Session:
    kernel = identity.kernel_id() if pid == os.getpid() else None
    return Session(os.urandom(16).hex(), label, pid, identity.pid_namespace(), time.time(), kernel, parent)


def _open(root: str, session: Session, behalf: int | None = None) -> _Own:
    """Start the watchdog and link the session's file, locked until the returned descriptor is closed."""
    path = f"{root}/sessions/{session.id}"
    watchdog = None
    with closing.no_fork:
        fd = segment_file.blank(f"{root}/sessions", fcntl.LOCK_EX, own=Description)
        lock: Description = closing.note(fd.owner)
    try:
        os.write(fd, encode(session))
        early = not folders.has_proc()  # the watchdog has to open the file by its name
        if early:
            _link(fd, path)
        if not session.parent:
            watchdog = _watch(root, session, lock, behalf)
        if not early:
            _link(fd, path)
        if session.parent and not _locked(session.parent):  # it ended meanwhile, its watchdog perhaps too
            watchdog = _watch(root, session, lock)
        return _Own(session, lock, watchdog)
    except BaseException:
        _Own(session, lock, watchdog).close()
        with contextlib.suppress(FileNotFoundError):
            folders.unlink(path)
        raise


def _link(fd: Descriptor, path: str) -> None:
    """Link a session's file with names locked, which checks the protocol number once more.

    Before, the runtime folder may be empty: a watchdog of another release that ends would give it its own number. What
    has the name already is an earlier file of this session, whose start failed before it could remove it.
    """
    with names_lock.NamesLock():
        try:
            segment_file.link(fd, path)
        except FileExistsError:
            folders.unlink(path)
            segment_file.link(fd, path)


def _opened(id_: str) -> Descriptor | None:
    """Open a session's file; None if there is none, or a link or pipe in its place."""
    if not _ID.fullmatch(id_):  # it comes from a record, which may be damaged
        return None
    try:
        return folders.plain_inside(f"sessions/{id_}")
    except FileNotFoundError:
        return None


def _locked(id_: str) -> bool:
    fd = _opened(id_)
    if fd is None:
        return False
    try:
        return not oflock.take_whole(fd, fcntl.LOCK_SH)
    finally:
        fd.close()


def _parent(root: str, here: _Place) -> str | None:
    """Return the session of the multiprocessing or loky parent, made on its behalf if it has none."""
    inherited = _inherited.get(here)
    if inherited and _locked(inherited):
        return inherited
    module = sys.modules.get("multiprocessing.process")
    parent = module.parent_process() if module else None
    if parent is None or parent.pid is None or not _runs(parent.pid):
        return None
    for session in everyone():
        if session.pid == parent.pid and session.pid_ns == identity.pid_namespace() and alive(session.id):
            return session.parent or session.id
    session = _describe(parent.pid, f"process {parent.pid}", None)
    _open(root, session, behalf=parent.pid).close()
    return session.id


def _runs(pid: int) -> bool:
    try:
        closing.opened(os.pidfd_open, pid).close()
    except ProcessLookupError:
        return False
    return True


def _watch(root: str, session: Session, lock: Description, behalf: int | None = None) -> Description:
    """Start the watchdog, and return when it waits: before there is anything to clean up."""
    path = f"{root}/sessions/{session.id}"
    return launch.start([path] if behalf is None else [path, str(behalf)], lock)


def _after_fork() -> None:
    """Forget the parent's sessions, whose locks the child has closed (`closing`)."""
    for place, own in _mine.items():
        _inherited[place] = own.session.parent or own.session.id
    _mine.clear()
    _elsewhere.clear()
    _guard.in_child()


fork.on("sessions", before=_guard.before_fork, in_parent=_guard.in_parent, in_child=_after_fork)
