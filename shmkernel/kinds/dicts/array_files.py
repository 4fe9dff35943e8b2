"""Large arrays of a dict: each is a file beside the store, and a value refers to it.

    add       [writer lock: mark -> link -> store the reference -> commit] -> remove the mark
    delete    [writer lock: mark -> remove the last reference -> commit] -> remove file and mark

A file is nameless until its writer has the lock, so a writer that dies before leaves no file. The mark is a second link
to the file. It says that a transaction may have died between commit and cleanup: whoever finds a mark checks whether a
value refers to the file, and if not deletes it.
"""

from __future__ import annotations

import contextlib
import os

from shmkernel._core import folders, segment_file

_FILE, _MARK = ".npy", ".open"


class ArrayFiles:
    """The files that a transaction adds, and those whose last reference it removes."""

    __slots__ = ("_added", "_dereferenced", "_home", "stored")

    def __init__(self, home: str) -> None:
        self._home = home
        self._added: list[str] = []
        self._dereferenced: list[str] = []
        self.stored = False  # whether the transaction is committed

    def path(self, file: str) -> str:
        """Return the path of a file."""
        return f"{self._home}/{file}{_FILE}"

    def add(self, fd: int, file: str) -> None:
        """Link a nameless file under the name to which a value of this transaction will refer."""
        self._added.append(file)
        segment_file.link(fd, f"{self._home}/{file}{_MARK}")
        os.link(f"{self._home}/{file}{_MARK}", self.path(file), follow_symlinks=False)  # 3.15 follows them else

    def delete_after_commit(self, file: str) -> None:
        """Delete a file when this transaction, which removes the last reference, is committed."""
        self._dereferenced.append(file)
        with contextlib.suppress(FileNotFoundError, FileExistsError, PermissionError):  # unlinked; added now; a folder
            os.link(self.path(file), f"{self._home}/{file}{_MARK}", follow_symlinks=False)

    def end(self) -> None:
        """After a commit delete the files it dereferenced; after an abort delete the files it added. Idempotent."""
        if self.stored:
            self._end(self._dereferenced, self._added)
        else:
            self._end(self._added, self._dereferenced)
        self._added, self._dereferenced = [], []

    def interrupted(self) -> bool:
        """Return whether Ctrl-C has skipped `end`."""
        return bool(self._added or self._dereferenced)

    def any(self) -> bool:
        """Return whether values may refer to files."""
        return bool(self._files(_FILE))

    def marked(self) -> list[str]:
        """Return the marked files: a transaction is adding or deleting them, or died while it did."""
        return self._files(_MARK)

    def sweep(self, referred: set[str]) -> None:
        """Delete the marked files that no value refers to, and all marks. Call it with the writer lock."""
        marked = self.marked()
        self._end([file for file in marked if file not in referred], marked)

    def _files(self, end: str) -> list[str]:
        try:
            return [entry.removesuffix(end) for entry in folders.listdir(self._home) if entry.endswith(end)]
        except FileNotFoundError:  # the dict was unlinked
            return []

    def _end(self, gone: list[str], settled: list[str]) -> None:
        for path in (*map(self.path, gone), *(f"{self._home}/{file}{_MARK}" for file in [*gone, *settled])):
            with contextlib.suppress(OSError):
                os.unlink(path)
