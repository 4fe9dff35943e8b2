"""What happens before and after the processes of a storm: its folder, its first segments, and what may be left."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import numpy as np

import shmkernel as shm
from shmkernel._core import sessions
from tests.helpers import left, mount
from tests.prove.storm.acts import SUBJECTS

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS = {"full folder": "size=6m", "few inodes": "size=64m,nr_inodes=64"}


def mount_room(folder: str, room: str) -> str | None:
    """Mount a small folder for this process and its children; return why that cannot be done here."""
    return mount(folder, _OPTIONS[room])


def open_(files: str) -> None:
    """Create what is there from the first to the last moment, and files to load."""
    shm.create("count", np.zeros(64, dtype=int), lifetime="keep")
    shm.create("tally", {"n": 0}, lifetime="keep")
    for kind, subject in SUBJECTS.items():
        subject.create("first", 0x2A << 24)
        subject.save("first", f"{files}/{kind}{subject.suffix}")
        shm.unlink("first")
    shutil.rmtree(f"{files}/data", ignore_errors=True)  # the first of all to share a pickle makes the key again
    sessions.end()


def sweep(log: list[str]) -> None:
    """Begin a session after all others, which sweeps; check the counters, and unlink what was to be kept."""
    total = {"count": int(shm.attach("count")[0]), "tally": shm.attach("tally")["n"]}
    for name, found in total.items():
        begun, done = (sum(line.split(" ", 1)[1] == f"{event} {name}" for line in log) for event in ("adding", "added"))
        assert done <= found <= begun, f"{name} is {found}, after {done} additions of {begun} were done"
    wrong = [f"{one.name} ({one.lifetime}, {one.state})" for one in shm.list() if one.lifetime != "keep"]
    assert not wrong, f"all processes have ended, and these are left: {wrong}"
    for one in shm.list():
        shm.unlink(one.name)
    shm.gc()
    sessions.end()


def check_folder(folder: str, fault: Callable[[str], None]) -> None:
    """Check that nothing is left in the folder once the last watchdog has swept."""
    end = time.monotonic() + 30
    while (found := left(folder)) and time.monotonic() < end:
        time.sleep(0.01)
    if found:
        fault(f"left in the folder: {found}")
