"""The watchdog: a process that waits for the end of a session, then unlinks what the session owned.

`launch` runs this file as a script, ``python -I -S watchdog.py SESSION_FILE [PID]``. Standard input is the session's
lock, standard output the pipe for the answer. It imports this package and the standard library alone. It sleeps in
flock until the session's lock is free. A pipe instead could be inherited by a child, a pid could be recycled, and
polling would cost time. With PID it holds the lock itself, on behalf of that process.

    fork -> reopen the lock's file, close the lock -> answer -> flock(SH), which sleeps -> sweep
    -> wait for each child session, sweep

It ignores SIGTERM, SIGINT and SIGHUP: stopping a service, or logging out, sends them to all processes at once, and the
segments of the kernels among them must still be swept.

SESSION_FILE need not exist yet: a session that dies before the link leaves nothing.

An error before the answer is written to the same pipe. The pipe stays open afterwards: its end of file tells the
session that the watchdog was killed.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys

if __name__ == "__main__":  # -I keeps the package's folder off sys.path
    sys.path.append(os.path.abspath(f"{__file__}/../../.."))

from shmkernel._core import daemon, launch, paths, registry, sessions

_ENDING = 0.5  # seconds


def watch(id_: str, session: int) -> None:
    """Wait until the session with the open file `session` has ended, then each of its children; sweep after each."""
    fcntl.flock(session, fcntl.LOCK_SH)
    os.close(session)
    record = sessions.read(id_)
    _sweep()
    while waiting := [child.id for child in _everyone() if child.parent == id_]:
        for child_id in waiting:
            sessions.wait(child_id)
            _sweep()
    if record and _ended(record.pid):
        _sweep()


def _is_gone() -> bool:
    """Return whether the runtime folder was removed: to look there would make it anew, for good."""
    return not os.path.lexists(paths.runtime())


def _sweep() -> None:
    if not _is_gone():
        registry.sweep()


def _everyone() -> list[sessions.Session]:
    return [] if _is_gone() else sessions.everyone()


def _ended(pid: int) -> bool:
    """Return whether the process exits within 0.5 s: only then can the sync files that it has open be removed."""
    try:
        process = os.pidfd_open(pid)
    except OSError:  # it has exited
        return True
    try:
        return bool(select.select([process], [], [], _ENDING)[0])
    finally:
        os.close(process)


def main(path: str, behalf: int = -1) -> None:
    """Daemonize, answer, and watch."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    os.environ["SHMKERNEL_DIR"] = os.path.dirname(os.path.dirname(os.path.dirname(path)))
    daemon.close_inherited()
    process = os.pidfd_open(behalf) if behalf > 0 else -1
    daemon.detach()
    session, lock, tell = _reopened(path), daemon.moved(0), daemon.moved(1)
    if process < 0:
        os.close(lock)
    daemon.silence()  # before the answer: who has read it finds nothing of its own here
    os.write(tell, launch.WATCHING)
    if process >= 0:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll()
        os.close(lock)
    watch(os.path.basename(path), session)


def _reopened(path: str) -> int:
    """Reopen the session's file: a flock on the description that it shares with the session would not wait."""
    try:
        return os.open("/proc/self/fd/0", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # without /proc the session links it first
        if not os.path.sameopenfile(fd, 0):
            raise
        return fd


def run() -> None:
    """Run the watchdog with the arguments of the command line."""
    main(sys.argv[1], *map(int, sys.argv[2:]))


if __name__ == "__main__":
    run()
