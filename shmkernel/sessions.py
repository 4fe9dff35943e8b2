"""Sessions: who shares memory, and whether they still live.

A session is one process and one file, `sessions/<id>`, on which that process holds an exclusive flock for
as long as it lives. The lock is the fact, the text in the file is only who it is: nothing here can go stale.
The file is born locked (nameless, then flock, then link), never rewritten, and probed with LOCK_SH, so that
probers do not take each other for the living.

    kernel ---- holds LOCK_EX on sessions/<id> ---------------------------- dies
    watchdog -- waits for LOCK_SH on sessions/<id> ------------------------ gets it, sweeps, ends

The watchdog waits before the file has its name: whatever a death leaves, somebody is there to clear it away.

What a multiprocessing child creates belongs to its parent: the child's file names the parent's session, lives
while either does, and the parent's watchdog waits for both. Where the parent has no session of its own, one is
made on its behalf; the lock is then held by its watchdog, until the parent ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import sys
import time
from typing import NamedTuple

from shmkernel import fork, identity, interrupts, memory, names
from shmkernel.errors import WatchdogError

_START = 30.0  # seconds; a start takes 20 ms, more means that it will not come


class Session(NamedTuple):
    """One process that shares memory: ``pid_ns`` is where its pid counts, ``parent`` whose child it is."""

    id: str
    label: str
    pid: int
    pid_ns: int
    started: float
    kernel: str | None = None
    parent: str | None = None


class _Own(NamedTuple):
    session: Session
    lock: int
    watchdog: int  # a pipe that only the watchdog can write to: its end is the watchdog's

    def close(self) -> None:
        with memory.no_fork:
            _opening.discard(self.lock)
            os.close(self.lock)
        if self.watchdog >= 0:
            os.close(self.watchdog)


_mine: dict[str, _Own] = {}  # by folder of segments: another SHMKERNEL_DIR is another world
_inherited: dict[str, str] = {}  # likewise, after a fork: the session of the parent
_opening: set[int] = set()  # locks on their way into _mine
_guard = interrupts.Guard()


def mine() -> Session | None:
    """Return this process's session, if it has begun one."""
    own = _mine.get(names.folder())
    return own.session if own else None


def covers(path: str) -> bool:
    """Say whether this process has begun a session in the folder of a segment's path."""
    return path.rpartition("/")[0] in _mine


def begin() -> tuple[Session, bool]:
    """Return this process's session, begun and watched over, and whether it is new.

    Raises
    ------
    WatchdogError
        If the process that would clean up cannot be started.
    """
    with _guard:
        root, folder = names.prepare(), names.folder()
        own = _mine.get(folder)
        if own is None or not os.fstat(own.lock).st_nlink:  # logind empties the folder at the last logout
            session = own.session if own else _describe(os.getpid(), identity.label(), _parent(root, folder))
            _mine[folder] = new = _open(root, session)
            _opening.discard(new.lock)
            if own:
                own.close()
            return session, True
        if own.watchdog >= 0 and select.select([own.watchdog], [], [], 0)[0]:  # killed: the next takes its place
            watchdog = _watch(root, own.session, own.lock)
            os.close(own.watchdog)
            _mine[folder] = own._replace(watchdog=watchdog)
        return own.session, False


def end() -> None:
    """End this process's session, as its death would: the watchdog unlinks what it owns."""
    with _guard, memory.no_fork:
        own = _mine.pop(names.folder(), None)
        if own:
            own.close()


def everyone() -> list[Session]:
    """Return every session that has a file, the living and the dead."""
    return [found for id_ in os.listdir(f"{names.prepare()}/sessions") if (found := read(id_))]


def read(id_: str) -> Session | None:
    """Return who the session is, or None if it has no file any more."""
    try:
        with open(names.runtime("sessions", id_), "rb") as file:
            return parse(file.read())
    except FileNotFoundError:
        return None


def alive(id_: str) -> bool:
    """Say whether the session, or the one it is a child of, lives."""
    if _locked(id_):
        return True
    session = read(id_)
    return bool(session and session.parent and _locked(session.parent))


