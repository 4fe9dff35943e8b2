"""The process that outlives a session, to unlink what the session owned.

Run as a script, ``python -I -S watchdog.py SESSION_FILE READY_FD LOCK_FD [PID]``, detached and with nothing but
the standard library. Its death notice is the session's lock: no pipe that a child could inherit, no pid that
could be recycled, no polling. With PID it holds the lock itself, on behalf of that process.

    fork off -> open LOCK_FD's file anew, close LOCK_FD -> tell READY_FD -> flock(SH), which sleeps -> sweep
    -> the children's turn

Only SIGKILL ends it early: who stops a service, or logs out, sends SIGTERM or SIGHUP to all of its processes at once,
and what the kernels among them leave is still to be cleared away.

SESSION_FILE need not exist yet: a session that dies before the link leaves nothing at all.

READY_FD stays open: its end tells the session that its watchdog was killed.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys

if __name__ == "__main__":  # -I leaves the package's own folder off the path
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from shmkernel import registry, sessions


def watch(id_: str, session: int) -> None:
    """Wait for the end of the session, of which this is the open file, and of its children, sweeping after each."""
    fcntl.flock(session, fcntl.LOCK_SH)
    os.close(session)
    registry.sweep()
    while waiting := [child.id for child in sessions.everyone() if child.parent == id_]:
        for one in waiting:
            sessions.wait(one)
            registry.sweep()


def main(path: str, ready: int, lock: int, behalf: int = -1) -> None:
    """Become nobody's child, say so, and watch."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    os.environ["SHMKERNEL_DIR"] = os.path.dirname(os.path.dirname(os.path.dirname(path)))
    process = os.pidfd_open(behalf) if behalf > 0 else -1
    if os.fork():
        os._exit(0)
    session = os.open(f"/proc/self/fd/{lock}", os.O_RDONLY | os.O_CLOEXEC)
    if process < 0:
        os.close(lock)
    os.write(ready, b"1")
    if process >= 0:
        import select  # noqa: PLC0415

        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll()
        os.close(lock)
    watch(os.path.basename(path), session)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
