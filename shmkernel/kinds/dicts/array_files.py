"""Large arrays, each in a file beside the store to which a value refers.

    store     [writer lock: mark -> link -> the value refers to it -> commit] -> the mark goes
    remove    [writer lock: mark -> no value refers to it any more -> commit] -> file and mark go

A file is nameless until its writer has the lock, so a writer that dies before leaves none. The mark, a second link to
it, says that file and values may not agree: a process that finds a mark looks whether a value refers to the file.
"""

from __future__ import annotations

import contextlib
import os

from shmkernel._core import segment_file

_FILE, _MARK = ".npy", ".open"


class ArrayFiles:
    """The files that one transaction adds, and those that it takes the last reference from."""

    __slots__ = ("_added", "_dereferenced", "_home", "stored")

    def __init__(self, home: str) -> None:
        self._home = home
        self._added: list[str] = []
        self._dereferenced: list[str] = []
        self.stored = False  # is the transaction?

    def path(self, file: str) -> str:
        """Return where a file lies."""
        return f"{self._home}/{file}{_FILE}"

    def add(self, fd: int, file: str) -> None:
        """Give a nameless file the name to which a value of this transaction will refer."""
        self._added.append(file)
        segment_file.link(fd, f"{self._home}/{file}{_MARK}")
        os.link(f"{self._home}/{file}{_MARK}", self.path(file))

    def delete_after_commit(self, file: str) -> None:
        """Have a file deleted after this transaction, which has taken the last reference from it."""
        self._dereferenced.append(file)
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # unlinked; added in this very transaction
            os.link(self.path(file), f"{self._home}/{file}{_MARK}")

    def end(self) -> None:
        """After a commit delete the files it dereferenced; after an abort delete the files it added. Idempotent."""
        if self.stored:
            self._end(self._dereferenced, self._added)
        else:
            self._end(self._added, self._dereferenced)
        self._added, self._dereferenced = [], []

    def interrupted(self) -> bool:
        """Say whether Ctrl-C has kept this from being ended."""
        return bool(self._added or self._dereferenced)

    def any(self) -> bool:
        """Say whether values may refer to files."""
        return bool(self._files(_FILE))

    def marked(self) -> list[str]:
        """Return the files that values may not agree with: a writer is at them, or died at them."""
        return self._files(_MARK)

    def sweep(self, referred: set[str]) -> None:
        """Remove the files of writers that died, except those that values refer to. Call it with the writer lock."""
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
