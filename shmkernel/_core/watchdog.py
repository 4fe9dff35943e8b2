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

import contextlib
import fcntl
import os
import select
import signal
import sys

if __name__ == "__main__":  # -I keeps the package's folder off sys.path
    sys.path.append(os.path.abspath(f"{__file__}/../../.."))

from shmkernel._core import launch, registry, sessions

_ENDING = 0.5  # seconds
_MANY = 4096  # descriptors to close without /proc, which lists the open ones


def watch(id_: str, session: int) -> None:
    """Wait until the session with the open file `session` has ended, then each of its children; sweep after each."""
    fcntl.flock(session, fcntl.LOCK_SH)
    os.close(session)
    record = sessions.read(id_)
    registry.sweep()
    while waiting := [child.id for child in sessions.everyone() if child.parent == id_]:
        for child_id in waiting:
            sessions.wait(child_id)
            registry.sweep()
    if record and _ended(record.pid):
        registry.sweep()


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
    _close_inherited()
    process = os.pidfd_open(behalf) if behalf > 0 else -1
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    session, lock, tell = _reopened(path), _moved(0), _moved(1)
    if process < 0:
        os.close(lock)
    _silence()  # before the answer: who has read it finds nothing of its own here
    os.write(tell, launch.WATCHING)
    if process >= 0:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll()
        os.close(lock)
    watch(os.path.basename(path), session)


def _close_inherited() -> None:
    """Close descriptors that the session's process left inheritable: a server's socket, the end of a pipe."""
    try:
        inherited = [int(fd) for fd in os.listdir("/proc/self/fd")]
    except OSError:
        inherited = [*range(_MANY)]
    for fd in inherited:
        if fd > 2:  # noqa: PLR2004  the standard streams
            with contextlib.suppress(OSError):
                os.close(fd)


def _reopened(path: str) -> int:
    """Reopen the session's file: a flock on the description that it shares with the session would not wait."""
    try:
        return os.open("/proc/self/fd/0", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # without /proc the session links it first
        if not os.path.sameopenfile(fd, 0):
            raise
        return fd


def _moved(stream: int) -> int:
    """Move a standard stream above 2, where nothing prints to it."""
    fd = fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(stream)
    return fd


def _silence() -> None:
    with contextlib.suppress(OSError):  # a chroot without /dev
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)


def run() -> None:
    """Run the watchdog with the arguments of the command line."""
    main(sys.argv[1], *map(int, sys.argv[2:]))


if __name__ == "__main__":
    run()
