"""What is left when a session and its watchdog are both killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from shmkernel._core import sessions

_SCRIPT = "import shmkernel as shm; x = shm.create({!r}, shape=3); print(flush=True); input()"


def leave(name: str, folder: Path) -> int:
    """Leave a segment of an ended session in the folder of this test, and return its size."""
    script = [sys.executable, "-c", _SCRIPT.format(name)]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        owner.stdout.readline()
        (session,) = (one for one in sessions.everyone() if one.pid == owner.pid)
        kill_watchdog_of(session, folder)
        owner.kill()
    return (folder / f"shmk-{os.geteuid()}-{name}").stat().st_size


def kill_watchdog_of(session: sessions.Session, folder: Path) -> None:
    """Kill the watchdog of a session."""
    file = f"{folder}/.shmk-{os.geteuid()}/sessions/{session.id}"
    (pid,) = (entry.name for entry in Path("/proc").glob("[0-9]*") if file in _words(entry))
    watchdog = os.pidfd_open(int(pid))
    signal.pidfd_send_signal(watchdog, signal.SIGKILL)
    os.close(watchdog)


def _words(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []
