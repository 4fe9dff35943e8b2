"""The process that outlives a session, to unlink what the session owned.

Run as a script by `launch`, ``python -I -S watchdog.py SESSION_FILE [PID]``, with the session's lock as standard input
and the pipe for its answer as standard output: nothing but the standard library, and nothing of its parent's. Its death
notice is the session's lock: no pipe that a child could inherit, no pid that could be recycled, no polling. With PID it
holds the lock itself, on behalf of that process.

    fork off -> open the lock's file anew, close the lock -> answer -> flock(SH), which sleeps -> sweep
    -> the children's turn

Only SIGKILL ends it early: who stops a service, or logs out, sends SIGTERM or SIGHUP to all of its processes at once,
and what the kernels among them leave is still to be cleared away.

SESSION_FILE need not exist yet: a session that dies before the link, or gives up, leaves nothing at all.

What fails before the answer is said on the same pipe, which stays open after it: its end tells the session that its
watchdog was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys

if __name__ == "__main__":  # -I leaves the package's own folder off the path
    sys.path.append(os.path.abspath(f"{__file__}/../../.."))

from shmkernel._core import launch, registry, sessions

_ENDING = 0.5  # seconds
_MANY = 4096  # descriptors, where /proc does not list them


def watch(id_: str, session: int) -> None:
    """Wait for the end of the session, of which this is the open file, and of its children, sweeping after each."""
    fcntl.flock(session, fcntl.LOCK_SH)
    os.close(session)
    found = sessions.read(id_)
    registry.sweep()
    while waiting := [child.id for child in sessions.everyone() if child.parent == id_]:
        for one in waiting:
            sessions.wait(one)
            registry.sweep()
    if found and _ended(found.pid):
        registry.sweep()


def _ended(pid: int) -> bool:
    """Wait until the process has closed its last file, if it is about to end: sync files that it had open stay else."""
    try:
        process = os.pidfd_open(pid)
    except OSError:  # it is gone
        return True
    try:
        return bool(select.select([process], [], [], _ENDING)[0])
    finally:
        os.close(process)


def main(path: str, behalf: int = -1) -> None:
    """Become nobody's child, say so, and watch."""
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
    os.write(tell, launch.WATCHING)
    _silence()
    if process >= 0:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll()
        os.close(lock)
    watch(os.path.basename(path), session)


def _close_inherited() -> None:
    """Close what the session's process lets its children have: a server's port, the end of a pipe."""
    try:
        inherited = [int(fd) for fd in os.listdir("/proc/self/fd")]
    except OSError:
        inherited = [*range(_MANY)]
    for fd in inherited:
        if fd > 2:  # noqa: PLR2004  the standard streams
            with contextlib.suppress(OSError):
                os.close(fd)


def _reopened(path: str) -> int:
    """Open the session's file anew: a lock of the description that it shares with the session would be the same one."""
    try:
        return os.open("/proc/self/fd/0", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        found = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # without /proc it has its name already
        if not os.path.sameopenfile(found, 0):
            raise
        return found


def _moved(stream: int) -> int:
    """Move a standard stream to where nobody prints."""
    fd = fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(stream)
    return fd


def _silence() -> None:
    with contextlib.suppress(OSError):  # a bare chroot
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)


def run() -> None:
    """Be the watchdog that the command line asks for."""
    main(sys.argv[1], *map(int, sys.argv[2:]))


if __name__ == "__main__":
    run()
