"""The process that outlives a session, to unlink what the session owned.

Run as a script, ``python -I -S watchdog.py SESSION_FILE READY_FD [LOCK_FD PID]``, detached and with nothing but
the standard library. Its death notice is the session's lock: no pipe that a child could inherit, no pid that
could be recycled, no polling. With LOCK_FD it holds the lock itself, on behalf of the process PID.

    open the session file -> fork off -> tell READY_FD -> flock(SH), which sleeps -> sweep -> the children's turn

READY_FD stays open: its end tells the session that its watchdog was killed.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # -I leaves the package's own folder off the path
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from shmkernel import registry, sessions


def watch(id_: str) -> None:
    """Wait for the end of the session and of its children, sweeping after each."""
    waiting = [id_]
    while waiting:
        for one in waiting:
            sessions.wait(one)
            registry.sweep()
        waiting = [session.id for session in sessions.everyone() if session.parent == id_]


def main(path: str, ready: int, lock: int = -1, behalf: int = -1) -> None:
    """Become nobody's child, say so, and watch."""
    os.environ["SHMKERNEL_DIR"] = os.path.dirname(os.path.dirname(os.path.dirname(path)))
    process = os.pidfd_open(behalf) if behalf > 0 else -1
    if os.fork():
        os._exit(0)
    os.write(ready, b"1")
    if process >= 0:
        import select  # noqa: PLC0415

        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll()
        os.close(lock)
    watch(os.path.basename(path))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