def wait(id_: str) -> None:
    """Sleep until the session's process has ended."""
    try:
        fd = os.open(names.runtime("sessions", id_), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def encode(session: Session) -> bytes:
    """Write a session as the text of its file."""
    return json.dumps(session._asdict()).encode()


def parse(text: bytes) -> Session | None:
    """Read a session's file; fields of a later version are passed over.

    Examples
    --------
    >>> someone = Session("1f", "plot.ipynb", 4711, 1, 0.0)
    >>> parse(encode(someone)) == someone
    True
    """
    try:
        fields = json.loads(text)
        return Session(**{key: fields[key] for key in Session._fields if key in fields})
    except (ValueError, TypeError, RecursionError):
        return None


def pid_namespace() -> int:
    """Return a number that two processes share if their pids are of the same namespace."""
    return os.stat("/proc/self/ns/pid").st_ino


def _describe(pid: int, label: str, parent: str | None) -> Session:
    kernel = identity.kernel_id() if pid == os.getpid() else None
    return Session(os.urandom(16).hex(), label, pid, pid_namespace(), time.time(), kernel, parent)


def _open(root: str, session: Session, behalf: int | None = None) -> _Own:
    """Link the session's file, watched over already, and locked for as long as the descriptor lives."""
    path = f"{root}/sessions/{session.id}"
    watchdog = -1
    with memory.no_fork:
        lock = memory.blank(f"{root}/sessions", fcntl.LOCK_EX)
        _opening.add(lock)
    try:
        os.write(lock, encode(session))
        if not session.parent:
            watchdog = _watch(root, session, lock, behalf)
        memory.link(lock, path)
        if session.parent and not _locked(session.parent):  # it ended meanwhile, its watchdog perhaps before the link
            watchdog = _watch(root, session, lock)
        return _Own(session, lock, watchdog)
    except BaseException:
        _Own(session, lock, watchdog).close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise


def _locked(id_: str) -> bool:
    try:
        fd = os.open(names.runtime("sessions", id_), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def _parent(root: str, folder: str) -> str | None:
    """Find the session that this process is a child of, as multiprocessing and loky tell, or make it."""
    inherited = _inherited.get(folder)
    if inherited and _locked(inherited):
        return inherited
    module = sys.modules.get("multiprocessing.process")
    parent = module.parent_process() if module else None
    if parent is None or parent.pid is None or not _runs(parent.pid):
        return None
    for session in everyone():
        if session.pid == parent.pid and session.pid_ns == pid_namespace() and alive(session.id):
            return session.parent or session.id
    session = _describe(parent.pid, f"process {parent.pid}", None)
    _open(root, session, behalf=parent.pid).close()
    return session.id


def _runs(pid: int) -> bool:
    try:
        os.close(os.pidfd_open(pid))
    except ProcessLookupError:
        return False
    return True


def _watch(root: str, session: Session, lock: int, behalf: int | None = None) -> int:
    """Start the watchdog, and return when it waits: it must be there before there is anything to clean up.

    It leaves by a fork of its own, so that it is nobody's child: no zombie, nothing for ``os.wait()`` to find.
    """
    import subprocess  # noqa: PLC0415  the watchdog shares this module, and starts faster without

    ready, tell = map(memory.beyond_streams, os.pipe())
    script = os.path.join(os.path.dirname(__file__), "watchdog.py")
    command = [sys.executable, "-I", "-S", script, f"{root}/sessions/{session.id}", str(tell), str(lock)]
    if behalf is not None:
        command.append(str(behalf))
    quiet = subprocess.DEVNULL
    try:
        status = subprocess.run(
            command, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/", start_new_session=True,
            pass_fds=(tell, lock), timeout=_START, check=False,
        ).returncode  # fmt: skip
        os.close(tell)
        tell = -1
        if status == 0 and os.read(ready, 1):
            watching, ready = ready, -1
            return watching
        message = f"the watchdog of this session did not start (status {status})"
    except (OSError, subprocess.SubprocessError) as error:
        message = f"the watchdog of this session did not start: {error}"
    finally:
        for fd in (ready, tell):
            if fd >= 0:
                os.close(fd)
    raise WatchdogError(
        f"{message}. Without it segments would outlive this process, so none was made. More: %shm_doctor"
    )


def _after_fork() -> None:
    """Let go of the parent's session: the child must not keep it alive."""
    for folder, own in _mine.items():
        _inherited[folder] = own.session.parent or own.session.id
        own.close()
    _mine.clear()
    for lock in _opening:
        os.close(lock)
    _opening.clear()
    _guard.in_child()


fork.on("sessions", before=_guard.before_fork, in_parent=_guard.in_parent, in_child=_after_fork)
