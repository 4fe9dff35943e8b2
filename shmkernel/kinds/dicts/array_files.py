"""Large arrays, each in a file beside the store to which a value refers.

    store     [the writers' turn: mark -> link -> the value refers to it -> commit] -> the mark goes
    remove    [the writers' turn: mark -> no value refers to it any more -> commit] -> file and mark go

A file is nameless until it is a writer's turn, so one that dies before leaves none. The mark, a second link to it, says
that file and values may not agree: whoever finds one that stayed looks whether a value refers to the file.
"""

from __future__ import annotations

import contextlib
import os

from shmkernel._core import segment_file

_FILE, _MARK = ".npy", ".open"


class Beside:
    """The files that one transaction makes, and those that it takes the last reference from."""

    __slots__ = ("_born", "_doomed", "_home", "stored")

    def __init__(self, home: str) -> None:
        self._home = home
        self._born: list[str] = []
        self._doomed: list[str] = []
        self.stored = False  # is the transaction?

    def path(self, file: str) -> str:
        """Return where a file lies."""
        return f"{self._home}/{file}{_FILE}"

    def add(self, fd: int, file: str) -> None:
        """Give a nameless file the name to which a value of this transaction will refer."""
        self._born.append(file)
        segment_file.link(fd, f"{self._home}/{file}{_MARK}")
        os.link(f"{self._home}/{file}{_MARK}", self.path(file))

    def doom(self, file: str) -> None:
        """Have a file removed after this transaction, which has taken the last reference from it."""
        self._doomed.append(file)
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # unlinked; born in this very transaction
            os.link(self.path(file), f"{self._home}/{file}{_MARK}")

    def end(self) -> None:
        """Remove what nothing refers to any more, or what nothing has come to refer to. It may be done twice."""
        if self.stored:
            self._end(self._doomed, self._born)
        else:
            self._end(self._born, self._doomed)
        self._born, self._doomed = [], []

    def interrupted(self) -> bool:
        """Say whether Ctrl-C has kept this from being ended."""
        return bool(self._born or self._doomed)

    def any(self) -> bool:
        """Say whether values may refer to files."""
        return bool(self._files(_FILE))

    def marked(self) -> list[str]:
        """Return the files that values may not agree with: a writer is at them, or died at them."""
        return self._files(_MARK)

    def settle(self, referred: set[str]) -> None:
        """Remove the files of writers that died, except those that values refer to. It must be a writer's turn."""
        marked = self.marked()
        self._end([file for file in marked if file not in referred], marked)

    def _files(self, end: str) -> list[str]:
        try:
            return [entry.removesuffix(end) for entry in os.listdir(self._home) if entry.endswith(end)]
        except FileNotFoundError:  # unlinked
            return []

    def _end(self, gone: list[str], settled: list[str]) -> None:
        for path in (*map(self.path, gone), *(f"{self._home}/{file}{_MARK}" for file in [*gone, *settled])):
            with contextlib.suppress(OSError):
                os.unlink(path)
