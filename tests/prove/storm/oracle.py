"""What the processes of a storm note outside of the product, in order to catch it.

The log is a pipe to the stage: a line survives its writer's death. The words are anonymous memory shared by all: who
believes to be alone under a name, and who reads there.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time

from tests.prove.storm.program import NAMES

READERS = 256
_PAGE = 8 * (1 + READERS)


class Log:
    """The pipe to the stage, one line an event."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, event: str, *facts: object) -> None:
        text = " ".join(map(str, (os.getpid(), event, *facts))).replace("\n", "\\n")[:4000]
        os.write(self._fd, f"{text}\n".encode(errors="replace"))  # below PIPE_BUF: in one piece


class Words:
    """For each name the word of its one writer, and of each reader; a word is a pid and the number of a strand."""

    def __init__(self) -> None:
        self.is_child = False  # a forked child has the number of its parent's strand, and so no word as a reader
        self._words = memoryview(mmap.mmap(-1, _PAGE * len(NAMES))).cast("Q")

    def enter(self, name: str, me: int, *, shared: bool) -> str:
        """Note that a strand believes to have the lock; return what contradicts it."""
        at = self._at(name)
        wrong = self._others(at, me, shared=shared)
        if not shared or not self.is_child:
            self._words[at + 1 + me % READERS if shared else at] = me
        return wrong

    def check(self, name: str, me: int, *, shared: bool) -> str:
        """Return what contradicts a hold that was entered."""
        if shared and self.is_child:
            return ""
        at = self._at(name)
        mine = self._words[at + 1 + me % READERS if shared else at]
        return "" if mine == me else f"another one noted itself: {_who(mine)}"

    def leave(self, name: str, me: int) -> None:
        """Note that a strand is about to leave, in whatever way it had entered."""
        at = self._at(name)
        for place in (at, at + 1 + me % READERS):
            if self._words[place] == me:
                self._words[place] = 0

    def forget(self, me: int) -> None:
        """Clear all words of a strand that was interrupted."""
        for name in NAMES:
            self.leave(name, me)

    def _at(self, name: str) -> int:
        return NAMES.index(name) * (1 + READERS)

    def _others(self, at: int, me: int, *, shared: bool) -> str:
        places = [at] if shared else range(at, at + 1 + READERS)
        for place in places:
            other = self._words[place]
            if other not in (0, me) and not self._gone(place, other):
                return f"{_who(other)} is inside as well"
        return ""

    def _gone(self, place: int, other: int) -> bool:
        """Return whether a process died inside: the OS frees its locks a moment before it is seen to be dead."""
        end = time.monotonic() + 0.2
        while not _dead(other >> 8):
            if self._words[place] != other:
                return False
            if time.monotonic() > end and not _dying(other >> 8):
                return False
            time.sleep(0.001)
        if self._words[place] == other:
            self._words[place] = 0
        return True


def _who(word: int) -> str:
    return f"strand {word & 255} of pid {word >> 8}"


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _dead(pid: int) -> bool:
    return _state(pid) in "ZX"


def _dying(pid: int) -> bool:
    """Return whether a SIGKILL is pending, or the process has no memory any more: it exits."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        facts = dict(line.split(":", 1) for line in file if ":" in line)
        pending = int(facts.get("ShdPnd", "0"), 16) | int(facts.get("SigPnd", "0"), 16)
        return "VmSize" not in facts or bool(pending >> (signal.SIGKILL - 1) & 1)
    return True
